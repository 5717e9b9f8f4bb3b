"""Discovery in virtual time, with fake sockets; errors at start with real ones."""

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


class FakeNode:
    """The part of a node that discovery uses."""

    name = "here"
    address = HERE

    def __init__(self) -> None:
        self.members_version = 1
        self._members = [Member(HERE)]

    def members(self) -> list[Member]:
        return self._members

    def add(self, address: Address) -> None:
        self._members = [*self._members, Member(address)]
        self.members_version += 1


class FakeSockets:
    """Fake sockets of a multicast group that record what was sent."""

    group = IPV4

    def __init__(self) -> None:
        self.questions: list[float] = []
        self.answers: list[tuple[bytes, object]] = []
        self.error: OSError | None = None
        self.answering, self.asking = FakeSocket(), FakeSocket()

    async def ask(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self.questions.append(trio.current_time())
        if self.error is not None:
            raise self.error

    async def send(self, data: bytes) -> None:
        await self.send_to(data, "all")

    async def send_to(self, data: bytes, to: object) -> None:
        await trio.lowlevel.checkpoint()
        self.answers.append((data, to))


class FakeSocket:
    def __init__(self) -> None:
        self._send, self._receive = trio.open_memory_channel[bytes | OSError](100)

    def put(self, data: bytes | OSError) -> None:
        self._send.send_nowait(data)

    async def recvfrom(self, size: int) -> tuple[bytes, tuple[str, int]]:
        data = await self._receive.receive()
        if isinstance(data, OSError):
            raise data
        return data, ("10.0.0.9", 40000)


class DiscoveryUnderTest:
    """A discovery under test, and the joins it requested with their times."""

    def __init__(self) -> None:
        self.node = FakeNode()
        self.sockets = FakeSockets()
        self.joins: list[tuple[float, list[str]]] = []
        self.error: Exception | None = None
        self.discovery = Discovery("demo", self.node, self._join, [self.sockets])  # type: ignore[arg-type, list-item]

    async def _join(self, addresses: object) -> int:
        await trio.lowlevel.checkpoint()
        assert isinstance(addresses, list)
        self.joins.append((trio.current_time(), addresses))
        if self.error is not None:
            raise self.error
        return len(addresses)

    def receive(self, *hosts: str) -> None:
        for host in hosts:
            instance = Instance(SERVICE, host, Address(host, 7946), "")
            answer = instance.answer(encode_question(SERVICE), 40000)
            assert answer is not None
            self.sockets.asking.put(answer.data)


async def test_question_is_sent_at_once_and_every_minute(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    t = DiscoveryUnderTest()
    nursery.start_soon(t.discovery.run)
    await trio.sleep(2.5 * ASK_EVERY)
    assert t.sockets.questions == [0, 60, 120]


async def test_addresses_found_together_are_joined_together(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    t = DiscoveryUnderTest()
    nursery.start_soon(t.discovery.run)
    await trio.sleep(1)
    t.receive("10.0.0.2", "10.0.0.1", "10.0.0.3")
    await trio.sleep(0.05)
    t.receive("10.0.0.4", "10.0.0.2")
    await trio.sleep(5)
    when, addresses = t.joins[0]
    assert addresses == ["10.0.0.2:7946", "10.0.0.3:7946", "10.0.0.4:7946"]
    assert when == pytest.approx(1.15)
    assert len(t.joins) == 1


async def test_joined_address_and_member_are_not_new(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    t = DiscoveryUnderTest()
    nursery.start_soon(t.discovery.run)
    t.receive("10.0.0.2")
    await trio.sleep(1)
    t.node.add(Address("10.0.0.3", 7946))
    t.receive("10.0.0.2", "10.0.0.3")
    await trio.sleep(1)
    assert [addresses for _, addresses in t.joins] == [["10.0.0.2:7946"]]
    await trio.sleep(1000)
    t.receive("10.0.0.2", "10.0.0.3")
    await trio.sleep(1)
    assert [addresses for _, addresses in t.joins] == [["10.0.0.2:7946"], ["10.0.0.2:7946"]]


async def test_failed_join_is_retried(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    t = DiscoveryUnderTest()
    nursery.start_soon(t.discovery.run)
    t.error = JoinFailed([("10.0.0.2:7946", "refused")])
    for _ in range(2):
        t.receive("10.0.0.2")
        await trio.sleep(60)
    assert len(t.joins) == 2


async def test_discovery_ends_when_node_leaves(autojump_clock: trio.testing.MockClock) -> None:
    t = DiscoveryUnderTest()
    t.error = Leaving("leaving")
    t.receive("10.0.0.2")
    with trio.fail_after(10):
        await t.discovery.run()


async def test_remembered_addresses_are_bounded(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    t = DiscoveryUnderTest()
    nursery.start_soon(t.discovery.run)
    for number in range(1200):
        t.receive(f"10.1.{number // 200}.{number % 200}")
        if number % 4 == 0:
            await trio.sleep(0.04)
    await trio.sleep(5)
    assert max(len(addresses) for _, addresses in t.joins) == 32
    assert len(t.discovery._joined) == 1024


async def test_questions_are_answered_after_errors_and_junk(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    t = DiscoveryUnderTest()
    nursery.start_soon(t.discovery.run)
    for queue in (t.sockets.answering, t.sockets.asking):
        queue.put(b"\xff" * 40)
        queue.put(OSError(100, "Network is down"))
    t.sockets.answering.put(encode_question(SERVICE))
    t.receive("10.0.0.2")
    await trio.sleep(5)
    assert [to for _, to in t.sockets.answers] == [("10.0.0.9", 40000)]
    assert len(t.joins) == 1


async def test_repeated_network_error_is_logged_once(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    t = DiscoveryUnderTest()
    t.sockets.error = OSError(101, "Network is unreachable")
    nursery.start_soon(t.discovery.run)
    await trio.sleep(200)
    t.sockets.error = None
    await trio.sleep(100)
    t.sockets.error = OSError(101, "Network is unreachable")
    await trio.sleep(100)
    logged = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert logged == ["Failed to poll for new hosts: IPv4: Network is unreachable"] * 2


@pytest.mark.parametrize(
    ("mdns", "text"),
    [
        (MdnsConfig(interface="nosuch0"), "no such network interface: 'nosuch0'"),
        (MdnsConfig(disable_ipv4=True, disable_ipv6=True), "both IPv4 and IPv6 are disabled"),
    ],
)
def test_discovery_that_cannot_start_is_reported(mdns: MdnsConfig, text: str) -> None:
    config = AgentConfig(discover="demo", mdns=mdns)
    with (
        pytest.raises(ConfigError, match=text),
        open_discovery(config, FakeNode(), DiscoveryUnderTest()._join),  # type: ignore[arg-type]
    ):
        pass
