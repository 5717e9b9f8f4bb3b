"""Gossip: send broadcasts to random members while there are any (see swim/README.md, § Gossip).

Serf waits for its next tick. This node sends a new message at once, and once more after a short
pause: one round reaches all but about e^-k of the members (k = fanout), and the second covers most
of the rest. The first round of an event or query of our own reaches up to 32 members, if there are
no more, all of them. Later retransmissions keep to the interval, so that a short outage cannot
lose all of them. Under load early rounds would add packets, so that all rounds keep to the
interval (`GossipPace`). Without broadcasts, or without other members, the task sleeps.
"""

import trio

from trioserf.node.state import ClusterState
from trioserf.node.state_owner import StateOwner


async def gossip(owner: StateOwner) -> None:
    """Send rounds of gossip until cancelled."""
    state = owner.state
    config = state.config
    interval = config.timing.gossip_interval
    next_tick = trio.current_time()
    while True:
        await owner.gossip.wait()
        if state.filler.has_gossip and not state.wants_early_gossip(trio.current_time()):
            with trio.move_on_at(next_tick):
                await owner.gossip.wait()
                while not state.wants_early_gossip(trio.current_time()):
                    await trio.sleep(config.gossip_pause)
                    await owner.gossip.wait()
        if not state.filler.has_gossip:
            continue
        await owner.tell(gossip_round)
        next_tick = trio.current_time() + interval
        # Members that have left stay in the table for a while, but do not listen.
        has_listeners = state.membership.alive_count > 1
        await trio.sleep(config.gossip_pause if has_listeners else interval)
        if state.has_gossip:
            owner.gossip()


def gossip_round(state: ClusterState, now: float) -> None:
    """Send one round and record how long that took."""
    state.gossip(now)
    state.counters.values("memberlist.gossip").append((trio.current_time() - now) * 1000)
