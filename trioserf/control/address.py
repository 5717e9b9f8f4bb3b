"""Addresses of the control socket, for servers and clients."""

from trioserf.errors import AddressError

DEFAULT_PORT = 7373
DEFAULT_ADDRESS = f"127.0.0.1:{DEFAULT_PORT}"
UNIX = "unix:"


def unix_path(address: str) -> str | None:
    """Give the path of a `unix:PATH` address, None for every other."""
    return address[len(UNIX) :] if address.startswith(UNIX) else None


def split_address(address: str) -> tuple[str, int]:
    """Split `host:port`, `[v6]:port` or a host alone (port 7373).

    Raises:
        AddressError: no such address.
    """
    host, port = address, str(DEFAULT_PORT)
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
