"""The addresses of this machine (see swim/README.md, § Own address)."""

import ipaddress
from collections.abc import Iterator

from trioserf.errors import AddressError

_IP = ipaddress.IPv4Address | ipaddress.IPv6Address


def own_address(*, v6: bool = False) -> str:
    """Return the address to advertise when bound to all addresses.

    Args:
        v6: whether to return an IPv6 address.

    Returns:
        The first private address (RFC 6890), as text.

    Raises:
        AddressError: there is no private address.
    """
    for ip in _addresses():
        is_unfit = ip.is_loopback or ip.is_link_local or is_public(str(ip))
        if (ip.version == 6) is v6 and not is_unfit:
            return str(ip)
    family = "IPv6" if v6 else "IPv4"
    raise AddressError(
        f"no interface has a private {family} address to advertise; choose one with"
        " --advertise=ADDR or --bind=ADDR"
    )


def interface_addresses(name: str) -> list[str]:
    """Return all addresses of an interface, as text and in the system's order.

    Raises:
        AddressError: the interface does not exist or has no addresses.
    """
    found = [str(ip) for ip in _addresses(name)]
    if not found:
        raise AddressError(f"interface {name!r} does not exist or has no addresses")
    return found


def is_public(host: str) -> bool:
    """Return whether an IP address is globally reachable."""
    return ipaddress.ip_address(host.partition("%")[0]).is_global


def _addresses(interface: str = "") -> Iterator[_IP]:
    import ifaddr  # an agent that listens on one address needs none

    for adapter in ifaddr.get_adapters():
        if interface and interface not in (adapter.name, adapter.nice_name):
            continue
        for one in adapter.ips:
            yield ipaddress.ip_address(one.ip[0] if isinstance(one.ip, tuple) else one.ip)
