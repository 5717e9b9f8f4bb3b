"""Maintenance at fixed intervals: reconnect, reap, check queues.

See serf/README.md, § Reaping and reconnecting.
"""

import logging
import random

import trio

from trioserf.node.join import Joiner
from trioserf.node.state_owner import StateOwner
from trioserf.printable import short_name

_log = logging.getLogger("trioserf.serf")


async def reconnect(owner: StateOwner, joiner: Joiner, rng: random.Random) -> None:
    """Try to reconnect to failed members, until cancelled; the first phase is random."""
    interval = owner.state.config.reconnect_interval
    await trio.sleep(rng.random() * interval)
    while True:
        member = await owner.ask(lambda state, _: state.serf.reconnect_candidate())
        if member is not None:
            error = await joiner.try_push_pull(member.address)
            if error is not None:
                _log.debug("no reconnect to '%s': %s", short_name(member.name), error)
        await trio.sleep(interval)


async def reap(owner: StateOwner) -> None:
    """Erase members that failed or left too long ago, until cancelled."""
    while True:
        await trio.sleep(owner.state.config.reap_interval)
        await owner.ask(lambda state, now: state.reap(now))


async def check_queues(owner: StateOwner) -> None:
    """Warn about long queues and prune them, until cancelled."""
    while True:
        await trio.sleep(owner.state.config.queue_check_interval)
        await owner.ask(lambda state, _: state.check_queues())
