"""Gossip: broadcasts to random members, as long as there are any (spec: gossip loop).

Serf waits for its next tick. Here news is sent at once, and once more after a short pause: the
first wave of a rumour misses one in e^k members, where k is how many each tells, and nobody
shall have to wait for the tick because of that. Further repetitions keep to the interval, lest a
short disturbance swallow all of them. Each message is sent as often as ever, only earlier. With
nothing to say, or nobody to say it to, the task sleeps.
"""

import trio

from trioserf.node.state import ClusterState
from trioserf.node.state_owner import StateOwner


async def gossip(owner: StateOwner) -> None:
    """Send rounds of gossip until cancelled."""
    config = owner.state.config
    interval = config.timing.gossip_interval
    state = owner.state
    filler = state.filler
    next_tick = trio.current_time()
    while True:
        await owner.gossip.wait()
        # After the first round a message has been sent to as many as there are, or are asked for.
        told = min(config.timing.gossip_nodes, state.membership.alive_count - 1)
        if filler and not filler.has_sent_at_most(told):
            with trio.move_on_at(next_tick):
                while not filler.has_unsent:
                    await owner.gossip.wait()
        if not filler:
            continue
        await owner.tell(gossip_round)
        next_tick = trio.current_time() + interval
        # Those who have left stay on the list for a while, but do not listen.
        has_listeners = state.membership.alive_count > 1
        await trio.sleep(config.gossip_pause if has_listeners else interval)
        if state.has_gossip:
            owner.gossip()


def gossip_round(state: ClusterState, now: float) -> None:
    """Send one round, and note how long that took."""
    state.gossip(now)
    state.counters.values("memberlist.gossip").append((trio.current_time() - now) * 1000)
