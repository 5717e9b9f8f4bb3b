"""The error of this room: invalid bytes from a peer."""

from typing import Final

KINDS: Final = (
    *("truncated", "msgpack", "field", "limit", "unknown-type", "crc", "compression", "label"),
    *("version", "decrypt", "plaintext-refused", "budget", "replayed", "encrypted"),
)
"""The kinds of errors."""


class WireError(ValueError):
    """Invalid bytes from a peer; the text has the found and the expected value.

    `kind` is a short word for drop counts:

    - `truncated`: the bytes end too early;
    - `msgpack`: not the MessagePack structure that was expected;
    - `field`: a field of a message has the wrong type or range;
    - `limit`: larger, longer or deeper than is accepted;
    - `unknown-type`: an unknown type byte, or one that is not allowed here;
    - `crc`: a wrong checksum;
    - `compression`: an unknown algorithm, or not a well-formed LZW stream;
    - `label`: a missing, unexpected or different label;
    - `version`: an unknown version of encryption;
    - `decrypt`: no installed key decrypts it;
    - `plaintext-refused`: plaintext where encryption is required;
    - `budget`: it needs more work than its sender may cause;
    - `replayed`: an encrypted message that has arrived before;
    - `encrypted`: encryption where no keys are configured.
    """

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind
