"""LZW in the flavour of memberlist: least significant bit first, 8-bit literals, 12-bit codes.

Encoder and decoder grow the same dictionary without ever sending it. It starts with the 256 single
bytes (codes 0 to 255), a *clear* code (256: forget everything learnt) and an *end* code (257). The
encoder looks for the longest prefix of what remains that is in its dictionary, writes that
prefix's code, and learns the prefix plus the next byte under the next free code. The decoder
learns the same phrase one step later, because only the next code tells it the byte that follows:
phrase(previous) + first byte of phrase(current). So one code may arrive that the decoder does not
know yet, the very one it is about to learn. This happens when a phrase is followed by itself
(`aXaXa`), and the unknown phrase is then the previous one plus its own first byte.

Codes are packed into bytes from the low bits up. A code is 9 bits wide at first; the width grows
as soon as the next free code no longer fits, up to 12 bits. When all 4,096 codes are taken our
encoder (as the reference one) sends *clear* and starts again; a decoder must also cope with an
encoder that goes on using the full dictionary. A stream that stops without *end* is torn.

What is worth compressing, measured in pure Python: the encoder takes about 0.1 µs per byte, the
decoder half of that. The states of 5, 20, 200 and 500 similar members (0.7 to 58 kB) shrink to
6, 4, 1.5 and 1.2 tenths, in 0.1 to 4 ms. So streams of 128 bytes to 64 KiB are compressed where
that makes them smaller, unless compression is switched off: a few milliseconds every half
minute. Longer ones are not: those of 2,000 members would hold up the event loop for 17 ms each.
Gossip packets never are: for 1,400 bytes it would take more time than all the rest of their way.
Hence `packet.PacketCodec` does not compress unless it is told to. Reading compressed packets and
streams always works.
"""

from trioserf.wire.errors import WireError

_CLEAR = 256
_END = 257
_FIRST_FREE = 258
_FIRST_WIDTH = 9
_MAX_WIDTH = 12
_FULL = 1 << _MAX_WIDTH

_LITERALS = [bytes((value,)) for value in range(256)]
_START_TABLE = [*_LITERALS, b"", b""]  # empty phrases stand for the two commands


def decompress(data: bytes, limit: int) -> bytes:
    """Expand an LZW stream; whatever follows its end code is ignored.

    Args:
        data: the stream.
        limit: the most bytes the result may have.

    Raises:
        WireError: `compression` for a code that cannot occur, `truncated` for a stream without its
            end code, `limit` for one that expands to more than `limit` bytes.
    """
    expansion = Expansion(limit)
    out = expansion.expand(data)
    expansion.end()
    return out


class Expansion:
    """Expands an LZW stream that is given in pieces.

    Args:
        limit: the most bytes the whole result may have.

    Attributes:
        ended: whether the end code has come; what follows it is ignored.
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
        """Give what the next bytes of the stream stand for.

        Raises:
            WireError: `compression` or `limit`; the expansion is of no more use then.
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
        """Say that no more bytes come.

        Raises:
            WireError: `truncated`, the end code is missing.
        """
        if not self.ended:
            raise WireError("truncated", "LZW stream ends without its end code")


def compress(data: bytes) -> bytes:
    """Write `data` as an LZW stream, byte for byte as the reference encoder does."""
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
        else:  # the last code is never given out: the reference clears instead
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
