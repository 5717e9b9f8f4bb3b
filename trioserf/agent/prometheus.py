"""Serve all metrics since the start to Prometheus, in its text format.

prometheus_client formats the page, h11 parses the requests: `pip install '.[prometheus]'`.
"""

import ipaddress
import logging
import re
import socket
from collections.abc import AsyncIterator, Iterator
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import h11
import trio
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, SummaryMetricFamily

from trioserf.address import parse_host_port
from trioserf.agent.listeners import PatientListener
from trioserf.agent.metrics import INSTANCES, Report
from trioserf.agent.statsd import split_address
from trioserf.counters import AggregateSample
from trioserf.errors import AddressError

_log = logging.getLogger("trioserf.agent.metrics")

_MAX_CONNECTIONS: Final = 16
"""Connections at a time; a further one closes the oldest."""
_HEAD_TIMEOUT: Final = 2.0
"""Seconds until a request must be complete."""
_REQUEST_TIMEOUT: Final = 10.0
"""Seconds that a request and its response may take."""
_MAX_NAMES: Final = 1024
"""Counters, and samples, that are kept apart; other members choose names of events."""
_LABELLED: Final = {
    "serf.events.": ("serf_events_by_name", "name"),
    "serf.queries.": ("serf_queries_by_name", "name"),
    "agent.invoke.": ("agent_invoke_milliseconds", "script"),
    "trioserf.dropped.": ("trioserf_dropped", "kind"),
    INSTANCES: ("memberlist_node_instances", "node_state"),
}
"""Families with a label, which is the rest of the name."""
_PREFIX: Final = "serf-agent."
_PROGRAM: Final = re.compile(r"\s*(?:\w+=[\w./:@%+,-]*\s+)*([\w./+-]+)(?=\s|$)", re.ASCII)
"""The program of a simple command, after assignments of variables."""


class PrometheusPage:
    """A sink that sums up all reports (see `Sink`)."""

    def __init__(self) -> None:
        self._gauges: dict[tuple[str, str, str], float] = {}
        self._counters: dict[tuple[str, str, str], AggregateSample] = {}
        self._samples: dict[tuple[str, str, str], AggregateSample] = {}

    def record(self, report: Report) -> None:
        """Add a report."""
        self._gauges = {_family(name): value for name, value in report.gauges.items()}
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
        families: dict[str, Any] = {}
        for kind, metrics in (
            (GaugeMetricFamily, {key: (value,) for key, value in self._gauges.items()}),
            (CounterMetricFamily, {key: (one.total,) for key, one in self._counters.items()}),
            (SummaryMetricFamily, {k: (one.count, one.total) for k, one in self._samples.items()}),
        ):
            for (name, label, which), values in metrics.items():
                if name not in families:
                    families[name] = kind(name, name, labels=[label] if label else [])
                families[name].add_metric([which] if label else [], *values)
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
            if label == "script":
                value = _program(value)
            return f"trioserf_{family.removeprefix('trioserf_')}", label, value
    return "trioserf_" + re.sub("[^a-zA-Z0-9_]", "_", name), "", ""


def _program(script: str) -> str:
    """Return the base name of a script's program: its arguments may be secret."""
    found = _PROGRAM.match(script)
    return found[1].rpartition("/")[2] if found else "script"


@asynccontextmanager
async def open_page(address: str) -> AsyncIterator[PrometheusPage]:
    """Serve `http://ADDRESS/metrics` while the block runs.

    Raises:
        ConfigError: not a valid address.
        AddressError: the address cannot be bound.
    """
    host, port = split_address(address, "metrics_addr")
    page = PrometheusPage()
    server = _Server(page, {"localhost", host.lower(), socket.gethostname().lower()})
    try:
        listeners = await trio.open_tcp_listeners(port, host=host)
    except OSError as error:
        reason = error.strerror or error
        raise AddressError(f"metrics_addr: cannot listen on {address}: {reason}") from error
    async with trio.open_nursery() as nursery:
        patient = [PatientListener(one, _log) for one in listeners]
        nursery.start_soon(trio.serve_listeners, server.serve, patient)
        try:
            yield page
        finally:
            nursery.cancel_scope.cancel()


class _Server:
    """Answers requests, one a connection.

    Args:
        page: the page.
        names: names of this host in requests, besides its addresses.
    """

    def __init__(self, page: PrometheusPage, names: AbstractSet[str]) -> None:
        self._page = page
        self._names = names
        self._open: dict[trio.CancelScope, None] = {}

    async def serve(self, stream: trio.SocketStream) -> None:
        """Answer one request."""
        if len(self._open) >= _MAX_CONNECTIONS:
            oldest = next(iter(self._open))
            del self._open[oldest]
            oldest.cancel()
        with trio.move_on_after(_REQUEST_TIMEOUT) as scope, suppress(trio.BrokenResourceError):
            self._open[scope] = None
            try:
                async with stream:
                    await self._answer(stream)
            finally:
                self._open.pop(scope, None)

    async def _answer(self, stream: trio.SocketStream) -> None:
        connection = h11.Connection(h11.SERVER)
        request = None
        try:
            with trio.move_on_after(_HEAD_TIMEOUT):
                request = await _request(connection, stream)
        except h11.RemoteProtocolError as error:
            _log.debug("request for metrics is not valid: %s", error)
        if request is None:
            return
        status, text = self._error(request)
        body = text.encode() if text else self._page.text()
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

    def _error(self, request: Any) -> tuple[int, str]:
        """Return the status of the response, and the text if it is an error."""
        hosts = [value.decode("latin-1") for name, value in request.headers if name == b"host"]
        if not all(map(self._is_own, hosts)):
            # A web page whose name was made to resolve to this host (DNS rebinding).
            return 421, (
                "use an IP address, localhost, or the name of this host; set metrics_addr to use"
                " another name\n"
            )
        if request.target.partition(b"?")[0] not in (b"/", b"/metrics"):
            return 404, "there is only /metrics\n"
        if request.method not in (b"GET", b"HEAD"):
            return 405, "only GET and HEAD are served\n"
        return 200, ""

    def _is_own(self, text: str) -> bool:
        """Return whether a Host header, with or without a port, names this host."""
        try:
            host, _ = parse_host_port(text)
        except ValueError:
            return False
        if host.lower() in self._names:
            return True
        try:
            ipaddress.ip_address(host)
        except ValueError:
            return False
        return True


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
