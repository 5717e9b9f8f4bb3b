"""The real transport: UDP and TCP on one port."""

import errno
import logging
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from typing import Final

import trio
from trio.abc import HalfCloseableStream

from trioserf.address import format_host_port
from trioserf.errors import AddressError
from trioserf.net.transport import (
    ANY_HOST,
    BATCH,
    Datagram,
    SocketAddress,
    ignore_refusal,
    take_none,
)
from trioserf.operating_system import sockets as system

_log = logging.getLogger("trioserf.memberlist")

_RECEIVE_BUFFER: Final = 2 * 1024 * 1024
_MAX_DATAGRAM: Final = 65_536
_BACKLOG: Final = 128
_ATTEMPTS: Final = 50
"""Ports to try until one is free for both UDP and TCP."""
ACCEPT_RETRY_DELAY: Final = 0.1
"""Seconds before the next accept when no more files can be opened."""
_MAPPED: Final = "::ffff:"
_MAX_ERRORS: Final = 256
"""ICMP errors that are read at once."""


@asynccontextmanager
async def open_sockets(host: str, port: int) -> AsyncIterator["SocketTransport"]:
    """Bind UDP and TCP to one address while the block lasts.

    Args:
        host: an IP address; `::` includes IPv4.
        port: 0 for any port that is free for both.

    Raises:
        AddressError: the address is in use, or not one of this machine.
    """
    transport = SocketTransport(*_bind(host, port))
    try:
        yield transport
    finally:
        await transport.aclose()


def _bind(host: str, port: int) -> tuple[socket.socket, socket.socket]:
    attempts = 1 if port else _ATTEMPTS
    while True:
        attempts -= 1
        try:
            return _bind_both(host, port)
        except OSError as error:
            if attempts and error.errno == errno.EADDRINUSE:
                continue
            where = format_host_port(host, port)
            raise AddressError(f"cannot listen on {where}: {_reason(error, port)}") from error


def _reason(error: OSError, port: int) -> str:
    """Return why a port cannot be bound, and the option that mends it."""
    reason = error.strerror or str(error)
    match error.errno:
        case errno.EADDRINUSE if port:
            return (
                f"TCP or UDP port {port} is in use; another agent may be running there"
                " (--bind=HOST:PORT chooses another)"
            )
        case errno.EADDRNOTAVAIL:
            return f"{reason}; expected an address of this machine (--bind=ADDR)"
        case errno.EACCES:
            return f"{reason} (--bind=HOST:PORT chooses another port)"
    return reason


def _bind_both(host: str, port: int) -> tuple[socket.socket, socket.socket]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with ExitStack() as unfinished:
        tcp = unfinished.enter_context(socket.socket(family, socket.SOCK_STREAM))
        udp = unfinished.enter_context(socket.socket(family, socket.SOCK_DGRAM))
        for one in (tcp, udp):
            one.setblocking(False)
            system.claim_port(one)
            if family == socket.AF_INET6:
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, host != "::")
        tcp.bind((host, port))
        udp.bind((host, tcp.getsockname()[1]))
        tcp.listen(_BACKLOG)
        _enlarge(udp)
        system.allow_large_datagrams(udp)
        unfinished.pop_all()
    return tcp, udp


def _enlarge(udp: socket.socket) -> None:
    """Request a large receive buffer, and smaller ones until the kernel grants one."""
    size = _RECEIVE_BUFFER
    while size >= _MAX_DATAGRAM:
        try:
            udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
        except OSError:
            size //= 2
        else:
            return


def _report_icmp(udp: socket.socket) -> bool:
    """Request the address of each packet that an ICMP error is about; return whether it worked."""
    try:
        return system.request_refusals(udp)
    except OSError as error:
        _log.debug("no reports of refused packets: %s", error.strerror)
        return False


class SocketTransport:
    """UDP and TCP on one port (see `Transport`).

    Args:
        tcp: bound and listening, non-blocking.
        udp: bound to the same address, non-blocking.

    Attributes:
        errors: counts of socket errors by name, such as `ECONNREFUSED`.
        on_refused: see `Transport`.
        on_datagrams: see `Transport`; not used, because a task waits for the socket anyway.
    """

    def __init__(self, tcp: socket.socket, udp: socket.socket) -> None:
        self.errors: Counter[str] = Counter()
        self.on_refused: Callable[[SocketAddress], None] = ignore_refusal
        self.on_datagrams: Callable[[list[Datagram]], bool] = take_none
        self._udp = udp
        self._tcp = trio.socket.from_stdlib_socket(tcp)
        host, port = udp.getsockname()[:2]
        self._address: SocketAddress = (host, port)
        self._is_v6 = udp.family == socket.AF_INET6
        self._is_dual = host == "::"
        self._closed = False
        self._reports_icmp = _report_icmp(udp)

    @property
    def address(self) -> SocketAddress:
        """The address that it is bound to."""
        return self._address

    def send_packet(self, data: bytes, to: SocketAddress) -> bool:
        """Send a datagram without waiting; return False if it was dropped locally."""
        if self._is_v6:
            to = self._mapped(to)
        try:
            self._udp.sendto(data, to)
        except OSError as error:
            self._count(error)
            return self._reports_icmp and self._send_again(data, to)
        return True

    def _send_again(self, data: bytes, to: SocketAddress) -> bool:
        """Send once more: the first error may have been about an earlier packet."""
        try:
            self._udp.sendto(data, to)
        except OSError:
            return False
        return True

    async def receive_packets(self) -> list[Datagram]:
        """Wait for datagrams and return 1 to 64 of them.

        Raises:
            trio.ClosedResourceError: the transport was closed.
        """
        while True:
            if self._closed:
                await trio.lowlevel.checkpoint()
                raise trio.ClosedResourceError
            await trio.lowlevel.wait_readable(self._udp)
            packets = self._drain()
            if packets:
                return packets

    def _drain(self) -> list[Datagram]:
        packets: list[Datagram] = []
        receive = self._udp.recvfrom
        had_error = False
        while len(packets) < BATCH:
            try:
                data, source = receive(_MAX_DATAGRAM)
            except BlockingIOError:
                break
            except OSError as error:  # an ICMP error for an earlier datagram
                self._count(error)
                if self._closed:
                    raise trio.ClosedResourceError from error
                had_error = True
                break
            packets.append((data, self._unmapped(source) if self._is_v6 else source))
        if self._reports_icmp and (had_error or not packets):
            self._read_icmp_errors()
        return packets

    def _read_icmp_errors(self) -> None:
        """Empty the error queue, which otherwise wakes up `receive_packets` for ever."""
        for _ in range(_MAX_ERRORS):
            try:
                refused = system.read_refusal(self._udp)
            except BlockingIOError:
                return
            except OSError as error:
                self._count(error)
                return
            if refused:
                self.on_refused(self._unmapped(refused))

    async def dial(self, to: SocketAddress) -> HalfCloseableStream:
        """Open a stream, from our own address unless bound to all addresses.

        Raises:
            OSError: the peer does not listen, or is unreachable.
        """
        family = socket.AF_INET6 if ":" in to[0] else socket.AF_INET
        with ExitStack() as unfinished:
            tcp = unfinished.enter_context(trio.socket.socket(family, socket.SOCK_STREAM))
            host = self._address[0]
            if host not in ANY_HOST and (":" in host) == (":" in to[0]):
                system.share_source_ports(tcp)
                await tcp.bind((host, 0))
            await tcp.connect(to)
            unfinished.pop_all()
        return trio.SocketStream(tcp)

    async def accept(self) -> tuple[HalfCloseableStream, SocketAddress]:
        """Wait for an incoming stream; return it with its peer's address."""
        is_logged = False
        while True:
            try:
                tcp, source = await self._tcp.accept()
            except OSError as error:
                self._count(error)
                if error.errno in system.OUT_OF_FILES:
                    if not is_logged:
                        _log.warning("cannot accept streams: %s", error.strerror)
                        is_logged = True
                    await trio.sleep(ACCEPT_RETRY_DELAY)
                continue
            return trio.SocketStream(tcp), self._unmapped(source)

    async def aclose(self) -> None:
        """Close the sockets; calling it again does nothing."""
        if not self._closed:
            self._closed = True
            self._tcp.close()
            trio.lowlevel.notify_closing(self._udp)
            self._udp.close()
        await trio.lowlevel.checkpoint()

    def _mapped(self, to: SocketAddress) -> SocketAddress:
        return (_MAPPED + to[0], to[1]) if self._is_dual and ":" not in to[0] else to

    def _unmapped(self, source: tuple[str, int] | tuple[str, int, int, int]) -> SocketAddress:
        host = source[0]
        if self._is_dual and host.startswith(_MAPPED) and "." in host:
            host = host[len(_MAPPED) :]
        return host, source[1]

    def _count(self, error: OSError) -> None:
        self.errors[errno.errorcode.get(error.errno or 0, "unknown")] += 1
