"""One step on the keys of a cluster: asking every member, and telling who lags behind."""

from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Protocol

from trioserf.cli.calling import PING
from trioserf.cli.columns import columns
from trioserf.cli.output import Failure, Out, reason_of
from trioserf.control.client.connect import Action
from trioserf.control.client.records import KeyReport, MemberInfo, QueryAck, QueryRecord
from trioserf.control.errors import ControlError

SILENT = "no answer"
FAILED = "failed"
_STEPS: Mapping[Action, tuple[str, str, str]] = {
    "install": (
        "Installing key on all members...",
        "Successfully installed key!",
        "Error installing key",
    ),
    "use": (
        "Changing primary key on all members...",
        "Successfully changed primary key!",
        "Error changing primary key",
    ),
    "remove": (
        "Removing key on all members...",
        "Successfully removed key!",
        "Error removing key",
    ),
    "list": (
        "Asking all members for installed keys...",
        "Keys gathered, listing cluster keys...",
        "Failed to gather member keys",
    ),
}
"""What is said before an action, after it, and when it failed."""


class KeySession(Protocol):
    """What of an `AgentSession` is needed here."""

    def keys(self, action: Action, key: str | None = None) -> KeyReport:
        """Install, use, remove or list keys on every member."""
        ...

    def members(self) -> list[MemberInfo]:
        """Give all members."""
        ...

    def query(self, name: str) -> Generator[QueryRecord, None, None]:
        """Ask the cluster."""
        ...


def carry_out(out: Out, session: KeySession, action: Action, key: str | None = None) -> KeyReport:
    """Do one thing with the keys, and say so.

    Raises:
        Failure: not every member did it.
    """
    before, after, failed = _STEPS[action]
    out.line(f"==> {before}")
    try:
        report = session.keys(action, key)
    except ControlError as error:
        messages: Mapping[str, str] = error.details.get("messages") or {}
        if messages:
            out.line(failures_text(messages))
        out.line()
        raise Failure(f"{failed}: {reason_of(error)}", error.code, error.details) from error
    out.line(f"==> {after}")
    return report


@contextmanager
def naming_laggards(session: KeySession, wanted: bool = True) -> Iterator[None]:
    """Add the `laggards` to the details of a failed step, and take the keys out of them.

    Raises:
        Failure: the one from within.
    """
    try:
        yield
    except Failure as failure:
        if failure.code != "key_failed":
            raise
        details = {name: value for name, value in failure.details.items() if "keys" not in name}
        if wanted:
            with suppress(ControlError):
                details["laggards"] = laggards(session, details)
        raise Failure(failure.text, failure.code, details) from failure


def laggards(session: KeySession, report: Mapping[str, Any]) -> dict[str, str]:
    """Name the members that did not do as they were told, each with the reason.

    Those that could not do it say why; those that kept silent are found by asking everyone for a
    sign of life. Where these are too few, others have failed since they were told.

    Args:
        session: asks them.
        report: the fields of a `KeyReport`.

    Raises:
        ControlError: the agent is gone.
    """
    behind = dict(report.get("messages") or {})
    if report.get("responses", 0) < report.get("nodes", 0):
        heard = {one.source for one in session.query(PING) if isinstance(one, QueryAck)}
        silent = report["nodes"] - report["responses"]
        members = session.members()
        quiet = [one.name for one in members if one.status == "alive" and one.name not in heard]
        behind.update((name, SILENT) for name in quiet if name not in behind)
        if len(quiet) < silent:
            behind.update((one.name, FAILED) for one in members if one.status == "failed")
    return dict(sorted(behind.items()))


def failures_text(messages: Mapping[str, str]) -> str:
    """Show what members said, sorted by name."""
    return columns([("failed:", name, said) for name, said in sorted(messages.items())])


def keys_text(report: KeyReport) -> str:
    """Show each key with its holders."""
    return columns([(key, f"[{n}/{report.nodes}]") for key, n in report.keys.items()])


def report_record(report: KeyReport) -> dict[str, Any]:
    """Show what the members said in JSON.

    `primary` is the key that all of them seal with; it and `primary_keys` are null where the
    agent does not tell, and `primary` also where they do not agree.
    """
    firsts = report.primary_keys
    agreed = [key for key, holders in firsts.items() if holders == report.nodes]
    return {
        "messages": dict(report.messages),
        "keys": dict(report.keys),
        "primary_keys": dict(firsts) or None,
        "primary": agreed[0] if agreed else None,
        "laggards": dict(sorted(report.messages.items())),
        "nodes": report.nodes,
        "responses": report.responses,
        "errors": report.errors,
    }
