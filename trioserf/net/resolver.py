"""Look up names and services (see swim/README.md, § Joining)."""

import ipaddress
import socket
from collections.abc import Sequence
from typing import Final, Protocol

import trio

from trioserf.address import Address, parse_host_port
from trioserf.errors import AddressError
from trioserf.net.services import Service

_DNS_PORT: Final = 53


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
        self._dns_servers = tuple(map(parse_server, dns_servers))

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
                " pip install '.[srv]' in trioserf's checkout"
            ) from error
        return await find_services(name, self._dns_servers)


def parse_server(text: str) -> Address:
    """Parse the address of a name server, with or without a port (raises AddressError)."""
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
    return Address(host, _DNS_PORT if port is None else port)
