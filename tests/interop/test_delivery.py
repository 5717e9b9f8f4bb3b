"""Delivery beside the real program: digests in pings and acks, and repeated queries."""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import attrs
import pytest

from tests.interop.agents import Cluster, following, joined, records, streams_have_begun, until
from tests.interop.fake_members import exchange
from trioserf.address import packed
from trioserf.wire import serf_codec, swim_codec
from trioserf.wire.event_digest import EventDigest, encode_digest
from trioserf.wire.packet import PacketCodec
from trioserf.wire.serf_messages import Query, QueryResponse
from trioserf.wire.swim_messages import Ack, Message, NodeState, Ping, State, UserMessage

pytestmark = pytest.mark.serf


@pytest.fixture(scope="module")
def pair() -> Iterator[Cluster]:
    with joined(80, "go-a", "py-a") as mixed:
        yield mixed


@contextmanager
def fake_member(host: str) -> Iterator[tuple[socket.socket, NodeState]]:
    """Open the socket of a member without a process."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind((host, 7946))
        yield udp, NodeState("fake", packed(host), 7946, b"", 1, State.ALIVE)


def received(udp: socket.socket, seconds: float) -> list[Message]:
    """Return all messages that arrive within a time."""
    codec, found = PacketCodec(keyring=None), list[Message]()
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        udp.settimeout(left)
        try:
            data = udp.recv(65_536)
        except TimeoutError:
            break
        messages, error = codec.decode(data)
        assert error is None
        found += messages
    return found


def count_acks(udp: socket.socket, name: str, expected: int) -> int:
    """Wait for acks of a member, then half a second for further ones; return their number."""
    found: list[QueryResponse] = []

    def receive(seconds: float) -> bool:
        for message in received(udp, seconds):
            if isinstance(message, UserMessage):
                response = serf_codec.decode(message.payload)
                if isinstance(response, QueryResponse) and response.source == name:
                    found.append(response)
        return len(found) >= expected

    until(lambda: receive(0.1))
    receive(0.5)
    return len(found)


def test_real_serf_reads_pings_and_acks_with_a_digest(pair: Cluster) -> None:
    digest = encode_digest(EventDigest(2**40, 2**40 - 257, 2**40 - 1, 2**32 - 1))
    host = pair.host("go-a").rsplit(".", 1)[0] + ".99"
    with fake_member(host) as (udp, node):
        exchange((pair.host("go-a"), 7946), [node])
        to = (pair.host("go-a"), 7946)
        ping = Ping(77, "go-a", node.addr, 7946, "fake", digest)
        udp.sendto(swim_codec.encode(ping), to)
        acked: list[Message] = []
        pinged: list[str] = []

        def both() -> bool:
            """Ack all pings with a digest, so that no member suspects it."""
            for message in received(udp, 0.2):
                if isinstance(message, Ack) and message.seq_no == 77:
                    acked.append(message)
                if isinstance(message, Ping) and message.node == "fake":
                    pinged.append(message.source_node)
                    ack = swim_codec.encode(Ack(message.seq_no, b"", digest))
                    udp.sendto(ack, (pair.host(message.source_node), 7946))
            return bool(acked) and pinged.count("go-a") > 3

        until(both, 30.0)
    go = pair.running["go-a"]
    assert go.statuses()["fake"] == "alive"
    text = go.log_text()
    assert "Failed to decode" not in text
    assert "[ERR] memberlist" not in text
    assert "Suspect fake" not in text


def test_real_serf_drops_a_repeated_query_in_silence_and_ours_acks_again(pair: Cluster) -> None:
    host = pair.host("go-a").rsplit(".", 1)[0] + ".98"
    expected = {"go-a": (1, 0, 0), "py-a": (1, 2, 2)}
    with fake_member(host) as (udp, node):
        node = attrs.evolve(node, name="requester")
        for number, (name, counts) in enumerate(expected.items()):
            to = (pair.host(name), 7946)
            exchange(to, [node])
            query = Query(
                900 + number, number, node.addr, 7946, "requester", (), 3, 0, 10**10, "q", b""
            )
            data = swim_codec.encode(UserMessage(serf_codec.encode(query)))
            for count in counts:
                udp.sendto(data, to)
                assert count_acks(udp, name, count) == count


def test_events_of_both_programs_reach_both(pair: Cluster) -> None:
    with (
        following(pair.running["go-a"], "--type=user") as by_go,
        following(pair.running["py-a"], "--type=user") as by_py,
    ):
        streams_have_begun(pair.running["py-a"], [by_go, by_py])
        for number in range(20):
            for name, agent in pair.running.items():
                assert agent.ask("event", "-coalesce=false", f"{name}-{number}")[0] == 0
        wanted = {f"{name}-{number}" for name in pair.running for number in range(20)}
        until(lambda: wanted <= {one["name"] for one in records(by_py)})
        until(lambda: wanted <= {one["name"] for one in records(by_go)})
    assert "[ERR] serf" not in pair.running["go-a"].log_text()
