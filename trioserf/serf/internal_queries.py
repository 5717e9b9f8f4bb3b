"""Queries among the members themselves, whose names begin with `_serf_` (spec: internal queries).

They never reach users' handlers. Users may ask only the ping, which is answered by the
acknowledgement alone.
"""

import logging
from collections.abc import Callable
from typing import Final, Literal

import attrs

from trioserf.errors import InvalidQuery
from trioserf.wire.serf_codec import decode
from trioserf.wire.serf_messages import KeyRequest, KeyResponse

_log = logging.getLogger("trioserf.serf")

PREFIX: Final = "_serf_"
PING: Final = "_serf_ping"
CONFLICT: Final = "_serf_conflict"

KeyAction = Literal["install", "use", "remove", "list"]
KEY_QUERIES: Final[dict[str, KeyAction]] = {
    "_serf_install-key": "install",
    "_serf_use-key": "use",
    "_serf_remove-key": "remove",
    "_serf_list-keys": "list",
}


class DeferredResponse:
    """An answer that is still to come, since something slow must be done first."""

    __slots__ = ("_callback",)

    def __init__(self) -> None:
        self._callback: Callable[[KeyResponse, float], None] | None = None

    def on_result(self, take: Callable[[KeyResponse, float], None]) -> None:
        """Say who takes the answer."""
        self._callback = take

    def set_result(self, answer: KeyResponse, now: float) -> None:
        """Give the answer, once."""
        take, self._callback = self._callback, None
        if take is not None:
            take(answer, now)


KeyHandler = Callable[[KeyAction, bytes], KeyResponse | DeferredResponse]
"""Does what a key query asks for, with a key (empty for `list`), and says how it went."""

_KEY_BYTES_AT_LEAST: Final = 25
"""What one key takes in a response, at least: AES-128 in base64 and a length."""


def check_name(name: str, payload: bytes) -> None:
    """Make sure that users may ask this.

    Raises:
        InvalidQuery: a name of ours, other than a ping without payload.
    """
    if name.startswith(PREFIX) and (name != PING or payload):
        raise InvalidQuery(f"Queries cannot contain the '{PREFIX}' prefix")


def no_keyring(action: KeyAction, key: bytes) -> KeyResponse:  # noqa: ARG001 - a KeyHandler
    """Answer key queries where nothing is encrypted."""
    if action == "list":
        return KeyResponse(False, "Keyring is empty (encryption not enabled)")
    return KeyResponse(False, "No keyring to modify (encryption not enabled)")


def handle_key_query(
    action: KeyAction, payload: bytes, handler: KeyHandler
) -> KeyResponse | DeferredResponse:
    """Let the handler do what a key query asks for.

    Args:
        action: what, by the query's name.
        payload: the query's payload, an encoded `KeyRequest` unless keys are listed.
        handler: does it.
    """
    if action == "list":
        _log.info("Received list-keys query")
        return handler(action, b"")
    try:
        request = decode(payload)
    except ValueError as error:
        _log.error("Failed to decode key request: %s", error)
        return KeyResponse(False, f"Failed to decode key request: {error}")
    if not isinstance(request, KeyRequest):
        _log.error("Failed to decode key request: it is a %s", type(request).__name__)
        return KeyResponse(False, "Failed to decode key request")
    _log.info("Received %s-key query", action)
    return handler(action, request.key)


def truncate_keys(
    response: KeyResponse, limit: int, encoded_size: Callable[[KeyResponse], int]
) -> KeyResponse:
    """Cut a list of keys down to what one response can carry, and say so in its message.

    Args:
        response: the whole answer.
        limit: bytes of an encoded response.
        encoded_size: measures the whole message that would be sent.
    """
    if encoded_size(response) <= limit:
        return response
    total = len(response.keys)
    for count in range(min(limit // _KEY_BYTES_AT_LEAST, total), -1, -1):
        cut = attrs.evolve(
            response,
            keys=response.keys[:count],
            message=f"truncated key list response, showing first {count} of {total} keys",
        )
        if encoded_size(cut) <= limit:
            _log.warning("%s", cut.message)
            return cut
    return attrs.evolve(response, keys=())
