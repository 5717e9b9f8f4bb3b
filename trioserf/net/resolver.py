"""Look up names and services (see swim/README.md, § Joining)."""

import ipaddress
import random
import socket
from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

import trio

from trioserf.address import parse_host_port
from trioserf.errors import AddressError

_DNS_PORT: Final = 53

Server = tuple[str, int]
"""IP address and port of a name server."""


class Service(NamedTuple):
    """One SRV record (RFC 2782).

    Attributes:
        host: a name.
        port: 1 to 65535.
        priority: the lowest is tried first, the others if it fails.
        weight: share of the tries within a priority.
        addresses: addresses of the host from the same response; if empty, look the host up.
    """

    host: str
    port: int
    priority: int = 0
    weight: int = 0
    addresses: tuple[str, ...] = ()


class Resolver(Protocol):
    """Looks up names and services, without a cache. The caller sets the deadline."""

    async def addresses(self, host: str) -> list[str]:
        """Return every IPv4 and IPv6 address of a name, at least one.

        Raises:
            AddressError: the name has no address.
        """
        ...

    async def services(self, name: str) -> list[Service]:
        """Return the records of a service (`_service._proto.domain`), at least one, unordered.

        Raises:
            AddressError: the service has no record.
        """
        ...


class SystemResolver:
    """The resolver of the operating system.

    Args:
        dns_servers: `address` or `address:port` of the servers that look up services and their
            hosts; default: the system's, from `/etc/resolv.conf`.

    Raises:
        AddressError: a server is not of this form.
    """

    def __init__(self, dns_servers: Sequence[str] = ()) -> None:
        self._dns_servers = tuple(map(_server, dns_servers))

    async def addresses(self, host: str) -> list[str]:
        """Return every IPv4 and IPv6 address of a name, at least one.

        Raises:
            AddressError: the name has no address.
        """
        try:
            found = await trio.socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise AddressError(f"unknown host {host!r}: {why}") from error
        return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))

    async def services(self, name: str) -> list[Service]:
        """Return the records of a service, at least one.

        Raises:
            AddressError: the service has no record, or dnspython is not installed.
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
    try:
        host, port = parse_host_port(text, least_port=1)
    except ValueError as error:
        raise AddressError(f"dns_servers: {text!r}: {error}") from None
    try:
        ipaddress.ip_address(host)
    except ValueError:
        raise AddressError(
            f"dns_servers: {text!r}: expected an IP address, with or without a port"
        ) from None
    return host, _DNS_PORT if port is None else port


def by_priority(services: Sequence[Service], rng: random.Random) -> list[list[Service]]:
    """Group services by priority, each group in random order by weight (RFC 2782, Usage rules).

    Args:
        services: in any order.
        rng: randomness.
    """
    groups: dict[int, list[Service]] = {}
    for service in services:
        groups.setdefault(service.priority, []).append(service)
    return [_shuffled(groups[priority], rng) for priority in sorted(groups)]


def _shuffled(services: list[Service], rng: random.Random) -> list[Service]:
    # Services of weight 0 come first in the sum, so that they have a very small chance.
    remaining = sorted(services, key=lambda service: service.weight > 0)
    ordered = []
    while remaining:
        mark = rng.randint(0, sum(service.weight for service in remaining))
        for service in remaining:
            mark -= service.weight
            if mark <= 0:
                break
        remaining.remove(service)
        ordered.append(service)
    return ordered
