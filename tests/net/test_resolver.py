"""Look-ups of names by the operating system."""

import pytest

from trioserf.errors import AddressError
from trioserf.net.resolver import Resolver, SystemResolver


async def test_localhost_resolves_to_distinct_addresses() -> None:
    resolver: Resolver = SystemResolver()
    found = await resolver.addresses("localhost")
    assert {"127.0.0.1", "::1"} & set(found)
    assert len(found) == len(set(found))
    assert all(isinstance(address, str) for address in found)


@pytest.mark.parametrize("text", ["127.22.0.1", "::1"])
async def test_ip_address_resolves_to_itself(text: str) -> None:
    assert await SystemResolver().addresses(text) == [text]


@pytest.mark.parametrize("host", ["nosuch.invalid", "", "x" * 300, "a..b", "ü" * 70, "nul\0l"])
async def test_unknown_host_is_one_clear_error(host: str) -> None:
    with pytest.raises(AddressError) as caught:
        await SystemResolver().addresses(host)
    text = str(caught.value)
    assert text.startswith(f"unknown host {host!r}: ")
    assert not text.endswith(("None", ": "))
