"""A node's state under malformed and malicious input: consistent, bounded, responsive."""

import logging
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.seeds import seeds
from tests.fuzz.state_driver import EXCHANGE, PACKET, USER, StateDriver
from tests.fuzz.targets import steps
from trioserf.node.config import NodeConfig
from trioserf.serf.config import SerfOptions
from trioserf.wire import serf_codec, swim_codec
from trioserf.wire.packet import make_compound
from trioserf.wire.serf_messages import Join, Leave, Query, Relay, SerfPushPull, UserEvent
from trioserf.wire.stream import StreamCodec
from trioserf.wire.swim_messages import (
    Alive,
    Dead,
    IndirectPing,
    NodeState,
    PushPull,
    State,
    Suspect,
)

KNOWN = [step for data in seeds()["state"] for step in steps(data)]
EDITS = st.lists(st.tuples(st.integers(0, 2**16), st.binary(max_size=9)), max_size=4)
MEMBERS = ("us", "peer", "a", "b", "")
NAMES = st.sampled_from(MEMBERS)
TIMES = st.sampled_from([0, 1, 2, 600, 2**40, 2**63, 2**64 - 2, 2**64 - 1])
COUNTS = st.sampled_from([0, 1, 2, 2**31, 2**32 - 2, 2**32 - 1])
ADDRS = st.sampled_from([bytes((127, 0, 0, 1)), bytes((127, 0, 0, 2)), bytes(4), bytes(16)])
PORTS = st.sampled_from([0, 1, 7946, 65_535])

SWIM_MESSAGES = st.one_of(
    st.builds(Alive, COUNTS, NAMES, ADDRS, PORTS, st.binary(max_size=20)).map(swim_codec.encode),
    st.builds(Suspect, COUNTS, NAMES, NAMES).map(swim_codec.encode),
    st.builds(Dead, COUNTS, NAMES, NAMES).map(swim_codec.encode),
)
SERF_MESSAGES = st.one_of(
    st.builds(Join, TIMES, NAMES),
    st.builds(Leave, TIMES, NAMES, st.booleans()),
    st.builds(UserEvent, TIMES, NAMES, st.binary(max_size=5), st.booleans()),
    st.builds(
        Query, TIMES, COUNTS, ADDRS | st.just(b""), PORTS, NAMES, st.just(()), st.integers(0, 3),
        st.integers(0, 255), st.sampled_from([0, 10**9, 2**63 - 1]),
        st.sampled_from(
            ["load", "no-such-node", "_serf_ping", "_serf_conflict", "_serf_list-keys"]
        ),
    ),
    st.builds(Relay, ADDRS, PORTS, NAMES, st.binary(max_size=9)),
    st.builds(
        SerfPushPull, TIMES, st.dictionaries(NAMES, TIMES), st.lists(NAMES).map(tuple), TIMES,
        st.just(()), TIMES,
    ),
).map(serf_codec.encode)  # fmt: skip
ROWS = st.builds(
    NodeState, NAMES, ADDRS, PORTS, st.binary(max_size=9), COUNTS, st.sampled_from(State)
)
PUSH_PULLS = st.builds(
    PushPull, st.booleans(), st.lists(ROWS, max_size=6).map(tuple), SERF_MESSAGES
).map(StreamCodec(keyring=None, compress=False).encode_push_pull)
STEPS = st.one_of(
    st.sampled_from(KNOWN),
    st.tuples(st.integers(0, 5), st.binary(max_size=60)),
    st.tuples(st.just(PACKET), SWIM_MESSAGES),
    st.tuples(st.just(PACKET), st.lists(SWIM_MESSAGES, max_size=8).map(make_compound)),
    st.tuples(st.just(USER), SERF_MESSAGES),
    st.tuples(st.just(EXCHANGE), PUSH_PULLS),
)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(STEPS, EDITS), max_size=25))
def test_state_survives_malformed_input(
    sent: list[tuple[tuple[int, bytes], list[tuple[int, bytes]]]],
) -> None:
    driver = StateDriver()
    for (kind, data), edits in sent:
        damaged = bytearray(data)
        for where, what in edits:
            at = where % (len(damaged) + 1)
            damaged[at : at + len(what)] = what
        driver.do(kind, bytes(damaged))
    driver.finish()


@settings(max_examples=100, deadline=None)
@given(st.lists(STEPS, max_size=40))
def test_state_survives_malicious_messages(sent: list[tuple[int, bytes]]) -> None:
    driver = StateDriver()
    for kind, data in sent:
        driver.do(kind, data)
    driver.finish()


def test_memory_is_bounded_under_flood_of_all_messages(caplog: pytest.LogCaptureFixture) -> None:
    """Send forged messages of every kind until every bounded table is full."""
    caplog.set_level(logging.CRITICAL)
    limits = SerfOptions(
        intents_kept=128,
        max_queue_depth=64,
        pending_queries=64,
        event_buffer_bytes=64 * 1024,
        query_buffer_bytes=64 * 1024,
    )
    driver = StateDriver(NodeConfig(name="us", serf=limits))

    def flood(start: int) -> None:
        for number in range(start, start + 250):
            name = f"{number:06}" + "x" * 100
            host = bytes((127, 0, 0, number & 255))
            for message in (
                Join(number, name),
                UserEvent(number, name, bytes(3000)),
                Query(
                    number, number, host, 7946, name, (), 1, 3, 2**62, "load", bytes(3000)
                ),
            ):  # fmt: skip
                driver.do(USER, serf_codec.encode(message))
            driver.do(PACKET, b"\xff" + host)
            driver.do(PACKET, swim_codec.encode(IndirectPing(number, host, 1, name, True)))
        driver.pending.clear()

    for start in range(0, 750, 250):  # until all bounds are reached
        flood(start)
    tracemalloc.start()
    flood(750)
    first, _ = tracemalloc.get_traced_memory()
    flood(1000)
    flood(1250)
    last, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # Older, untraced objects are replaced by traced ones, so a little growth remains.
    # One kind of event or query that was kept would add 1.5 MB.
    assert last < first + 500_000
    sizes = driver.state.stats()
    assert sizes["members"] == 2
    driver.finish()
