"""What `scripts/chaos` records, and how it is judged: plain data, without processes.

Times are seconds since the beginning; `inf` stands for events that did not happen.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from math import inf
from typing import Final

import attrs

SETTLED: Final = 5.0
"""Seconds after a join until events must arrive: a new member ignores events with earlier Lamport
times than its join, and a sender may not yet have received the latest time."""
ARRIVED_WITHIN: Final = 70.0
"""Seconds until an event must have arrived: what gossip misses, a push/pull (30 s) brings."""
SPREAD_WITHIN: Final = 180.0
"""The same after a disturbance: of few members that have it, push/pulls must choose one."""
GOSSIPED_WITHIN: Final = 2.0
"""Seconds that a sender must survive, so that its event counts as sent."""
SNAPSHOT_DELAY: Final = 1.5
"""Seconds of events that a snapshot may lack: it is written every half second."""
SNAPSHOT_RETRY: Final = 35.0
"""Seconds until a snapshot is written again after an error; trioserf retries after 30."""
FAILED_WITHIN: Final = 45.0
"""Seconds after a disturbance of a member in which others may declare it failed."""
QUERY_TIMEOUT: Final = 5.0
DISTURBED_BEFORE: Final = 10.0
"""Seconds after a disturbance in which responses may still be missing."""
JUDGED_AFTER: Final = 20.0
"""Seconds that a run must last until the growth of its memory is judged."""
WARM_UP: Final = 3.0
"""Seconds until the memory of a new run is measured."""
ALLOWED_DESCRIPTORS: Final = 5
"""Open descriptors more than at the start: streams that happen to be open."""
TRIOSERF_PREFIX: Final = "py"
"""How names of agents of trioserf begin."""


# --- records ---


@attrs.frozen
class Sample:
    at: float
    memory: float
    """Resident memory in MB."""
    descriptors: int


@attrs.define
class Run:
    """One run of an agent, from its start to its end.

    Attributes:
        ready: when it was a member of the cluster and its events were followed.
        by_itself: how it ended, if it was not killed.
        streamed: events of its stream, with the times.
        handled: events for which its handler ran.
        failed: members that it declared failed, with the times.
    """

    agent: str
    number: int
    began: float
    ready: float = inf
    ended: float = inf
    by_itself: str = ""
    tracebacks: int = 0
    streamed: list[tuple[float, str]] = attrs.field(factory=list)
    handled: list[str] = attrs.field(factory=list)
    failed: list[tuple[float, str]] = attrs.field(factory=list)
    samples: list[Sample] = attrs.field(factory=list)

    def covers(self, begin: float, end: float) -> bool:
        """Return whether it was ready from `begin` to `end`."""
        return self.ready <= begin and self.ended >= end


@attrs.frozen
class Disturbance:
    kind: str
    agent: str
    """Empty: all agents."""
    began: float
    ended: float


@attrs.frozen
class Sent:
    """A user event that an agent has accepted."""

    event: str
    agent: str
    at: float


@attrs.frozen
class Asked:
    """A query that is over."""

    agent: str
    at: float
    responders: frozenset[str]


@attrs.define
class Journal:
    """Everything that happened.

    Attributes:
        refused: events and queries that an agent did not accept.
        troubles: what else went wrong, such as an agent that did not come back.
    """

    runs: list[Run] = attrs.field(factory=list)
    disturbances: list[Disturbance] = attrs.field(factory=list)
    sent: list[Sent] = attrs.field(factory=list)
    asked: list[Asked] = attrs.field(factory=list)
    refused: int = 0
    troubles: list[str] = attrs.field(factory=list)

    def runs_of(self, agent: str) -> list[Run]:
        return [run for run in self.runs if run.agent == agent]

    def disturbed(
        self, agents: Sequence[str], kinds: Sequence[str], begin: float, end: float
    ) -> list[Disturbance]:
        """Return disturbances of these kinds, of these agents or all, that overlap a time."""
        return [
            one
            for one in self.disturbances
            if one.kind in kinds
            and (not one.agent or one.agent in agents)
            and one.began <= end
            and one.ended >= begin
        ]


REACHING: Final = ("kill", "dns", "stop", "cut", "loss", "descriptors")
"""Disturbances that keep messages from an agent, or the agent from them."""


# --- the report ---


@attrs.frozen
class Missing:
    """An event that an agent never received, or received twice, or a query without a response."""

    what: str
    agent: str
    at: float
    during: tuple[str, ...]
    """Disturbances at that time."""


@attrs.frozen
class FalseFailure:
    """A member that was declared failed, but was neither killed nor stopped nor cut off."""

    member: str
    at: float
    by: tuple[str, ...]
    during: tuple[str, ...]


@attrs.frozen
class Summary:
    """One agent; memory in MB. Start and end are those of the last run, the growth the largest."""

    agent: str
    runs: int
    memory_start: float
    memory_end: float
    growth: float
    descriptors_start: int
    descriptors_end: int


@attrs.frozen
class Report:
    """The result of a whole run.

    Attributes:
        uncertain: events whose sender ended before others could certainly receive them.
        late_replays: replayed events that the snapshot could not have: received just before
            the end, or while the disk was full or there were no descriptors.
        problems: why the exit code is 1.
    """

    program: str
    seed: int
    minutes: float
    disturbances: dict[str, int]
    skipped: dict[str, str]
    sent: int
    refused: int
    uncertain: int
    lost: list[Missing]
    replayed: list[Missing]
    late_replays: int
    doubled: list[Missing]
    asked: int
    complete: int
    incomplete_disturbed: int
    incomplete: list[Missing]
    declared_failed: int
    false_failures: list[FalseFailure]
    died: list[str]
    tracebacks: int
    troubles: list[str]
    agents: list[Summary]
    problems: list[str]

    def text(self) -> str:
        """Return the report as a table in plain text."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield f"chaos: {self.program}, seed {self.seed}, {self.minutes:g} minutes"
        counts = ", ".join(f"{kind} {count}" for kind, count in self.disturbances.items())
        yield f"disturbances  {counts or 'none'}"
        for kind, reason in self.skipped.items():
            yield f"SKIPPED       {kind}: {reason}"
        undisturbed = sum(not one.during for one in self.lost)
        yield (
            f"events        {self.sent} sent, {len(self.lost)} lost ({undisturbed} without a"
            f" disturbance), {len(self.replayed)} replayed, {len(self.doubled)} doubled"
        )
        yield (
            f"              {self.late_replays} replayed that the snapshot could not have,"
            f" {self.uncertain} of senders that ended, {self.refused} refused"
        )
        yield (
            f"queries       {self.asked} asked, {self.complete} complete,"
            f" {self.incomplete_disturbed} incomplete during a disturbance,"
            f" {len(self.incomplete)} incomplete otherwise"
        )
        yield (
            f"failures      {self.declared_failed} declared,"
            f" {len(self.false_failures)} members falsely"
        )
        yield f"agents        {len(self.died)} died by themselves, {self.tracebacks} tracebacks"
        yield ""
        yield "agent  runs   memory: start    end  growth   descriptors: start  end"
        for one in self.agents:
            yield (
                f"{one.agent:6} {one.runs:4}  {one.memory_start:9.1f} MB {one.memory_end:6.1f}"
                f" {one.growth:7.1f} {one.descriptors_start:20} {one.descriptors_end:4}"
            )
        for title, ones in (
            ("lost", self.lost), ("replayed", self.replayed), ("doubled", self.doubled),
            ("no response", self.incomplete),
        ):  # fmt: skip
            for missing in ones[:20]:
                during = f" during {', '.join(missing.during)}" if missing.during else ""
                yield f"{title}: {missing.what} at {missing.agent}, {missing.at:.1f} s{during}"
        for false in self.false_failures:
            yield (
                f"false failure: {false.member}, {false.at:.1f} s, seen by {', '.join(false.by)}"
                f" during {', '.join(false.during) or 'no disturbance'}"
            )
        yield from (f"died: {one}" for one in self.died)
        yield from (f"trouble: {one}" for one in self.troubles)
        yield ""
        yield from (f"PROBLEM: {one}" for one in self.problems)
        if not self.problems:
            yield "no problems"


# --- judging ---


def judge(
    journal: Journal,
    *,
    program: str,
    seed: int,
    minutes: float,
    skipped: dict[str, str],
    max_growth: float,
) -> Report:
    """Make the report; `max_growth`: MB by which the memory of a run of trioserf may grow."""
    replayed, late_replays = find_replayed(journal)
    incomplete, incomplete_disturbed = find_incomplete(journal)
    report = Report(
        program=program,
        seed=seed,
        minutes=minutes,
        disturbances=dict(Counter(one.kind for one in journal.disturbances)),
        skipped=skipped,
        sent=len(journal.sent),
        refused=journal.refused,
        uncertain=sum(not _was_gossiped(journal, one) for one in journal.sent),
        lost=find_lost(journal),
        replayed=replayed,
        late_replays=late_replays,
        doubled=find_doubled(journal),
        asked=len(journal.asked),
        complete=len(journal.asked) - len(incomplete) - incomplete_disturbed,
        incomplete_disturbed=incomplete_disturbed,
        incomplete=incomplete,
        declared_failed=sum(len(run.failed) for run in journal.runs),
        false_failures=find_false_failures(journal),
        died=[
            f"{run.agent}, run {run.number}, {run.ended:.1f} s: {run.by_itself}"
            for run in journal.runs
            if run.by_itself
        ],
        tracebacks=sum(run.tracebacks for run in journal.runs if _is_ours(run.agent)),
        troubles=journal.troubles,
        agents=[summary(journal.runs_of(name)) for name in _names(journal)],
        problems=[],
    )
    return attrs.evolve(report, problems=list(_problems(report, journal, max_growth)))


def _problems(report: Report, journal: Journal, max_growth: float) -> Iterator[str]:
    """Yield the reasons for exit code 1; agents of Serf give none."""
    for run in journal.runs:
        if run.by_itself and _is_ours(run.agent):
            yield f"{run.agent} died by itself: {run.by_itself}"
    if report.tracebacks:
        yield f"{report.tracebacks} tracebacks in logs"
    for title, ones in (("doubled", report.doubled), ("replayed", report.replayed)):
        if count := sum(_is_ours(one.agent) for one in ones):
            yield f"{count} events were {title}"
    for one in report.agents:
        if not _is_ours(one.agent):
            continue
        if one.growth > max_growth:
            yield f"the memory of {one.agent} grew by {one.growth:.1f} MB, over {max_growth:g}"
        if one.descriptors_end > one.descriptors_start + ALLOWED_DESCRIPTORS:
            yield (
                f"{one.agent} has {one.descriptors_end} open descriptors,"
                f" {one.descriptors_start} at the start"
            )
    yield from report.troubles


def find_lost(journal: Journal) -> list[Missing]:
    """Return the events that never arrived at an agent that was up before and long after."""
    lost = []
    received = [(run, {name for _, name in run.streamed} | {*run.handled}) for run in journal.runs]
    for sent in journal.sent:
        if not _was_gossiped(journal, sent):
            continue
        for run, names in received:
            if sent.event in names or not run.covers(sent.at - SETTLED, sent.at):
                continue
            end = sent.at + GOSSIPED_WITHIN
            # Of all agents: gossip for those that fail is missing elsewhere.
            during = journal.disturbed(_names(journal), REACHING, sent.at, end)
            needed = max(
                [sent.at + ARRIVED_WITHIN, *(one.ended + SPREAD_WITHIN for one in during)]
            )
            if run.ended >= needed:
                lost.append(_missing(f"{sent.event} of {sent.agent}", run.agent, sent.at, during))
    return lost


def find_replayed(journal: Journal) -> tuple[list[Missing], int]:
    """Return events that two runs of an agent received, and how many more could not be known."""
    sent = {one.event: one.at for one in journal.sent}
    replayed = []
    late = 0
    for agent in _names(journal):
        last: dict[str, tuple[float, Run]] = {}
        for run in journal.runs_of(agent):
            times: dict[str, float] = {name: sent.get(name, run.began) for name in run.handled}
            times |= {name: at for at, name in reversed(run.streamed)}
            for name, at in times.items():
                if name not in last:
                    continue
                before, earlier = last[name]
                begin = before - SNAPSHOT_RETRY
                kinds = "disk", "descriptors"
                full = journal.disturbed((agent,), kinds, begin, earlier.ended)
                if earlier.ended - before < SNAPSHOT_DELAY or full:
                    late += 1
                else:
                    replayed.append(_missing(name, agent, at, full))
            last |= {name: (at, run) for name, at in times.items()}
    return replayed, late


def find_doubled(journal: Journal) -> list[Missing]:
    """Return the events that one run received twice."""
    doubled = []
    for run in journal.runs:
        for names in ([name for _, name in run.streamed], run.handled):
            doubled += [
                _missing(f"{name}, {count} times,", run.agent, run.ready, [])
                for name, count in Counter(names).items()
                if count > 1
            ]
    return doubled


def find_incomplete(journal: Journal) -> tuple[list[Missing], int]:
    """Return responses that are missing without a reason, and how many queries had a reason."""
    incomplete = []
    disturbed = 0
    for asked in journal.asked:
        begin, end = asked.at - DISTURBED_BEFORE, asked.at + QUERY_TIMEOUT
        expected = {run.agent for run in journal.runs if run.covers(asked.at - SETTLED, end)}
        missing = sorted(expected - asked.responders)
        reasons = {
            name: journal.disturbed((name, asked.agent), REACHING, begin, end) for name in missing
        }
        if not missing:
            continue
        if all(reasons.values()):
            disturbed += 1
            continue
        names = ", ".join(name for name in missing if not reasons[name])
        incomplete.append(_missing(f"query of {asked.agent}", names, asked.at, []))
    return incomplete, disturbed


def find_false_failures(journal: Journal) -> list[FalseFailure]:
    """Return failures of members that were up and undisturbed; one for all that report it."""
    false: list[FalseFailure] = []
    declared = sorted((at, member, run.agent) for run in journal.runs for at, member in run.failed)
    for at, member, by in declared:
        begin = at - FAILED_WITHIN
        if journal.disturbed((member,), ("kill", "dns", "stop", "cut"), begin, at):
            continue
        if any(run.ready >= begin and run.began <= at for run in journal.runs_of(member)):
            continue  # it has just been started
        if any(begin <= run.ended <= at for run in journal.runs_of(member)):
            continue
        same = [one for one in false if one.member == member and at - one.at < FAILED_WITHIN]
        if same:
            by_all = tuple(sorted({*same[0].by, by}))
            false[false.index(same[0])] = attrs.evolve(same[0], by=by_all)
            continue
        kinds = (*REACHING, "disk", "clock")
        during = journal.disturbed(_names(journal), kinds, at - DISTURBED_BEFORE, at)
        false.append(FalseFailure(member, at, (by,), _texts(during)))
    return false


def summary(runs: Sequence[Run]) -> Summary:
    """Summarize the runs of one agent."""
    growth = 0.0
    start = end = Sample(0.0, 0.0, 0)
    for run in runs:
        samples = [one for one in run.samples if run.ready + WARM_UP <= one.at <= run.ended]
        if not samples:
            continue
        # The number of descriptors varies with streams; a leak is what remains at the best time.
        start = attrs.evolve(samples[0], descriptors=min(s.descriptors for s in samples[:5]))
        end = attrs.evolve(samples[-1], descriptors=min(s.descriptors for s in samples[-5:]))
        if end.at - start.at > JUDGED_AFTER:
            growth = max(growth, end.memory - start.memory)
    return Summary(
        runs[0].agent, len(runs), start.memory, end.memory, growth,
        start.descriptors, end.descriptors,
    )  # fmt: skip


def _was_gossiped(journal: Journal, sent: Sent) -> bool:
    """Return whether the sender of an event survived it long enough.

    If its packets did not get through, only a push/pull brings its event to the others.
    """
    kinds = "cut", "stop", "loss"
    cut = journal.disturbed((sent.agent,), kinds, sent.at, sent.at + GOSSIPED_WITHIN)
    needed = max([sent.at + GOSSIPED_WITHIN, *(one.ended + ARRIVED_WITHIN for one in cut)])
    return any(run.began <= sent.at and run.ended >= needed for run in journal.runs_of(sent.agent))


def _missing(what: str, agent: str, at: float, during: Sequence[Disturbance]) -> Missing:
    return Missing(what, agent, at, _texts(during))


def _texts(disturbances: Sequence[Disturbance]) -> tuple[str, ...]:
    return tuple(f"{one.kind} {one.agent}".strip() for one in disturbances)


def _names(journal: Journal) -> list[str]:
    return list(dict.fromkeys(run.agent for run in journal.runs))


def _is_ours(agent: str) -> bool:
    return agent.startswith(TRIOSERF_PREFIX)
