"""SRV look-ups from a real name server on a loopback address."""

import errno
import random
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest
import trio
from trio.testing import MockClock

from trioserf.errors import AddressError
from trioserf.net.resolver import Resolver, SystemResolver
from trioserf.net.services import Service, by_priority
from trioserf.net.srv import MAX_SERVICES

HOST = "127.22.5.1"
NAME = "_serf._tcp.example.com"

Zone = dict[tuple[str, str], list[str]]
Act = Callable[[dns.message.Message, bool], dns.message.Message | None]


async def bind_udp_and_tcp() -> tuple[trio.socket.SocketType, trio.socket.SocketType]:
    """Return sockets for UDP and TCP on a port that is free for both."""
    for _ in range(100):  # a port that is free for UDP may be in use for TCP
        udp = trio.socket.socket(type=trio.socket.SOCK_DGRAM)
        tcp = trio.socket.socket()
        await udp.bind((HOST, 0))
        try:
            await tcp.bind(udp.getsockname())
        except OSError as error:
            udp.close()
            tcp.close()
            if error.errno != errno.EADDRINUSE:
                raise
        else:
            return udp, tcp
    raise AssertionError("no port is free for UDP and TCP")


class NameServer:
    """Answers from a zone, over UDP and TCP.

    Attributes:
        zone: records by name and type.
        additional: additional records of every answer.
        act: changes or drops an answer; receives the answer, and whether it is sent by TCP.
        queries: counts of queries by name and type.
    """

    def __init__(self, zone: Zone) -> None:
        self.zone = zone
        self.additional: Zone = {}
        self.act: Act = lambda answer, _: answer
        self.queries: Counter[str] = Counter()
        self.address = ""

    def _answer(self, data: bytes, *, by_tcp: bool) -> bytes | None:
        query = dns.message.from_wire(data)
        [question] = query.question
        name = question.name.to_text(omit_final_dot=True)
        kind = question.rdtype.name
        self.queries[f"{name} {kind}"] += 1
        answer = dns.message.make_response(query)
        records = self.zone.get((name, kind))
        if records:
            answer.answer.append(dns.rrset.from_text(question.name, 1, "IN", kind, *records))
            for (host, host_kind), texts in self.additional.items():
                answer.additional.append(dns.rrset.from_text(host, 1, "IN", host_kind, *texts))
        elif all(known != name for known, _ in self.zone):
            answer.set_rcode(dns.rcode.NXDOMAIN)
        response = self.act(answer, by_tcp)
        return None if response is None else response.to_wire(max_size=65_535 if by_tcp else 1232)

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        udp, tcp = await bind_udp_and_tcp()
        with udp, tcp:
            tcp.listen()
            self.address = f"{HOST}:{udp.getsockname()[1]}"
            task_status.started()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._serve_tcp, trio.SocketListener(tcp))
                while True:
                    data, source = await udp.recvfrom(4096)
                    response = self._answer(data, by_tcp=False)
                    if response is not None:
                        await udp.sendto(response, source)

    async def _serve_tcp(self, listener: trio.SocketListener) -> None:
        while True:
            async with await listener.accept() as stream:
                data = b""
                while len(data) < 2 or len(data) < 2 + int.from_bytes(data[:2], "big"):
                    more = await stream.receive_some()
                    assert more, "a question ends in the middle"
                    data += more
                response = self._answer(data[2:], by_tcp=True)
                if response is not None:
                    await stream.send_all(len(response).to_bytes(2, "big") + response)


@asynccontextmanager
async def serving(zone: Zone) -> AsyncIterator[tuple[NameServer, Resolver]]:
    server = NameServer(zone)
    async with trio.open_nursery() as nursery:
        await nursery.start(server.run)
        yield server, SystemResolver([server.address])
        nursery.cancel_scope.cancel()


async def refused(resolver: Resolver, name: str = NAME) -> str:
    with pytest.raises(AddressError) as caught:
        await resolver.services(name)
    return str(caught.value)


async def test_records_have_host_port_priority_and_weight() -> None:
    zone: Zone = {
        (NAME, "SRV"): ["10 5 7947 a.example.com.", "20 0 7946 b.example.com."],
        ("a.example.com", "A"): ["10.0.0.1", "10.0.0.2"],
        ("a.example.com", "AAAA"): ["fd00::1"],
        ("b.example.com", "AAAA"): ["fd00::2"],
    }
    async with serving(zone) as (server, resolver):
        found = [
            service._replace(addresses=tuple(sorted(service.addresses)))
            for service in await resolver.services(NAME)
        ]
        assert sorted(found) == [
            Service("a.example.com", 7947, 10, 5, ("10.0.0.1", "10.0.0.2", "fd00::1")),
            Service("b.example.com", 7946, 20, 0, ("fd00::2",)),
        ]
        await resolver.services(NAME)
        assert server.queries[f"{NAME} SRV"] == 2  # there is no cache


async def test_additional_addresses_need_no_lookup() -> None:
    async with serving({(NAME, "SRV"): ["1 1 7946 A.example.com."]}) as (server, resolver):
        server.additional = {("a.EXAMPLE.com.", "A"): ["10.0.0.7"]}
        [service] = await resolver.services(NAME)
        assert service.addresses == ("10.0.0.7",)
        assert set(server.queries) == {f"{NAME} SRV"}


async def test_unknown_host_of_service_has_no_addresses() -> None:
    async with serving({(NAME, "SRV"): ["1 1 7946 a.example.com."]}) as (_, resolver):
        assert await resolver.services(NAME) == [Service("a.example.com", 7946, 1, 1)]


async def test_truncated_response_is_fetched_by_tcp() -> None:
    records = [f"1 1 {port} host-{port}.some.long.domain.example.com." for port in range(1, 101)]
    async with serving({(NAME, "SRV"): records}) as (server, resolver):
        for port in range(1, 101):
            server.zone[f"host-{port}.some.long.domain.example.com", "A"] = ["10.0.0.1"]

        def truncate(answer: dns.message.Message, by_tcp: bool) -> dns.message.Message:
            if not by_tcp and len(answer.to_wire()) > 1232:
                answer.answer.clear()
                answer.flags |= dns.flags.TC
            return answer

        server.act = truncate
        assert len(await resolver.services(NAME)) == 100
        assert server.queries[f"{NAME} SRV"] == 2


async def test_records_beyond_the_limit_are_dropped() -> None:
    records = [f"1 1 {port} a." for port in range(1, 1001)]
    async with serving({(NAME, "SRV"): records}) as (server, resolver):
        server.additional = {("a.", "A"): ["10.0.0.1"]}

        def truncate(answer: dns.message.Message, by_tcp: bool) -> dns.message.Message:
            if not by_tcp:
                answer.answer.clear()
                answer.additional.clear()
                answer.flags |= dns.flags.TC
            return answer

        server.act = truncate
        assert len(await resolver.services(NAME)) == MAX_SERVICES


# --- errors ---


async def test_missing_name_is_an_error() -> None:
    async with serving({("example.com", "A"): ["10.0.0.1"]}) as (_, resolver):
        assert await refused(resolver) == f"service {NAME!r}: there is no such name"


async def test_name_without_srv_records_is_an_error() -> None:
    async with serving({(NAME, "A"): ["10.0.0.1"]}) as (_, resolver):
        assert await refused(resolver) == f"service {NAME!r}: the name has no SRV record"


async def test_unavailable_service_is_an_error() -> None:
    async with serving({(NAME, "SRV"): ["0 0 1 ."]}) as (_, resolver):
        assert await refused(resolver) == (
            f"service {NAME!r}: its record says that it is not available"
        )


async def test_failing_name_server_is_an_error() -> None:
    async with serving({(NAME, "SRV"): ["1 1 1 a."]}) as (server, resolver):

        def fail(answer: dns.message.Message, _: bool) -> dns.message.Message:
            answer.set_rcode(dns.rcode.SERVFAIL)
            return answer

        server.act = fail
        error = await refused(resolver)
        assert error.startswith(f"service {NAME!r}: no name server could answer (")
        assert "SERVFAIL" in error


async def test_silent_name_server_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trioserf.net.srv._LIFETIME", 0.6)
    monkeypatch.setattr("trioserf.net.srv._TIMEOUT", 0.2)
    async with serving({(NAME, "SRV"): ["1 1 1 a."]}) as (server, resolver):
        server.act = lambda answer, _: None
        assert await refused(resolver) == f"service {NAME!r}: no answer from DNS in time"
        assert server.queries[f"{NAME} SRV"] >= 2


async def test_next_name_server_is_tried_after_a_silent_one(autojump_clock: MockClock) -> None:
    autojump_clock.autojump_threshold = 0.1  # time jumps when no packet is in transit
    zone: Zone = {(NAME, "SRV"): ["1 1 7946 a."], ("a", "A"): ["10.0.0.1"]}
    async with serving({}) as (silent, _), serving(zone) as (server, _):
        silent.act = lambda answer, _: None
        resolver = SystemResolver([silent.address, server.address])
        assert await resolver.services(NAME) == [Service("a", 7946, 1, 1, ("10.0.0.1",))]


@pytest.mark.parametrize("name", ["_serf._tcp." + "x" * 64 + ".com", "_serf._tcp." + "x." * 200])
async def test_malformed_name_is_an_error_without_a_lookup(name: str) -> None:
    async with serving({}) as (server, resolver):
        assert (await refused(resolver, name)).startswith(f"service {name!r}: ")
        assert not server.queries


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("dns.example.com", "expected an IP address"),
        ("", "expected an IP address"),
        ("10.0.0.1:0", "expected a port"),
        ("10.0.0.1:x", "expected a port"),
        ("[::1]:99999", "expected a port"),
    ],
)
def test_malformed_name_server_is_an_error(text: str, expected: str) -> None:
    with pytest.raises(AddressError, match=f"dns_servers: .*: {expected}"):
        SystemResolver([text])


@pytest.mark.parametrize("text", ["10.0.0.1", "10.0.0.1:8600", "::1", "[::1]", "[::1]:8600"])
def test_name_server_may_have_a_port(text: str) -> None:
    [(host, port)] = SystemResolver([text])._dns_servers
    assert host in ("10.0.0.1", "::1")
    assert port == (8600 if "8600" in text else 53)


# --- order ---


def test_services_are_grouped_by_ascending_priority() -> None:
    services = [Service(str(number), 1, priority=9 - number) for number in range(9)]
    groups = by_priority(services, random.Random(1))
    assert [[service.host for service in group] for group in groups] == [
        [str(n)] for n in range(8, -1, -1)
    ]


def test_services_are_ordered_randomly_by_weight() -> None:
    services = [Service("light", 1, 0, 10), Service("heavy", 1, 0, 90), Service("none", 1, 0, 0)]
    rng = random.Random(7)
    firsts: Counter[str] = Counter()
    for _ in range(10_000):
        [group] = by_priority(services, rng)
        assert len(group) == len({service.host for service in group}) == 3
        firsts[group[0].host] += 1
    assert 8600 < firsts["heavy"] < 9200
    assert 700 < firsts["light"] < 1200
    assert 30 < firsts["none"] < 250


def test_dnspython_is_imported_only_for_services() -> None:
    code = "import sys, trioserf.node, trioserf.net.resolver; sys.exit('dns' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
