"""Whether an agent works, and whether it has joined its cluster."""

from typing import Final

import trio

from trioserf.agent.agent import Agent
from trioserf.errors import Leaving
from trioserf.node import Phase

OWNER_TIMEOUT: Final = 1.0
"""Seconds in which the owner of the state must answer."""


async def why_unhealthy(agent: Agent) -> str:
    """Return why the agent does not work; empty if it does.

    If another loop of the node fails, the process ends; the owner answers after all that waits in
    its inbox.
    """
    try:
        with trio.fail_after(OWNER_TIMEOUT):
            await agent.node.wait_for_inbox()
    except trio.TooSlowError:
        return f"the owner of the node's state did not answer within {OWNER_TIMEOUT:g} s"
    except Leaving:
        return "the node has ended"
    return ""


def why_not_ready(agent: Agent) -> str:
    """Return why the agent is not ready; empty if it is."""
    if agent.node.phase is not Phase.ALIVE:
        return f"the node is {agent.node.phase.value}"
    seeds = [*agent.config.start_join, *agent.config.retry_join]
    if seeds and not agent.joined.is_set():
        return f"none of the {len(seeds)} addresses to join has been joined yet"
    return ""
