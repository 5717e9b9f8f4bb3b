"""The names by which requests may call this server.

A web page can make a browser send requests to any address, and by DNS rebinding read the
responses. Its requests name the page's own host in `Host`, or its origin in `Origin`.
"""

import ipaddress
import socket
from collections.abc import Iterable
from typing import Final

from trioserf.address import parse_host_port

_LOOPBACK_NAME: Final = "localhost"


def is_loopback(host: str) -> bool:
    """Return whether a host is a name or an address of the loopback interface."""
    host = host.lower()
    if host == _LOOPBACK_NAME:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class HostNames:
    """Decides on hosts that requests name.

    Accepted are loopback names and addresses, the address that the connection has come to, the
    name of this machine, and the configured ones.

    Args:
        hosts: the configured ones.
    """

    def __init__(self, hosts: Iterable[str]) -> None:
        names = {*map(_normal, hosts), socket.gethostname().lower()}
        self._hosts = names - {"0.0.0.0", "::"}  # noqa: S104 - they name no host

    def accepts_host(self, text: str, own: str) -> bool:
        """Return whether a `Host` header is accepted.

        Args:
            text: the header, with or without a port.
            own: the address of our side of the connection.
        """
        try:
            host, _ = parse_host_port(text)
        except ValueError:
            return False
        host = _normal(host)
        return host in self._hosts or host == _normal(own) or is_loopback(host)

    def accepts_origin(self, text: str, own: str) -> bool:
        """Return whether an `Origin` header is accepted; `null` is not."""
        scheme, separator, host = text.partition("://")
        return bool(separator) and scheme in ("http", "https") and self.accepts_host(host, own)


def _normal(host: str) -> str:
    """Return a name in lower case without a final dot, or an IP address in its usual form."""
    host = host.strip("[]").lower().removesuffix(".")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)
