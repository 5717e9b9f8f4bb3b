"""AES-GCM around packets and streams (spec: encryption).

A sealed payload is: version byte, 12-byte random nonce, ciphertext, 16-byte tag. Version 1 has no
padding and is what we write. Version 0, of protocol 1, pads the plaintext to whole blocks of 16
bytes as PKCS#7 does; it is read, never written.

The first key of the ring seals. Every key is tried to open, so that a new key can travel through
a cluster in which not everybody uses it yet. `cryptography` is loaded when the first key is used:
an agent without keys never pays for it.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, Protocol

from trioserf.wire.errors import WireError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

NONCE_SIZE: Final = 12
TAG_SIZE: Final = 16
OVERHEAD: Final = 1 + NONCE_SIZE + TAG_SIZE
"""Bytes that sealing (version 1) adds."""

_BLOCK = 16
_PADDED = 0
_PLAIN = 1


class Keys(Protocol):
    """What sealing needs to know of a keyring: `keys` has the primary key first."""

    @property
    def keys(self) -> Sequence[bytes]:
        """All keys, of 16, 24 or 32 bytes; the first one seals. May be empty: no encryption."""

    @property
    def version(self) -> int:
        """A number that is different after every change of the keys."""


class Sealer:
    """Seals and opens payloads with the keys of a ring, following its changes.

    Keys and switches may be replaced while it is in use: that is how a running cluster moves to
    encryption.

    Args:
        keyring: the keys, or None for no encryption.
        nonce: gives that many unpredictable bytes.
        verify_incoming: refuse plaintext when there are keys.
        verify_outgoing: encrypt when there are keys.

    Attributes:
        keyring: as given.
        verify_incoming: as given.
        verify_outgoing: as given.
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
        """Whether there is a key, and so encryption."""
        return self.keyring is not None and bool(self._refresh())

    @property
    def seals(self) -> bool:
        """Whether what is sent gets encrypted."""
        return self.keyring is not None and self.verify_outgoing and bool(self._refresh())

    @property
    def sealed_with(self) -> int | None:
        """The version of the keys that what is sent is encrypted with; None if it is not."""
        keyring = self.keyring
        return keyring.version if keyring is not None and self.seals else None

    def seal(self, plain: bytes, associated: bytes) -> bytes:
        """Encrypt with the primary key (version 1).

        Args:
            plain: what to hide.
            associated: what is not hidden, but must be the same on the other side.

        Raises:
            RuntimeError: there is no key; ask `enabled` first.
        """
        ciphers = self._refresh()
        if not ciphers:
            raise RuntimeError("cannot seal: the keyring is empty")
        nonce = self._nonce(NONCE_SIZE)
        return b"\x01" + nonce + ciphers[0].encrypt(nonce, plain, associated)

    def open(self, sealed: bytes | memoryview, associated: bytes) -> bytes:
        """Decrypt with whichever key fits.

        Raises:
            WireError: `truncated`, `version`, or `decrypt` when no key fits.
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
