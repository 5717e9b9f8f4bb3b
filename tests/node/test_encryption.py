"""Encryption of a running cluster, and counts of undecryptable messages."""

import logging
import random
from collections.abc import Callable

import pytest
import trio
from trio.testing import MockClock

from tests.node.helpers import (
    OURS,
    NodeUnderTest,
    RecordingNetwork,
    ScriptedPeer,
    logged,
    node_under_test,
    open_nodes,
)
from tests.wire.helpers import take
from trioserf.errors import ConfigError, InvalidQuery
from trioserf.node.node import Node
from trioserf.serf.events import UserEventReceived
from trioserf.serf.keyring import Keyring
from trioserf.sim.network import LinkConditions
from trioserf.swim.config import Timing
from trioserf.wire.errors import WireError
from trioserf.wire.packet import PacketCodec
from trioserf.wire.stream import StreamCodec
from trioserf.wire.swim_codec import encode
from trioserf.wire.swim_messages import Ping, UserMessage

A, B = bytes(32), b"b" * 16
NAMES = ("a", "b", "c", "d")


class EventRecorder:
    """Records the user events that nodes receive, and all other events."""

    def __init__(self, nodes: dict[str, Node]) -> None:
        self.nodes = nodes
        self.seen: dict[str, list[str]] = {name: [] for name in nodes}
        self.sent: list[str] = []
        self.other_events: list[str] = []
        for name, node in nodes.items():
            node._hub.watchers.append(self._watcher(name))

    def _watcher(self, name: str) -> Callable[[object], None]:
        def watch(event: object) -> None:
            if isinstance(event, UserEventReceived):
                self.seen[name].append(event.name)
            else:
                self.other_events.append(f"{name}: {event}")

        return watch

    async def send(self) -> None:
        """Send an event from every node each quarter of a second."""
        while True:
            for name, node in self.nodes.items():
                self.sent.append(f"{name}-{len(self.sent)}")
                await node.user_event(self.sent[-1], b"x" * 400)
            await trio.sleep(0.25)


async def test_running_cluster_turns_encryption_on_in_three_steps(
    autojump_clock: MockClock,
) -> None:
    network = RecordingNetwork(random.Random(1), LinkConditions())
    sealed = PacketCodec(keyring=Keyring([A]))

    async def count_packets(seconds: float) -> tuple[int, int]:
        """Return how many packets can be decoded without and with the key."""
        await trio.sleep(seconds / 2)
        network.sent.clear()
        await trio.sleep(seconds / 2)
        plain = PacketCodec(keyring=None)
        readable = [
            sum(codec.decode(data)[1] is None for _, _, data in network.sent)
            for codec in (plain, sealed)
        ]
        assert sum(readable) == len(network.sent)
        return readable[0], readable[1]

    timing = Timing(push_pull_interval=3.0)
    async with (
        open_nodes(*NAMES, network=network, timing=timing) as nodes,
        trio.open_nursery() as nursery,
    ):
        recorder = EventRecorder(nodes)
        nursery.start_soon(recorder.send)
        steps = [(False, False), (False, True), (True, True)]
        for number, (incoming, outgoing) in enumerate(steps):
            for node in nodes.values():
                await node.configure_encryption(
                    Keyring([A]) if number == 0 else None,
                    verify_incoming=incoming,
                    verify_outgoing=outgoing,
                )
                await trio.sleep(1.5)
            plain, encrypted = await count_packets(6)
            assert (plain == 0) == outgoing
            assert (encrypted > 50) == outgoing
        nursery.cancel_scope.cancel()
        await trio.sleep(5)
        assert recorder.other_events == []
        assert len(recorder.sent) > 300
        for name, seen in recorder.seen.items():
            assert sorted(seen) == sorted(recorder.sent), name
            assert nodes[name].dropped() == {}
            assert nodes[name].encryption_status() == {
                "keys": 1, "verify_incoming": True, "verify_outgoing": True,
                "label": "", "allowed_networks": "",
            }  # fmt: skip


async def test_encryption_in_one_step_loses_members(autojump_clock: MockClock) -> None:
    """Shows that the test above can fail: a switch in one step splits the cluster."""
    async with open_nodes(*NAMES) as nodes:
        recorder = EventRecorder(nodes)
        await nodes["a"].configure_encryption(Keyring([A]))
        await trio.sleep(60)
        assert any("failed" in event for event in recorder.other_events)
        assert nodes["a"].dropped()["plaintext-refused"] > 0


async def test_existing_keyring_cannot_be_replaced(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_nodes("a", options={"a": {"keyring": Keyring([A])}}) as nodes:
        with pytest.raises(ConfigError, match="there is a keyring already"):
            await nodes["a"].configure_encryption(Keyring([B]), verify_incoming=False)
        assert nodes["a"].keyring is not None
        assert nodes["a"].keyring.keys == (A,)
        assert nodes["a"].encryption_status()["verify_incoming"] is True
        await nodes["a"].configure_encryption(verify_incoming=False, verify_outgoing=False)
        assert "plaintext is accepted (verify_incoming is off)" in caplog.text
        assert "are not encrypted (verify_outgoing is off)" in caplog.text


async def test_stream_messages_use_keys_added_later(autojump_clock: MockClock) -> None:
    async with open_nodes("a") as nodes:
        node = nodes["a"]
        encode = node._joiner._streams._encoded

        def opens(key: bytes) -> bool:
            decoder = StreamCodec(keyring=Keyring([key])).decoder()
            try:
                return decoder.feed(encode(b"news")) == UserMessage(b"news")
            except WireError:
                return False

        assert not opens(A)
        await node.configure_encryption(Keyring([A]), verify_outgoing=False)
        assert not opens(A)
        await node.configure_encryption()
        assert opens(A)
        for action in ("install", "use"):
            assert (await node.keys(action, B)).failure is None
        assert opens(B)
        assert not opens(A)


async def test_key_query_changes_keys_added_later(autojump_clock: MockClock) -> None:
    async with open_nodes("a", "b") as nodes:
        result = await nodes["a"].keys("list")
        assert result.messages["b"] == "Keyring is empty (encryption not enabled)"
        for node in nodes.values():
            await node.configure_encryption(
                Keyring([A]), verify_incoming=False, verify_outgoing=False
            )
        with pytest.raises(InvalidQuery, match="set verify_outgoing first"):
            await nodes["a"].keys("list")
        for node in nodes.values():
            await node.configure_encryption(verify_incoming=False)
        assert (await nodes["a"].keys("install", B)).failure is None
        assert (await nodes["b"].keys("use", B)).failure is None
        assert (await nodes["a"].keys("remove", A)).failure is None
        assert [node.keyring and node.keyring.keys for node in nodes.values()] == [(B,), (B,)]
        assert all(node.stats()["encrypted"] for node in nodes.values())


def _damaged(packet: bytes) -> dict[str, bytes]:
    """Return variants of an encrypted packet, by the kind of drop that they cause."""
    return {
        "version": b"\x63" + packet[1:],
        "truncated": packet[:20],
        "decrypt": packet[:-1],
        "plaintext-refused": encode(Ping(1, "us")),
    }


def _sealed(keys: Keyring, ping: Ping, label: bytes = b"") -> bytes:
    (packet,) = PacketCodec(keyring=keys, label=label).pack([encode(ping)], crc=False)
    return packet


async def test_undecryptable_packet_is_dropped_and_counted_by_peer(
    autojump_clock: MockClock,
) -> None:
    async with node_under_test(keyring=Keyring([A]), label="blue") as s:
        peer = s.peer("peer", run=False)
        whole = _sealed(Keyring([A]), Ping(1, "us"), b"blue")
        head, body = whole[:6], whole[6:]
        other = _sealed(Keyring([A]), Ping(2, "us"), b"blue")[6:]
        expected = {"decrypt": 0, "label": 0}
        for kind, packet in _damaged(body).items():
            assert peer.transport.send_packet(head + packet, OURS)
            expected[kind] = 1
        for packet in (
            _sealed(Keyring([B]), Ping(1, "us"), b"blue"),  # another key
            head + body[:13] + other[13:],  # the nonce of one, the text of another
            head + other[:13] + body[13:-16] + other[-16:],  # the tag of another
        ):
            assert peer.transport.send_packet(packet, OURS)
            expected["decrypt"] += 1
        for label in (b"", b"red"):
            assert peer.transport.send_packet(_sealed(Keyring([A]), Ping(1, "us"), label), OURS)
            expected["label"] += 1
        # The label is authenticated: replacing it does not make the packet valid.
        forged = head + _sealed(Keyring([A]), Ping(1, "us"), b"red")[5:]
        assert peer.transport.send_packet(forged, OURS)
        expected["decrypt"] += 1
        await trio.sleep(1)
        assert await _count_acks(peer) == 0
        assert s.node.dropped() == expected
        assert s.node.dropped_from() == {peer.address.host: sum(expected.values())}
        assert peer.transport.send_packet(whole, OURS)
        await trio.sleep(1)
        assert await _count_acks(peer) == 1


async def _count_acks(peer: ScriptedPeer) -> int:
    with trio.move_on_after(0.1):
        return len(await peer.transport.receive_packets())
    return 0


async def test_undecryptable_stream_is_counted_by_peer(autojump_clock: MockClock) -> None:
    async with node_under_test(keyring=Keyring([A]), label="blue") as s:
        peer = s.peer("peer", run=False)
        ping = encode(Ping(1, "us"))
        ours = StreamCodec(keyring=Keyring([A]), label=b"blue")
        whole = ours.encode(ping)
        for kind, data in {
            "decrypt": StreamCodec(keyring=Keyring([B]), label=b"blue").encode(ping),
            "label": StreamCodec(keyring=Keyring([A])).encode(ping),
            "version": whole[:11] + b"\x02" + whole[12:],
            "plaintext-refused": StreamCodec(keyring=None, label=b"blue").encode(ping),
            "truncated": whole[:-1],
        }.items():
            assert await _reply(s, peer, data) is None
            assert s.node.dropped()[kind] == 1
        assert s.node.dropped_from() == {peer.address.host: 5}
        reply = await _reply(s, peer, whole)
        assert reply is not None
        assert take(ours.decoder(is_answer=True), reply)[0] is not None


async def _reply(s: NodeUnderTest, peer: ScriptedPeer, data: bytes) -> bytes | None:
    """Send a stream; return the response unless it is a plaintext error."""
    async with await peer.transport.dial(OURS) as stream:
        await stream.send_all(data)
        await stream.send_eof()
        answer = b""
        while some := await stream.receive_some(65_536):
            answer += bytes(some)
    decoder = StreamCodec(keyring=Keyring([A]), label=b"blue").decoder(is_answer=True)
    message = decoder.feed(answer) if answer else None
    while message is None and decoder.is_busy:
        message = decoder.work()
    return None if message is None or type(message).__name__ == "ErrorMessage" else answer


async def test_encrypted_stream_is_handled_once(autojump_clock: MockClock) -> None:
    off = {"verify_incoming": False, "verify_outgoing": False}
    async with node_under_test(keyring=Keyring([A]), **off) as s:
        codec = StreamCodec(keyring=Keyring([A]))
        data = codec.encode(encode(Ping(7, "us")))
        peer = s.peer("p")
        for replayed in (0, 1, 2):
            await peer.exchange(data)
            assert s.node.dropped().get("replayed", 0) == replayed
        await peer.exchange(codec.encode(encode(Ping(7, "us"))))
        assert s.node.dropped()["replayed"] == 2


async def test_peer_without_our_key_is_named_once_a_minute(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with node_under_test(keyring=Keyring([A])) as s:
        keyrings = {"plain": None, "other": Keyring([B])}
        for name, keyring in keyrings.items():
            peer = s.peer(name, run=False)
            peer.codec = PacketCodec(keyring=keyring)
        for _ in range(90):
            for peer in s.peers.values():
                peer.send(Ping(1, "us"))
            await trio.sleep(1)
        warnings = [text for text in logged(caplog, logging.WARNING) if "encryption key" in text]
        assert sorted(warnings) == [
            "10.0.1.1:7946 sends messages without encryption; check its encryption key",
            "10.0.1.1:7946 sends messages without encryption; check its encryption key",
            "10.0.1.2:7946 sends messages that our keys do not decrypt; check its encryption key",
            "10.0.1.2:7946 sends messages that our keys do not decrypt; check its encryption key",
        ]
