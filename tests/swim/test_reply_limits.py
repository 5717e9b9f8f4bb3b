"""What is sent to addresses in messages."""

from trioserf.address import Address
from trioserf.swim.config import any_address
from trioserf.swim.reply_limits import ReplyLimits

MEMBER = Address("10.0.0.1", 7946)
OTHER = Address("10.0.0.2", 7946)


def find(name: str) -> Address | None:
    return MEMBER if name == "m" else None


def test_member_gets_any_number_of_replies_at_its_address() -> None:
    limits = ReplyLimits(find, any_address)
    assert all(limits.allows("m", MEMBER, 1000, 0.0) for _ in range(1000))


def test_other_address_gets_few_bytes() -> None:
    limits = ReplyLimits(find, any_address)
    sent = sum(1000 for _ in range(1000) if limits.allows("m", OTHER, 1000, 0.0))
    assert sent == 2000
    assert limits.allows("m", OTHER, 1000, 1.0)


def test_ports_of_one_host_share_its_limit() -> None:
    limits = ReplyLimits(find, any_address)
    allowed = [limits.allows("", Address(OTHER.host, port), 1024, 0.0) for port in range(1, 5)]
    assert allowed == [True, True, False, False]


def test_all_other_addresses_together_are_limited() -> None:
    limits = ReplyLimits(find, any_address)
    hosts = [Address(f"10.1.0.{number}", 7946) for number in range(200)]
    assert sum(limits.allows("", host, 1024, 0.0) for host in hosts) == 16


def test_address_outside_allowed_networks_gets_nothing() -> None:
    limits = ReplyLimits(find, lambda addr: addr != bytes((10, 0, 0, 2)))
    assert not limits.allows("", OTHER, 1, 0.0)
    assert limits.allows("", Address("10.0.0.3", 7946), 1, 0.0)
