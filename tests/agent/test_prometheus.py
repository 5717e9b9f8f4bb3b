"""The page for Prometheus: its content, and valid and malformed requests."""

import contextlib
import socket
from contextlib import AsyncExitStack

import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families

from tests.agent.helpers import sample
from trioserf.agent import prometheus
from trioserf.agent.metrics import Report
from trioserf.agent.prometheus import PrometheusPage, open_page
from trioserf.errors import AddressError, ConfigError

REPORT = Report(
    {
        "memberlist.health.score": 2,
        "runtime.sys_bytes": 1e6,
        "memberlist.node.instances.alive": 5,
        "memberlist.node.instances.left": 1,
    },
    "serf-agent.host.",
    {
        "serf-agent.memberlist.udp.sent": sample(40, 2),
        "serf-agent.serf.events": sample(1, 1),
        "serf-agent.serf.events.dep loy": sample(1),
        'serf-agent.serf.events."': sample(1),
    },
    {
        "serf-agent.memberlist.probeNode": [1.5, 2.5],
        "serf-agent.agent.invoke./opt/notify.sh --key=secret": [3],
    },
)


def values(page: bytes) -> dict[tuple[str, str], float]:
    return {
        (sample.name, "".join(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(page.decode())
        for sample in family.samples
    }


def test_page_sums_up_reports() -> None:
    page = PrometheusPage()
    page.record(REPORT)
    page.record(REPORT)
    assert values(page.text()) == {
        ("trioserf_memberlist_health_score", ""): 2,
        ("trioserf_runtime_sys_bytes", ""): 1e6,
        ("trioserf_memberlist_node_instances", "alive"): 5,
        ("trioserf_memberlist_node_instances", "left"): 1,
        ("trioserf_memberlist_udp_sent_total", ""): 84,
        ("trioserf_serf_events_total", ""): 4,
        ("trioserf_serf_events_by_name_total", "dep loy"): 2,
        ("trioserf_serf_events_by_name_total", '"'): 2,
        ("trioserf_memberlist_probeNode_count", ""): 4,
        ("trioserf_memberlist_probeNode_sum", ""): 8,
        ("trioserf_agent_invoke_milliseconds_count", "notify.sh"): 2,
        ("trioserf_agent_invoke_milliseconds_sum", "notify.sh"): 6,
    }


def test_names_of_events_that_are_not_utf8_are_on_the_page() -> None:
    page = PrometheusPage()
    for name in ("\udc80", "\udc81", "é"):
        page.record(Report({}, "", {f"serf-agent.serf.events.{name}": sample(1)}, {}))
    assert values(page.text()) == {
        ("trioserf_serf_events_by_name_total", "?"): 2,
        ("trioserf_serf_events_by_name_total", "é"): 1,
    }


def test_label_values_are_bounded() -> None:
    page = PrometheusPage()
    for number in range(3000):
        page.record(Report({}, "", {f"serf-agent.serf.events.{number}": sample(1)}, {}))
    totals = values(page.text())
    assert len(totals) <= 1025
    assert sum(totals.values()) == 3000
    assert totals["trioserf_serf_events_by_name_total", "others"] == 3000 - 1024


async def request(port: int, data: bytes) -> bytes:
    with trio.fail_after(20):
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(data)
            answer = b""
            with contextlib.suppress(trio.BrokenResourceError):  # the server may stop reading
                async for chunk in stream:
                    answer += bytes(chunk)
            return answer


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


async def test_valid_and_malformed_requests_are_answered() -> None:
    port = free_port()
    async with open_page(f"127.0.0.1:{port}") as page:
        page.record(REPORT)
        answer = await request(port, b"GET /metrics?x=1 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        assert b"text/plain; version=0.0.4" in head
        assert body == page.text()
        answer = await request(port, b"HEAD /metrics HTTP/1.0\r\n\r\n")
        assert (answer[:12], answer[-4:]) == (b"HTTP/1.1 200", b"\r\n\r\n")
        answer = await request(port, b"GET /other HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 404 ")
        answer = await request(
            port, b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx"
        )
        assert answer.startswith(b"HTTP/1.1 405 ")
        assert b"\r\nAllow: GET, HEAD\r\n" in answer
        assert await request(port, b"\xff\x00\r\n\r\n") == b""
        assert await request(port, b"GET " + b"x" * 100_000) == b""
        # The server still works.
        answer = await request(port, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert answer.endswith(page.text())


@pytest.mark.parametrize(
    ("script", "label"),
    [
        ("notify", "notify"),
        ("/usr/bin/notify.sh --key=secret", "notify.sh"),
        ("KEY=secret PATH=/bin:/opt  ./notify-2 x", "notify-2"),
        ("curl -H 'Authorization: secret' http://host", "curl"),
        ("KEY='a secret' notify", "script"),
        ("KEY=$(cat secret) notify", "script"),
        ("(echo secret)", "script"),
        ("secret;notify", "script"),
        ("", "script"),
    ],
)
def test_label_of_a_script_is_its_program(script: str, label: str) -> None:
    page = PrometheusPage()
    page.record(Report({}, "", {}, {f"serf-agent.agent.invoke.{script}": [3]}))
    assert ("trioserf_agent_invoke_milliseconds_sum", label) in values(page.text())


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", 200),
        ("10.1.2.3:9100", 200),
        ("[::1]:9100", 200),
        ("LocalHost:1", 200),
        ("evil.example", 421),
        ("evil.example:9100", 421),
        ("localhost.evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("localhost:port", 421),
        ("", 421),
    ],
)
async def test_requests_for_other_hosts_are_refused(host: str, status: int) -> None:
    port = free_port()
    async with open_page(f"127.0.0.1:{port}") as page:
        page.record(REPORT)
        answer = await request(port, f"GET /metrics HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 %d " % status)
        assert (body == page.text()) == (status == 200)
        assert (b"use an IP address, localhost" in body) == (status == 421)


async def test_name_of_the_machine_is_served() -> None:
    port = free_port()
    name = socket.gethostname().encode()
    async with open_page(f"127.0.0.1:{port}"):
        answer = await request(port, b"GET / HTTP/1.1\r\nHost: %s:1\r\n\r\n" % name)
        assert answer.startswith(b"HTTP/1.1 200 ")


async def test_silent_connections_do_not_block_others() -> None:
    port = free_port()
    async with open_page(f"127.0.0.1:{port}"), AsyncExitStack() as stack:
        held = [
            await stack.enter_async_context(await trio.open_tcp_stream("127.0.0.1", port))
            for _ in range(40)
        ]
        await held[-1].send_all(b"GET / HTT")
        answer = await request(port, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200 ")
        await held[-1].send_all(b"P/1.0\r\n\r\n")
        with trio.fail_after(20):
            assert (await held[-1].receive_some(12)) == b"HTTP/1.1 200"
            assert not await held[0].receive_some()


async def test_silent_connection_is_closed_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prometheus, "_HEAD_TIMEOUT", 0.1)
    port = free_port()
    async with (
        open_page(f"127.0.0.1:{port}"),
        await trio.open_tcp_stream("127.0.0.1", port) as stream,
    ):
        with trio.fail_after(9):  # a request may take 10 s
            assert not await stream.receive_some()


async def test_unusable_metrics_address_is_reported() -> None:
    with pytest.raises(ConfigError, match="metrics_addr: 'here': expected host:port"):
        async with open_page("here"):
            pass
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        taken = f"127.0.0.1:{listener.socket.getsockname()[1]}"
        with pytest.raises(AddressError, match=f"metrics_addr: cannot listen on {taken}: "):
            async with open_page(taken):
                pass
