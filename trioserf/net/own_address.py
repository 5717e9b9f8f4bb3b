"""The addresses of this machine (spec: own address)."""

import ipaddress
from collections.abc import Iterator

import ifaddr

from trioserf.errors import AddressError

_IP = ipaddress.IPv4Address | ipaddress.IPv6Address


def own_address(*, v6: bool = False, interface: str = "") -> str:
    """Find the address to give to others when bound to all.

    Args:
        v6: whether it is to be an IPv6 address.
        interface: look only at the interface of this name, and take any address of it.

    Returns:
        The first private one (RFC 6890), as text.

    Raises:
        AddressError: there is none.
    """
    found = list(_addresses(v6=v6, interface=interface))
    for ip in found:
        if interface or not is_public(str(ip)):
            return str(ip)
    family = "IPv6" if v6 else "IPv4"
    if interface:
        raise AddressError(f"interface {interface!r} does not exist or has no {family} address")
    raise AddressError(
        f"no interface has a private {family} address to advertise; set one with advertise"
    )


def is_public(host: str) -> bool:
    """Tell whether an IP address can be reached from everywhere."""
    return ipaddress.ip_address(host.partition("%")[0]).is_global


def _addresses(*, v6: bool, interface: str) -> Iterator[_IP]:
    for adapter in ifaddr.get_adapters():
        if interface and interface not in (adapter.name, adapter.nice_name):
            continue
        for one in adapter.ips:
            if one.is_IPv6 != v6:
                continue
            ip = ipaddress.ip_address(one.ip[0] if isinstance(one.ip, tuple) else one.ip)
            if interface or not (ip.is_loopback or ip.is_link_local):
                yield ip
