"""`keygen` and `keys`: the keys with which the cluster seals its gossip."""

import binascii
import os
from collections.abc import Mapping
from typing import Annotated, Any, Protocol

from trioserf.cli.calling import connect
from trioserf.cli.columns import columns
from trioserf.cli.flags import Option, OurFormat, RpcAddr, RpcAuth
from trioserf.cli.output import Failure, Misuse, Out, check_format, reason_of
from trioserf.control.address import DEFAULT_ADDRESS
from trioserf.control.errors import ControlError
from trioserf.control.records import KeyReport
from trioserf.control.session import Action

KEY_BYTES = 32
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


def new_key() -> str:
    """Make a key for AES-256, in base64."""
    return binascii.b2a_base64(os.urandom(KEY_BYTES), newline=False).decode("ascii")


def keygen(
    out: Out,
    words: list[str],  # noqa: ARG001 - Serf takes them and ignores them
    *,
    output_format: OurFormat = "text",
) -> int:
    """Make a new encryption key, as "trioserf agent -encrypt" and "trioserf keys" want it."""
    check_format(output_format, "Invalid format: {}")
    key = new_key()
    out.line(key)
    out.record({"key": key})
    return 0


def keys(
    out: Out,
    words: list[str],
    *,
    install: Annotated[
        str,
        Option("install", "Add a key to the ring of every member, for opening messages.", "KEY"),
    ] = "",
    use: Annotated[
        str,
        Option(
            "use", "Make every member seal its messages with this key, installed before.", "KEY"
        ),
    ] = "",
    remove: Annotated[
        str, Option("remove", "Drop a key from every ring; it may not be the one in use.", "KEY")
    ] = "",
    list_keys: Annotated[
        bool, Option("list", "Show the keys of the cluster, and how many members hold each.")
    ] = False,
    output_format: OurFormat = "text",
    rpc_addr: RpcAddr = DEFAULT_ADDRESS,
    rpc_auth: RpcAuth = "",
) -> int:
    """Change or list the encryption keys, on every member of the cluster.

    The exit code is 0 if every member agreed. "trioserf keys rotate" does what an operator would
    do by hand: it makes a key, installs it, uses it and removes the others, and stops at the
    first step that not every member has taken.
    """
    wanted: dict[Action, str] = {"install": install, "use": use, "remove": remove}
    actions: list[Action] = [action for action, key in wanted.items() if key]
    actions += ["list"] if list_keys else []
    if not actions and words == ["rotate"]:
        with connect(rpc_addr, rpc_auth) as session:
            check_format(output_format, "Invalid format: {}")
            return rotate(out, session)
    if not actions:
        raise Misuse("")
    if len(actions) > 1:
        text = "Only one of -install, -use, -remove, or -list allowed"
        raise Failure(text, "bad_request")
    with connect(rpc_addr, rpc_auth) as session:
        check_format(output_format, "Invalid format: {}")
        action = actions[0]
        report = carry_out(out, session, action, wanted.get(action))
    if action == "list":
        out.line()
        out.line(keys_text(report))
    out.record(report_record(report))
    return 0


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


def rotate(out: Out, session: KeySession) -> int:
    """Replace every key of the cluster by a new one.

    Raises:
        Failure: a step failed; those before it stand, and the cluster still understands itself.
    """
    old = carry_out(out, session, "list").keys
    key = new_key()
    carry_out(out, session, "install", key)
    carry_out(out, session, "use", key)
    for one in old:
        carry_out(out, session, "remove", one)
    out.line(key)
    out.record({"key": key, "removed": list(old)})
    return 0


def failures_text(messages: Mapping[str, str]) -> str:
    """Show what members said, sorted by name."""
    return columns([("failed:", name, said) for name, said in sorted(messages.items())])


def keys_text(report: KeyReport) -> str:
    """Show each key with its holders."""
    return columns([(key, f"[{n}/{report.nodes}]") for key, n in report.keys.items()])


def report_record(report: KeyReport) -> dict[str, Any]:
    """Show what the members said in JSON."""
    return {
        "messages": dict(report.messages),
        "keys": dict(report.keys),
        "nodes": report.nodes,
        "responses": report.responses,
        "errors": report.errors,
    }
