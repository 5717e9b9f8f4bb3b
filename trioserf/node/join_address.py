"""The addresses that users type to join a cluster (spec: joining)."""

import ipaddress
import re
from typing import NamedTuple

from trioserf.errors import AddressError

_SERVICE = re.compile(r"_[^._]+\._[^._]+\.[^.].*")


class JoinTarget(NamedTuple):
    """Whom to join: an IP address or DNS name and a port, and perhaps the member's own name."""

    name: str | None
    host: str
    port: int

    @property
    def is_service(self) -> bool:
        """Whether the host is a name of SRV records, `_service._proto.domain`."""
        return _SERVICE.fullmatch(self.host) is not None


def parse_join_address(text: str, default_port: int) -> JoinTarget:
    """Read `host`, `host:port`, `[v6]`, `[v6]:port` or a bare v6 address; `name/` may precede it.

    An address with colons that is an IPv6 address as it stands has no port: `::1:7946` is a host.
    A host of the form `_service._proto.domain` is a service; its records tell names and ports.

    Args:
        text: what the user typed.
        default_port: the port where none is given, 1 to 65535.

    Raises:
        AddressError: no host, an empty name, no port where there should be one, or one where
            records tell it.
    """
    name, slash, rest = text.partition("/")
    if not slash:
        name, rest = "", text
    elif not name:
        raise AddressError(f"join address {text!r}: the node name before the slash is empty")
    host, port = _split_port(rest)
    if not host or "/" in host or any(map(str.isspace, host)):
        raise AddressError(f"join address {text!r}: expected a host name or an IP address")
    target = JoinTarget(name or None, host, default_port if port is None else _number(text, port))
    if target.is_service and (name or port is not None):
        raise AddressError(
            f"join address {text!r}: expected a service without a name or port, its SRV records"
            " tell them"
        )
    return target


def _split_port(text: str) -> tuple[str, str | None]:
    if text.startswith("["):
        host, bracket, after = text[1:].partition("]")
        if bracket and _is_v6(host) and (not after or after.startswith(":")):
            return host, after[1:] if after else None
        return "", None
    if _is_v6(text):
        return text, None
    host, colon, port = text.rpartition(":")
    if not colon:
        return text, None
    # A second colon means brackets were forgotten around something that is no IPv6 address.
    return ("", None) if ":" in host else (host, port)


def _is_v6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def _number(text: str, port: str) -> int:
    if port.isascii() and port.isdigit() and 1 <= int(port) <= 65535:
        return int(port)
    raise AddressError(f"join address {text!r}: expected a port from 1 to 65535, not {port!r}")
