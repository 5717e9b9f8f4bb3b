"""Sockets of multicast DNS (RFC 6762): those that hear questions, and those that ask them.

Questions come to a group's port 5353, which every responder of a machine shares. We ask from a
port of our own: answers to that one cannot end up with another responder.
"""

import logging
import socket
import struct
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Final

import attrs
import trio

from trioserf.errors import AddressError

_log = logging.getLogger("trioserf.agent.mdns")

PORT: Final = 5353
_TTL: Final = 255
"""What RFC 6762, section 11, asks for; no router passes these groups on."""
_SEND_WITHIN: Final = 1.0
"""Seconds to wait for room in a socket's buffer."""


@attrs.frozen(slots=True)
class Group:
    """A multicast group: an address family, its name, and the group's address."""

    family: socket.AddressFamily
    name: str
    host: str

    @property
    def at(self) -> tuple[str, int]:
        """Where everyone hears."""
        return self.host, PORT


IPV4: Final = Group(socket.AF_INET, "IPv4", "224.0.0.251")
IPV6: Final = Group(socket.AF_INET6, "IPv6", "ff02::fb")


@attrs.frozen(slots=True, eq=False)
class MulticastSockets:
    """The two sockets of one group.

    Attributes:
        group: the group.
        answering: hears questions; answers go out from it.
        asking: asks, and hears the answers.
    """

    group: Group
    answering: trio.socket.SocketType
    asking: trio.socket.SocketType

    async def send(self, data: bytes) -> None:
        """Answer everyone (raises OSError)."""
        await self.send_to(data, self.group.at)

    async def send_to(self, data: bytes, to: tuple[object, ...]) -> None:
        """Answer whoever asked (raises OSError)."""
        with trio.move_on_after(_SEND_WITHIN):
            await self.answering.sendto(data, to)

    async def ask(self, data: bytes) -> None:
        """Ask everyone (raises OSError)."""
        with trio.move_on_after(_SEND_WITHIN):
            await self.asking.sendto(data, self.group.at)


@contextmanager
def open_speakers(
    *, interface: str = "", ipv4: bool = True, ipv6: bool = True
) -> Iterator[Sequence[MulticastSockets]]:
    """Take part in multicast DNS while the block lasts.

    Args:
        interface: the network interface; the system chooses if there is none.
        ipv4: whether to use IPv4.
        ipv6: whether to use IPv6.

    Raises:
        AddressError: no such interface, or no group could be joined at all.
    """
    index = _index(interface) if interface else 0
    groups = [group for group, wanted in ((IPV4, ipv4), (IPV6, ipv6)) if wanted]
    with ExitStack() as stack:
        speakers = []
        faults = []
        for group in groups:
            try:
                speakers.append(_speaker(group, index, stack))
            except OSError as error:
                faults.append(f"{group.name}: {error.strerror or error}")
        if not speakers:
            why = "; ".join(faults) or "both IPv4 and IPv6 are disabled"
            raise AddressError(f"no multicast listener could be started: {why}")
        for fault in faults:
            _log.info("no multicast over %s", fault)
        yield speakers


def _index(interface: str) -> int:
    try:
        return socket.if_nametoindex(interface)
    except OSError:
        raise AddressError(f"no such network interface: {interface!r}") from None


def _speaker(group: Group, index: int, stack: ExitStack) -> MulticastSockets:
    with ExitStack() as fresh:
        answering = fresh.enter_context(_open(group, index))
        _join(answering, group, index)
        answering.bind(_bound_to(group, index))
        asking = fresh.enter_context(_open(group, index))
        asking.bind(("", 0))
        stack.push(fresh.pop_all())
    hearing = trio.socket.from_stdlib_socket(answering)
    return MulticastSockets(group, hearing, trio.socket.from_stdlib_socket(asking))


def _bound_to(group: Group, index: int) -> tuple[object, ...]:
    """Give what to bind to: the group, which leaves the port's other users alone.

    An IPv6 group cannot be bound to without naming an interface.
    """
    if group is IPV4:
        return group.at
    return (group.host, PORT, 0, index) if index else ("::", PORT)


def _open(group: Group, index: int) -> socket.socket:
    with ExitStack() as unfinished:
        one = unfinished.enter_context(socket.socket(group.family, socket.SOCK_DGRAM))
        one.setblocking(False)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if sys.platform != "linux" and hasattr(socket, "SO_REUSEPORT"):
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if group is IPV4:
            one.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, _TTL)
            if index:
                request = _request4("0.0.0.0", index)  # noqa: S104 - the index names it
                one.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, request)
        else:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, _TTL)
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
        unfinished.pop_all()
    return one


def _join(one: socket.socket, group: Group, index: int) -> None:
    if group is IPV4:
        request = _request4(group.host, index)
        one.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)
    else:
        request = socket.inet_pton(socket.AF_INET6, group.host) + struct.pack("@I", index)
        one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, request)


def _request4(host: str, index: int) -> bytes:
    """Make a `struct ip_mreqn`: the group, no address, the interface."""
    return socket.inet_aton(host) + bytes(4) + struct.pack("@i", index)
