"""The life of a node: start, address, leave, shutdown, name conflicts."""

import random
from itertools import pairwise
from typing import Any

import pytest
import trio
import trio.lowlevel
from trio.testing import MockClock

from tests.node.helpers import LATENCY, OURS, NodeUnderTest, ScriptedPeer, node_under_test
from trioserf.address import Address, packed
from trioserf.errors import AddressError, ConfigError, Leaving, NameConflict, TooLarge
from trioserf.exception_groups import leaf_exceptions
from trioserf.net.own_address import own_address
from trioserf.node import NodeConfig, Phase, open_node
from trioserf.serf.config import SerfOptions
from trioserf.serf.keyring import Keyring
from trioserf.sim.network import Network
from trioserf.swim.config import SwimOptions
from trioserf.wire import serf_codec, serf_payloads
from trioserf.wire.serf_messages import ConflictResponse, Leave, Query, QueryResponse, Status
from trioserf.wire.swim_messages import Ack, Alive, Dead, Ping, State, UserMessage

QUIET: dict[str, Any] = {"seed_interval": 1e6, "reconnect_interval": 1e6, "tcp_pings": False}


def intents(peer: ScriptedPeer) -> list[tuple[float, Leave]]:
    found = []
    for received in peer.received_of(UserMessage):
        assert isinstance(received.message, UserMessage)
        message = serf_codec.decode(received.message.payload)
        if isinstance(message, Leave):
            found.append((received.at, message))
    return found


# --- leaving ---


async def test_leave_sends_intent_then_dead_message_and_acks_until_the_end(
    autojump_clock: MockClock,
) -> None:
    async with node_under_test(**QUIET) as s:
        peers = await s.add_members("a", "b", "c")
        done: list[float] = []

        async def leave() -> None:
            await s.node.leave()
            done.append(trio.current_time())

        began = trio.current_time()
        s.nursery.start_soon(leave)
        await s.until(lambda: all(peer.messages(Dead) for peer in peers), 10)
        for peer in peers:
            [intent, *_] = intents(peer)
            [dead, *_] = peer.received_of(Dead)
            assert intent[1].node == "us"
            assert intent[0] < dead.at
            assert dead.message == Dead(1, "us", "us")
        assert not done
        assert s.node.phase.value == "leaving"
        peers[0].send(Ping(5, "us"))
        ack = await peers[0].wait_for(Ack, 1)
        assert ack.seq_no == 5
        peers[1].send(Dead(1, "us", "b"))  # refutation has ended
        await s.until(lambda: bool(done), 10)
        assert not any(m.node == "us" and m.incarnation > 1 for m in peers[1].messages(Alive))
        last_dead = max(received.at for peer in peers for received in peer.received_of(Dead))
        assert 0.99 <= done[0] - last_dead <= 1.3  # leave_propagate_delay
        assert done[0] - began < 5
        assert s.node.phase.value == "left"


async def test_leave_without_other_members_is_immediate(autojump_clock: MockClock) -> None:
    async with node_under_test(**QUIET) as s:
        began = trio.current_time()
        await s.node.leave()
        await s.node.leave()  # a repeated leave has no effect
        assert trio.current_time() - began < 0.1


async def test_leave_without_reachable_members_ends_at_the_timeout(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    timing_out = SerfOptions(broadcast_timeout=3, leave_propagate_delay=0.5)
    async with node_under_test(**QUIET, serf=timing_out, gossip_pause=1e6) as s:
        await s.add_members("a")
        await trio.sleep(1)
        began = trio.current_time()
        await s.node.leave()
        assert trio.current_time() - began == pytest.approx(3 + 0.2 + 3 + 0.5, abs=1)
        assert "was not sent to all members within 3 s" in caplog.text


async def test_left_node_probes_no_member_and_refuses_requests(
    autojump_clock: MockClock,
) -> None:
    async with node_under_test(**QUIET) as s:
        [peer] = await s.add_members("a")
        await s.node.leave()
        since = trio.current_time()
        await trio.sleep(60)
        assert peer.messages(Ping, since) == []
        for call in (
            lambda: s.node.join(["10.0.1.1"]),
            lambda: s.node.user_event("x"),
            lambda: s.node.set_tags({"a": "b"}),
            lambda: s.node.force_leave("a"),
        ):
            with pytest.raises(Leaving, match="node 'us' is left, it accepts no requests"):
                await call()


async def test_shutdown_without_leave_sends_nothing(autojump_clock: MockClock) -> None:
    async with node_under_test(**QUIET) as s:
        [peer] = await s.add_members("a")
        node = s.node
        await trio.sleep(5)
        peer.received.clear()
    assert peer.messages(Dead) == []
    assert intents(peer) == []
    assert node.phase is Phase.SHUTDOWN
    with pytest.raises(Leaving):
        await node.join(["10.0.1.1"])


# --- the end ---


async def test_calls_after_the_block_raise_leaving(autojump_clock: MockClock) -> None:
    errors: list[str] = []

    async def call(s: NodeUnderTest) -> None:
        try:
            while True:
                await s.node.user_event("x")
        except Leaving as error:
            errors.append(str(error))

    async with trio.open_nursery() as outside:
        async with node_under_test(**QUIET) as s:
            for _ in range(5):
                outside.start_soon(call, s)
            await trio.lowlevel.checkpoint()
        assert len(errors) <= 5
    assert len(errors) == 5


def conflict_responses(us: Address, answers: int, *, of_us: int) -> list[ConflictResponse]:
    elsewhere = Address("10.0.9.9", 7946)
    return [
        ConflictResponse(
            "us", packed(at.host), at.port, {}, Status.ALIVE, 1, 5, 2, 2, 5, 5
        )
        for at in [us] * of_us + [elsewhere] * (answers - of_us)
    ]  # fmt: skip


async def respond_to_conflict(peer: ScriptedPeer, conflict_response: ConflictResponse) -> None:
    """Respond to the conflict query."""
    while True:
        for message in peer.messages(UserMessage):
            query = serf_codec.decode(message.payload)
            if isinstance(query, Query) and query.name == "_serf_conflict":
                assert query.payload == b"us"
                response = QueryResponse(
                    query.ltime, query.id, peer.name, 0, serf_codec.encode(conflict_response)
                )
                peer.send(UserMessage(serf_codec.encode(response)))
                return
        await trio.sleep(0.05)


async def name_conflict(s: NodeUnderTest, of_us: int) -> None:
    """Make another member claim our name, and three members vote."""
    peers = await s.add_members("a", "b", "c")
    for peer in peers:
        s.node.memberlist.records[peer.name].is_reached = True
    responses = conflict_responses(OURS, 3, of_us=of_us)
    for peer, response in zip(peers, responses, strict=True):
        s.nursery.start_soon(respond_to_conflict, peer, response)
    peers[0].send(Alive(9, "us", bytes((10, 0, 9, 9)), 7946))
    await trio.sleep(30)


async def test_lost_name_conflict_ends_the_node(
    autojump_clock: MockClock,
) -> None:
    errors: list[str] = []

    async def call(s: NodeUnderTest) -> None:
        try:
            while True:
                await s.node.set_tags({})
                await trio.sleep(0.05)
        except Leaving as error:
            errors.append(str(error))

    async with trio.open_nursery() as nursery:
        with pytest.RaisesGroup(NameConflict, flatten_subgroups=True) as caught:
            async with node_under_test(**QUIET) as s:
                nursery.start_soon(call, s)
                await name_conflict(s, of_us=1)
        [error] = leaf_exceptions(caught.value)
        assert "1 of 3 answers of other members gave the name to this one" in str(error)
    assert len(errors) == 1


async def test_won_name_conflict_keeps_the_node(autojump_clock: MockClock) -> None:
    async with node_under_test(**QUIET) as s:
        await name_conflict(s, of_us=2)
        assert s.statuses()["us"] == "alive"


async def test_name_conflict_sends_no_query_without_resolution(autojump_clock: MockClock) -> None:
    async with node_under_test(**QUIET, serf=SerfOptions(disable_name_resolution=True)) as s:
        await name_conflict(s, of_us=0)
        queries = [
            serf_codec.decode(message.payload) for message in s.peers["b"].messages(UserMessage)
        ]
        assert not [query for query in queries if isinstance(query, Query)]


# --- names and addresses of other members ---


async def test_name_of_left_member_is_free_for_another_address(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with node_under_test(**QUIET) as s:
        old, other = await s.add_members("x", "other")
        new = s.peer("new")
        claim = Alive(1, "x", packed(new.address.host), 7946)
        new.send(claim)
        await trio.sleep(0.1)
        assert s.node.memberlist.records["x"].address == old.address
        assert "two members claim the name 'x'" in caplog.text
        old.send(Dead(1, "x", "x"))
        await trio.sleep(0.1)
        new.send(claim)
        await trio.sleep(0.1)
        member = s.node.member("x")
        assert member is not None
        assert (member.status, member.address) == ("alive", new.address)
        assert await other.wait_for(Alive, 1)


async def test_name_of_dead_member_is_free_after_reclaim_time(
    autojump_clock: MockClock,
) -> None:
    for reclaim, wait, free in ((0.0, 20, False), (10.0, 5, False), (10.0, 11, True)):
        async with node_under_test(**QUIET, swim=SwimOptions(dead_node_reclaim_time=reclaim)) as s:
            old, _ = await s.add_members("x", "other")
            old.acks_pings = False
            s.peers["other"].send(Dead(1, "x", "other"))
            await trio.sleep(wait)
            assert s.state_of("x") is State.DEAD
            new = s.peer("new")
            new.send(Alive(1, "x", packed(new.address.host), 7946))
            await trio.sleep(0.1)
            assert (s.state_of("x") is State.ALIVE) is free


async def test_restarted_member_with_low_incarnation_refutes_its_dead_message(
    autojump_clock: MockClock,
) -> None:
    async with node_under_test(**QUIET) as s:
        peer, other = await s.add_members("x", "other")
        peer.send(peer.alive(incarnation=7))
        await trio.sleep(0.1)
        peer.acks_pings = False
        other.send(Dead(7, "x", "other"))
        await trio.sleep(0.1)
        assert s.state_of("x") is State.DEAD
        peer.acks_pings = True
        peer.send(peer.alive(incarnation=1))  # ignored: it must refute its Dead message first
        await trio.sleep(0.1)
        assert s.state_of("x") is State.DEAD
        dead = await peer.wait_for(Dead, 5)
        peer.send(peer.alive(incarnation=dead.incarnation + 1))
        await trio.sleep(0.1)
        assert s.state_of("x") is State.ALIVE


# --- the start ---


async def test_configured_address_is_advertised(autojump_clock: MockClock) -> None:
    elsewhere = Address("10.7.7.7", 1234)
    for advertise, expected in (
        (None, OURS), (elsewhere, elsewhere), (Address("10.7.7.7", 0), Address("10.7.7.7", 7946)),
    ):  # fmt: skip
        async with node_under_test(**QUIET, advertise=advertise) as s:
            assert s.node.address == expected
            [peer] = await s.add_members("a")
            alive = await peer.wait_for(Alive, 5)
            assert alive.node == "us"
            assert (alive.addr, alive.port) == (packed(expected.host), expected.port)
            ping = await peer.wait_for(Ping, 5)
            assert (ping.source_addr, ping.source_port) == (
                packed(expected.host),
                expected.port,
            )


@pytest.mark.parametrize("bind", ["0.0.0.0", "::"])
async def test_node_bound_to_all_addresses_advertises_a_private_one_or_fails(bind: str) -> None:
    config = NodeConfig(name="us", bind=Address(bind, 0))
    try:
        expected = own_address(v6=bind == "::")
    except AddressError:
        with pytest.raises(AddressError, match="set one with advertise"):
            async with open_node(config):
                pass
        return
    async with open_node(config) as node:
        assert node.address.host == expected
        assert node.address.port != 0


@pytest.mark.parametrize(
    ("host", "keyring", "warned"),
    [
        ("8.8.8.8", None, True), ("2600::1", None, True), ("10.0.0.1", None, False),
        ("8.8.8.8", Keyring([bytes(16)]), False),
    ],
)  # fmt: skip
async def test_public_address_without_encryption_logs_a_warning(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, host: str,
    keyring: Keyring | None, warned: bool,
) -> None:  # fmt: skip
    address = Address(host, 7946)
    transport = Network(random.Random(1)).open(OURS)
    config = NodeConfig(name="us", bind=OURS, advertise=address, keyring=keyring)
    async with open_node(config, transport=transport):
        text = f"advertising the public address {address}, and nothing is encrypted"
        assert (text in caplog.text) is warned


async def test_oversized_tags_are_refused_at_start_and_later(
    autojump_clock: MockClock,
) -> None:
    transport = Network(random.Random(1)).open(OURS)
    with pytest.raises(TooLarge, match="exceeds limit of 512 bytes"):
        async with open_node(NodeConfig(name="us", tags={"a": "x" * 510}), transport=transport):
            pass
    async with node_under_test(**QUIET, tags={"a": "b"}) as s:
        with pytest.raises(TooLarge):
            await s.node.set_tags({"b": "x" * 510})
        assert s.node.tags == {"a": "b"}


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"name": "x" * 129}, "has 129 bytes, expected 1 to 128"),
        ({"name": "é" * 65}, "has 130 bytes, expected 1 to 128"),
        ({"name": ""}, "has 0 bytes"),
        ({"name": "a b", "validate_node_names": True}, "expected letters, digits, dashes"),
        ({"bind": Address("nohost", 1)}, "bind: 'nohost' is not a valid IP address"),
        ({"bind": Address("10.0.0.1", 70_000)}, "70000 is not a valid port"),
        ({"advertise": Address("nohost", 1)}, "advertise: 'nohost' is not a valid IP address"),
        ({"protocol": 6}, "protocol: 6 is not supported, expected 2 to 5"),
        ({"label": "x" * 256}, "label: 256 bytes, expected at most 255"),
        ({"allowed_networks": ("10.0.0.1/8",)}, "is not a valid network such as 10.0.0.0/8"),
    ],
)
def test_invalid_configuration_is_one_clear_error(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        NodeConfig(**{"name": "us", **options})
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["seed_interval", "reap_interval", "gossip_pause"])
def test_duration_must_be_positive(key: str) -> None:
    with pytest.raises(ValueError, match=key):
        NodeConfig(name="us", **{key: 0.0})  # type: ignore[arg-type]


# --- tags ---


async def test_new_tags_raise_the_incarnation(autojump_clock: MockClock) -> None:
    async with node_under_test(**QUIET, tags={"a": "1"}) as s:
        [peer] = await s.add_members("p")
        assert await s.node.set_tags({"b": "2"}, ["a", "nosuch"]) == {"b": "2"}
        await trio.sleep(1)
        announced = [message for message in peer.messages(Alive) if message.node == "us"]
        assert announced[-1].incarnation == 2
        assert announced[-1].meta == serf_payloads.encode_tags({"b": "2"})
        assert all(a.incarnation <= b.incarnation for a, b in pairwise(announced))
        member = s.node.member("us")
        assert member is not None
        assert member.tags == {"b": "2"}


async def test_flaps_are_counted_within_a_minute(autojump_clock: MockClock) -> None:
    async with node_under_test(**QUIET) as s:
        peer, other = await s.add_members("p", "other")
        for incarnation, away in ((1, 50.0), (2, 70.0)):
            peer.acks_pings = False
            other.send(Dead(incarnation, "p", "other"))
            await trio.sleep(away)
            peer.acks_pings = True
            peer.send(peer.alive(incarnation + 1))
            await trio.sleep(2 * LATENCY)
            assert s.statuses()["p"] == "alive"
        assert s.node.stats()["flaps"] == 1
