"""Gossip: broadcasts to random members, as long as there are any (spec: gossip loop).

Serf waits for its next tick. Here news is sent at once; while there is something that was never
sent the next round follows after a short pause, otherwise repetitions keep to the interval. Each
message is sent as often as ever, only earlier. With nothing to say, or nobody to say it to, the
task sleeps.
"""

import trio

from trioserf.node.keeper import Keeper
from trioserf.node.state import ClusterState


async def gossip(keeper: Keeper) -> None:
    """Send rounds of gossip until cancelled."""
    config = keeper.state.config
    interval = config.timing.gossip_interval
    state = keeper.state
    filler = state.filler
    next_tick = trio.current_time()
    while True:
        await keeper.gossip.wait()
        if filler and not filler.has_unsent:
            with trio.move_on_at(next_tick):
                while not filler.has_unsent:
                    await keeper.gossip.wait()
        if not filler:
            continue
        await keeper.tell(round_of_gossip)
        next_tick = trio.current_time() + interval
        # Those who have left stay on the list for a while, but do not listen.
        is_heard = state.membership.alive_count > 1
        await trio.sleep(config.gossip_pause if is_heard else interval)
        if state.wants_gossip:
            keeper.gossip()


def round_of_gossip(state: ClusterState, now: float) -> None:
    """Send one round, and note how long that took."""
    state.gossip(now)
    state.tally.values("memberlist.gossip").append((trio.current_time() - now) * 1000)
