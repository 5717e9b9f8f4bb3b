"""Names to addresses."""

import socket
from typing import Protocol

import trio

from trioserf.errors import AddressError


class Resolver(Protocol):
    """Finds the addresses of names."""

    async def addresses(self, host: str) -> list[str]:
        """Give every IPv4 and IPv6 address of a name, at least one.

        Raises:
            AddressError: the name has none.
        """
        ...


class SystemResolver:
    """The resolver of the operating system."""

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
