"""What happened in a world, in the order of virtual time."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from typing import Final

import attrs

WORLD: Final = "*"
"""Who did something that no member did."""


@attrs.frozen(slots=True)
class Entry:
    """One thing that happened.

    Attributes:
        at: the instant, in seconds since the world's beginning.
        who: the member that saw it or did it; `*` for the world.
        what: its kind, such as `member-failed`, `user`, `crash`, `partition`.
        detail: the rest, as words.
    """

    at: float
    who: str
    what: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.at:12.6f} {self.who} {self.what} {self.detail}".rstrip()


class Trace:
    """All entries of one run.

    Attributes:
        scenario: the name of the scenario.
        seed: what all randomness came from.
        entries: what happened.
        kinds: the kinds of which entries are kept, None for all; the rest is only counted.
        counts: how often each kind happened.
        network: packets sent, delivered and lost, by kind of fate (see `Network.counts`).
        checksum: of every packet delivered.
        seconds: how much virtual time passed.
    """

    def __init__(self, scenario: str, seed: int) -> None:
        self.scenario = scenario
        self.seed = seed
        self.entries: list[Entry] = []
        self.kinds: frozenset[str] | None = None
        self.counts: Counter[str] = Counter()
        self.network: Counter[str] = Counter()
        self.checksum = 0
        self.seconds = 0.0

    def add(self, at: float, who: str, what: str, detail: str = "") -> None:
        """Note what happened."""
        if self.kinds is None or what in self.kinds:
            self.entries.append(Entry(at, who, what, detail))
        self.counts[what] += 1

    def lines(self) -> Iterator[str]:
        """Give the whole trace as text, line by line: a head, the entries, the sums."""
        yield f"scenario={self.scenario} seed={self.seed}"
        yield from map(str, self.entries)
        sums = " ".join(f"{kind}={count}" for kind, count in sorted(self.network.items()))
        yield f"{self.seconds:12.6f} * end {sums} checksum={self.checksum:08x}"

    @property
    def text(self) -> str:
        """The whole trace; the same for the same seed, byte for byte."""
        return "\n".join(self.lines()) + "\n"

    @property
    def digest(self) -> str:
        """The SHA-256 of the text."""
        return hashlib.sha256(self.text.encode()).hexdigest()
