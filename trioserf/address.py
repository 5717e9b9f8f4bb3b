"""Addresses: 4 or 16 raw bytes in messages, text and a port everywhere else."""

from functools import lru_cache
from typing import NamedTuple

_V4_MAPPED = b"\0" * 10 + b"\xff\xff"


class Address(NamedTuple):
    """An IP address as text (no brackets, no host name) and a port, 0 to 65535."""

    host: str
    port: int

    def __str__(self) -> str:
        return format_host_port(self.host, self.port)


def format_host_port(host: str, port: int) -> str:
    """Format a host and a port as `host:port`, or `[v6]:port`."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse_host_port(text: str, *, least_port: int = 0) -> tuple[str, int | None]:
    """Parse `host`, `host:port`, `:port`, `[v6]`, `[v6]:port` or a bare IPv6 address.

    Args:
        text: the input; with two or more colons and no brackets it is a host alone, so
            `::1:7946` has no port.
        least_port: the lowest valid port, 0 or 1.

    Returns:
        The host, without brackets and not checked further, and the port, None if there is none.

    Raises:
        ValueError: unbalanced brackets, or a port that is not a number from `least_port` to
            65535; its text says what was expected, without `text`.
    """
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or ":" not in host or (rest and not rest.startswith(":")):
            raise ValueError("expected [IPv6 address]:port")
        colon, port = rest[:1], rest[1:]
    elif text.count(":") > 1:
        return text, None
    else:
        host, colon, port = text.partition(":")
    if not colon:
        return host, None
    if not (port.isascii() and port.isdigit() and least_port <= int(port) <= 65_535):
        raise ValueError(f"expected a port from {least_port} to 65535, not {port!r}")
    return host, int(port)


def normalise(addr: bytes) -> bytes:
    """Return the 4-byte form of a v4-mapped 16-byte address, and any other unchanged."""
    return addr[12:] if len(addr) == 16 and addr.startswith(_V4_MAPPED) else addr


@lru_cache(maxsize=65536)
def host_of(addr: bytes) -> str:
    """Format 4 or 16 raw bytes as text.

    Raises:
        ValueError: any other length.
    """
    short = normalise(addr)
    if len(short) == 4:
        return ".".join(map(str, short))  # several times faster than ipaddress
    import ipaddress  # on use: clients of the control socket need the parser only

    return str(ipaddress.ip_address(short))


@lru_cache(maxsize=16_384)
def address_of(addr: bytes, port: int) -> Address:
    """Return the address of raw bytes and a port (raises as `host_of`)."""
    return Address(host_of(addr), port)


@lru_cache(maxsize=65536)
def packed(host: str) -> bytes:
    """Return the raw bytes of an IP address in text, without its zone (`%eth0`).

    Raises:
        ValueError: not an IP address.
    """
    import ipaddress

    return normalise(ipaddress.ip_address(host.partition("%")[0]).packed)
