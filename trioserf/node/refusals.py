"""Connect to suspects: a refused connection shows that no process listens there.

See swim/README.md, § Refused connections.
"""

import random
from functools import partial
from typing import Final

import trio

from trioserf.node.state import ClusterState, RefusalCheck
from trioserf.node.state_owner import StateOwner
from trioserf.node.streams import Streams
from trioserf.node.suspicion import STALLED

_JITTER: Final = 0.1
"""Seconds within which the members that got a suspicion connect to the suspect."""
_AT_ONCE: Final = 32
"""Suspects that are checked at once; each takes a socket for a moment only."""


async def check_suspects(owner: StateOwner, streams: Streams, rng: random.Random) -> None:
    """Connect to suspects that the state has chosen, until cancelled."""
    slots = trio.Semaphore(_AT_ONCE)

    async def check(suspect: RefusalCheck) -> None:
        try:
            await _check(owner, streams, suspect, rng.random() * _JITTER)
        finally:
            slots.release()

    async with trio.open_nursery() as nursery:
        async for suspect in owner.checks:
            await slots.acquire()
            nursery.start_soon(check, suspect)


async def _check(owner: StateOwner, streams: Streams, suspect: RefusalCheck, delay: float) -> None:
    """Connect again and again, until a connection is not refused or the suspicion is over.

    If this process was stalled, a refutation may lie unread in the socket: leave the suspect to
    `expire_suspicions`.
    """
    at: float | None = trio.current_time() + delay
    while at is not None:
        await trio.sleep_until(at)
        if trio.current_time() - at > STALLED or not await _is_refused(owner, streams, suspect):
            return
        # Refutations that have arrived count first, as in `_probe_indirectly`.
        await owner.wait_for_inbox()
        at = await owner.ask(partial(_count, suspect))


async def _is_refused(owner: StateOwner, streams: Streams, suspect: RefusalCheck) -> bool:
    with trio.move_on_after(owner.state.config.timing.probe_timeout):
        return await streams.ping(suspect.name, suspect.address) == "refused"
    return False


def _count(suspect: RefusalCheck, state: ClusterState, now: float) -> float | None:
    return state.membership.connection_refused(suspect.name, suspect.incarnation, now)
