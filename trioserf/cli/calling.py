"""Connections of the commands to an agent."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from trioserf.cli.output import Failure
from trioserf.control.errors import ControlError

if TYPE_CHECKING:
    from trioserf.control.client.connect import AgentSession
    from trioserf.control.client.rpc_session import RpcSession


PING = "_serf_ping"
"""A query that every agent acknowledges and none answers."""


def connect(address: str, auth: str) -> "RpcSession":
    """Connect over Serf's RPC, which both Serf's agents and ours speak.

    Its errors are Serf's own texts, and scripts read them.

    Raises:
        Failure: nobody answers there, or the key is wrong.
    """
    from trioserf.control.client.rpc_session import RpcSession

    try:
        return RpcSession.connect(address, auth or None)
    except ControlError as error:
        raise refused(address, error) from error


def connect_any(address: str, auth: str) -> "AgentSession":
    """Connect over JSON lines where the agent speaks them, and over Serf's RPC otherwise.

    Raises:
        Failure: nobody answers there, or the key is wrong.
    """
    from trioserf.control.client import connect as opening

    try:
        return opening.connect_any(address, auth or None)
    except ControlError as error:
        raise refused(address, error) from error


def refused(address: str, error: ControlError) -> Failure:
    """Say that no connection came about; a refused one is told as Go tells it."""
    lead, _, why = error.message.rpartition(": ")
    reason = error.message
    if error.code == "unreachable" and lead == f"no agent at {address}":
        kind, at = ("unix", address[5:]) if address.startswith("unix:") else ("tcp", address)
        reason = f"dial {kind} {at}: connect: {why}"
    return Failure(f"Error connecting to Serf agent: {reason}", error.code)


def tags_of(pairs: Iterable[str]) -> dict[str, str]:
    """Read `key=value` pairs.

    Raises:
        Failure: one has no `=`, or no key.
    """
    tags: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise Failure(f"Error: Invalid tag: '{pair}'", "bad_request")
        tags[key] = value
    return tags
