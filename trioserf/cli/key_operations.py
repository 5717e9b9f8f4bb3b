"""One key operation on every member, and the members that missed it."""

from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Protocol

from trioserf.cli.connect import PING
from trioserf.cli.go_format import columns
from trioserf.cli.output import CommandError, Output, error_reason
from trioserf.control.client.connect import Action
from trioserf.control.client.records import KeyReport, MemberInfo
from trioserf.control.errors import ControlError
from trioserf.results import QueryAck, QueryResult

SILENT = "no answer"
FAILED = "failed"
_TEXTS: Mapping[Action, tuple[str, str, str]] = {
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
"""Serf's texts before an action, after it, and after its failure."""
_KEY_HINT = "a key is 16, 24 or 32 bytes in base64: trioserf keygen makes one"
_HINTS = (
    (
        "encryption not enabled",
        "start the agents with -encrypt=KEY or -keyring-file=PATH (trioserf keygen makes a key)",
    ),
    ("base64", _KEY_HINT),
    ("key size", _KEY_HINT),
    ("not in the keyring", "install the key first: keys -install=KEY"),
    ("primary key is not allowed", "use another key first: keys -use=KEY"),
)
"""Parts of members' messages, in lower case, and what mends these errors."""


class KeySession(Protocol):
    """The part of an `AgentSession` that key operations use."""

    def keys(self, action: Action, key: str | None = None) -> KeyReport:
        """Install, use, remove or list keys on every member."""
        ...

    def members(self) -> list[MemberInfo]:
        """Return all members."""
        ...

    def query(self, name: str) -> Generator[QueryResult, None, None]:
        """Send a query."""
        ...


def run_key_operation(
    out: Output, session: KeySession, action: Action, key: str | None = None
) -> KeyReport:
    """Run one key operation, with Serf's texts.

    Raises:
        CommandError: it did not succeed on every member.
    """
    before, after, failed = _TEXTS[action]
    out.line(f"==> {before}")
    try:
        report = session.keys(action, key)
    except ControlError as error:
        messages: Mapping[str, str] = error.details.get("messages") or {}
        if messages:
            out.line(failures_text(messages))
        out.line()
        said = " ".join([error.message, *messages.values()]).lower()
        hint = next((hint for part, hint in _HINTS if part in said), "")
        text = f"{failed}: {error_reason(error)}"
        raise CommandError(text, error.code, error.details, hint) from error
    out.line(f"==> {after}")
    return report


@contextmanager
def with_missing_members(session: KeySession, wanted: bool = True) -> Iterator[None]:
    """Add the `laggards` to the details of a failed operation, and remove the keys from them.

    Raises:
        CommandError: the error of the block.
    """
    try:
        yield
    except CommandError as error:
        if error.code != "key_failed":
            raise
        details = {name: value for name, value in error.details.items() if "keys" not in name}
        if wanted:
            with suppress(ControlError):
                details["laggards"] = missing_members(session, details)
        raise CommandError(error.text, error.code, details, error.hint) from error


def missing_members(session: KeySession, report: Mapping[str, Any]) -> dict[str, str]:
    """Return the members on which an operation did not succeed, each with the reason.

    A member on which it failed has reported the reason. Silent members are found by a query that
    every member acknowledges; if these are too few, the others have failed since the operation.

    Args:
        session: connection to the agent.
        report: the fields of a `KeyReport`.

    Raises:
        ControlError: the connection was lost.
    """
    missing = dict(report.get("messages") or {})
    if report.get("responses", 0) < report.get("nodes", 0):
        acked = {record.source for record in session.query(PING) if isinstance(record, QueryAck)}
        members = session.members()
        silent = [m.name for m in members if m.status == "alive" and m.name not in acked]
        missing.update((name, SILENT) for name in silent if name not in missing)
        if len(silent) < report["nodes"] - report["responses"]:
            missing.update((m.name, FAILED) for m in members if m.status == "failed")
    return dict(sorted(missing.items()))


def failures_text(messages: Mapping[str, str]) -> str:
    """Format the members' error messages, sorted by name."""
    return columns([("failed:", name, message) for name, message in sorted(messages.items())])


def keys_text(report: KeyReport) -> str:
    """Format each key with the number of members that have it."""
    return columns([(key, f"[{n}/{report.nodes}]") for key, n in report.keys.items()])


def report_record(report: KeyReport) -> dict[str, Any]:
    """Return a report for JSON.

    `primary` is the key with which all members encrypt; it and `primary_keys` are null if the
    agent does not report them, and `primary` also if members disagree.
    """
    primary_keys = report.primary_keys
    agreed = [key for key, members in primary_keys.items() if members == report.nodes]
    return {
        "messages": dict(report.messages),
        "keys": dict(report.keys),
        "primary_keys": dict(primary_keys) or None,
        "primary": agreed[0] if agreed else None,
        "laggards": dict(sorted(report.messages.items())),
        "nodes": report.nodes,
        "responses": report.responses,
        "errors": report.errors,
    }
