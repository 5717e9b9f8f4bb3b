"""Sockets of multicast DNS (RFC 6762): one to answer queries, and one to send them.

Queries arrive at a group's port 5353, which all responders of a machine share. Our own queries use
another port, so that their responses cannot reach another responder instead.
"""

import logging
import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Final

import attrs
import trio

from trioserf.errors import AddressError
from trioserf.operating_system import sockets as system
from trioserf.value_objects import ValueObject

_log = logging.getLogger("trioserf.agent.mdns")

PORT: Final = 5353
_TTL: Final = 255
"""As RFC 6762, section 11, requires; routers do not forward these groups."""
_SEND_TIMEOUT: Final = 1.0
"""Seconds to wait for room in a socket's buffer."""


@attrs.frozen(eq=False, repr=False)
class Group(ValueObject):
    """A multicast group: an address family, its name, and the group's address."""

    family: socket.AddressFamily
    name: str
    host: str

    @property
    def at(self) -> tuple[str, int]:
        """The address of all members of the group."""
        return self.host, PORT


IPV4: Final = Group(socket.AF_INET, "IPv4", "224.0.0.251")
IPV6: Final = Group(socket.AF_INET6, "IPv6", "ff02::fb")


@attrs.frozen(eq=False, repr=False)
class MulticastSockets:
    """The two sockets of one group.

    Attributes:
        group: the group.
        answering: receives queries and sends responses.
        asking: sends queries and receives responses.
    """

    group: Group
    answering: trio.socket.SocketType
    asking: trio.socket.SocketType

    async def send(self, data: bytes) -> None:
        """Send a response to the group (raises OSError)."""
        await self.send_to(data, self.group.at)

    async def send_to(self, data: bytes, to: tuple[object, ...]) -> None:
        """Send a response to one address (raises OSError)."""
        with trio.move_on_after(_SEND_TIMEOUT):
            await self.answering.sendto(data, to)

    async def ask(self, data: bytes) -> None:
        """Send a query to the group (raises OSError)."""
        with trio.move_on_after(_SEND_TIMEOUT):
            await self.asking.sendto(data, self.group.at)


@contextmanager
def open_multicast(
    *, interface: str = "", ipv4: bool = True, ipv6: bool = True
) -> Iterator[Sequence[MulticastSockets]]:
    """Open the sockets of multicast DNS while the block lasts.

    Args:
        interface: the network interface; empty for the system's choice.
        ipv4: whether to use IPv4.
        ipv6: whether to use IPv6.

    Raises:
        AddressError: the interface does not exist, or no group could be joined.
    """
    index = interface_index(interface) if interface else 0
    groups = [group for group, wanted in ((IPV4, ipv4), (IPV6, ipv6)) if wanted]
    with ExitStack() as stack:
        opened = []
        errors = []
        for group in groups:
            try:
                opened.append(_open_group(group, index, stack))
            except OSError as error:
                errors.append(f"{group.name}: {error.strerror or error}")
        if not opened:
            why = "; ".join(errors) or "both IPv4 and IPv6 are disabled"
            raise AddressError(f"no multicast listener could be started: {why}")
        for text in errors:
            _log.info("no multicast over %s", text)
        yield opened


def interface_index(interface: str) -> int:
    """Return the number of a network interface (raises AddressError)."""
    try:
        return socket.if_nametoindex(interface)
    except (OSError, ValueError):
        raise AddressError(f"no such network interface: {interface!r}") from None


def _open_group(group: Group, index: int, stack: ExitStack) -> MulticastSockets:
    with ExitStack() as fresh:
        answering = fresh.enter_context(_open(group, index))
        _join(answering, group, index)
        answering.bind(_bind_address(group, index))
        asking = fresh.enter_context(_open(group, index))
        asking.bind(("", 0))
        stack.push(fresh.pop_all())
    receiving = trio.socket.from_stdlib_socket(answering)
    return MulticastSockets(group, receiving, trio.socket.from_stdlib_socket(asking))


def _bind_address(group: Group, index: int) -> tuple[object, ...]:
    """Return the address to bind: the group's own, so that other traffic of the port is ignored.

    An IPv6 group cannot be bound without an interface, and no group on Windows.
    """
    if not system.binds_to_group():
        return "", PORT
    if group is IPV4:
        return group.at
    return (group.host, PORT, 0, index) if index else ("::", PORT)


def _open(group: Group, index: int) -> socket.socket:
    with ExitStack() as unfinished:
        one = unfinished.enter_context(socket.socket(group.family, socket.SOCK_DGRAM))
        one.setblocking(False)
        system.share_port(one)
        if group is IPV4:
            one.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, _TTL)
            if index:
                any_group = "0.0.0.0"  # noqa: S104 - the index selects the interface
                request = system.multicast_interface(any_group, index, joins=False)
                one.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, request)
        else:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, _TTL)
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
        unfinished.pop_all()
    return one


def _join(one: socket.socket, group: Group, index: int) -> None:
    if group is IPV4:
        request = system.multicast_interface(group.host, index, joins=True)
        one.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)
    else:
        request = socket.inet_pton(socket.AF_INET6, group.host) + struct.pack("@I", index)
        one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, request)
