"""Changing the keys of a whole cluster: the query for it, and the count of what came back.

The caller asks `key_question`, hands every answer to a `KeyTally`, and is done when the query is
(spec: key management).
"""

from collections import Counter

import attrs

from trioserf.serf.internal_queries import KEY_QUERIES, KeyAction
from trioserf.serf.outgoing_queries import QueryParams
from trioserf.serf.query_collector import QueryAnswer
from trioserf.wire.serf_codec import decode, encode
from trioserf.wire.serf_messages import KeyRequest, KeyResponse

_NAMES = {action: name for name, action in KEY_QUERIES.items()}


def key_query(action: KeyAction, key: bytes, *, relay_factor: int = 0) -> QueryParams:
    """Make the query that does something with a key on every member.

    Args:
        action: what is to be done.
        key: raw bytes; not looked at for `list`.
        relay_factor: members that pass each answer on as well.
    """
    payload = b"" if action == "list" else encode(KeyRequest(key))
    return QueryParams(
        name=_NAMES[action], payload=payload, relay_factor=relay_factor, internal=True
    )


@attrs.define
class KeyQueryResult:
    """What the members said to a key query.

    Attributes:
        nodes: members that were asked.
        responses: those that answered.
        errors: those that could not do it.
        messages: what they said about it, by name; success is silent.
        keys: for `list`, how many members have each key (base64).
        primary_keys: for `list`, how many seal with each key.
    """

    nodes: int
    responses: int = 0
    errors: int = 0
    messages: dict[str, str] = attrs.Factory(dict)
    keys: Counter[str] = attrs.Factory(Counter)
    primary_keys: Counter[str] = attrs.Factory(Counter)

    def count(self, answer: QueryAnswer) -> None:
        """Count one answer, whatever it is."""
        self.responses += 1
        try:
            response = decode(answer.payload)
        except ValueError as error:
            self._fail(answer.source, f"Failed to decode key query response: {error}")
            return
        if not isinstance(response, KeyResponse):
            self._fail(answer.source, "Invalid key query response type")
        elif not response.result:
            self._fail(answer.source, response.message)
        else:
            if response.message:
                self.messages[answer.source] = response.message
            self.keys.update(response.keys)
            if response.primary_key:
                self.primary_keys[response.primary_key] += 1

    def _fail(self, source: str, text: str) -> None:
        self.errors += 1
        self.messages[source] = text

    @property
    def failure(self) -> str | None:
        """Say in Serf's words why it has not succeeded everywhere; None if it has."""
        if self.errors:
            return f"{self.errors}/{self.nodes} nodes reported failure"
        if self.responses != self.nodes:
            return f"{self.responses}/{self.nodes} nodes reported success"
        return None
