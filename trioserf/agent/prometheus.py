"""Metrics for Prometheus: a page with everything since the start, in its text format.

The library prometheus_client writes the page, h11 reads the requests. Both come with
`pip install 'trioserf[prometheus]'`.
"""

import logging
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, Final

import h11
import trio
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, SummaryMetricFamily

from trioserf.agent.metrics import Report
from trioserf.agent.statsd import split_address
from trioserf.counters import AggregateSample
from trioserf.errors import AddressError

_log = logging.getLogger("trioserf.agent")

_AT_ONCE: Final = 16
"""Requests served at a time; more are turned away."""
_WITHIN: Final = 10.0
"""Seconds that a request may take."""
_NAMES: Final = 1024
"""Values of a label that are told apart; what others choose to call things is bounded so."""
_LABELLED: Final = {
    "serf.events.": ("serf_events_by_name", "name"),
    "serf.queries.": ("serf_queries_by_name", "name"),
    "agent.invoke.": ("agent_invoke_milliseconds", "script"),
    "trioserf.dropped.": ("trioserf_dropped", "kind"),
}
"""Families in which the rest of a name is a label."""
_PREFIX: Final = "serf-agent."


class PrometheusPage:
    """A sink that adds everything up, for whoever looks (see `Sink`)."""

    def __init__(self) -> None:
        self._gauges: dict[str, float] = {}
        self._counters: dict[tuple[str, str, str], AggregateSample] = {}
        self._samples: dict[tuple[str, str, str], AggregateSample] = {}

    def record(self, report: Report) -> None:
        """Take one report in."""
        self._gauges = {_family(name)[0]: value for name, value in report.gauges.items()}
        for name, count in report.counters.items():
            self._of(self._counters, name).merge(count)
        for name, values in report.samples.items():
            count = self._of(self._samples, name)
            for value in values:
                count.add(value)

    def _of(
        self, there: dict[tuple[str, str, str], AggregateSample], name: str
    ) -> AggregateSample:
        key = _family(name.removeprefix(_PREFIX))
        if key not in there and len(there) >= _NAMES:
            key = (key[0], key[1], "others" if key[1] else "")
        return there.setdefault(key, AggregateSample())

    def collect(self) -> Iterator[Any]:
        """Give the families of metrics; prometheus_client calls this."""
        for name, value in self._gauges.items():
            yield GaugeMetricFamily(name, name, value=value)
        families: dict[str, Any] = {}
        for (name, label, which), count in self._counters.items():
            if name not in families:
                families[name] = CounterMetricFamily(name, name, labels=[label] if label else [])
            families[name].add_metric([which] if label else [], count.total)
        for (name, label, which), count in self._samples.items():
            if name not in families:
                families[name] = SummaryMetricFamily(name, name, labels=[label] if label else [])
            families[name].add_metric([which] if label else [], count.count, count.total)
        yield from families.values()

    def text(self) -> bytes:
        """Give the page."""
        registry = CollectorRegistry()
        registry.register(self)
        return bytes(generate_latest(registry))


def _family(name: str) -> tuple[str, str, str]:
    """Give a name's family, and label and value of it if it has one."""
    for prefix, (family, label) in _LABELLED.items():
        if name.startswith(prefix):
            return f"trioserf_{family.removeprefix('trioserf_')}", label, name[len(prefix) :]
    return "trioserf_" + re.sub("[^a-zA-Z0-9_]", "_", name), "", ""


@asynccontextmanager
async def open_page(address: str) -> AsyncIterator[PrometheusPage]:
    """Serve `http://ADDRESS/metrics` while the block lasts.

    Raises:
        ConfigError: no address.
        AddressError: it cannot be listened on.
    """
    host, port = split_address(address, "metrics_addr")
    page = PrometheusPage()
    limiter = trio.Semaphore(_AT_ONCE)
    try:
        listeners = await trio.open_tcp_listeners(port, host=host)
    except OSError as error:
        why = error.strerror or error
        raise AddressError(f"metrics_addr: cannot listen on {address}: {why}") from error
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, partial(_serve, page, limiter), listeners)
        try:
            yield page
        finally:
            nursery.cancel_scope.cancel()


async def _serve(page: PrometheusPage, limiter: trio.Semaphore, stream: trio.SocketStream) -> None:
    """Answer one request."""
    try:
        limiter.acquire_nowait()
    except trio.WouldBlock:
        await trio.aclose_forcefully(stream)
        return
    try:
        with trio.move_on_after(_WITHIN), suppress(trio.BrokenResourceError):
            async with stream:
                await _answer(page, stream)
    finally:
        limiter.release()


async def _answer(page: PrometheusPage, stream: trio.SocketStream) -> None:
    connection = h11.Connection(h11.SERVER)
    try:
        request = await _request(connection, stream)
    except h11.RemoteProtocolError as error:
        _log.debug("a request for metrics makes no sense: %s", error)
        return
    if request is None:
        return
    status, body = 200, b""
    if request.target.partition(b"?")[0] not in (b"/", b"/metrics"):
        status, body = 404, b"there is only /metrics\n"
    elif request.method not in (b"GET", b"HEAD"):
        status, body = 405, b"only GET and HEAD are served\n"
    else:
        body = page.text()
    headers = [
        ("Content-Type", "text/plain; version=0.0.4; charset=utf-8"),
        ("Content-Length", str(len(body))),
        ("Connection", "close"),
    ]
    if status == 405:
        headers.append(("Allow", "GET, HEAD"))
    data = connection.send(h11.Response(status_code=status, headers=headers)) or b""
    if request.method != b"HEAD":
        data += connection.send(h11.Data(data=body)) or b""
    await stream.send_all(data)
    # Wait for its end, lest closing with unread data resets the connection.
    await stream.send_eof()
    while await stream.receive_some(4096):
        pass


async def _request(connection: Any, stream: trio.SocketStream) -> Any:
    """Read the head of a request; None if none comes."""
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(bytes(await stream.receive_some(4096)))
        elif isinstance(event, h11.Request):
            return event
        else:
            return None
