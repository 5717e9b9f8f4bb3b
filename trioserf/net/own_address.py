"""The addresses of this machine (spec: own address)."""

import ipaddress
from collections.abc import Iterator

import ifaddr

from trioserf.errors import AddressError

_IP = ipaddress.IPv4Address | ipaddress.IPv6Address


def own_address(*, v6: bool = False) -> str:
    """Find the address to give to others when bound to all: the first private one (RFC 6890).

    Args:
        v6: whether it is to be an IPv6 address.

    Raises:
        AddressError: there is none.
    """
    for ip in _addresses(v6=v6):
        if not is_public(str(ip)):
            return str(ip)
    raise AddressError(
        f"no interface has a private {_family(v6)} address to advertise; set one with advertise"
    )


def interface_addresses(interface: str, *, v6: bool = False) -> list[str]:
    """Give all addresses of an interface, at least one, in the system's order.

    Args:
        interface: its name.
        v6: whether they are to be IPv6 addresses.

    Raises:
        AddressError: there is no such interface, or it has none.
    """
    found = [str(ip) for ip in _addresses(v6=v6, interface=interface)]
    if not found:
        raise AddressError(
            f"interface {interface!r} does not exist or has no {_family(v6)} address"
        )
    return found


def _family(v6: bool) -> str:
    return "IPv6" if v6 else "IPv4"


def is_public(host: str) -> bool:
    """Tell whether an IP address can be reached from everywhere."""
    return ipaddress.ip_address(host.partition("%")[0]).is_global


def _addresses(*, v6: bool, interface: str = "") -> Iterator[_IP]:
    for adapter in ifaddr.get_adapters():
        if interface and interface not in (adapter.name, adapter.nice_name):
            continue
        for one in adapter.ips:
            if one.is_IPv6 != v6:
                continue
            ip = ipaddress.ip_address(one.ip[0] if isinstance(one.ip, tuple) else one.ip)
            if interface or not (ip.is_loopback or ip.is_link_local):
                yield ip
