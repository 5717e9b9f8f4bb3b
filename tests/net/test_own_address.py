"""The addresses of this machine, and the one to advertise."""

import ifaddr
import pytest

from trioserf.errors import AddressError
from trioserf.net.own_address import interface_addresses, is_public, own_address


def adapter(name: str, *ips: str) -> ifaddr.Adapter:
    """Return an interface as ifaddr describes it."""
    found = [
        ifaddr.IP((ip, 0, 0), 64, name) if ":" in ip else ifaddr.IP(ip, 24, name) for ip in ips
    ]
    return ifaddr.Adapter(name, name, found)


LOOPBACK = adapter("lo", "127.0.0.1", "::1")
WIDE = adapter("eth0", "8.8.4.4", "2600::1", "fe80::1")
HOME = adapter("eth1", "169.254.1.1", "192.168.3.4", "10.1.2.3", "fe80::2", "fd00::2")


def machine(monkeypatch: pytest.MonkeyPatch, *adapters: ifaddr.Adapter) -> None:
    monkeypatch.setattr(ifaddr, "get_adapters", lambda: iter(adapters))


def test_own_address_is_first_private_address(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, LOOPBACK, WIDE, HOME)
    assert own_address() == "192.168.3.4"
    assert own_address(v6=True) == "fd00::2"


def test_public_loopback_and_link_local_addresses_are_not_advertised(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine(monkeypatch, LOOPBACK, WIDE)
    for v6, family in ((False, "IPv4"), (True, "IPv6")):
        with pytest.raises(AddressError) as caught:
            own_address(v6=v6)
        assert str(caught.value) == (
            f"no interface has a private {family} address to advertise; choose one with"
            " --advertise=ADDR or --bind=ADDR"
        )


def test_interface_addresses_include_every_kind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine(monkeypatch, LOOPBACK, WIDE, HOME)
    assert interface_addresses("eth0") == ["8.8.4.4", "2600::1", "fe80::1"]
    assert interface_addresses("lo") == ["127.0.0.1", "::1"]


@pytest.mark.parametrize("name", ["eth9", "none"])
def test_interface_without_address_is_one_clear_error(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    machine(monkeypatch, LOOPBACK, adapter("none"))
    with pytest.raises(AddressError) as caught:
        interface_addresses(name)
    assert str(caught.value) == f"interface '{name}' does not exist or has no addresses"


def test_loopback_interface_has_addresses() -> None:
    assert "127.0.0.1" in interface_addresses("lo")


@pytest.mark.parametrize(
    ("host", "public"),
    [
        ("8.8.8.8", True), ("2600::1", True), ("10.0.0.1", False), ("172.16.0.1", False),
        ("192.168.0.1", False), ("100.64.0.1", False), ("127.0.0.1", False), ("::1", False),
        ("fd00::1", False), ("fe80::1%eth0", False), ("203.0.113.1", False),
    ],
)  # fmt: skip
def test_public_address_is_globally_reachable(host: str, public: bool) -> None:
    assert is_public(host) is public
