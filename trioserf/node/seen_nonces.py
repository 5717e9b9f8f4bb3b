"""Nonces of received messages, so that a recorded packet or stream is handled once.

See wire/README.md, § Encryption.
"""

from typing import Final

from trioserf.wire.errors import WireError

_KEPT: Final = 150.0
"""Least seconds for which a nonce is remembered, unless there are too many; at most twice that."""
MAX: Final = 16_384
"""Nonces in one of the two sets, about 2 MB. Only messages encrypted with our keys add one."""


class SeenNonces:
    """The nonces of the last minutes, in two sets of which the older one is forgotten."""

    def __init__(self) -> None:
        self._current = set[bytes]()
        self._previous = set[bytes]()
        self._ends = 0.0

    def __len__(self) -> int:
        return len(self._current) + len(self._previous)

    def add(self, nonce: bytes, now: float) -> None:
        """Remember the nonce of a message.

        Raises:
            WireError: `replayed`, it is known.
        """
        if now >= self._ends or len(self._current) >= MAX:
            self._previous, self._current = self._current, set()
            self._ends = now + _KEPT
        if nonce in self._current or nonce in self._previous:
            raise WireError("replayed", "an encrypted message with this nonce has arrived before")
        self._current.add(nonce)
