"""Inputs of records: a header and records of equal size, each of which is an operation.

A mutation changes, copies, moves, inserts or removes whole records, so that the others keep their
meaning.
"""

import random
from collections.abc import Callable
from typing import Final

HEADER: Final = 2
RECORD: Final = 32
MAX_INPUT: Final = HEADER + RECORD * 24


def split(data: bytes) -> list[bytes]:
    """Split an input into its records; the last one may be short."""
    return [data[at : at + RECORD] for at in range(HEADER, min(len(data), MAX_INPUT), RECORD)]


def join(header: bytes, *records: bytes) -> bytes:
    """Return an input; short records end with zeros."""
    return header.ljust(HEADER, b"\0") + b"".join(one.ljust(RECORD, b"\0") for one in records)


def mutate(data: bytes, max_size: int, seed: int, mutate_bytes: Callable[..., bytes]) -> bytes:
    """Mutate whole records, or bytes of one of them.

    Args:
        data: an input.
        max_size: its greatest length.
        seed: of the choice of a mutation.
        mutate_bytes: libFuzzer's own mutation; its arguments are bytes and their greatest length.
    """
    rng = random.Random(seed)
    header, records = data[:HEADER], split(data)
    if rng.randrange(20) == 0:
        header = rng.randbytes(HEADER)
    if not records:
        records = [rng.randbytes(RECORD)]
    at = rng.randrange(len(records))
    record = records[at].ljust(RECORD, b"\0")
    match rng.randrange(10):
        case 0:
            records.insert(at, rng.randbytes(RECORD))
        case 1:
            records.insert(rng.randrange(len(records) + 1), record)
        case 2 if len(records) > 1:
            del records[at]
        case 3:
            rng.shuffle(records)
        case 4:
            records[at] = bytes(mutate_bytes(record, RECORD))[:RECORD]
        case _:
            changed = bytearray(record)
            for _ in range(rng.choice((1, 1, 2, 4))):
                # The first bytes select the most.
                changed[int(rng.random() ** 2 * RECORD)] = rng.randrange(256)
            records[at] = bytes(changed)
    return join(header, *records)[: min(max_size, MAX_INPUT)]
