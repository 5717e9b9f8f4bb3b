"""Serve all metrics since the start to Prometheus, in its text format.

prometheus_client formats the page, h11 parses the requests: `pip install 'trioserf[prometheus]'`.
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

from trioserf.agent.listeners import PatientListener
from trioserf.agent.metrics import Report
from trioserf.agent.statsd import split_address
from trioserf.counters import AggregateSample
from trioserf.errors import AddressError

_log = logging.getLogger("trioserf.agent")

_MAX_REQUESTS: Final = 16
"""Requests at a time; further connections are closed."""
_REQUEST_TIMEOUT: Final = 10.0
"""Seconds that a request may take."""
_MAX_NAMES: Final = 1024
"""Counters, and samples, that are kept apart; other members choose names of events."""
_LABELLED: Final = {
    "serf.events.": ("serf_events_by_name", "name"),
    "serf.queries.": ("serf_queries_by_name", "name"),
    "agent.invoke.": ("agent_invoke_milliseconds", "script"),
    "trioserf.dropped.": ("trioserf_dropped", "kind"),
}
"""Families with a label, which is the rest of the name."""
_PREFIX: Final = "serf-agent."


class PrometheusPage:
    """A sink that sums up all reports (see `Sink`)."""

    def __init__(self) -> None:
        self._gauges: dict[str, float] = {}
        self._counters: dict[tuple[str, str, str], AggregateSample] = {}
        self._samples: dict[tuple[str, str, str], AggregateSample] = {}

    def record(self, report: Report) -> None:
        """Add a report."""
        self._gauges = {_family(name)[0]: value for name, value in report.gauges.items()}
        for name, count in report.counters.items():
            self._sample(self._counters, name).merge(count)
        for name, values in report.samples.items():
            count = self._sample(self._samples, name)
            for value in values:
                count.add(value)

    def _sample(
        self, samples: dict[tuple[str, str, str], AggregateSample], name: str
    ) -> AggregateSample:
        key = _family(name.removeprefix(_PREFIX))
        if key not in samples and len(samples) >= _MAX_NAMES:
            key = (key[0], key[1], "others" if key[1] else "")
        return samples.setdefault(key, AggregateSample())

    def collect(self) -> Iterator[Any]:
        """Yield the families of metrics; called by prometheus_client."""
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
        """Return the page."""
        registry = CollectorRegistry()
        registry.register(self)
        return bytes(generate_latest(registry))


def _family(name: str) -> tuple[str, str, str]:
    """Return the family of a name, and its label and value, empty if there are none.

    Bytes of a value that are not UTF-8 become question marks; the page must be UTF-8.
    """
    for prefix, (family, label) in _LABELLED.items():
        if name.startswith(prefix):
            value = name[len(prefix) :].encode("utf-8", "replace").decode()
            return f"trioserf_{family.removeprefix('trioserf_')}", label, value
    return "trioserf_" + re.sub("[^a-zA-Z0-9_]", "_", name), "", ""


@asynccontextmanager
async def open_page(address: str) -> AsyncIterator[PrometheusPage]:
    """Serve `http://ADDRESS/metrics` while the block runs.

    Raises:
        ConfigError: not a valid address.
        AddressError: the address cannot be bound.
    """
    host, port = split_address(address, "metrics_addr")
    page = PrometheusPage()
    limiter = trio.Semaphore(_MAX_REQUESTS)
    try:
        listeners = await trio.open_tcp_listeners(port, host=host)
    except OSError as error:
        reason = error.strerror or error
        raise AddressError(f"metrics_addr: cannot listen on {address}: {reason}") from error
    async with trio.open_nursery() as nursery:
        patient = [PatientListener(one, _log) for one in listeners]
        nursery.start_soon(trio.serve_listeners, partial(_serve, page, limiter), patient)
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
        with trio.move_on_after(_REQUEST_TIMEOUT), suppress(trio.BrokenResourceError):
            async with stream:
                await _answer(page, stream)
    finally:
        limiter.release()


async def _answer(page: PrometheusPage, stream: trio.SocketStream) -> None:
    connection = h11.Connection(h11.SERVER)
    try:
        request = await _request(connection, stream)
    except h11.RemoteProtocolError as error:
        _log.debug("request for metrics is not valid: %s", error)
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
    # Wait for the end of the request, so that closing with unread data does not reset it.
    await stream.send_eof()
    while await stream.receive_some(4096):
        pass


async def _request(connection: Any, stream: trio.SocketStream) -> Any:
    """Receive the head of a request; return None if the stream ends before."""
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(bytes(await stream.receive_some(4096)))
        elif isinstance(event, h11.Request):
            return event
        else:
            return None
