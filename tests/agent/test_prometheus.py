"""The page for Prometheus: its content, and valid and malformed requests."""

import contextlib

import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families

from tests.agent.helpers import sample
from trioserf.agent.metrics import Report
from trioserf.agent.prometheus import PrometheusPage, open_page
from trioserf.errors import AddressError, ConfigError

REPORT = Report(
    {"memberlist.health.score": 2, "runtime.sys_bytes": 1e6},
    "serf-agent.host.",
    {
        "serf-agent.memberlist.udp.sent": sample(40, 2),
        "serf-agent.serf.events": sample(1, 1),
        "serf-agent.serf.events.dep loy": sample(1),
        'serf-agent.serf.events."': sample(1),
    },
    {"serf-agent.memberlist.probeNode": [1.5, 2.5], "serf-agent.agent.invoke.echo_1": [3]},
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
        ("trioserf_memberlist_udp_sent_total", ""): 84,
        ("trioserf_serf_events_total", ""): 4,
        ("trioserf_serf_events_by_name_total", "dep loy"): 2,
        ("trioserf_serf_events_by_name_total", '"'): 2,
        ("trioserf_memberlist_probeNode_count", ""): 4,
        ("trioserf_memberlist_probeNode_sum", ""): 8,
        ("trioserf_agent_invoke_milliseconds_count", "echo_1"): 2,
        ("trioserf_agent_invoke_milliseconds_sum", "echo_1"): 6,
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
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


async def test_valid_and_malformed_requests_are_answered() -> None:
    port = free_port()
    async with open_page(f"127.0.0.1:{port}") as page:
        page.record(REPORT)
        answer = await request(port, b"GET /metrics?x=1 HTTP/1.1\r\nHost: x\r\n\r\n")
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        assert b"text/plain; version=0.0.4" in head
        assert body == page.text()
        answer = await request(port, b"HEAD /metrics HTTP/1.0\r\n\r\n")
        assert (answer[:12], answer[-4:]) == (b"HTTP/1.1 200", b"\r\n\r\n")
        answer = await request(port, b"GET /other HTTP/1.1\r\nHost: x\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 404 ")
        answer = await request(port, b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx")
        assert answer.startswith(b"HTTP/1.1 405 ")
        assert b"\r\nAllow: GET, HEAD\r\n" in answer
        assert await request(port, b"\xff\x00\r\n\r\n") == b""
        assert await request(port, b"GET " + b"x" * 100_000) == b""
        # The server still works.
        answer = await request(port, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert answer.endswith(page.text())


async def test_connections_over_limit_are_closed() -> None:
    port = free_port()
    async with open_page(f"127.0.0.1:{port}"):
        held = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(16)]
        with trio.fail_after(20):
            while True:  # until all of them were accepted
                async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                    with trio.move_on_after(0.2) as waited:
                        with contextlib.suppress(trio.BrokenResourceError):
                            assert await stream.receive_some() == b""
                    if not waited.cancelled_caught:
                        break
        for stream in held:
            await stream.aclose()
        with trio.fail_after(20):
            answer = b""
            while not answer:
                try:
                    answer = await request(port, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                except trio.BrokenResourceError:
                    answer = b""
        assert answer.startswith(b"HTTP/1.1 200 ")


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
