"""Addresses that users type to join."""

import pytest

from trioserf.errors import AddressError
from trioserf.node.join_address import JoinTarget, parse_join_address


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("db1", JoinTarget(None, "db1", 7946)),
        ("db1:17946", JoinTarget(None, "db1", 17946)),
        ("::1:7946", JoinTarget(None, "::1:7946", 7946)),
        ("[::1]:17946", JoinTarget(None, "::1", 17946)),
        ("[::1]", JoinTarget(None, "::1", 7946)),
        ("n1/10.0.0.1:1", JoinTarget("n1", "10.0.0.1", 1)),
    ],
)
def test_join_address_is_parsed(text: str, target: JoinTarget) -> None:
    assert parse_join_address(text, 7946) == target


@pytest.mark.parametrize("text", ["", "/db1", "db1:", "db1:0", "db1:65536", "db 1", "[::1"])
def test_malformed_join_address_is_an_error(text: str) -> None:
    with pytest.raises(AddressError, match="join address"):
        parse_join_address(text, 7946)


@pytest.mark.parametrize(
    ("host", "is_service"),
    [
        ("_serf._tcp.example.org", True),
        ("_my-own-serf._udp.local", True),
        ("serf._tcp.example.org", False),
        ("_serf.tcp.example.org", False),
        ("_serf._tcp", False),
        ("_serf._tcp..org", False),
        # A pattern that backtracks would not end here.
        ("_" + "a-" * 5000, False),
    ],
)
def test_service_name_is_recognised(host: str, is_service: bool) -> None:
    assert JoinTarget(None, host, 7946).is_service is is_service


@pytest.mark.parametrize("text", ["_serf._tcp.example.org:1", "n1/_serf._tcp.example.org"])
def test_service_with_port_or_name_is_an_error(text: str) -> None:
    with pytest.raises(AddressError, match="its SRV records"):
        parse_join_address(text, 7946)
