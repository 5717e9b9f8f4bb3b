"""`keys rotate`: every key of the cluster gives way to a new one (`serf.rotation`)."""

from collections.abc import Collection
from contextlib import suppress

from trioserf.cli.columns import columns
from trioserf.cli.key_steps import FAILED, KeySession, carry_out, naming_laggards
from trioserf.cli.output import Failure, Out
from trioserf.control.client.records import KeyReport
from trioserf.control.errors import ControlError
from trioserf.serf.key_rotation import Change, Step, count_missing, primary_of, rotation

ATTEMPTS = 3
"""How often a step is tried: an answer may get lost, and a member may join in the middle."""
_STOPPED = (
    "The rotation stopped there. All members understand each other as before;\n"
    'once the cause is gone, another "trioserf keys rotate" finishes it.'
)


def rotate(out: Out, session: KeySession, key: str) -> int:
    """Replace every key of the cluster by `key`.

    Raises:
        Failure: a step that some members did not take, who are named; those before it stand.
    """
    with naming_laggards(session):
        before = carry_out(out, session, "list")
    away = _absent(session)
    if away:
        out.line(f"==> Failed, and without the new key when they return: {', '.join(away)}")
    steps = rotation(key, before)
    step = next(steps)
    while True:
        try:
            report = _everywhere(out, session, step)
            _none_missing(out, session, step, away)
        except Failure:
            if step.change == "use":
                _use_again(out, session, primary_of(before))
            raise
        try:
            step = steps.send(report)
        except StopIteration as end:
            removed: set[str] = end.value
            break
    out.line(key)
    out.record({"key": key, "removed": sorted(removed), "nodes": report.nodes, "absent": away})
    return 0


def _use_again(out: Out, session: KeySession, former: str | None) -> None:
    """Let members that have no other key hear the others again; that some lag behind is known."""
    if former is not None:
        with suppress(Failure):
            carry_out(out, session, "use", former)


def _absent(session: KeySession) -> list[str]:
    """Name the members that a change of keys cannot reach."""
    try:
        return sorted(one.name for one in session.members() if one.status == "failed")
    except ControlError as error:
        raise Failure(f"Error getting members: {error.message}", error.code) from error


def _everywhere(out: Out, session: KeySession, step: Step) -> KeyReport:
    """Take a step and see that all members have taken it; give what they list then."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            with naming_laggards(session):
                carry_out(out, session, step.change, step.key)
                report = carry_out(out, session, "list")
                _verify(step, report)
        except Failure as failure:
            if failure.code != "key_failed" or attempt == ATTEMPTS:
                raise _stopped(out, step.change, failure) from failure
            out.line(f"{failure.text}\n==> Trying again ({attempt + 1} of {ATTEMPTS})...")
        else:
            return report
    raise AssertionError("the last attempt returns or raises")


def _none_missing(out: Out, session: KeySession, step: Step, away: Collection[str]) -> None:
    """See that nobody has failed since the rotation began.

    Such a member has taken this step or not; those that are left have, so it would not be missed,
    and shut out by the next one.

    Raises:
        Failure: some have, who are named.
    """
    if lost := [name for name in _absent(session) if name not in away]:
        failure = Failure(
            f"Members have failed since the rotation began: {', '.join(lost)}",
            "key_failed",
            {"laggards": dict.fromkeys(lost, FAILED)},
        )
        raise _stopped(out, step.change, failure)


def _verify(step: Step, report: KeyReport) -> None:
    """Hold what members list against what they were told to do.

    Raises:
        Failure: some have not done it, although they said so, or were not there to be told.
    """
    if behind := count_missing(step, report):
        text = f"{report.nodes - behind}/{report.nodes} nodes have taken the step '{step.change}'"
        raise Failure(text, "key_failed", {"nodes": report.nodes, "responses": report.responses})


def _stopped(out: Out, action: Change, failure: Failure) -> Failure:
    """Say who lags behind, and that nothing is lost."""
    behind = failure.details.get("laggards") or {}
    if behind:
        out.line(columns([("lagging:", name, why) for name, why in behind.items()]))
    details = {**failure.details, "step": action}
    return Failure(f"{failure.text}\n{_STOPPED}", failure.code, details)
