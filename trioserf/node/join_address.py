"""Addresses that users type to join a cluster (see swim/README.md, § Joining)."""

import ipaddress
import re
from typing import NamedTuple

from trioserf.address import parse_host_port
from trioserf.errors import AddressError

_SERVICE = re.compile(r"_[^._]+\._[^._]+\.[^.].*")


class JoinTarget(NamedTuple):
    """A member to join: an IP address or DNS name, a port, and perhaps the member's name."""

    name: str | None
    host: str
    port: int

    @property
    def is_service(self) -> bool:
        """Whether the host is a name of SRV records, `_service._proto.domain`."""
        return _SERVICE.fullmatch(self.host) is not None


def parse_join_address(text: str, default_port: int) -> JoinTarget:
    """Parse `host`, `host:port`, `[v6]`, `[v6]:port` or bare v6, all with or without `name/`.

    A bare IPv6 address has no port: `::1:7946` is a host. A host of the form
    `_service._proto.domain` is a service, whose SRV records have the names and ports.

    Args:
        text: the user's input.
        default_port: the port of an address without one, 1 to 65535.

    Raises:
        AddressError: the host is missing or malformed, the name is empty, the port is not valid,
            or a service has a name or a port.
    """
    name, slash, rest = text.partition("/")
    if not slash:
        name, rest = "", text
    elif not name:
        raise AddressError(f"join address {text!r}: the node name before the slash is empty")
    try:
        host, port = parse_host_port(rest, least_port=1)
    except ValueError as error:
        raise AddressError(f"join address {text!r}: {error}") from None
    if (
        not host
        or "/" in host
        or any(map(str.isspace, host))
        or (":" in host and not _is_v6(host))
    ):
        raise AddressError(f"join address {text!r}: expected a host name or an IP address")
    target = JoinTarget(name or None, host, default_port if port is None else port)
    if target.is_service and (name or port is not None):
        raise AddressError(
            f"join address {text!r}: expected a service without a name or port, its SRV records"
            " have them"
        )
    return target


def _is_v6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True
