"""The health of an agent, as it reports it itself, and what counts as degraded.

Agents judge themselves by `Health.judged`; clients judge by it agents of Serf, which report only
numbers (see cli/README.md, § Health).
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

MOST_SCORE: Final = 3
"""The greatest health score that is not a problem.

One lost packet makes it 1 for a second or two, and each further missed ack adds 1, up to 7. From
4 on, most probes of the last seconds got no ack: the cause is probably on this host.
"""


class Health(NamedTuple):
    """The health of an agent.

    Attributes:
        phase: `alive`, `leaving`, `left` or `shutdown`.
        score: Lifeguard's local health score; 0 is best, 7 the worst in all profiles.
        members: numbers of members by state: `alive` (with this one), `suspect`, `dead`, `left`;
            an agent of Serf does not report suspects (they count as alive).
        queues: numbers of waiting items by queue, such as `inbox`, `membership`, `intent`,
            `event` and `query`.
        joined: whether a join has succeeded, or another member was seen; None: not reported.
        reasons: what is wrong, each a line of text; none if the agent is healthy.
    """

    phase: str
    score: int
    members: Mapping[str, int]
    queues: Mapping[str, int]
    joined: bool | None
    reasons: tuple[str, ...] = ()

    @property
    def healthy(self) -> bool:
        """Whether nothing is wrong."""
        return not self.reasons

    def why_not_ready(self, *, waits_for_join: bool = False) -> str:
        """Return why the agent does not serve its cluster; empty if it does.

        Args:
            waits_for_join: whether it is not ready before its first join.
        """
        if self.phase != "alive":
            text = {"leaving": "is leaving the cluster", "left": "has left the cluster"}
            return f"the agent {text.get(self.phase, 'is ending')}"
        if waits_for_join and not self.joined:
            return "none of the addresses in start_join and retry_join was joined yet"
        return ""

    def judged(self, limits: Mapping[str, int], *, waits_for_join: bool = False) -> "Health":
        """Return this health with its reasons.

        Args:
            limits: for some queues the number of items above which it is a problem.
            waits_for_join: as for `why_not_ready`.
        """
        reasons = []
        if reason := self.why_not_ready(waits_for_join=waits_for_join):
            reasons.append(reason)
        elif self.members.get("dead") and self._others_alive == 0:
            reasons.append(f"no other member is alive; {self.members['dead']} failed")
        if self.score > MOST_SCORE:
            reasons.append(
                f"health score {self.score}, expected at most {MOST_SCORE}: most probes get no"
                " ack; this host or its network may be overloaded"
            )
        for name, limit in limits.items():
            if (depth := self.queues.get(name, 0)) > limit:
                reasons.append(f"queue {name}: {depth} items wait, expected at most {limit}")
        return self._replace(reasons=tuple(reasons))

    @property
    def _others_alive(self) -> int:
        return self.members.get("alive", 0) + self.members.get("suspect", 0) - 1
