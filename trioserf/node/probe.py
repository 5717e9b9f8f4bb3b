"""Looking for failed members: one probe after the other, round and round (spec: probing)."""

import logging
import random

import trio

from trioserf.node.state_owner import StateOwner
from trioserf.node.streams import Streams
from trioserf.swim.failure_detector import Probe
from trioserf.wire.swim_messages import Ack

_log = logging.getLogger("trioserf.memberlist")


async def probe_members(keeper: StateOwner, streams: Streams, rng: random.Random) -> None:
    """Probe members until cancelled; the first time at a random phase of the interval."""
    membership = keeper.state.membership
    interval = membership.timing.probe_interval
    durations = membership.counters.values("memberlist.probeNode")
    degraded = membership.counters.counter("memberlist.degraded.probe")
    await trio.sleep(rng.random() * interval)
    while True:
        started = trio.current_time()
        if membership.awareness.score:
            degraded.add()
        took = await _probe_next(keeper, streams)
        if took is not None:
            durations.append(took * 1000)
        # A probe that took long has used its tick up; missed ones are not made up for.
        tick = started + membership.awareness.scale_timeout(interval)
        if trio.current_time() < tick:
            await trio.sleep_until(tick)


async def _probe_next(keeper: StateOwner, streams: Streams) -> float | None:
    """Probe the next member of the round; without an ack, draw the conclusion.

    With an ack it comes back at the end of the tick.

    Returns:
        Seconds that the probe took; None if there was nobody to be probed.
    """
    acked = trio.Event()
    probe = await keeper.ask(lambda state, now: state.detector.start_probe(now, acked.set))
    if probe is None:
        return None
    membership, tcp_acked, took = keeper.state.membership, False, 0.0
    timing = membership.timing
    try:
        with trio.CancelScope(deadline=probe.started + timing.probe_timeout) as scope:
            await acked.wait()
            took = trio.current_time() - probe.started
            # Nearly always the ack is here now. A scope is dear: let it end the rest of the tick.
            scope.deadline = probe.started + membership.awareness.scale_timeout(
                timing.probe_interval
            )
            await trio.sleep_forever()
        if not acked.is_set():
            tcp_acked = await _probe_indirectly(keeper, streams, probe, acked)
        if not acked.is_set():
            await keeper.ask(
                lambda state, now: state.detector.conclude_probe(probe, now, tcp_acked=tcp_acked)
            )
    finally:
        keeper.state.detector.drop_probe(probe)
    return took or trio.current_time() - probe.started


async def _probe_indirectly(
    keeper: StateOwner, streams: Streams, probe: Probe, acked: trio.Event
) -> bool:
    """Try by way of others and by a stream; tells whether the stream was answered."""
    answered = False
    await keeper.ask(lambda state, _: state.detector.send_indirect_pings(probe))
    with trio.move_on_at(probe.started + probe.timeout):
        async with trio.open_nursery() as nursery:

            async def by_stream() -> None:
                nonlocal answered
                answered = await tcp_ping(keeper, streams, probe)

            if keeper.state.config.tcp_pings and probe.may_use_stream:
                nursery.start_soon(by_stream)
            await acked.wait()
            nursery.cancel_scope.cancel()
    if not acked.is_set():
        # If it was us who stood still, answers wait in the socket: let them be read first.
        for _ in range(3):
            await trio.lowlevel.checkpoint()
    return answered


async def tcp_ping(keeper: StateOwner, streams: Streams, probe: Probe) -> bool:
    """Ping a member on a stream; tells whether it answered. The caller sets the deadline."""
    ping = keeper.state.detector.stream_ping(probe)
    try:
        answer = await streams.exchange(probe.address, streams.codec.encode(ping))
    except (OSError, ValueError, trio.BrokenResourceError) as error:
        _log.debug("no answer of %r on a stream: %s", probe.record.name, error)
        return False
    return isinstance(answer, Ack) and answer.seq_no == probe.seq_no
