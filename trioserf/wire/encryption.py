"""AES-GCM encryption of packets and streams (wire/README.md, § Encryption).

We write version 1 and also read version 0, which pads the plaintext. The primary key encrypts;
every key is tried to decrypt, so that a key rotation works while members use different keys.
`cryptography` is imported at the first use of a key: it is expensive, and an agent without keys
does not need it.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, Protocol

from trioserf.wire.errors import WireError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

NONCE_SIZE: Final = 12
TAG_SIZE: Final = 16
OVERHEAD: Final = 1 + NONCE_SIZE + TAG_SIZE
"""Bytes that encryption (version 1) adds."""

_BLOCK = 16
_PADDED = 0
_PLAIN = 1


class Keys(Protocol):
    """The part of a keyring that encryption needs."""

    @property
    def keys(self) -> Sequence[bytes]:
        """All keys, of 16, 24 or 32 bytes, the primary first; empty for no encryption."""

    @property
    def version(self) -> int:
        """A number that changes with every change of the keys."""


class Sealer:
    """Encrypts and decrypts payloads with the current keys of a keyring.

    The arguments except `nonce` are attributes that may be replaced, so that a running cluster
    can move to encryption.

    Args:
        keyring: the keys, or None for no encryption.
        nonce: returns that many unpredictable bytes.
        verify_incoming: whether to refuse plaintext if there are keys.
        verify_outgoing: whether to encrypt if there are keys.
    """

    def __init__(
        self,
        keyring: Keys | None,
        nonce: Callable[[int], bytes],
        *,
        verify_incoming: bool = True,
        verify_outgoing: bool = True,
    ) -> None:
        self.keyring = keyring
        self.verify_incoming = verify_incoming
        self.verify_outgoing = verify_outgoing
        self._nonce = nonce
        self._known: tuple[Keys, int] | None = None
        self._ciphers: tuple[AESGCM, ...] = ()

    def _refresh(self) -> "tuple[AESGCM, ...]":
        keyring = self.keyring
        if keyring is None:
            return ()
        known = self._known
        if known is None or known[0] is not keyring or known[1] != keyring.version:
            keys = tuple(keyring.keys)
            if keys:
                from cryptography.hazmat.primitives.ciphers.aead import AESGCM

                self._ciphers = tuple(AESGCM(key) for key in keys)
            else:
                self._ciphers = ()
            self._known = keyring, keyring.version
        return self._ciphers

    @property
    def enabled(self) -> bool:
        """Whether there is a key."""
        return self.keyring is not None and bool(self._refresh())

    @property
    def seals(self) -> bool:
        """Whether outgoing payloads are encrypted."""
        return self.keyring is not None and self.verify_outgoing and bool(self._refresh())

    @property
    def sealed_with(self) -> int | None:
        """The version of the keys that encrypt outgoing payloads, or None for plaintext."""
        keyring = self.keyring
        return keyring.version if keyring is not None and self.seals else None

    def seal(self, plain: bytes, associated: bytes) -> bytes:
        """Encrypt with the primary key (version 1).

        Args:
            plain: the plaintext.
            associated: additional authenticated data.

        Raises:
            RuntimeError: there is no key; check `enabled` first.
        """
        ciphers = self._refresh()
        if not ciphers:
            raise RuntimeError("cannot seal: the keyring is empty")
        nonce = self._nonce(NONCE_SIZE)
        return b"\x01" + nonce + ciphers[0].encrypt(nonce, plain, associated)

    def open(self, sealed: bytes | memoryview, associated: bytes) -> bytes:
        """Decrypt with the first key that fits.

        Raises:
            WireError: `truncated`, `version`, or `decrypt` if no key fits.
        """
        from cryptography.exceptions import InvalidTag

        if not sealed:
            raise WireError("truncated", "encrypted payload: empty, expected a version byte")
        version = sealed[0]
        if version > _PLAIN:
            raise WireError("version", f"encryption version {version}, expected 0 or 1")
        shortest = OVERHEAD + (_BLOCK if version == _PADDED else 0)
        if len(sealed) < shortest:
            raise WireError(
                "truncated",
                f"encrypted payload: {len(sealed)} bytes, expected at least {shortest}",
            )
        nonce, body = bytes(sealed[1 : 1 + NONCE_SIZE]), sealed[1 + NONCE_SIZE :]
        for cipher in self._refresh():
            try:
                plain = cipher.decrypt(nonce, body, associated)
            except InvalidTag:
                continue
            return _unpad(plain) if version == _PADDED else plain
        raise WireError("decrypt", "no installed key could decrypt the message")


def _unpad(plain: bytes) -> bytes:
    padding = plain[-1] if plain else 0
    if not 1 <= padding <= min(_BLOCK, len(plain)):
        raise WireError("decrypt", f"padding of {padding} bytes, expected 1 to {_BLOCK}")
    return plain[:-padding]
