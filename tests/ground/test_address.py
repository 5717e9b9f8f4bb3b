"""Hosts and ports in text."""

import pytest

from trioserf.address import Address, format_host_port, parse_host_port


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("db1", ("db1", None)),
        ("db1:1", ("db1", 1)),
        (":65535", ("", 65_535)),
        ("", ("", None)),
        ("::1", ("::1", None)),
        ("::1:7946", ("::1:7946", None)),
        ("[::1]", ("::1", None)),
        ("[fe80::1%eth0]:0", ("fe80::1%eth0", 0)),
    ],
)
def test_host_port_is_parsed(text: str, parts: tuple[str, int | None]) -> None:
    assert parse_host_port(text) == parts


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("db1:", "expected a port from 0 to 65535, not ''"),
        ("db1:65536", "expected a port from 0 to 65535, not '65536'"),
        ("db1:-1", "expected a port"),
        ("db1:١", "expected a port"),  # a digit, but not of ASCII
        ("[::1", r"expected \[IPv6 address\]:port"),
        ("[::1]1", r"expected \[IPv6 address\]:port"),
        ("[db1]:1", r"expected \[IPv6 address\]:port"),
    ],
)
def test_malformed_host_port_is_an_error(text: str, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        parse_host_port(text)


def test_lowest_port_is_checked() -> None:
    assert parse_host_port("db1:0") == ("db1", 0)
    with pytest.raises(ValueError, match="expected a port from 1 to 65535, not '0'"):
        parse_host_port("db1:0", least_port=1)


@pytest.mark.parametrize("text", ["10.0.0.1:7946", "[::1]:7946", "db1:0"])
def test_formatted_host_port_is_parsed_back(text: str) -> None:
    host, port = parse_host_port(text)
    assert port is not None
    assert format_host_port(host, port) == str(Address(host, port)) == text
