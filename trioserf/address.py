"""Addresses: 4 or 16 raw bytes on the wire, text and port everywhere else."""

import ipaddress
from functools import lru_cache
from typing import NamedTuple

_V4_MAPPED = b"\0" * 10 + b"\xff\xff"


class Address(NamedTuple):
    """An IP address as text (no brackets, no name) and a port, 0 to 65535."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def normalise(addr: bytes) -> bytes:
    """Give a v4-mapped 16-byte address its 4-byte form; leave every other as it is."""
    return addr[12:] if len(addr) == 16 and addr.startswith(_V4_MAPPED) else addr


@lru_cache(maxsize=65536)
def host_of(addr: bytes) -> str:
    """Spell 4 or 16 raw bytes as text.

    Raises:
        ValueError: any other length.
    """
    short = normalise(addr)
    if len(short) == 4:
        return ".".join(map(str, short))  # several times as fast as ipaddress
    return str(ipaddress.ip_address(short))


def address_of(addr: bytes, port: int) -> Address:
    """Join raw bytes and a port into an address (raises as `host_of`)."""
    return Address(host_of(addr), port)


@lru_cache(maxsize=65536)
def packed(host: str) -> bytes:
    """Give the raw bytes of an IP address in text; a zone (`%eth0`) is dropped.

    Raises:
        ValueError: not an IP address.
    """
    return normalise(ipaddress.ip_address(host.partition("%")[0]).packed)
