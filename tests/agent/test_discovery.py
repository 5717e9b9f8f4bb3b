"""Asking every minute, joining whom nobody knows: with sockets that are none, in virtual time.

What cannot be started is told by real ones.
"""

import attrs
import pytest
import trio
import trio.testing

from trioserf.address import Address
from trioserf.agent.config import AgentConfig, MdnsConfig
from trioserf.agent.discovery import ASK_EVERY, Discovery, open_discovery
from trioserf.agent.mdns import Instance, encode_question, service_name
from trioserf.errors import ConfigError, JoinFailed, Leaving
from trioserf.net.multicast import IPV4

SERVICE = service_name("demo")
HERE = Address("10.0.0.1", 7946)


@attrs.define
class Member:
    address: Address


class OneNode:
    """As much of a node as discovery wants to know."""

    name = "here"
    address = HERE

    def __init__(self) -> None:
        self.members_version = 1
        self.known = [Member(HERE)]

    def members(self) -> list[Member]:
        return self.known

    def add(self, address: Address) -> None:
        self.known = [*self.known, Member(address)]
        self.members_version += 1


class Wire:
    """Both sockets of a group and what went through them."""

    group = IPV4

    def __init__(self) -> None:
        self.asked: list[float] = []
        self.answers: list[tuple[bytes, object]] = []
        self.fault: OSError | None = None
        self.answering, self.asking = Inbox(), Inbox()

    async def ask(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self.asked.append(trio.current_time())
        if self.fault is not None:
            raise self.fault

    async def send(self, data: bytes) -> None:
        await self.send_to(data, "all")

    async def send_to(self, data: bytes, to: object) -> None:
        await trio.lowlevel.checkpoint()
        self.answers.append((data, to))


class Inbox:
    def __init__(self) -> None:
        self._send, self._receive = trio.open_memory_channel[bytes | OSError](100)

    def put(self, data: bytes | OSError) -> None:
        self._send.send_nowait(data)

    async def recvfrom(self, size: int) -> tuple[bytes, tuple[str, int]]:
        data = await self._receive.receive()
        if isinstance(data, OSError):
            raise data
        return data, ("10.0.0.9", 40000)


class Rig:
    """A discovery, the joins it asked for, and when."""

    def __init__(self) -> None:
        self.node = OneNode()
        self.wire = Wire()
        self.joins: list[tuple[float, list[str]]] = []
        self.error: Exception | None = None
        self.discovery = Discovery("demo", self.node, self._join, [self.wire])  # type: ignore[arg-type, list-item]

    async def _join(self, addresses: object) -> int:
        await trio.lowlevel.checkpoint()
        assert isinstance(addresses, list)
        self.joins.append((trio.current_time(), addresses))
        if self.error is not None:
            raise self.error
        return len(addresses)

    def hear(self, *hosts: str) -> None:
        for host in hosts:
            one = Instance(SERVICE, host, Address(host, 7946), "")
            answer = one.answer(encode_question(SERVICE), 40000)
            assert answer is not None
            self.wire.asking.put(answer.data)


async def test_it_asks_at_once_and_every_minute(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    rig = Rig()
    nursery.start_soon(rig.discovery.run)
    await trio.sleep(2.5 * ASK_EVERY)
    assert rig.wire.asked == [0, 60, 120]


async def test_those_found_together_are_joined_together(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    rig = Rig()
    nursery.start_soon(rig.discovery.run)
    await trio.sleep(1)
    rig.hear("10.0.0.2", "10.0.0.1", "10.0.0.3")
    await trio.sleep(0.05)
    rig.hear("10.0.0.4", "10.0.0.2")
    await trio.sleep(5)
    when, addresses = rig.joins[0]
    assert addresses == ["10.0.0.2:7946", "10.0.0.3:7946", "10.0.0.4:7946"]
    assert when == pytest.approx(1.15)
    assert len(rig.joins) == 1


async def test_who_is_joined_or_a_member_is_not_new(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    rig = Rig()
    nursery.start_soon(rig.discovery.run)
    rig.hear("10.0.0.2")
    await trio.sleep(1)
    rig.node.add(Address("10.0.0.3", 7946))
    rig.hear("10.0.0.2", "10.0.0.3")
    await trio.sleep(1)
    assert [addresses for _, addresses in rig.joins] == [["10.0.0.2:7946"]]
    await trio.sleep(1000)
    rig.hear("10.0.0.2", "10.0.0.3")
    await trio.sleep(1)
    assert [addresses for _, addresses in rig.joins] == [["10.0.0.2:7946"], ["10.0.0.2:7946"]]


async def test_who_cannot_be_joined_is_tried_again(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    rig = Rig()
    nursery.start_soon(rig.discovery.run)
    rig.error = JoinFailed([("10.0.0.2:7946", "refused")])
    for _ in range(2):
        rig.hear("10.0.0.2")
        await trio.sleep(60)
    assert len(rig.joins) == 2


async def test_it_ends_when_the_node_leaves(autojump_clock: trio.testing.MockClock) -> None:
    rig = Rig()
    rig.error = Leaving("leaving")
    rig.hear("10.0.0.2")
    with trio.fail_after(10):
        await rig.discovery.run()


async def test_inventions_do_not_pile_up(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    rig = Rig()
    nursery.start_soon(rig.discovery.run)
    for number in range(1500):
        rig.hear(f"10.1.{number // 200}.{number % 200}")
        await trio.sleep(0.01)
    await trio.sleep(5)
    assert max(len(addresses) for _, addresses in rig.joins) == 32
    assert len(rig.discovery._joined) == 1024


async def test_questions_are_answered_whatever_else_comes(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    rig = Rig()
    nursery.start_soon(rig.discovery.run)
    for inbox in (rig.wire.answering, rig.wire.asking):
        inbox.put(b"\xff" * 40)
        inbox.put(OSError(100, "Network is down"))
    rig.wire.answering.put(encode_question(SERVICE))
    rig.hear("10.0.0.2")
    await trio.sleep(5)
    assert [to for _, to in rig.wire.answers] == [("10.0.0.9", 40000)]
    assert len(rig.joins) == 1


async def test_a_network_that_is_down_is_told_once(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    rig = Rig()
    rig.wire.fault = OSError(101, "Network is unreachable")
    nursery.start_soon(rig.discovery.run)
    await trio.sleep(200)
    rig.wire.fault = None
    await trio.sleep(100)
    rig.wire.fault = OSError(101, "Network is unreachable")
    await trio.sleep(100)
    told = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert told == ["Failed to poll for new hosts: IPv4: Network is unreachable"] * 2


@pytest.mark.parametrize(
    ("mdns", "text"),
    [
        (MdnsConfig(interface="nosuch0"), "no such network interface: 'nosuch0'"),
        (MdnsConfig(disable_ipv4=True, disable_ipv6=True), "both IPv4 and IPv6 are disabled"),
    ],
)
def test_what_cannot_be_started_is_told(mdns: MdnsConfig, text: str) -> None:
    config = AgentConfig(discover="demo", mdns=mdns)
    with (
        pytest.raises(ConfigError, match=text),
        open_discovery(config, OneNode(), Rig()._join),  # type: ignore[arg-type]
    ):
        pass
