"""What happened in a simulated cluster, in the order of virtual time."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from typing import Final

import attrs

CLUSTER: Final = "*"
"""The member of entries that concern the whole cluster."""


@attrs.frozen
class Entry:
    """One event of a run.

    Attributes:
        at: the instant, in seconds since the start.
        member: the id of the member that observed or did it, or `*` for the whole cluster.
        kind: such as `member-failed`, `user`, `crash`, `partition`.
        detail: the rest, as text.
    """

    at: float
    member: str
    kind: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.at:12.6f} {self.member} {self.kind} {self.detail}".rstrip()


class Trace:
    """All entries of one run.

    Attributes:
        scenario: the name of the scenario.
        seed: the seed of all randomness.
        entries: what happened.
        kinds: the kinds whose entries are kept, None for all; others are only counted.
        counts: the number of events by kind.
        network: packets and bytes by fate (see `Network.counts`).
        checksum: see `Network.checksum`.
        seconds: the virtual time at its end.
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

    def add(self, at: float, member: str, kind: str, detail: str = "") -> None:
        """Record an event."""
        if self.kinds is None or kind in self.kinds:
            self.entries.append(Entry(at, member, kind, detail))
        self.counts[kind] += 1

    def lines(self) -> Iterator[str]:
        """Yield the trace as text: a head, the entries, the counts of packets."""
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
