"""Addresses of the control socket, for servers and clients."""

from trioserf.address import parse_host_port
from trioserf.defaults import CONTROL_ADDRESS, CONTROL_PORT, UNIX
from trioserf.errors import AddressError

DEFAULT_ADDRESS = CONTROL_ADDRESS


def unix_path(address: str) -> str | None:
    """Return the path of a `unix:PATH` address, None for every other."""
    return address[len(UNIX) :] if address.startswith(UNIX) else None


def split_address(address: str) -> tuple[str, int]:
    """Parse `host:port`, `[v6]:port` or a host alone (port 7373).

    Raises:
        AddressError: the address is not valid.
    """
    try:
        host, port = parse_host_port(address)
    except ValueError as error:
        raise AddressError(f"control address {address}: {error}") from None
    return host, CONTROL_PORT if port is None else port
