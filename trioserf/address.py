"""Addresses: 4 or 16 raw bytes in messages, text and port elsewhere."""

import ipaddress
from functools import lru_cache
from typing import NamedTuple

_V4_MAPPED = b"\0" * 10 + b"\xff\xff"


class Address(NamedTuple):
    """An IP address as text (no brackets, no host name) and a port, 0 to 65535."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def normalise(addr: bytes) -> bytes:
    """Return the 4-byte form of a v4-mapped 16-byte address, and any other unchanged."""
    return addr[12:] if len(addr) == 16 and addr.startswith(_V4_MAPPED) else addr


@lru_cache(maxsize=65536)
def host_of(addr: bytes) -> str:
    """Return 4 or 16 raw bytes as text.

    Raises:
        ValueError: any other length.
    """
    short = normalise(addr)
    if len(short) == 4:
        return ".".join(map(str, short))  # several times faster than ipaddress
    return str(ipaddress.ip_address(short))


def address_of(addr: bytes, port: int) -> Address:
    """Return an address of raw bytes and a port (raises like `host_of`)."""
    return Address(host_of(addr), port)


@lru_cache(maxsize=65536)
def packed(host: str) -> bytes:
    """Return the raw bytes of an IP address in text; a zone (`%eth0`) is dropped.

    Raises:
        ValueError: not an IP address.
    """
    return normalise(ipaddress.ip_address(host.partition("%")[0]).packed)
