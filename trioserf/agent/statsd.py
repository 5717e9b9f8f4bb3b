"""Sending metrics away: to statsd in packets, to statsite on a stream (lines as both know them).

Reports wait in a short queue for a task of their own. What cannot be delivered is dropped, as
metrics of five seconds ago help nobody.
"""

import logging
import socket
from collections.abc import Awaitable, Callable, Iterator
from typing import Final

import trio

from trioserf.agent.metrics import Report
from trioserf.errors import ConfigError

_log = logging.getLogger("trioserf.agent")

PACKET: Final = 1400
"""Bytes of a packet that no network has to cut."""
_WAITING: Final = 16
"""Reports that wait to be sent."""
_PAUSE: Final = 5.0
"""Seconds until the next attempt after one has failed."""
_WITHIN: Final = 5.0
"""Seconds that connecting or sending may take."""

_CLEAN: Final = {ord(bad): "_" for bad in ": \n\r|"}
"""What would end a name, or its line."""

Address = tuple[str, int]


def split_address(text: str, key: str) -> Address:
    """Part `host:port`.

    Raises:
        ConfigError: it is something else; the text names the key.
    """
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (host and colon and port.isascii() and port.isdigit() and 0 < int(port) <= 65_535):
        raise ConfigError(f"{key}: {text!r}: expected host:port, such as 127.0.0.1:8125")
    return host, int(port)


def lines(report: Report) -> Iterator[str]:
    """Spell a report, a line for each value."""
    for name, value in report.gauges.items():
        yield f"{_clean(report.gauge_prefix + name)}:{value:f}|g\n"
    for name, count in report.counters.items():
        yield f"{_clean(name)}:{count.total:f}|c\n"
    for name, values in report.samples.items():
        for value in values:
            yield f"{_clean(name)}:{value:f}|ms\n"


def packets(report: Report) -> Iterator[bytes]:
    """Spell a report in pieces of at most 1,400 bytes, each of whole lines."""
    piece = b""
    for line in lines(report):
        data = line.encode("utf-8", "replace")
        if piece and len(piece) + len(data) > PACKET:
            yield piece
            piece = b""
        piece += data
    if piece:
        yield piece


def _clean(name: str) -> str:
    return name.translate(_CLEAN)


class MetricsSender:
    """A sink that sends.

    Args:
        kind: `statsd` for packets, `statsite` for a stream.
        to: host and port.
    """

    def __init__(self, kind: str, to: Address) -> None:
        self._kind = kind
        self._to = to
        self._send, self._receive = trio.open_memory_channel[Report](_WAITING)
        self._is_up = False

    def record(self, report: Report) -> None:
        """Queue a report; drop it while nothing can be sent."""
        if self._is_up:
            try:
                self._send.send_nowait(report)
            except trio.WouldBlock:
                _log.debug("metrics were dropped: %s is slow", self._kind)

    async def run(self) -> None:
        """Send until cancelled. Faults are logged, and tried again after a pause."""
        sending = self._by_packets if self._kind == "statsd" else self._by_stream
        said = ""
        while True:
            self._is_up = True
            try:
                await sending()
            except (OSError, trio.BrokenResourceError, trio.TooSlowError) as error:
                why = "too slow" if isinstance(error, trio.TooSlowError) else str(error)
                if why != said:
                    _log.error("Error writing to %s! Err: %s", self._kind, why)
                said = why
            self._is_up = False
            self._discard()
            await trio.sleep(_PAUSE)

    async def _by_packets(self) -> None:
        with trio.fail_after(_WITHIN):
            found = await trio.socket.getaddrinfo(*self._to, type=socket.SOCK_DGRAM)
        family, kind, number, _, at = found[0]
        with trio.socket.socket(family, kind, number) as udp:
            await udp.connect(at)

            async def send(report: Report) -> None:
                for packet in packets(report):
                    await udp.send(packet)

            await self._deliver(send)

    async def _by_stream(self) -> None:
        with trio.fail_after(_WITHIN):
            stream = await trio.open_tcp_stream(*self._to)
        async with stream:

            async def send(report: Report) -> None:
                await stream.send_all("".join(lines(report)).encode("utf-8", "replace"))

            await self._deliver(send)

    async def _deliver(self, send: Callable[[Report], Awaitable[None]]) -> None:
        async for report in self._receive:
            with trio.fail_after(_WITHIN):
                await send(report)

    def _discard(self) -> None:
        while True:
            try:
                self._receive.receive_nowait()
            except trio.WouldBlock:
                return
