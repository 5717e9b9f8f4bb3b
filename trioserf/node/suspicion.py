"""Deadlines: one task for all suspicions, one for everything else that runs out."""

from typing import Final

import trio

from trioserf.node.state_owner import StateOwner

_STALLED: Final = 0.25
"""Seconds by which a wake-up may be late before it looks as if this process had stood still."""


async def expire_suspicions(owner: StateOwner) -> None:
    """Declare suspects dead when their time is over, until cancelled.

    If this process was stopped in the meantime, refutations may have come that nobody has read:
    they are given a probe's time to be heard.
    """
    while True:
        at = await owner.suspicion.wait()
        if trio.current_time() - at > _STALLED:
            await trio.sleep(owner.state.config.timing.probe_timeout)
        await owner.ask(lambda state, now: state.expire_suspicions(now))


async def expire_deadlines(owner: StateOwner) -> None:
    """End queries and relayed pings when their time is over, until cancelled."""
    while True:
        await owner.deadline.wait()
        await owner.expire()
