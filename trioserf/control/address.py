"""Addresses of the control socket, for servers and clients."""

from trioserf.defaults import CONTROL_ADDRESS, CONTROL_PORT
from trioserf.errors import AddressError

DEFAULT_ADDRESS = CONTROL_ADDRESS
UNIX = "unix:"


def unix_path(address: str) -> str | None:
    """Return the path of a `unix:PATH` address, None for every other."""
    return address[len(UNIX) :] if address.startswith(UNIX) else None


def split_address(address: str) -> tuple[str, int]:
    """Parse `host:port`, `[v6]:port` or a host alone (port 7373).

    Raises:
        AddressError: the address is not valid.
    """
    host, port = address, str(CONTROL_PORT)
    if address.startswith("["):
        host, bracket, rest = address[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise AddressError(f"control address {address}: expected [host]:port")
        port = rest[1:] or port
    elif address.count(":") == 1:
        host, _, port = address.partition(":")
    if not (port.isascii() and port.isdigit() and int(port) <= 65535):
        raise AddressError(f"control address {address}: expected a port from 0 to 65535")
    return host, int(port)
