"""Probe one member after the other (see swim/README.md, § Probing)."""

import contextlib
import logging
import random
from functools import partial
from typing import Final

import trio

from trioserf.errors import Leaving
from trioserf.net.transport import SocketAddress
from trioserf.node.state import ClusterState
from trioserf.node.state_owner import StateOwner
from trioserf.node.streams import Streams
from trioserf.swim.failure_detector import Probe, StreamReach

_log = logging.getLogger("trioserf.memberlist")

_LONG_STALL: Final = 1.0
"""Seconds of a stop of this process from which a warning is logged."""
_REFUSAL_GRACE: Final = 0.2
"""Share of the probe timeout in which acks still count after a refused connection: the connection
may be refused by a firewall, through which other members get."""


async def probe_members(owner: StateOwner, streams: Streams, rng: random.Random) -> None:
    """Probe a member in every interval until cancelled; the first phase is random."""
    membership = owner.state.membership
    interval = membership.timing.probe_interval
    durations = membership.counters.values("memberlist.probeNode")
    degraded = membership.counters.counter("memberlist.degraded.probe")
    await trio.sleep(rng.random() * interval)
    while True:
        started = trio.current_time()
        if membership.awareness.score:
            degraded.add()
        latest = started + membership.awareness.scale_timeout(interval)
        took = await _probe_next(owner, streams)
        if took is not None:
            durations.append(took * 1000)
        # A probe without an ack may take longer than its tick. Missed ticks are not made up for.
        tick = started + membership.awareness.scale_timeout(interval)
        if trio.current_time() < tick:
            await trio.sleep_until(tick)
        late = trio.current_time() - max(tick, latest)
        if late > _LONG_STALL:
            _log.warning(
                "this process did not run for at least %(seconds).1f s; the machine may be"
                " overloaded, or was suspended",
                {"seconds": late},
            )


async def _probe_next(owner: StateOwner, streams: Streams) -> float | None:
    """Probe the next member of the round.

    Returns:
        Seconds until the ack, or until the end of the probe; None if there is no member to probe.
    """
    acked, answered = trio.Event(), trio.Event()
    probe: Probe | None = None
    waiting = trio.CancelScope()

    def on_ack() -> None:
        acked.set()
        answered.set()

    def on_refused(to: SocketAddress) -> None:
        if probe is not None and to == probe.address:
            answered.set()

    def start(state: ClusterState, now: float) -> None:
        nonlocal probe
        probe = state.detector.start_probe(now, on_ack)
        if probe is None:
            answered.set()
        else:
            waiting.deadline = now + state.config.timing.probe_timeout

    def drop(state: ClusterState, now: float) -> None:  # noqa: ARG001 - as the owner calls it
        if probe is not None:
            state.detector.drop_probe(probe)

    reach: StreamReach = "untried"
    try:
        # One wait for the start and its ack: the owner sets the deadline.
        with owner.refused_packets(on_refused), waiting:
            await owner.tell(start)
            await answered.wait()
        if probe is None:
            return None
        if not acked.is_set():
            reach = await _probe_indirectly(owner, streams, probe, acked)
        if not acked.is_set():
            await owner.ask(partial(_conclude, probe, reach))
    except trio.Cancelled:
        # The node leaves but still handles acks: drop the probe, so that a late ack is ignored.
        with trio.CancelScope(shield=True), contextlib.suppress(Leaving):
            await owner.ask(drop)
        raise
    return trio.current_time() - probe.started


def _conclude(probe: Probe, reach: StreamReach, state: ClusterState, now: float) -> None:
    state.detector.conclude_probe(probe, now, reach)


async def _probe_indirectly(
    owner: StateOwner, streams: Streams, probe: Probe, acked: trio.Event
) -> StreamReach:
    """Probe through other members and on a stream; return what the stream has shown."""
    state = owner.state
    reach: StreamReach = "untried"
    await owner.ask(lambda state, _: state.detector.send_indirect_pings(probe))
    with trio.move_on_at(probe.started + probe.timeout):
        async with trio.open_nursery() as nursery:

            async def ping_on_stream() -> None:
                nonlocal reach
                reach = "silent"  # until it ends
                reach = await streams.ping(probe.record.name, probe.address)
                if reach == "refused" and not state.counts_refusals:
                    reach = "silent"
                if reach == "refused":
                    await trio.sleep(state.config.timing.probe_timeout * _REFUSAL_GRACE)
                    nursery.cancel_scope.cancel()

            if state.config.tcp_pings and probe.may_use_stream:
                nursery.start_soon(ping_on_stream)
            await acked.wait()
            nursery.cancel_scope.cancel()
    if not acked.is_set():
        # After a pause of this process, acks may lie in the socket. The receiver wakes up in the
        # same step of Trio's loop as this task and puts them into the inbox, so the owner has
        # handled them before the next request.
        await owner.wait_for_inbox()
    return reach
