"""Invariants of every simulated cluster (see sim/README.md, § Invariants).

The bound of convergence: with the probe interval I, n members, the minimum suspicion timeout
S = mult · max(1, log10 n) · I and the maximum M = 6 S (Lifeguard §IV-B):

- A member whose health score is at its worst, 8, probes every 8 I at first, then, as probes
  succeed, every 7 I, 6 I …: after 36 I its health is restored (§IV-A).
- A healthy member probes one random other in each I, so none of the m others probes a dead
  member for t intervals with the probability (1 − 1/m)^(m·t) ≈ e^−t: below 10⁻⁶ for t = 14.
- The suspicion lasts at most M, the time without any confirmation.
- Gossip reaches all members in a number of rounds of the order of its retransmit limit:
  4 · ⌈log10(n + 1)⌉ gossip intervals.
- A member that a broadcast missed learns of the change by push/pull. With an interval P (longer
  in large clusters), a member takes part in two exchanges per P on average, so it has none in k
  intervals with the probability e^−2k: below 10⁻⁵ for k = 6. It suspects dead members that it
  learns of in this way first: M once more.
- After a partition that outlasted all suspicions, each side considers the other dead. A first
  exchange lets the members of each side learn of their own death and refute it; a second carries
  the refutations over. Reconnecting (every 30 s, with probability failed/alive, to a random failed
  member) and seeds (at least every 60 s) cause both: two rounds of each.

The sum of these is the bound. Most clusters agree much earlier.
"""

from collections.abc import Mapping
from typing import Final

import attrs

from trioserf.node.config import NodeConfig
from trioserf.serf.events import UserEventReceived
from trioserf.serf.member import Member
from trioserf.sim.faults import Faults
from trioserf.sim.member import SimMember
from trioserf.swim.broadcast_queue import retransmit_limit
from trioserf.swim.config import Timing, push_pull_scale
from trioserf.swim.failure_detector import MAX_INDIRECT_PINGS
from trioserf.swim.node_record import NodeRecord
from trioserf.swim.suspicion import suspicion_timeout
from trioserf.wire.swim_messages import ALIVE

DELIVERED_WITHIN: Final = 3.0
"""Seconds until a user event has reached all members, without faults."""
_PROBE_INTERVALS: Final = 36 + 14
_PUSH_PULLS: Final = 6
_MAX_CHECKED_RECORDS: Final = 20_000
"""Records checked each time: all of those of 141 members."""
_QUEUE_SLACK: Final = 2
"""Queues are cut to their limit every 30 s, and to twice the limit at once."""


class Violation(AssertionError):
    """An invariant did not hold.

    Args:
        invariant: its name in the README.
        detail: what happened instead.
    """

    def __init__(self, invariant: str, detail: str) -> None:
        super().__init__(f"{invariant}: {detail}")
        self.invariant = invariant


@attrs.frozen
class _Expected:
    """What all tables must contain about a name: an alive member, or one of some statuses."""

    name: str
    owner: SimMember
    incarnation: int = 0
    tags: Mapping[str, str] = attrs.Factory(dict)
    allowed_statuses: frozenset[str] = frozenset()

    @classmethod
    def of(cls, name: str, owner: SimMember) -> "_Expected":
        if owner.is_up and owner.node is not None:
            local = owner.node.memberlist.local
            return cls(name, owner, local.incarnation, owner.node.tags)
        allowed = {"unknown", "left" if owner.status == "left" else "failed"}
        if owner.status == "left" and not owner.left_in_calm:
            allowed.add("failed")
        if owner.has_left_once:
            allowed.add("left")  # perhaps no member noticed that it was started again
        return cls(name, owner, allowed_statuses=frozenset(allowed))


@attrs.define
class _Death:
    """A member's death as recorded by another member."""

    record: NodeRecord
    incarnation: int
    address: tuple[bytes, int]


class InvariantChecker:
    """Checks one cluster; every check raises `Violation` if an invariant does not hold.

    Args:
        cluster: the members, their faults and the trace.
        config: what all members have in common.

    Attributes:
        expect_false_alarms: count false alarms without raising.
        expect_late_events: allow late events, for measurements.
        suspicions: the number of suspicions.
        refutations: how often a member raised its incarnation to refute a suspicion.
        failures: how often a member was declared failed.
        false_alarms: how often that member was up.
    """

    def __init__(self, cluster: Faults, config: NodeConfig) -> None:
        self.expect_false_alarms = False
        self.expect_late_events = False
        self.suspicions = 0
        self.refutations = 0
        self.failures = 0
        self.false_alarms = 0
        self._cluster = cluster
        self._config = config
        self._checked = 0
        self._last_disagreeing = ""
        self._highest: dict[str, int] = {}
        self._own: dict[tuple[str, int], tuple[int, Mapping[str, str]]] = {}
        self._deaths: dict[tuple[str, int, str], _Death] = {}
        self._delivered: dict[str, set[tuple[int, str, bytes]]] = {}
        self._expected_by: dict[tuple[str, bytes], list[tuple[str, int]]] = {}
        self._received_by: dict[tuple[str, bytes], set[tuple[str, int]]] = {}
        self._sent_at: dict[tuple[str, bytes], float] = {}

    # --- formulas ---

    @property
    def timing(self) -> Timing:
        """The timings of all members."""
        return self._config.timing

    def longest_suspicion(self) -> float:
        """Return the longest possible duration of a suspicion here, in seconds."""
        timing = self.timing
        least = suspicion_timeout(
            timing.suspicion_mult, len(self._cluster.members), timing.probe_interval
        )
        return least * timing.suspicion_max_timeout_mult

    def convergence_bound(self) -> float:
        """Return the bound of `convergence`, derived at the head of this module, in seconds."""
        config, timing = self._config, self.timing
        n = max(2, len(self._cluster.members))
        return (
            _PROBE_INTERVALS * timing.probe_interval
            + 2 * self.longest_suspicion()
            + retransmit_limit(timing.retransmit_mult, n) * timing.gossip_interval
            + _PUSH_PULLS * push_pull_scale(timing.push_pull_interval, n)
            + 2 * (config.reconnect_interval + config.seed_interval_max)
        )

    # --- membership ---

    def on_start(self, member: SimMember, *, restored: bool) -> None:
        """Record that a member starts, perhaps with the clocks of its last run."""
        if not restored:
            self._delivered[member.id] = set()

    def check_incarnation(self, member: SimMember) -> int:
        """Check a member's own incarnation, which only it may raise; return the highest ever."""
        node = member.node
        highest = self._highest.get(member.name, 0)
        if node is None:
            return highest
        incarnation = node.memberlist.local.incarnation
        before, tags = self._own.get(member.run_key, (1, node.tags))
        if incarnation > before:
            self._cluster.note("incarnation", str(incarnation), member.id)
            if node.tags == tags:
                self.refutations += 1
        elif incarnation < before:
            raise Violation("incarnation", f"{member.id} went from {before} to {incarnation}")
        self._own[member.run_key] = incarnation, node.tags
        self._highest[member.name] = highest = max(highest, incarnation)
        return highest

    def on_member(
        self, observer: SimMember, kind: str, member: Member, record: NodeRecord | None
    ) -> None:
        """Check a member event of one member about another."""
        if kind == "member-suspect":
            self.suspicions += 1
        if record is None:
            return
        self._check_record(observer, record)
        key = *observer.run_key, member.name
        address = record.addr, record.port
        if record.is_dead_or_left:
            self._deaths[key] = _Death(record, record.incarnation, address)
        elif kind == "member-join":
            # Events of one packet are emitted after its last message, so only the final state of
            # the record can be checked.
            death = self._deaths.pop(key, None)
            if (
                death is not None
                and death.record is record
                and death.address == address
                and record.incarnation <= death.incarnation
            ):
                raise Violation(
                    "resurrection",
                    f"{observer.id} accepted {member.name} in incarnation {record.incarnation},"
                    f" but it died in {death.incarnation}",
                )
        if kind == "member-failed":
            self._check_failure(observer, member)

    def _check_record(self, observer: SimMember, record: NodeRecord) -> None:
        highest = self._highest.get(record.name, 0)
        if record.incarnation > highest:
            owners = [m for m in self._cluster.members.values() if m.name == record.name]
            highest = max((self.check_incarnation(owner) for owner in owners), default=0)
        if record.incarnation > highest:
            raise Violation(
                "incarnation",
                f"{observer.id} recorded {record.name} in incarnation {record.incarnation},"
                f" but its highest own is {highest}",
            )

    def _check_failure(self, observer: SimMember, member: Member) -> None:
        self.failures += 1
        cluster = self._cluster
        owners = [m for m in cluster.members.values() if m.name == member.name and m.is_up]
        if not owners:
            return
        self.false_alarms += 1
        cluster.note("false-alarm", member.name, observer.id)
        if self.expect_false_alarms or cluster.calm_since is None:
            return
        horizon = cluster.now - self.longest_suspicion() - 10 * self.timing.probe_interval
        healthy = [m for m in owners if m.up_since < horizon and m.joined]
        if healthy and cluster.calm_since < horizon:
            raise Violation(
                "false alarm", f"{observer.id} declared {member.name} failed, but it is up"
            )

    # --- user events ---

    def expected_receivers(self) -> list[SimMember]:
        """Return the members that must receive an event sent now: none while a fault is active."""
        cluster = self._cluster
        return [] if cluster.calm_since is None else [m for m in cluster.up if m.joined]

    def on_sent(
        self,
        name: str,
        payload: bytes,
        ltime: int,
        receivers: list[SimMember],
        *,
        has_joined: bool = True,
    ) -> None:
        """Record that an event was sent, and the members that must receive it.

        Members that have just joined skip events of earlier Lamport times, even if these are sent
        later by the wall clock. If the sender itself has not joined, others find it some time
        later, and so the delay of its event is not checked.
        """
        expected = dict.fromkeys(m.run_key for m in receivers if m.events_from <= ltime)
        self._expected_by[name, payload] = list(expected)
        if has_joined:
            self._sent_at[name, payload] = self._cluster.now

    def on_event(self, member: SimMember, event: UserEventReceived) -> None:
        """Check the delivery of an event to a member."""
        delivery = event.ltime, event.name, event.payload
        delivered = self._delivered[member.id]
        if delivery in delivered:
            raise Violation(
                "at most once", f"{member.id} received {event.name}@{event.ltime} twice"
            )
        delivered.add(delivery)
        if member.run_key in self._expected_by.get((event.name, event.payload), ()):
            self._check_delay(member.id, event.name, event.payload)
        self._received_by.setdefault((event.name, event.payload), set()).add(member.run_key)

    def _check_delay(self, member: str, name: str, payload: bytes) -> None:
        """Check that an event which a member has received now, or not yet, is not late."""
        cluster = self._cluster
        sent_at = self._sent_at.get((name, payload))
        if sent_at is None or self.expect_late_events:
            return
        if cluster.was_partitioned or cluster.calm_since is None:
            return
        took = cluster.now - max(sent_at, cluster.calm_since)
        if took > DELIVERED_WITHIN:
            text = f"{member} did not receive {name} within {DELIVERED_WITHIN:g} s of calm"
            raise Violation("delivery", text)

    # --- periodic checks ---

    def check_all(self) -> None:
        """Check all own incarnations and events, and the tables of all members or some in turn."""
        self._check_delays()
        members = [member for member in self._cluster.members.values() if member.node is not None]
        for member in members:
            self.check_incarnation(member)
        count = min(len(members), max(1, _MAX_CHECKED_RECORDS // max(1, len(members))))
        for number in range(self._checked, self._checked + count):
            member = members[number % len(members)]
            if member.node is not None:
                for record in member.node.memberlist.records.values():
                    if record.incarnation > self._highest.get(record.name, 0):
                        self._check_record(member, record)
                self._check_bounds(member)
        self._checked += count

    def _check_bounds(self, member: SimMember) -> None:
        node = member.node
        if node is None:
            return
        names = {m.name for m in self._cluster.members.values()}
        config = node.config
        queue = max(config.serf.max_queue_depth, 2 * config.serf.min_queue_depth, 2 * len(names))
        limits = {
            "inbox": config.inbox_depth,
            "intent": _QUEUE_SLACK * queue,
            "event": _QUEUE_SLACK * queue,
            "query": _QUEUE_SLACK * queue,
            "membership": len(names),
            "suspicions": len(names),
            "probes": 1,
            "relays": MAX_INDIRECT_PINGS,
            "member table": len(names),
            "members": len(names),
            "health": self.timing.awareness_max_multiplier - 1,
        }
        sizes = node.queue_depths()
        sizes["member table"] = len(node.memberlist.records)
        sizes["members"] = len(node.members())
        sizes["health"] = node.memberlist.awareness.score
        for name, size in sizes.items():
            if size > limits[name]:
                raise Violation(
                    "bounds", f"{member.id}: {name} is {size}, expected at most {limits[name]}"
                )

    # --- convergence ---

    def disagreement(self) -> str | None:
        """Return the first difference between a member's state and the expected one, or None."""
        owners: dict[str, SimMember] = {}
        for member in self._cluster.members.values():
            if member.name not in owners or member.is_up:
                owners[member.name] = member
        expected = [_Expected.of(name, owner) for name, owner in owners.items()]
        # The last member that disagreed is checked first: in most cases that is enough.
        for observer in sorted(
            self._cluster.up, key=lambda member: member.id != self._last_disagreeing
        ):
            difference = self._difference(observer, expected)
            if difference is not None:
                self._last_disagreeing = observer.id
                return f"{observer.id} {difference}"
        return self._missing_event()

    def _difference(self, observer: SimMember, all_expected: list[_Expected]) -> str | None:
        node = observer.node
        if node is None:
            return None
        records, member = node.memberlist.records, node.member
        for expected in all_expected:
            name = expected.name
            known = member(name)
            status = "unknown" if known is None else known.status
            if expected.allowed_statuses:
                if status not in expected.allowed_statuses:
                    return f"has {name} as {status}, but it has {expected.owner.status}"
                continue
            record = records.get(name)
            if known is None or record is None or status != "alive" or record.state is not ALIVE:
                return f"has {name} as {status}, but it is up"
            if record.incarnation != expected.incarnation:
                return f"has {name} in incarnation {record.incarnation}"
            if known.tags != expected.tags:
                return f"has old tags of {name}"
        return None

    def _check_delays(self) -> None:
        """Check that no event is late; an event that all have received is not checked again."""
        running = {member.run_key: member.id for member in self._cluster.up}
        for key in list(self._sent_at):
            received = self._received_by.get(key, set())
            missing = [run for run in self._expected_by[key] if run not in received]
            if not missing:
                del self._sent_at[key]
            elif not received.isdisjoint(running):
                for run in missing:
                    if run in running:
                        self._check_delay(running[run], *key)

    def _missing_event(self) -> str | None:
        running = {m.run_key for m in self._cluster.up}
        for (name, payload), expected in self._expected_by.items():
            received = self._received_by.get((name, payload), set())
            if received.isdisjoint(running):
                continue  # every member that had it crashed before passing it on
            for run in expected:
                if run in running and run not in received:
                    return f"{run[0]} did not receive the event {name}"
        return None
