"""The one error of this room: bytes from a peer that do not say what they should."""


class WireError(ValueError):
    """Bytes that cannot be understood; the text says what was wrong and what was expected.

    `kind` is a short word for counters:

    - `truncated`: the bytes end too early;
    - `msgpack`: not the MessagePack structure that was expected;
    - `field`: a field of a message has the wrong type or range;
    - `limit`: larger, longer or deeper than is accepted;
    - `unknown-type`: a type byte without a meaning here;
    - `crc`: the checksum differs;
    - `compression`: an unknown algorithm, or not a well-formed LZW stream;
    - `label`: a missing, unexpected or different label;
    - `version`: an unknown version of encryption;
    - `decrypt`: no key opens it;
    - `plaintext-refused`: plaintext where encryption is required;
    - `encrypted`: encryption where no keys are configured.
    """

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind
