"""`keys rotate`: replace every key of the cluster by a new one (see `serf.key_rotation`)."""

from collections.abc import Collection
from contextlib import suppress

from trioserf.cli.go_format import columns
from trioserf.cli.key_operations import (
    FAILED,
    KeySession,
    run_key_operation,
    with_missing_members,
)
from trioserf.cli.output import CommandError, Output
from trioserf.control.client.records import KeyReport
from trioserf.control.errors import ControlError
from trioserf.printable import printable
from trioserf.serf.key_rotation import Change, Step, count_missing, primary_of, rotation

ATTEMPTS = 3
"""Attempts for each step: a response may be lost, and a member may join meanwhile."""
_STOPPED = (
    "The rotation stopped there. All members understand each other as before;\n"
    'once the cause is removed, another "trioserf keys rotate" completes it.'
)


def rotate(out: Output, session: KeySession, key: str) -> None:
    """Replace every key of the cluster by `key`.

    Raises:
        CommandError: a step failed on some members, which are named; earlier steps remain.
    """
    with with_missing_members(session):
        before = run_key_operation(out, session, "list")
    absent = _failed_members(session)
    if absent:
        names = printable(", ".join(absent))
        out.line(f"==> Failed, and without the new key when they return: {names}")
    steps = rotation(key, before)
    step = next(steps)
    while True:
        try:
            report = _run_step_on_all(out, session, step)
            _check_new_failures(out, session, step, absent)
        except CommandError:
            if step.change == "use":
                _restore_primary(out, session, primary_of(before))
            raise
        try:
            step = steps.send(report)
        except StopIteration as end:
            removed: set[str] = end.value
            break
    out.line(key)
    out.record({"key": key, "removed": sorted(removed), "nodes": report.nodes, "absent": absent})


def _restore_primary(out: Output, session: KeySession, former: str | None) -> None:
    """Use the former key again, so that members without the new one can decrypt messages.

    Ignore an error: the caller reports that of the step.
    """
    if former is not None:
        with suppress(CommandError):
            run_key_operation(out, session, "use", former)


def _failed_members(session: KeySession) -> list[str]:
    """Return the members that no key operation can reach."""
    try:
        return sorted(member.name for member in session.members() if member.status == "failed")
    except ControlError as error:
        raise CommandError(f"Error getting members: {error.message}", error.code) from error


def _run_step_on_all(out: Output, session: KeySession, step: Step) -> KeyReport:
    """Run a step until it succeeds on all members; return their keys after it."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            with with_missing_members(session):
                run_key_operation(out, session, step.change, step.key)
                report = run_key_operation(out, session, "list")
                _verify(step, report)
        except CommandError as error:
            if error.code != "key_failed" or attempt == ATTEMPTS:
                raise _stopped(out, step.change, error) from error
            out.line(f"{error.text}\n==> Trying again ({attempt + 1} of {ATTEMPTS})...")
        else:
            return report
    raise AssertionError("the last attempt returns or raises")


def _check_new_failures(
    out: Output, session: KeySession, step: Step, absent: Collection[str]
) -> None:
    """Check that no member has failed since the rotation began.

    Such a member may have missed this step. No live member would report that, and the next step
    would exclude it from the cluster.

    Raises:
        CommandError: some members have failed, which are named.
    """
    if failed := [name for name in _failed_members(session) if name not in absent]:
        error = CommandError(
            f"Members have failed since the rotation began: {printable(', '.join(failed))}",
            "key_failed",
            {"laggards": dict.fromkeys(failed, FAILED)},
        )
        raise _stopped(out, step.change, error)


def _verify(step: Step, report: KeyReport) -> None:
    """Check the members' keys against the step.

    Raises:
        CommandError: some members miss the step: they joined after it, or reported success
            wrongly.
    """
    if missing := count_missing(step, report):
        done = report.nodes - missing
        text = f"{done}/{report.nodes} nodes have taken the step '{step.change}'"
        raise CommandError(
            text, "key_failed", {"nodes": report.nodes, "responses": report.responses}
        )


def _stopped(out: Output, action: Change, error: CommandError) -> CommandError:
    """Print the members that miss the step; return an error that explains what remains."""
    missing = error.details.get("laggards") or {}
    if missing:
        out.line(columns([("lagging:", name, why) for name, why in missing.items()]))
    details = {**error.details, "step": action}
    return CommandError(f"{error.text}\n{_STOPPED}", error.code, details, error.hint)
