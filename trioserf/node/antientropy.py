"""Anti-entropy: whole states exchanged with random members (spec: push/pull loop)."""

import logging
import random

import trio

from trioserf.node.join import Joiner
from trioserf.node.state_owner import StateOwner
from trioserf.swim.config import push_pull_scale

_log = logging.getLogger("trioserf.memberlist")


async def push_pull(owner: StateOwner, joiner: Joiner, rng: random.Random) -> None:
    """Exchange states with a random member in every interval, until cancelled.

    The first phase is random. Failures are logged once for each peer and cause.
    """
    membership = owner.state.membership
    interval = membership.timing.push_pull_interval
    faults: dict[str, str] = {}
    await trio.sleep(rng.random() * interval)
    while True:
        due = trio.current_time() + push_pull_scale(interval, membership.estimated_size)
        peer = await owner.ask(lambda state, _: state.membership.push_pull_peer())
        if peer is not None:
            why = await joiner.try_push_pull(peer.address, join=False)
            if why is None:
                faults.pop(peer.name, None)
            elif faults.get(peer.name) != why:
                _log.error("push/pull with %r (%s) failed: %s", peer.name, peer.address, why)
                faults = {
                    name: cause for name, cause in faults.items() if name in membership.records
                }
                faults[peer.name] = why
        await trio.sleep_until(due)
