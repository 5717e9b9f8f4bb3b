"""Two members of one name: the cluster says whose it is (spec: name conflict)."""

import logging
from collections.abc import Callable
from typing import Final

import attrs

from trioserf.address import Address, normalise, packed
from trioserf.serf.effects import Effects, NameConflictLost
from trioserf.serf.internal_queries import CONFLICT
from trioserf.serf.outgoing_queries import QueryParams
from trioserf.serf.query_collector import QueryAnswer, QueryDone, QueryResult
from trioserf.wire import serf_codec
from trioserf.wire.serf_messages import ConflictResponse

_log = logging.getLogger("trioserf.serf")

NO_MEMBER_RESPONSE: Final = bytes((serf_codec.CONFLICT, 0xC0))
"""How a Serf answers that knows no member of the name: a conflict response of nil."""


@attrs.define
class ConflictVote:
    """Counts what the cluster says of the member that bears our name.

    Attributes:
        address: ours.
        answers: members that said something.
        matching: those that gave our address.
    """

    address: Address
    answers: int = 0
    matching: int = 0

    def count(self, response: ConflictResponse | None) -> None:
        """Count one answer; None is that of a member that knows nobody of this name."""
        self.answers += 1
        if response is not None and response.port == self.address.port:
            self.matching += normalise(response.addr) == packed(self.address.host)

    @property
    def won(self) -> bool:
        """Whether we keep the name: at least half the answers and one more are for us.

        As in Serf, no answer at all is a defeat.
        """
        return self.matching >= self.answers // 2 + 1


class NameConflicts:
    """Notes conflicts, and asks the cluster when the name is ours, once at a time.

    Args:
        name: our own name.
        enabled: whether the cluster is asked.
        ask: asks a question and hands what comes back to a function.
        effects: where `GiveUpName` is ordered.
    """

    def __init__(
        self,
        name: str,
        *,
        enabled: bool,
        ask: Callable[[QueryParams, Callable[[QueryResult], None], float], object],
        effects: Effects,
    ) -> None:
        self._name = name
        self._enabled = enabled
        self._ask = ask
        self._effects = effects
        self._vote: ConflictVote | None = None

    def log(self, name: str, known: Address | None, other: Address) -> None:
        """Log that somebody else's name is claimed from another address."""
        mine = "nobody" if known is None else known
        _log.warning("Name conflict for '%s' both %s and %s are claiming", name, mine, other)

    def resolve(self, ours: Address, other: Address, now: float) -> None:
        """Deal with somebody at `other` who claims our name."""
        if self._vote is not None:
            return
        _log.error(
            "Node name conflicts with another node at %s. Names must be unique!"
            " (Resolution enabled: %s)",
            other,
            str(self._enabled).lower(),
        )
        if self._enabled:
            self._vote = ConflictVote(ours)
            payload = self._name.encode("utf-8", "surrogateescape")
            self._ask(
                QueryParams(name=CONFLICT, payload=payload, internal=True),
                self._handle_result,
                now,
            )

    def _handle_result(self, result: QueryResult) -> None:
        if self._vote is None:
            return
        if isinstance(result, QueryAnswer):
            self._count(self._vote, result)
        elif isinstance(result, QueryDone):
            self._decide(self._vote)
            self._vote = None

    def _count(self, vote: ConflictVote, answer: QueryAnswer) -> None:
        if answer.payload == NO_MEMBER_RESPONSE:
            vote.count(None)
            return
        try:
            response = serf_codec.decode(answer.payload)
        except ValueError as error:
            _log.error("Failed to decode conflict query response: %s", error)
            return
        if isinstance(response, ConflictResponse):
            vote.count(response)
        else:
            _log.error("Invalid conflict query response type: %s", type(response).__name__)

    def _decide(self, vote: ConflictVote) -> None:
        if vote.won:
            text = "majority in name conflict resolution [%d / %d]"
            _log.info(text, vote.matching, vote.answers)
        else:
            text = "minority in name conflict resolution, quitting [%d / %d]"
            _log.warning(text, vote.matching, vote.answers)
            self._effects.shutdown_orders.append(NameConflictLost(vote.matching, vote.answers))
