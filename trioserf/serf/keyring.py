"""The keyring: AES keys of the cluster. The primary one encrypts, all of them decrypt."""

import base64
import binascii
from collections.abc import Iterable

from trioserf import arguments as check
from trioserf.errors import TrioserfError

KEY_SIZES = (16, 24, 32)
"""Bytes of a key, for AES-128, AES-192 and AES-256."""


class KeyringError(TrioserfError):
    """A malformed key, or a change that the keyring does not allow."""


class Keyring:
    """Keys in use, the primary one first.

    Args:
        keys: keys of 16, 24 or 32 bytes; duplicates are dropped.
        primary: the key that encrypts; by default the first of `keys`.

    Raises:
        KeyringError: there is no key, or one of a wrong size.
        TypeError: a key that is not bytes.
    """

    def __init__(self, keys: Iterable[bytes], primary: bytes | None = None) -> None:
        _check_list(keys)
        ordered = ([] if primary is None else [primary]) + list(keys)
        if not ordered:
            raise KeyringError("A keyring needs at least one key")
        self._keys = tuple(dict.fromkeys(map(_check_size, ordered)))
        self._version = 0

    @property
    def keys(self) -> tuple[bytes, ...]:
        """All keys, the primary one first."""
        return self._keys

    @property
    def primary(self) -> bytes:
        """The key that encrypts."""
        return self._keys[0]

    @property
    def version(self) -> int:
        """A number that grows with every change."""
        return self._version

    def install(self, key: bytes) -> None:
        """Append a key; an installed key keeps its place.

        Raises:
            KeyringError: its size is wrong.
        """
        if _check_size(key) not in self._keys:
            self._change((*self._keys, key))

    def use(self, key: bytes) -> None:
        """Make an installed key the primary one.

        Raises:
            KeyringError: it is not installed.
        """
        if key not in self._keys:
            raise KeyringError("requested key is not in the keyring")
        if key != self.primary:
            self._change((key, *(other for other in self._keys if other != key)))

    def remove(self, key: bytes) -> None:
        """Remove a key; ignore one that is not installed.

        Raises:
            KeyringError: it is the primary key.
        """
        if key == self.primary:
            raise KeyringError("removing the primary key is not allowed")
        if key in self._keys:
            self._change(tuple(other for other in self._keys if other != key))

    def _change(self, keys: tuple[bytes, ...]) -> None:
        self._keys = keys
        self._version += 1

    def __repr__(self) -> str:
        """Show the number of keys, not the keys."""
        return f"<Keyring of {len(self._keys)} keys>"


def _check_list(keys: object) -> None:
    if isinstance(keys, bytes | str):
        raise check.wrong_type("keys", "a list of bytes", keys, secret=True)


def _check_size(key: bytes) -> bytes:
    check.key("key", key, bytes, " (parse_key reads base64)")
    if len(key) not in KEY_SIZES:
        raise KeyringError("key size must be 16, 24 or 32 bytes")  # Serf's words
    return key


def format_key(key: bytes) -> str:
    """Encode a key in base64, as in files and messages."""
    return base64.b64encode(key).decode("ascii")


def parse_key(text: str) -> bytes:
    """Decode a key in base64.

    Raises:
        KeyringError: it is not base64, or its size is wrong; the error does not quote it.
    """
    try:
        key = _decode_base64(text)
    except ValueError:
        raise KeyringError("A key must be base64 text with padding") from None
    return _check_size(key)


def _decode_base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError("not base64") from error


def load_keyring(data: bytes) -> Keyring:
    """Parse a keyring file: a JSON list of keys in base64, the primary one first.

    Raises:
        KeyringError: it is malformed; the error begins like Serf's, names the expected content,
            and quotes no key.
    """
    import json

    expected = "expected a JSON list of base64 keys, the primary one first"
    try:
        keys = json.loads(data)
    except (ValueError, RecursionError):  # whose text could quote a key
        raise KeyringError(f"Failed to decode keyring file: not JSON; {expected}") from None
    if not isinstance(keys, list):
        raise KeyringError(f"Failed to decode keyring file: not a list; {expected}")
    if not keys:
        raise KeyringError("Keyring file contains no keys; expected at least one")
    return Keyring([_parse_listed_key(number, text) for number, text in enumerate(keys, start=1)])


def _parse_listed_key(number: int, text: object) -> bytes:
    if not isinstance(text, str):
        raise KeyringError(f"Failed to decode keyring file: key {number} is not base64 text")
    try:
        key = _decode_base64(text)
    except ValueError:
        raise KeyringError(
            f"Failed to decode key from keyring: key {number} is not base64 text with padding"
        ) from None
    try:
        return _check_size(key)
    except KeyringError as error:
        raise KeyringError(f"Failed to restore keyring: key {number}: {error}") from None


def dump_keyring(keyring: Keyring) -> bytes:
    """Return the content of a keyring file, byte for byte as Serf writes it."""
    import json

    return json.dumps([format_key(key) for key in keyring.keys], indent=2).encode("ascii")
