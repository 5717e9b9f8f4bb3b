"""Connect a command to an agent."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from trioserf.cli.output import CommandError, Output
from trioserf.control.address import unix_path
from trioserf.control.errors import ControlError
from trioserf.control.tls import AgentAddress, Tls, split_tls

if TYPE_CHECKING:
    from trioserf.control.client.connect import AgentSession
    from trioserf.control.client.rpc_session import RpcSession


PING = "_serf_ping"
"""A query that every agent acknowledges and none responds to."""


def connect(address: str, auth: str) -> "RpcSession":
    """Connect over Serf's RPC, which Serf's agents and our own speak.

    Its errors are Serf's own texts, which scripts read.

    Raises:
        CommandError: no agent at the address, or a wrong key.
    """
    from trioserf.control.client.rpc_session import RpcSession

    try:
        return RpcSession.connect(address, auth or None, tls=tls_of(address))
    except ControlError as error:
        raise connection_error(address, error) from error


def connect_any(address: str, auth: str) -> "AgentSession":
    """Connect over JSON lines if the agent speaks them, otherwise over Serf's RPC.

    Raises:
        CommandError: no agent at the address, or a wrong key.
    """
    from trioserf.control.client import connect as client

    try:
        return client.connect_any(address, auth or None, tls=tls_of(address))
    except ControlError as error:
        raise connection_error(address, error) from error


def connect_for(out: Output, address: str, auth: str) -> "AgentSession":
    """Connect for JSON over JSON lines, whose errors and results have more; else over Serf's RPC.

    Raises:
        CommandError: no agent at the address, or a wrong key.
    """
    open_session: Callable[[str, str], AgentSession] = connect_any if out.json else connect
    return open_session(address, auth)


def tls_of(address: str) -> Tls | None:
    """Return the options of TLS that an address has, if any."""
    return address.tls if isinstance(address, AgentAddress) else None


def connection_error(address: str, error: ControlError) -> CommandError:
    """Return the error of a connection that failed; a refused one has Go's text."""
    lead, _, why = error.message.rpartition(": ")
    reason = error.message
    if error.code == "unreachable" and lead == f"no agent at {address}":
        unix = unix_path(address)
        kind, at = ("tcp", split_tls(address)[1]) if unix is None else ("unix", unix)
        reason = f"dial {kind} {at}: connect: {why}"
    hint = ""
    if "://" in split_tls(address)[1]:
        hint = "an address is host:port, tls://host:port or unix:PATH"
    elif error.message.startswith("no agent"):
        hint = "is an agent running there? -rpc-addr or SERF_RPC_ADDR names another address"
    return CommandError(f"Error connecting to Serf agent: {reason}", error.code, hint=hint)


def parse_tags(pairs: Iterable[str], out: Output | None = None) -> dict[str, str]:
    """Parse `key=value` pairs; the last one of each key counts.

    Args:
        pairs: the pairs.
        out: reports keys that occur twice.

    Raises:
        CommandError: a pair without `=`, or without a key.
    """
    tags: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise CommandError(
                f"Error: Invalid tag: '{pair}'", "bad_request", hint="a tag is KEY=VALUE"
            )
        if key in tags and out is not None:
            out.explain(f"tag {key} is given twice: only {pair} counts", "bad_request")
        tags[key] = value
    return tags
