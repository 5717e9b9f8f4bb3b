"""Names to addresses, and services to names (spec: joining)."""

import ipaddress
import random
import socket
from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

import trio

from trioserf.errors import AddressError

_DNS_PORT: Final = 53

Server = tuple[str, int]
"""IP address and port of a name server."""


class Service(NamedTuple):
    """Where a service is to be had, as one SRV record says (RFC 2782).

    Attributes:
        host: a name.
        port: 1 to 65535.
        priority: the lowest is tried first; the others if it fails.
        weight: share of the tries within a priority.
        addresses: of the host, where they came along; otherwise it has to be looked up.
    """

    host: str
    port: int
    priority: int = 0
    weight: int = 0
    addresses: tuple[str, ...] = ()


class Resolver(Protocol):
    """Finds addresses and services; asks anew each time. The caller sets the deadline."""

    async def addresses(self, host: str) -> list[str]:
        """Give every IPv4 and IPv6 address of a name, at least one.

        Raises:
            AddressError: the name has none.
        """
        ...

    async def services(self, name: str) -> list[Service]:
        """Give where a service (`_service._proto.domain`) is, at least one place, in no order.

        Raises:
            AddressError: it is nowhere.
        """
        ...


class SystemResolver:
    """The resolver of the operating system.

    Args:
        dns_servers: `address` or `address:port` of the servers that are asked for services and
            their hosts; those of the system, in `/etc/resolv.conf`, if there are none.

    Raises:
        AddressError: something else among the servers.
    """

    def __init__(self, dns_servers: Sequence[str] = ()) -> None:
        self._dns_servers = tuple(map(_server, dns_servers))

    async def addresses(self, host: str) -> list[str]:
        """Give every IPv4 and IPv6 address of a name, at least one.

        Raises:
            AddressError: the name has none.
        """
        try:
            found = await trio.socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise AddressError(f"unknown host {host!r}: {why}") from error
        return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))

    async def services(self, name: str) -> list[Service]:
        """Give where a service is, at least one place.

        Raises:
            AddressError: it is nowhere, or dnspython, which asks for it, is not installed.
        """
        try:
            from trioserf.net.srv import find_services
        except ModuleNotFoundError as error:
            raise AddressError(
                f"service {name!r}: the package dnspython is missing; it comes with"
                " pip install 'trioserf[srv]'"
            ) from error
        return await find_services(name, self._dns_servers)


def _server(text: str) -> Server:
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]") or (":" in host and not host.startswith("[")):
        host, port = text, str(_DNS_PORT)
    host = host.removeprefix("[").removesuffix("]")
    try:
        ipaddress.ip_address(host)
    except ValueError:
        raise AddressError(
            f"dns_servers: {text!r}: expected an IP address, with or without a port"
        ) from None
    if not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65535):
        raise AddressError(f"dns_servers: {text!r}: expected a port from 1 to 65535")
    return host, int(port)


def in_order(services: Sequence[Service], rng: random.Random) -> list[list[Service]]:
    """Group services by priority, each group in a random order by weight (RFC 2782, usage rules).

    Args:
        services: as they came.
        rng: randomness.
    """
    groups: dict[int, list[Service]] = {}
    for service in services:
        groups.setdefault(service.priority, []).append(service)
    return [_shuffled(groups[priority], rng) for priority in sorted(groups)]


def _shuffled(services: list[Service], rng: random.Random) -> list[Service]:
    # Those of weight 0 come first in the sum, so that they have a very small chance.
    left = sorted(services, key=lambda service: service.weight > 0)
    ordered = []
    while left:
        mark = rng.randint(0, sum(service.weight for service in left))
        for service in left:
            mark -= service.weight
            if mark <= 0:
                break
        left.remove(service)
        ordered.append(service)
    return ordered
