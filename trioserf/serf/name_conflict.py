"""Name conflicts: a vote on the owner of a name (see serf/README.md, § Name conflicts)."""

import logging
import math
from collections.abc import Callable
from typing import Final

import attrs

from trioserf.address import Address, normalise, packed
from trioserf.errors import InvalidQuery, TooLarge
from trioserf.printable import short_name
from trioserf.results import QueryAnswer, QueryDone, QueryResult
from trioserf.serf.effects import Effects, NameConflictLost
from trioserf.serf.internal_queries import CONFLICT
from trioserf.serf.outgoing_queries import QueryParams
from trioserf.wire import serf_codec
from trioserf.wire.serf_messages import ConflictResponse

_log = logging.getLogger("trioserf.serf")

_NEWCOMER: Final = 60.0
"""Seconds after our first join in which the other member of a conflict was there before us."""
_JOINED: Final = "joined less than a minute ago"
_VOTE_INTERVAL: Final = 10.0
"""Least seconds between the beginnings of two votes: any host can claim our name."""
NO_MEMBER_RESPONSE: Final = bytes((serf_codec.CONFLICT, 0xC0))
"""The response of a Go agent without a member of that name: a conflict response of nil."""


@attrs.define(eq=False, repr=False)
class ConflictVote:
    """The count of responses to a conflict query about our name.

    Attributes:
        address: our own.
        other: that of the other member.
        is_newcomer: whether we have just joined for the first time.
        responses: members that responded.
        matching: members that responded with our address.
    """

    address: Address
    other: Address
    is_newcomer: bool = False
    responses: int = 0
    matching: int = 0

    def count(self, response: ConflictResponse | None) -> None:
        """Count one response; None is from a node without a member of that name."""
        self.responses += 1
        if response is not None and response.port == self.address.port:
            self.matching += normalise(response.addr) == packed(self.address.host)

    @property
    def is_tie(self) -> bool:
        """Whether half of the responses have our address, or there are none."""
        return 2 * self.matching == self.responses

    @property
    def is_lost(self) -> bool:
        """Whether the other member keeps the name: by its majority, or in a tie as the earlier."""
        return self.is_newcomer if self.is_tie else 2 * self.matching < self.responses


class NameConflicts:
    """Logs conflicts, and starts a vote if the name is ours, one at a time.

    Args:
        name: our own name.
        enabled: whether there are votes.
        ask: starts a query (see `Serf.ask`).
        may_vote: whether the response of a member counts.
        effects: receives `NameConflictLost`.
    """

    def __init__(
        self,
        name: str,
        *,
        enabled: bool,
        ask: Callable[[QueryParams, Callable[[QueryResult], None], float], object],
        may_vote: Callable[[str], bool],
        effects: Effects,
    ) -> None:
        self._name = name
        self._enabled = enabled
        self._ask = ask
        self._may_vote = may_vote
        self._effects = effects
        self._joined_at: float | None = None
        self._vote: ConflictVote | None = None
        self._next_vote = -math.inf

    def note_join(self, now: float) -> None:
        """Note that we have joined other members; only the first time counts."""
        if self._joined_at is None:
            self._joined_at = now

    def log(self, name: str, known: Address | None, other: Address) -> None:
        """Log that the name of another member is claimed by a second address."""
        claimed_by = "an unknown address" if known is None else known
        _log.warning(
            "Name conflict for '%(member)s' both %(address)s and %(other)s are claiming",
            {"member": short_name(name), "address": claimed_by, "other": other},
        )

    def resolve(self, ours: Address, other: Address, now: float) -> None:
        """Handle a node at `other` that claims our name."""
        if self._vote is not None or now < self._next_vote:
            return
        self._next_vote = now + _VOTE_INTERVAL
        _log.error(
            "Node name conflicts with another node at %(address)s. Names must be unique!"
            " (Resolution enabled: %(enabled)s)",
            {"address": other, "enabled": str(self._enabled).lower()},
        )
        if self._enabled:
            is_newcomer = self._joined_at is not None and now - self._joined_at < _NEWCOMER
            self._vote = ConflictVote(ours, other, is_newcomer)
            payload = self._name.encode("utf-8", "surrogateescape")
            params = QueryParams(name=CONFLICT, payload=payload, internal=True)
            try:
                self._ask(params, self._handle_result, now)
            except (InvalidQuery, TooLarge) as error:
                # Any host can claim our name while our own limits forbid another query.
                self._vote = None
                _log.error("Failed to start name resolution query: %s", error)

    def _handle_result(self, result: QueryResult) -> None:
        if self._vote is None:
            return
        if isinstance(result, QueryAnswer):
            if self._may_vote(result.source):
                self._count(self._vote, result)
        elif isinstance(result, QueryDone):
            self._decide(self._vote)
            self._vote = None

    def _count(self, vote: ConflictVote, result: QueryAnswer) -> None:
        if result.payload == NO_MEMBER_RESPONSE:
            vote.count(None)
            return
        try:
            response = serf_codec.decode(result.payload)
        except ValueError as error:
            _log.error("Failed to decode conflict query response: %s", error)
            return
        if isinstance(response, ConflictResponse):
            vote.count(response)
        else:
            _log.error("Invalid conflict query response type: %s", type(response).__name__)

    def _decide(self, vote: ConflictVote) -> None:
        counts = vote.matching, vote.responses
        if vote.is_tie:
            _log.warning(
                "The member at %s has our name, too: %s; this one %s",
                vote.other,
                _decision(*counts),
                f"shuts down, because it {_JOINED}"
                if vote.is_lost
                else "stays, because it was first",
            )
        elif vote.is_lost:
            _log.warning("minority in name conflict resolution, quitting [%d / %d]", *counts)
        else:
            _log.info("majority in name conflict resolution [%d / %d]", *counts)
        if vote.is_lost:
            self._effects.shutdown_orders.append(NameConflictLost(*counts, vote.other))


def in_use_text(name: str, other: Address, ours: Address, reason: str = "") -> str:
    """Return an error text for users whose member has the name of another one.

    Args:
        name: the name.
        other: the address of the other member.
        ours: our own address.
        reason: why the other member keeps it, as part of a sentence; empty if no one was asked.
    """
    text = f"the name {name!r} is in use by the member at {other}, and this one is at {ours}"
    return "; ".join(filter(None, (text, reason, "choose another name with --node=NAME")))


def lost_text(order: NameConflictLost, name: str, ours: Address) -> str:
    """Return the error text of a lost vote (see `in_use_text`)."""
    reason = _decision(order.matching, order.responses)
    if 2 * order.matching == order.responses:
        reason += f", and this one {_JOINED}"
    return in_use_text(name, order.other, ours, reason)


def _decision(matching: int, responses: int) -> str:
    if not responses:
        return "no other member was there to decide"
    return f"{matching} of {responses} answers of other members gave the name to this one"
