"""What is looked after from time to time: failed members, tombstones, queues."""

import logging
import random

import trio

from trioserf.node.join import Joiner
from trioserf.node.state_owner import StateOwner

_log = logging.getLogger("trioserf.serf")


async def reconnect(owner: StateOwner, joiner: Joiner, rng: random.Random) -> None:
    """Try to reach failed members again (spec: reaping and reconnecting), until cancelled."""
    interval = owner.state.config.reconnect_interval
    await trio.sleep(rng.random() * interval)
    while True:
        member = await owner.ask(lambda state, _: state.serf.reconnect_candidate())
        if member is not None:
            why = await joiner.try_push_pull(member.address)
            if why is not None:
                _log.debug("no reconnect to %r: %s", member.name, why)
        await trio.sleep(interval)


async def reap(owner: StateOwner) -> None:
    """Erase members that have been gone for too long, until cancelled."""
    while True:
        await trio.sleep(owner.state.config.reap_interval)
        await owner.ask(lambda state, now: state.reap(now))


async def check_queues(owner: StateOwner) -> None:
    """Warn of long queues and cut them, until cancelled."""
    while True:
        await trio.sleep(owner.state.config.queue_check_interval)
        await owner.ask(lambda state, _: state.serf.check_queues())
