"""Send metrics to statsd in packets, or to statsite on a stream, in the format of both.

Reports wait in a short queue for the sending task. Reports that cannot be delivered are dropped;
old metrics are of no use.
"""

import logging
import socket
from collections.abc import Awaitable, Callable, Iterator
from typing import Final

import trio

from trioserf.address import parse_host_port
from trioserf.agent.metrics import Report
from trioserf.errors import ConfigError, reason_of

_log = logging.getLogger("trioserf.agent")

PACKET: Final = 1400
"""Bytes of a packet that networks do not fragment."""
_MAX_WAITING: Final = 16
"""Reports that wait to be sent."""
_RETRY_DELAY: Final = 5.0
"""Seconds between a failure and the next attempt."""
_TIMEOUT: Final = 5.0
"""Seconds that connecting or sending may take."""

_REPLACED: Final = {ord(char): "_" for char in ": \n\r|"}
"""Characters that would end a name or a line."""

Address = tuple[str, int]


def split_address(text: str, key: str) -> Address:
    """Parse `host:port`.

    Raises:
        ConfigError: not a host and a port; the text names the key.
    """
    try:
        host, port = parse_host_port(text, least_port=1)
    except ValueError:
        host, port = "", None
    if not host or port is None:
        raise ConfigError(f"{key}: {text!r}: expected host:port, such as 127.0.0.1:8125")
    return host, port


def lines(report: Report) -> Iterator[str]:
    """Format a report, one line per value."""
    for name, value in report.gauges.items():
        yield f"{_clean(report.gauge_prefix + name)}:{value:f}|g\n"
    for name, count in report.counters.items():
        yield f"{_clean(name)}:{count.total:f}|c\n"
    for name, values in report.samples.items():
        for value in values:
            yield f"{_clean(name)}:{value:f}|ms\n"


def packets(report: Report) -> Iterator[bytes]:
    """Encode a report in packets of whole lines and at most 1,400 bytes."""
    packet = b""
    for line in lines(report):
        data = line.encode("utf-8", "replace")
        if packet and len(packet) + len(data) > PACKET:
            yield packet
            packet = b""
        packet += data
    if packet:
        yield packet


def _clean(name: str) -> str:
    return name.translate(_REPLACED)


class MetricsSender:
    """A sink that sends reports to a server.

    Args:
        kind: `statsd` for packets, `statsite` for a stream.
        to: host and port.
    """

    def __init__(self, kind: str, to: Address) -> None:
        self._kind = kind
        self._to = to
        self._send, self._receive = trio.open_memory_channel[Report](_MAX_WAITING)
        self._is_up = False

    def record(self, report: Report) -> None:
        """Queue a report; drop it if the server is not connected."""
        if self._is_up:
            try:
                self._send.send_nowait(report)
            except trio.WouldBlock:
                _log.debug("metrics were dropped: %s is slow", self._kind)

    async def run(self) -> None:
        """Send until cancelled. After an error, log it and retry after a delay."""
        send_reports = self._send_packets if self._kind == "statsd" else self._send_stream
        logged = ""
        while True:
            self._is_up = True
            try:
                await send_reports()
            except (OSError, trio.BrokenResourceError, trio.TooSlowError) as error:
                reason = "too slow" if isinstance(error, trio.TooSlowError) else reason_of(error)
                if reason != logged:
                    _log.error("Error writing to %s! Err: %s", self._kind, reason)
                logged = reason
            self._is_up = False
            self._discard()
            await trio.sleep(_RETRY_DELAY)

    async def _send_packets(self) -> None:
        with trio.fail_after(_TIMEOUT):
            found = await trio.socket.getaddrinfo(*self._to, type=socket.SOCK_DGRAM)
        family, kind, protocol, _, address = found[0]
        with trio.socket.socket(family, kind, protocol) as udp:
            await udp.connect(address)

            async def send(report: Report) -> None:
                for packet in packets(report):
                    await udp.send(packet)

            await self._deliver(send)

    async def _send_stream(self) -> None:
        with trio.fail_after(_TIMEOUT):
            stream = await trio.open_tcp_stream(*self._to)
        async with stream:

            async def send(report: Report) -> None:
                await stream.send_all("".join(lines(report)).encode("utf-8", "replace"))

            await self._deliver(send)

    async def _deliver(self, send: Callable[[Report], Awaitable[None]]) -> None:
        async for report in self._receive:
            with trio.fail_after(_TIMEOUT):
                await send(report)

    def _discard(self) -> None:
        while True:
            try:
                self._receive.receive_nowait()
            except trio.WouldBlock:
                return
