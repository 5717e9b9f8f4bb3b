"""Internal queries, whose names begin with `_serf_` (see serf/README.md, § Queries).

Handlers of users never get them. Users may send only the ping, whose response is its ack.
"""

import logging
from collections.abc import Callable
from typing import Final, Literal

import attrs

from trioserf.errors import InvalidQuery
from trioserf.wire.errors import WireError
from trioserf.wire.serf_codec import decode
from trioserf.wire.serf_messages import KeyRequest, KeyResponse

_log = logging.getLogger("trioserf.serf")

_TRUNCATED: Final = "truncated key list response, showing first %d of %d keys"
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
    """A response that becomes ready later, after slow work."""

    __slots__ = ("_callback",)

    def __init__(self) -> None:
        self._callback: Callable[[KeyResponse, float], None] | None = None

    def on_result(self, callback: Callable[[KeyResponse, float], None]) -> None:
        """Call a function with the response and the current time."""
        self._callback = callback

    def set_result(self, response: KeyResponse, now: float) -> None:
        """Pass the response to the callback, once."""
        callback, self._callback = self._callback, None
        if callback is not None:
            callback(response, now)


KeyHandler = Callable[[KeyAction, bytes], KeyResponse | DeferredResponse]
"""Executes the action of a key query with a key (empty for `list`)."""

_MIN_KEY_SIZE: Final = 25
"""The least size of a key in a response: AES-128 in base64, and a length."""


def check_name(name: str, payload: bytes) -> None:
    """Check that users may send this query.

    Raises:
        InvalidQuery: the name is internal, and it is not a ping without payload.
    """
    if name.startswith(PREFIX) and (name != PING or payload):
        raise InvalidQuery(f"Queries cannot contain the '{PREFIX}' prefix")


def no_keyring(action: KeyAction, key: bytes) -> KeyResponse:  # noqa: ARG001 - a KeyHandler
    """Respond to key queries on a node without a keyring."""
    if action == "list":
        return KeyResponse(False, "Keyring is empty (encryption not enabled)")
    return KeyResponse(False, "No keyring to modify (encryption not enabled)")


def plaintext_refused() -> WireError:
    """Return the error for a message about keys that others could have read or written."""
    return WireError("plaintext-refused", "messages about keys must be encrypted")


def handle_key_query(
    action: KeyAction, payload: bytes, handler: KeyHandler
) -> KeyResponse | DeferredResponse:
    """Run the handler for a key query.

    Args:
        action: from the query's name.
        payload: the query's payload, an encoded `KeyRequest` unless the action is `list`.
        handler: executes the action.
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
    """Truncate a list of keys to the limit of a response, and note that in its message.

    Args:
        response: the whole response.
        limit: bytes of an encoded response.
        encoded_size: returns the size of the message that would be sent.
    """
    if encoded_size(response) <= limit:
        return response
    total = len(response.keys)
    for count in range(min(limit // _MIN_KEY_SIZE, total), -1, -1):
        cut = attrs.evolve(
            response,
            keys=response.keys[:count],
            message=_TRUNCATED % (count, total),
        )
        if encoded_size(cut) <= limit:
            _log.warning(_TRUNCATED, count, total)
            return cut
    return attrs.evolve(response, keys=())
