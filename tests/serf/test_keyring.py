"""The keyring and its file, in the format of Serf."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trioserf.errors import TrioserfError
from trioserf.serf.keyring import (
    Keyring,
    KeyringError,
    dump_keyring,
    format_key,
    load_keyring,
    parse_key,
)

A, B, C = bytes(32), bytes(16), bytes(23) + b"\x01"
A64 = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
B64 = "AAAAAAAAAAAAAAAAAAAAAA=="
C64 = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAB"

# Written by serf after the installation of C and the use of B.
SERF_FILE = f'[\n  "{B64}",\n  "{A64}",\n  "{C64}"\n]'.encode()


def test_first_key_is_primary_by_default() -> None:
    assert Keyring([A, B]).primary == A
    assert Keyring([A, B], B).keys == (B, A)
    assert Keyring([A, B], primary=C).keys == (C, A, B)
    assert Keyring([], primary=C).keys == (C,)
    assert Keyring([A, B, A, B]).keys == (A, B)


def test_empty_keyring_is_rejected() -> None:
    with pytest.raises(KeyringError, match="at least one key"):
        Keyring([])


@pytest.mark.parametrize("size", [0, 1, 15, 17, 23, 25, 31, 33, 64])
def test_key_of_wrong_size_is_rejected(size: int) -> None:
    with pytest.raises(KeyringError, match=r"^key size must be 16, 24 or 32 bytes$"):
        Keyring([A, bytes(size)])
    ring = Keyring([A])
    with pytest.raises(KeyringError, match=r"^key size must be 16, 24 or 32 bytes$"):
        ring.install(bytes(size))
    assert ring.keys == (A,)
    assert ring.version == 0


def test_keys_are_installed_used_and_removed() -> None:
    ring = Keyring([A])
    ring.install(B)
    ring.install(C)
    seen = [ring.keys]
    ring.use(C)
    seen.append(ring.keys)
    ring.remove(A)
    seen.append(ring.keys)
    assert seen == [(A, B, C), (C, A, B), (C, B)]
    assert ring.primary == C
    assert ring.version == 4


def test_change_without_effect_keeps_version() -> None:
    ring = Keyring([A, B])
    ring.install(B)
    ring.install(A)
    ring.use(A)
    ring.remove(C)
    ring.remove(b"of no possible size")
    assert ring.keys == (A, B)
    assert ring.version == 0


def test_primary_key_cannot_be_removed() -> None:
    ring = Keyring([A, B])
    with pytest.raises(KeyringError, match="removing the primary key is not allowed"):
        ring.remove(A)
    assert ring.keys == (A, B)


def test_unknown_key_cannot_be_used() -> None:
    ring = Keyring([A, B])
    with pytest.raises(KeyringError, match="requested key is not in the keyring"):
        ring.use(C)
    assert ring.primary == A


def test_repr_shows_no_keys() -> None:
    assert repr(Keyring([A, b"0123456789abcdef"])) == "<Keyring of 2 keys>"


def test_keyring_error_is_trioserf_error() -> None:
    assert issubclass(KeyringError, TrioserfError)


def test_keys_are_encoded_in_base64() -> None:
    assert [format_key(key) for key in (A, B, C)] == [A64, B64, C64]
    assert [parse_key(text) for text in (A64, B64, C64)] == [A, B, C]


@pytest.mark.parametrize("text", ["@@@", "abc", "AAAAAAAAAAAAAAAAAAAAAA", "ä" * 24, f" {B64}"])
def test_key_that_is_not_base64_is_rejected(text: str) -> None:
    with pytest.raises(KeyringError, match="must be base64") as caught:
        parse_key(text)
    assert text not in str(caught.value)


@pytest.mark.parametrize("text", ["", "AAAA"])
def test_base64_key_of_wrong_size_is_rejected(text: str) -> None:
    with pytest.raises(KeyringError, match="16, 24 or 32 bytes"):
        parse_key(text)


# --- the file ---


def test_keyring_file_equals_that_of_serf() -> None:
    ring = Keyring([A, B])
    ring.install(C)
    ring.use(B)
    assert dump_keyring(ring) == SERF_FILE


@pytest.mark.parametrize(
    ("data", "keys"),
    [
        (SERF_FILE, (B, A, C)),
        (f'["{A64}","{B64}"]'.encode(), (A, B)),
        (f'["{A64}","{A64}"]\n'.encode(), (A,)),
    ],
)
def test_keyring_file_is_parsed(data: bytes, keys: tuple[bytes, ...]) -> None:
    assert load_keyring(data).keys == keys


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "^Failed to decode keyring file: not JSON; expected a JSON list"),
        (b"\xff\xfe", "^Failed to decode keyring file: not JSON; expected a JSON list"),
        (f'["{A64}"'.encode(), "^Failed to decode keyring file: not JSON; expected a JSON list"),
        (b"[" * 100_000, "^Failed to decode keyring file: not JSON; expected a JSON list"),
        (b"{}", "^Failed to decode keyring file: not a list; expected a JSON list"),
        (b"null", "^Failed to decode keyring file: not a list; expected a JSON list"),
        (f'"{A64}"'.encode(), "^Failed to decode keyring file: not a list; expected a JSON list"),
        (b"[]", "^Keyring file contains no keys; expected at least one"),
        (b"[1]", "^Failed to decode keyring file: key 1 is not base64 text"),
        (f'["{A64}", null]'.encode(), "^Failed to decode keyring file: key 2 is not base64 text"),
        (f'["{A64}", "@@"]'.encode(), "^Failed to decode key from keyring: key 2 is not base64"),
        (b'["AAAA"]', "^Failed to restore keyring: key 1: key size must be 16, 24 or 32"),
    ],
)
def test_malformed_keyring_file_is_reported_without_keys(data: bytes, reason: str) -> None:
    with pytest.raises(KeyringError, match=reason) as caught:
        load_keyring(data)
    assert "AAAA" not in str(caught.value)


keys = st.one_of(*[st.binary(min_size=size, max_size=size) for size in (16, 24, 32)])


@given(st.lists(keys, min_size=1, unique=True))
def test_keyring_file_round_trips(installed: list[bytes]) -> None:
    data = dump_keyring(Keyring(installed))
    assert load_keyring(data).keys == tuple(installed)
    assert len(json.loads(data)) == len(installed)


@given(st.binary())
def test_any_bytes_are_keyring_file_or_rejected(data: bytes) -> None:
    with contextlib.suppress(KeyringError):
        load_keyring(data)
