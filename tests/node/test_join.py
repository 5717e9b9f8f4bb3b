"""Joins: concurrency, look-ups, errors, seeds and services."""

import errno
from functools import partial
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.node.helpers import (
    LATENCY,
    OURS,
    NodeUnderTest,
    ScriptedPeer,
    node_under_test,
    push_pull,
    read_response,
)
from trioserf.address import Address
from trioserf.errors import JoinFailed, Leaving
from trioserf.net.services import Service
from trioserf.serf.config import SerfOptions
from trioserf.swim.config import Timing
from trioserf.wire import serf_codec, serf_payloads
from trioserf.wire.serf_messages import SerfPushPull
from trioserf.wire.stream import StreamCodec
from trioserf.wire.swim_codec import encode
from trioserf.wire.swim_messages import (
    ErrorMessage,
    PushPull,
    Versions,
)

RETRIES: dict[str, Any] = {"seed_interval": 5.0, "seed_interval_max": 60.0}
NEVER: dict[str, Any] = {"seed_interval": 1e6}
CODEC = StreamCodec(keyring=None)


async def host(peer: ScriptedPeer, seen: list[PushPull] | None = None, **response: bytes) -> None:
    """Serve push/pulls, or send other bytes, until cancelled."""
    async with trio.open_nursery() as nursery:

        async def serve(stream: trio.abc.HalfCloseableStream) -> None:
            async with stream:
                theirs = await read_response(stream)
                assert isinstance(theirs, PushPull)
                if seen is not None:
                    seen.append(theirs)
                await stream.send_all(response.get("response") or push_pull(peer.node_state()))

        while True:
            stream, _ = await peer.transport.accept()
            nursery.start_soon(serve, stream)


def hosts(s: NodeUnderTest, *names: str) -> list[ScriptedPeer]:
    peers = [s.peer(name) for name in names]
    for peer in peers:
        s.nursery.start_soon(host, peer)
    return peers


async def causes(s: NodeUnderTest, *addresses: str) -> dict[str, str]:
    with pytest.raises(JoinFailed) as caught:
        await s.node.join(addresses)
    assert len(caught.value.causes) == len(dict(caught.value.causes))
    return dict(caught.value.causes)


async def test_join_exchanges_states_and_broadcasts_the_intent(autojump_clock: MockClock) -> None:
    async with node_under_test(**NEVER, tags={"role": "web"}) as s:
        peer = s.peer("a")
        seen: list[PushPull] = []
        s.nursery.start_soon(host, peer, seen)
        assert await s.node.join([str(peer.address)]) == 1
        assert s.statuses() == {"us": "alive", "a": "alive"}
        [first, theirs] = seen
        assert first == PushPull(False, (), b"")  # announces nothing
        assert theirs.join
        assert [(node.name, node.incarnation) for node in theirs.nodes] == [("us", 1)]
        assert theirs.nodes[0].meta == serf_payloads.encode_tags({"role": "web"})
        state = serf_codec.decode(theirs.user_state)
        assert isinstance(state, SerfPushPull)
        assert state.status_ltimes == {"us": 0}


async def test_ten_addresses_are_dialled_at_once(autojump_clock: MockClock) -> None:
    async with node_under_test(**NEVER) as s:
        dead = [s.peer(f"dead{number}").address for number in range(25)]
        s.network.partition([OURS])
        began = trio.current_time()
        errors = await causes(s, *map(str, dead))
        # Each takes the whole of tcp_timeout: 25 of them in three rows of up to ten.
        assert trio.current_time() - began == pytest.approx(30)
        assert errors == {str(address): "no response within 10 s" for address in dead}


async def test_dial_limit_includes_addresses_of_one_name(autojump_clock: MockClock) -> None:
    async with node_under_test(**NEVER) as s:
        dead = [s.peer(f"dead{number}").address for number in range(20)]
        s.resolver.hosts["all.test"] = [address.host for address in dead]
        s.network.partition([OURS])
        began = trio.current_time()
        assert len(await causes(s, "all.test")) == 20
        assert trio.current_time() - began == pytest.approx(20)


async def test_all_addresses_of_a_name_are_joined(autojump_clock: MockClock) -> None:
    async with node_under_test(**NEVER) as s:
        a, b = hosts(s, "a", "b")
        s.resolver.hosts["both.test"] = [a.address.host, b.address.host]
        assert await s.node.join(["both.test", f"a/{a.address}"]) == 3
        assert set(s.statuses()) == {"us", "a", "b"}


async def test_duplicate_addresses_are_dialled_once(autojump_clock: MockClock) -> None:
    async with node_under_test(**NEVER) as s:
        seen: list[PushPull] = []
        a = s.peer("a")
        s.nursery.start_soon(host, a, seen)
        assert await s.node.join([a.address.host] * 3) == 1
        assert [one.nodes != () for one in seen] == [False, True]  # the first looks at the names


async def test_default_port_is_the_bound_port(autojump_clock: MockClock) -> None:
    async with node_under_test(**NEVER, bind=Address("10.0.0.1", 1234)) as s:
        assert await causes(s, "10.0.9.9", "a/10.0.9.8") == {
            "10.0.9.9:1234": "connection refused",
            "10.0.9.8:1234": "connection refused",
        }


async def test_own_address_is_skipped(autojump_clock: MockClock) -> None:
    async with node_under_test(**NEVER) as s:
        began = trio.current_time()
        assert await s.node.join([str(OURS), OURS.host]) == 0
        assert trio.current_time() == began
        [a] = hosts(s, "a")
        s.resolver.hosts["cluster.test"] = [OURS.host, a.address.host]
        assert await s.node.join(["cluster.test"]) == 1


async def test_join_failed_has_the_error_of_each_address(autojump_clock: MockClock) -> None:
    async with node_under_test(**NEVER) as s:
        silent, refusing, other, cut = map(s.peer, ("silent", "refusing", "other", "cut"))
        refusal = CODEC.encode(encode(ErrorMessage("no room")))
        s.nursery.start_soon(lambda: host(refusing, response=refusal))
        s.nursery.start_soon(lambda: host(other, response=CODEC.encode_user_message(b"x")))
        s.nursery.start_soon(lambda: host(cut, response=push_pull(cut.node_state())[:-3]))
        errors = await causes(
            s, "nosuch.test", "[::1", "10.0.9.9", str(silent.address), str(refusing.address),
            str(other.address), str(cut.address), "a//b", "x:70000",
        )  # fmt: skip
        assert errors == {
            "nosuch.test": "unknown host 'nosuch.test': not in this test",
            "[::1": "join address '[::1': expected [IPv6 address]:port",
            "10.0.9.9:7946": "connection refused",
            str(silent.address): "no response within 10 s",
            str(refusing.address): "the peer reports an error: no room",
            str(other.address): "expected a push/pull, got UserMessage",
            str(cut.address): "stream: ends in the middle of a message",
            "a//b": "join address 'a//b': expected a host name or an IP address",
            "x:70000": "join address 'x:70000': expected a port from 1 to 65535, not '70000'",
        }


async def test_join_failed_lists_all_errors_in_one_line(autojump_clock: MockClock) -> None:
    async with node_under_test(**NEVER) as s:
        with pytest.raises(JoinFailed) as caught:
            await s.node.join(["10.0.9.8", "10.0.9.9"])
        assert sorted(str(caught.value).split("; ")) == [
            "failed to join 10.0.9.8:7946: connection refused",
            "failed to join 10.0.9.9:7946: connection refused",
        ]


async def test_join_succeeds_with_one_reachable_address(autojump_clock: MockClock) -> None:
    async with node_under_test(**NEVER) as s:
        [a] = hosts(s, "a")
        assert await s.node.join(["10.0.9.9", "nosuch.test", str(a.address)]) == 1


async def test_silent_dns_times_out(autojump_clock: MockClock) -> None:
    async with node_under_test(**NEVER) as s:
        s.resolver.delay = 1e6
        began = trio.current_time()
        errors = await causes(s, "slow.test")
        assert errors == {"slow.test": "no answer from DNS for 'slow.test' in time"}
        assert trio.current_time() - began == pytest.approx(10)


async def test_join_with_incompatible_versions_is_refused(autojump_clock: MockClock) -> None:
    async with node_under_test(**NEVER) as s:
        [odd] = hosts(s, "odd")
        odd.versions = Versions(9, 11, 9, 2, 5, 5)
        [why] = (await causes(s, str(odd.address))).values()
        assert "speaks protocol version" in why
        assert "odd" not in s.statuses()


async def test_leaving_node_cannot_join(autojump_clock: MockClock) -> None:
    async with node_under_test(**NEVER) as s:
        [a] = hosts(s, "a")
        await s.node.leave()
        with pytest.raises(Leaving):
            await s.node.join([str(a.address)])


# --- seeds ---


def lookups(s: NodeUnderTest) -> list[float]:
    return [round(at - s.resolver.lookups[0][0], 1) for at, _ in s.resolver.lookups]


async def test_lost_seeds_are_tried_with_growing_pauses_forever(autojump_clock: MockClock) -> None:
    async with node_under_test(**RETRIES) as s:
        began = trio.current_time()
        s.node.add_seeds(["seed.test"])
        await trio.sleep(400)
        assert s.resolver.lookups[0][0] - began == pytest.approx(5)
        gaps = [b - a for a, b in zip(lookups(s), lookups(s)[1:], strict=False)]
        assert gaps == [10, 20, 40, 60, 60, 60, 60, 60]


async def test_seed_is_resolved_again_before_each_join(autojump_clock: MockClock) -> None:
    async with node_under_test(**RETRIES, timing=Timing(probe_interval=1e6)) as s:
        [a] = hosts(s, "a")
        s.resolver.hosts["seed.test"] = ["10.0.9.9"]
        s.node.add_seeds(["seed.test"])
        await trio.sleep(30)
        assert s.statuses() == {"us": "alive"}
        s.resolver.hosts["seed.test"] = [a.address.host]
        await s.until(lambda: "a" in s.statuses(), 61)
        count = len(s.resolver.lookups)
        await trio.sleep(600)  # no look-up while the seed is present
        assert len(s.resolver.lookups) == count


async def test_lost_seed_is_joined_again(autojump_clock: MockClock) -> None:
    async with node_under_test(**RETRIES, reconnect_interval=1e6) as s:
        [a] = hosts(s, "a")
        s.resolver.hosts["seed.test"] = [a.address.host]
        assert await s.node.join(["seed.test"]) == 1
        s.network.partition([OURS])
        await s.until(lambda: s.statuses()["a"] == "failed")
        count = len(s.resolver.lookups)
        await s.until(lambda: len(s.resolver.lookups) > count + 2)
        s.network.heal()
        s.nursery.start_soon(send_newer_alive, a)
        await s.until(lambda: s.statuses()["a"] == "alive", 130)


FAST_REAPING: dict[str, Any] = {
    **RETRIES,
    "reconnect_interval": 1e6,
    "reap_interval": 5.0,
    "serf": SerfOptions(reconnect_timeout=10.0),
}


@pytest.mark.parametrize("by_name", [False, True])
@pytest.mark.parametrize("other_seed", [False, True])
async def test_reaped_seed_is_joined_again_while_other_seeds_are_present(
    autojump_clock: MockClock, by_name: bool, other_seed: bool
) -> None:
    """The seed is on the other side of a partition; another seed may be on ours."""
    async with node_under_test(**FAST_REAPING) as s:
        a, here = hosts(s, "a", "here")
        s.resolver.hosts["seed.test"] = [a.address.host]
        seeds = ["seed.test" if by_name else str(a.address)]
        if other_seed:
            seeds.append(str(here.address))
        here.send(here.alive())
        assert await s.node.join(seeds) == len(seeds)
        await s.until(lambda: {"a", "here"} <= set(s.statuses()))
        s.network.partition([OURS, here.address])
        await s.until(lambda: "a" not in s.statuses(), 200)
        await trio.sleep(200)
        assert s.statuses() == {"us": "alive", "here": "alive"}
        s.network.heal()
        # Members take turns if there is another seed: one in two here, on average every minute.
        await s.until(lambda: s.statuses().get("a") == "alive", 1000 if other_seed else 130)


async def test_alias_address_is_not_joined_again(
    autojump_clock: MockClock,
) -> None:
    """The alias is a load balancer: the member behind it has another address."""
    async with node_under_test(**RETRIES, timing=Timing(probe_interval=1e6)) as s:
        [here] = await s.add_members("here")
        s.nursery.start_soon(host, here)
        balancer = s.peer("balancer")
        seen: list[PushPull] = []
        response = push_pull(here.node_state())
        s.nursery.start_soon(partial(host, balancer, seen, response=response))
        assert await s.node.join([str(balancer.address)]) == 1
        await trio.sleep(1200)
        assert s.statuses() == {"us": "alive", "here": "alive"}
        # Two members take turns, so that about one of them joins every minute.
        assert 3 <= len(seen) <= 25


async def send_newer_alive(peer: ScriptedPeer) -> None:
    """Announce a newer incarnation, as a member that refutes its Dead message."""
    await trio.sleep(LATENCY)
    while True:
        peer.send(peer.alive(incarnation=5))
        await trio.sleep(60)


async def test_seeds_are_bounded(autojump_clock: MockClock) -> None:
    async with node_under_test(**NEVER) as s:
        s.node.add_seeds([f"seed{number}.test" for number in range(5000)])
        assert len(s.node._joiner.seeds) == 1024


async def test_error_has_no_errno(autojump_clock: MockClock) -> None:
    async with node_under_test(**NEVER) as s:
        why = await s.node._joiner.try_push_pull(Address("10.0.9.9", 1))
        assert why == "connection refused"
        assert str(errno.ECONNREFUSED) not in why


# --- services ---


async def test_service_is_joined_at_its_best_priority(autojump_clock: MockClock) -> None:
    async with node_under_test(**NEVER) as s:
        best, other, worse = hosts(s, "best", "other", "worse")
        s.resolver.hosts["best.example"] = [best.address.host]
        s.resolver.srv_records["_serf._tcp.example"] = [
            Service("worse.example", 7946, 20, 1, (worse.address.host,)),
            Service("best.example", 7946, 10, 1),
            Service("other.example", 7946, 10, 0, (other.address.host,)),
        ]
        assert await s.node.join(["_serf._tcp.example"]) == 2
        assert s.statuses() == {"us": "alive", "best": "alive", "other": "alive"}


async def test_next_priority_is_tried_when_no_host_is_reachable(
    autojump_clock: MockClock,
) -> None:
    async with node_under_test(**NEVER) as s:
        [backup] = hosts(s, "backup")
        s.resolver.srv_records["_serf._tcp.example"] = [
            Service("dead.example", 7946, 10, 1, ("10.0.9.9",)),
            Service("us.example", 7946, 15, 1, (OURS.host,)),
            Service("nowhere.example", 7946, 20, 1),
            Service("backup.example", 7946, 30, 1, (backup.address.host,)),
        ]
        assert await s.node.join(["_serf._tcp.example"]) == 1
        assert s.statuses() == {"us": "alive", "backup": "alive"}


async def test_unreachable_service_has_the_error_of_each_host(
    autojump_clock: MockClock,
) -> None:
    async with node_under_test(**NEVER) as s:
        s.resolver.srv_records["_serf._tcp.example"] = [
            Service("dead.example", 7947, 10, 1, ("10.0.9.9",)),
            Service("nowhere.example", 7946, 20, 1),
        ]
        assert await causes(s, "_serf._tcp.example", "_serf._udp.example") == {
            "10.0.9.9:7947": "connection refused",
            "nowhere.example:7946": "unknown host 'nowhere.example': not in this test",
            "_serf._udp.example": "service '_serf._udp.example': not in this test",
        }


async def test_service_is_looked_up_again_at_every_join(autojump_clock: MockClock) -> None:
    async with node_under_test(**RETRIES) as s:
        s.node.add_seeds(["_serf._tcp.example"])
        await trio.sleep(21)
        times = [at for at, name in s.resolver.lookups if name == "_serf._tcp.example"]
        assert times == pytest.approx([5, 15])
        [late] = hosts(s, "late")
        s.resolver.srv_records["_serf._tcp.example"] = [
            Service("late.example", 7946, 0, 0, (late.address.host,))
        ]
        await s.until(lambda: "late" in s.statuses(), 20)


async def test_silent_dns_times_out_for_a_service(
    autojump_clock: MockClock,
) -> None:
    async with node_under_test(**NEVER) as s:
        s.resolver.delay = 1e6
        began = trio.current_time()
        assert await causes(s, "_serf._tcp.example") == {
            "_serf._tcp.example": "no answer from DNS for '_serf._tcp.example' in time"
        }
        assert trio.current_time() - began == pytest.approx(10)


@pytest.mark.parametrize("text", ["_serf._tcp.example:7946", "a/_serf._tcp.example"])
async def test_service_with_name_or_port_is_refused(autojump_clock: MockClock, text: str) -> None:
    async with node_under_test(**NEVER) as s:
        [why] = (await causes(s, text)).values()
        assert "expected a service without a name or port" in why
        assert s.resolver.lookups == []


@pytest.mark.parametrize("host", ["_serf._tcp", "_serf.example", "x._serf._tcp.example", "_.._.x"])
async def test_name_that_is_not_a_service_is_a_host(autojump_clock: MockClock, host: str) -> None:
    async with node_under_test(**NEVER) as s:
        assert "unknown host" in (await causes(s, host))[host]
