"""Key queries and the count of their responses (see serf/README.md, § Key management)."""

from collections import Counter

import attrs

from trioserf.results import QueryAnswer
from trioserf.serf.internal_queries import KEY_QUERIES, KeyAction
from trioserf.serf.outgoing_queries import QueryParams
from trioserf.wire.serf_codec import decode, encode
from trioserf.wire.serf_messages import KeyRequest, KeyResponse

_NAMES = {action: name for name, action in KEY_QUERIES.items()}


def key_query(action: KeyAction, key: bytes, *, relay_factor: int = 0) -> QueryParams:
    """Return the query that executes an action on every member.

    Args:
        action: what to do with the key.
        key: raw bytes; ignored for `list`.
        relay_factor: members that relay each response as well.
    """
    payload = b"" if action == "list" else encode(KeyRequest(key))
    return QueryParams(
        name=_NAMES[action], payload=payload, relay_factor=relay_factor, internal=True
    )


@attrs.define
class KeyQueryResult:
    """The responses to a key query.

    Attributes:
        nodes: members that were queried.
        responses: members that responded.
        errors: members that failed.
        messages: their messages by name; success usually has none.
        keys: for `list`, how many members have each key (base64).
        primary_keys: for `list`, how many members encrypt with each key.
    """

    nodes: int
    responses: int = 0
    errors: int = 0
    messages: dict[str, str] = attrs.Factory(dict)
    keys: Counter[str] = attrs.Factory(Counter)
    primary_keys: Counter[str] = attrs.Factory(Counter)

    def count(self, result: QueryAnswer) -> None:
        """Count one response; malformed ones are errors."""
        self.responses += 1
        try:
            response = decode(result.payload)
        except ValueError as error:
            self._fail(result.source, f"Failed to decode key query response: {error}")
            return
        if not isinstance(response, KeyResponse):
            self._fail(result.source, "Invalid key query response type")
        elif not response.result:
            self._fail(result.source, response.message)
        else:
            if response.message:
                self.messages[result.source] = response.message
            self.keys.update(response.keys)
            if response.primary_key:
                self.primary_keys[response.primary_key] += 1

    def _fail(self, source: str, text: str) -> None:
        self.errors += 1
        self.messages[source] = text

    @property
    def failure(self) -> str | None:
        """Why it has not succeeded on all members, in Serf's words; None if it has."""
        if self.errors:
            return f"{self.errors}/{self.nodes} nodes reported failure"
        if self.responses != self.nodes:
            return f"{self.responses}/{self.nodes} nodes reported success"
        return None
