"""LZW as memberlist uses it: least significant bit first, 8-bit literals, 12-bit codes.

Encoder and decoder build the same table without sending it. It starts with the 256 single bytes
(codes 0 to 255), a *clear* code (256: reset the table) and an *end* code (257). The encoder finds
the longest prefix of the remaining input in its table, writes the code of that prefix, and adds
the prefix plus the next byte under the next free code. The decoder adds the same phrase one step
later, because the next code determines that byte: phrase(previous) + first byte of
phrase(current). So one code can arrive before the decoder has added it: a phrase followed by
itself (`aXaXa`). The unknown phrase is then the previous one plus its own first byte.

Codes are packed into bytes from the low bits up. The width starts at 9 bits and grows, up to 12,
as soon as the next free code does not fit. When all 4,096 codes are used, the encoder (like the
reference) writes *clear* and starts again; the decoder also accepts an encoder that keeps using
the full table. A stream without *end* is truncated.

Cost in pure Python: the encoder takes about 0.1 µs per byte, the decoder half of that. The states
of 5, 20, 200 and 500 similar members (0.7 to 58 kB) shrink to 60, 40, 15 and 12 % in 0.1 to 4 ms.
So streams of 128 bytes to 64 KiB are compressed if that makes them smaller. Longer ones are not:
the state of 2,000 members would block the event loop for 17 ms. Packets are not: compression of
1,400 bytes costs more than all their other processing. Reading always works.
"""

from trioserf.wire.errors import WireError

_CLEAR = 256
_END = 257
_FIRST_FREE = 258
_FIRST_WIDTH = 9
_MAX_WIDTH = 12
_FULL = 1 << _MAX_WIDTH

_LITERALS = [bytes((value,)) for value in range(256)]
_START_TABLE = [*_LITERALS, b"", b""]  # empty phrases mark clear and end


def decompress(data: bytes, limit: int) -> bytes:
    """Expand an LZW stream; bytes after its end code are ignored.

    Args:
        data: the stream.
        limit: maximum length of the result, in bytes.

    Raises:
        WireError: `compression` for an invalid code, `truncated` for a missing end code, `limit`
            for a result longer than `limit`.
    """
    expansion = Expansion(limit)
    out = expansion.expand(data)
    expansion.end()
    return out


class Expansion:
    """Expands an LZW stream piece by piece.

    Args:
        limit: maximum length of the whole result, in bytes.

    Attributes:
        ended: whether the end code has arrived; bytes after it are ignored.
    """

    __slots__ = ("_available", "_bits", "_left", "_previous", "_table", "_width", "ended")

    def __init__(self, limit: int) -> None:
        self.ended = False
        self._left = limit
        self._table = _START_TABLE.copy()
        self._width = _FIRST_WIDTH
        self._bits = self._available = 0
        self._previous = b""

    def expand(self, data: bytes) -> bytes:
        """Expand the next bytes of the stream.

        Raises:
            WireError: `compression` or `limit`; do not use the expansion after that.
        """
        out = bytearray()
        if self.ended:
            return b""
        limit, table = self._left, self._table
        learn = table.append
        width, bits, available, previous = self._width, self._bits, self._available, self._previous
        mask = (1 << width) - 1
        for byte in data:
            bits |= byte << available
            available += 8
            if available < width:
                continue
            code = bits & mask
            bits >>= width
            available -= width
            free = len(table)
            if code < free:
                phrase = table[code]
                if not phrase:
                    if code == _END:
                        self.ended = True
                        break
                    del table[_FIRST_FREE:]
                    width, mask, previous = _FIRST_WIDTH, (1 << _FIRST_WIDTH) - 1, b""
                    continue
                if previous and free < _FULL:
                    learn(previous + phrase[:1])
            elif code == free and previous:
                phrase = previous + previous[:1]
                learn(phrase)
            else:
                raise WireError("compression", f"LZW code {code} where at most {free} can occur")
            out += phrase
            if len(out) > limit:
                raise WireError("limit", "compressed data expands to more bytes than are allowed")
            previous = phrase
            if len(table) > mask and width < _MAX_WIDTH:
                width += 1
                mask = (1 << width) - 1
        self._left -= len(out)
        self._width, self._bits, self._available, self._previous = width, bits, available, previous
        return bytes(out)

    def end(self) -> None:
        """Check that the stream is complete.

        Raises:
            WireError: `truncated`, the end code is missing.
        """
        if not self.ended:
            raise WireError("truncated", "LZW stream ends without its end code")


def compress(data: bytes) -> bytes:
    """Compress to an LZW stream, byte for byte as the reference encoder does."""
    out = bytearray()
    emit = out.append
    codes: dict[
        int, int
    ] = {}  # (code of a phrase) << 8 | (next byte) -> code of the longer phrase
    find = codes.get
    width = _FIRST_WIDTH
    bits, available = _CLEAR, _FIRST_WIDTH
    highest = _END
    following = iter(data)
    current = next(following, _END)
    for byte in following:
        key = current << 8 | byte
        longer = find(key)
        if longer is not None:
            current = longer
            continue
        bits |= current << available
        available += width
        while available >= 8:
            emit(bits & 255)
            bits >>= 8
            available -= 8
        current = byte
        highest += 1
        if highest >> width:
            width += 1
        if highest < _FULL - 1:
            codes[key] = highest
        else:  # the last code is never used: the reference clears instead
            bits |= _CLEAR << available
            available += width
            codes.clear()
            width, highest = _FIRST_WIDTH, _END
    if data:
        bits |= current << available
        available += width
        highest += 1
        if highest >> width:
            width += 1
        if highest == _FULL - 1:
            bits |= _CLEAR << available
            available += width
            width = _FIRST_WIDTH
    bits |= _END << available
    available += width
    return bytes(out) + bits.to_bytes((available + 7) // 8, "little")
