"""Two tasks that wait for deadlines: of suspicions, and of everything else."""

from typing import Final

import trio

from trioserf.node.state_owner import StateOwner

STALLED: Final = 0.25
"""Seconds by which a task may wake up late before this process counts as stalled."""


async def expire_suspicions(owner: StateOwner) -> None:
    """Mark suspects dead at their deadlines, until cancelled (see swim/README.md, § Suspicion).

    If this process was stalled, refutations may lie unread in the socket: wait one probe timeout
    before the suspects are marked dead.
    """
    while True:
        at = await owner.suspicion.wait()
        if trio.current_time() - at > STALLED:
            await trio.sleep(owner.state.config.timing.probe_timeout)
        await owner.ask(lambda state, now: state.expire_suspicions(now))


async def expire_deadlines(owner: StateOwner) -> None:
    """End queries and indirect pings at their deadlines, until cancelled."""
    while True:
        await owner.deadline.wait()
        await owner.expire()
