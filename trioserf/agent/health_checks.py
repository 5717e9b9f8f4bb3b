"""What an agent says about itself: to `health`, and to the checks of HTTP.

The rules stand in cli/README.md, § Health; `trioserf.health` has those that clients use, too.
"""

from typing import TYPE_CHECKING, Final

import trio

from trioserf.errors import Leaving
from trioserf.health import Health
from trioserf.serf.events import Event, MemberEvent

if TYPE_CHECKING:
    from trioserf.agent.config import AgentConfig
    from trioserf.node import Node

OWNER_TIMEOUT: Final = 1.0
"""Seconds in which the owner of the state must answer."""
_BROADCASTS: Final = ("membership", "intent", "event", "query")
"""The queues with a limit in the configuration."""


class HealthChecks:
    """The health of one agent.

    Args:
        config: its configuration.
        node: its node.

    Attributes:
        joined: set when a join has succeeded, or another member was seen.
    """

    def __init__(self, config: "AgentConfig", node: "Node") -> None:
        self.joined = trio.Event()
        self._node = node
        self._waits_for_join = bool(config.start_join or config.retry_join)
        self._limits = dict.fromkeys(_BROADCASTS, node.config.serf.queue_depth_warning)
        self._limits["inbox"] = node.config.inbox_depth // 2

    def note_member(self, event: Event) -> None:
        """Set `joined` when an event is about another member."""
        if isinstance(event, MemberEvent) and event.kind == "member-join":
            names = {member.name for member in event.members}
            if names - {self._node.name}:
                self.joined.set()

    async def judge(self) -> Health:
        """Return the health with all reasons why the agent is degraded."""
        found = self._measured().judged(self._limits, waits_for_join=self._waits_for_join)
        problem = await self.why_unhealthy() if found.phase == "alive" else ""
        return found._replace(reasons=(problem, *found.reasons)) if problem else found

    async def why_unhealthy(self) -> str:
        """Return why the agent does not work; empty if it does.

        If another loop of the node fails, the process ends; the owner answers after all that
        waits in its inbox.
        """
        try:
            with trio.fail_after(OWNER_TIMEOUT):
                await self._node.wait_for_inbox()
        except trio.TooSlowError:
            return f"the owner of the node's state did not answer within {OWNER_TIMEOUT:g} s"
        except Leaving:
            return "the node has ended"
        return ""

    def why_not_ready(self) -> str:
        """Return why the agent does not serve its cluster yet, or any more; empty if it does."""
        return self._measured().why_not_ready(waits_for_join=self._waits_for_join)

    def _measured(self) -> Health:
        node = self._node
        score = node.memberlist.awareness.score
        joined = self.joined.is_set()
        return Health(node.phase.value, score, node.states(), node.queue_depths(), joined)
