"""Anti-entropy: exchange whole states with other members.

With random ones at intervals (see swim/README.md, § Push/pull), and with a member whose digest
shows that we have missed user events (see serf/README.md, § Repair).
"""

import logging
import random

import trio

from trioserf.node.join import Joiner
from trioserf.node.state_owner import StateOwner
from trioserf.printable import short_name
from trioserf.swim.config import push_pull_scale

_log = logging.getLogger("trioserf.memberlist")


async def push_pull(owner: StateOwner, joiner: Joiner, rng: random.Random) -> None:
    """Exchange states with a random member in every interval, until cancelled.

    The first phase is random. An error is logged once for each peer and cause.
    """
    membership = owner.state.membership
    interval = membership.timing.push_pull_interval
    errors: dict[str, str] = {}
    await trio.sleep(rng.random() * interval)
    while True:
        due = trio.current_time() + push_pull_scale(interval, membership.estimated_size)
        peer = await owner.ask(lambda state, _: state.membership.members.push_pull_peer())
        if peer is not None:
            error = await joiner.try_push_pull(peer.address, join=False)
            if error is None:
                errors.pop(peer.name, None)
            elif errors.get(peer.name) != error:
                _log.error(
                    "push/pull with '%(member)s' (%(address)s) failed: %(reason)s",
                    {"member": short_name(peer.name), "address": peer.address, "reason": error},
                )
                errors = {name: errors[name] for name in errors if name in membership.records}
                errors[peer.name] = error
        await trio.sleep_until(due)


async def repair(owner: StateOwner, joiner: Joiner) -> None:
    """Exchange states whenever we have missed user events, until cancelled."""
    while True:
        await owner.repair.wait()
        peer = await owner.ask(lambda state, now: state.serf.repair.next_exchange(now))
        if peer is not None:
            error = await joiner.try_push_pull(peer, join=False)
            if error is not None:
                _log.debug("push/pull with %s for missed events failed: %s", peer, error)
