"""What must hold in every world, whatever happens in it.

*Incarnations.* Only a member raises its own incarnation, so nobody's table may hold a higher one
than the member itself ever had. A member that was declared dead comes back only with a higher
incarnation than the one it died in (unless its record was forgotten, or its name was taken over
from another address after it had left).

*False alarms.* A member that runs and can be reached is not declared failed. "Can be reached"
means: for as long as a suspicion may last there was no partition, cut, pause or slowness anywhere
(an old accusation may still be running), and it was up for so long. Loss of packets up to what
the scenario assumes is no excuse.

*Events.* A user event is delivered at most once in a member's life, and not again after a restart
from a snapshot. Sent while the network was whole, it reaches everyone who was there, unless its
sender crashes before anybody has heard it.

*Bounds.* Queues, inboxes, suspicions, probes and relays stay below their limits.

*Convergence.* After the last fault all tables agree within `convergence_bound`. In an interval of
probing I, with n members, suspicion's minimum S = mult · max(1, log10 n) · I and maximum M = 6 S
(Lifeguard §IV-B):

- A member whose health score is at its worst, 8, probes at first every 8 I, then, as probes
  succeed, every 7 I, 6 I ...: after 36 I its health is restored (§IV-A).
- A healthy member probes one random other in each I, so a dead one goes unprobed by all of m
  for t intervals with the probability (1 − 1/m)^(m·t) ≈ e^−t: below 10⁻⁶ for t = 14.
- The suspicion lasts M at the most, as when nobody confirms it.
- News that gossip brings to everyone needs a number of rounds in the order of its retransmit
  limit: 4 · ⌈log10(n + 1)⌉ gossip intervals.
- Whom gossip missed learns it by push/pull. With an interval P (stretched with n), a member takes
  part in two exchanges per P on average, so it misses k intervals with e^−2k: below 10⁻⁵ for
  k = 6. What it learns so about the dead it holds for suspect first: M once more.
- After a partition that outlasted all suspicions each side holds the other for dead. A first
  exchange lets each side's members hear of their own death and refute; a second carries the
  refutations over. Reconnecting (every 30 s with probability failed/alive, to one of the failed)
  and seeds (at least every 60 s) bring each of the two: two rounds of both.

The bound is the sum of all of these. Most worlds agree much earlier.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import attrs

from trioserf.serf.events import UserEventReceived
from trioserf.serf.member import Member
from trioserf.swim.broadcast_queue import retransmit_limit
from trioserf.swim.config import Timing, push_pull_scale
from trioserf.swim.failure_detector import MAX_RELAYS
from trioserf.swim.node_record import NodeRecord
from trioserf.swim.suspicion import suspicion_timeout
from trioserf.wire.swim_messages import ALIVE

if TYPE_CHECKING:
    from trioserf.sim.cluster import SimCluster
    from trioserf.sim.member import SimMember

_PROBE_INTERVALS: Final = 36 + 14
_PUSH_PULLS: Final = 6
_LOOKED_AT: Final = 20_000
"""Rows of tables looked at in a second: all those of 141 members."""
_QUEUE_SLACK: Final = 2
"""Queues are cut at their limit every 30 s, and at twice the limit at once."""


class Violation(AssertionError):
    """An invariant did not hold.

    Args:
        invariant: its name.
        what: what happened instead.
    """

    def __init__(self, invariant: str, what: str) -> None:
        super().__init__(f"{invariant}: {what}")
        self.invariant = invariant


@attrs.define(slots=True)
class _Sent:
    """A user event, and the lives that must get it."""

    expected: dict[tuple[str, int], None]


@attrs.frozen(slots=True)
class _Expected:
    """What all should believe of a name: that it is so alive, or one of the epitaphs."""

    name: str
    owner: "SimMember"
    incarnation: int = 0
    tags: Mapping[str, str] = attrs.Factory(dict)
    allowed_statuses: frozenset[str] = frozenset()

    @classmethod
    def of(cls, name: str, owner: "SimMember") -> "_Expected":
        """Look at the member that the name belongs to."""
        if owner.is_up and owner.node is not None:
            local = owner.node.memberlist.local
            return cls(name, owner, local.incarnation, owner.node.tags)
        wanted = {"unknown", "left" if owner.status == "left" else "failed"}
        if owner.status == "left" and not owner.left_in_calm:
            wanted.add("failed")
        if owner.has_left_once:
            wanted.add("left")  # nobody may have heard of the life after
        return cls(name, owner, allowed_statuses=frozenset(wanted))


@attrs.define(slots=True)
class _Death:
    """A member's death as another saw it."""

    record: NodeRecord
    incarnation: int
    address: tuple[bytes, int]


class InvariantChecker:
    """Watches one world.

    Args:
        world: the world.

    Attributes:
        expect_false_alarms: do not judge false alarms at all: members are overloaded.
        suspicions: how many there were.
        refutations: how often a member raised its incarnation to answer an accusation.
        failures: how often a member was declared failed.
        false_alarms: how many of these members were up.
    """

    def __init__(self, world: "SimCluster") -> None:
        self.expect_false_alarms = False
        self.suspicions = 0
        self.refutations = 0
        self.failures = 0
        self.false_alarms = 0
        self._world = world
        self._looked_at = 0
        self._last_wrong = ""
        self._highest: dict[str, int] = {}
        self._own: dict[tuple[str, int], tuple[int, Mapping[str, str]]] = {}
        self._deaths: dict[tuple[str, int, str], _Death] = {}
        self._delivered: dict[str, set[tuple[int, str, bytes]]] = {}
        self._sent: dict[tuple[str, bytes], _Sent] = {}
        self._got: dict[tuple[str, bytes], set[tuple[str, int]]] = {}

    # --- the formulas ---

    @property
    def timing(self) -> Timing:
        """The timings that all members have."""
        return self._world.config.timing

    def longest_suspicion(self) -> float:
        """Give how long a suspicion can last here at the most, in seconds."""
        timing = self.timing
        least = suspicion_timeout(
            timing.suspicion_mult, len(self._world.members), timing.probe_interval
        )
        return least * timing.suspicion_max_timeout_mult

    def convergence_bound(self) -> float:
        """Give the seconds within which all agree after the last fault (see the head)."""
        config, timing = self._world.config, self.timing
        n = max(2, len(self._world.members))
        return (
            _PROBE_INTERVALS * timing.probe_interval
            + 2 * self.longest_suspicion()
            + retransmit_limit(timing.retransmit_mult, n) * timing.gossip_interval
            + _PUSH_PULLS * push_pull_scale(timing.push_pull_interval, n)
            + 2 * (config.reconnect_interval + config.seed_interval_max)
        )

    # --- what members see ---

    def started(self, who: "SimMember", *, restored: bool) -> None:
        """Note that a member begins a life."""
        if not restored:
            self._delivered[who.id] = set()

    def check_incarnation(self, who: "SimMember") -> int:
        """Look at a member's own incarnation, which only it may raise; give the highest ever."""
        node = who.node
        highest = self._highest.get(who.name, 0)
        if node is None:
            return highest
        incarnation = node.memberlist.local.incarnation
        life = who.id, who.life
        before, tags = self._own.get(life, (1, node.tags))
        if incarnation > before:
            self._world.note("incarnation", str(incarnation), who.id)
            if node.tags == tags:
                self.refutations += 1
        elif incarnation < before:
            raise Violation("incarnation", f"{who.id} went from {before} to {incarnation}")
        self._own[life] = incarnation, node.tags
        self._highest[who.name] = highest = max(highest, incarnation)
        return highest

    def on_member(
        self, who: "SimMember", kind: str, member: Member, record: NodeRecord | None
    ) -> None:
        """Judge what one member believes of another."""
        if kind == "member-suspect":
            self.suspicions += 1
        if record is None:
            return
        self._judge_incarnation(who, record)
        key = who.id, who.life, member.name
        if record.is_dead_or_left:
            place = record.addr, record.port
            self._deaths[key] = _Death(record, record.incarnation, place)
        elif kind == "member-join":
            # Several claims of one packet are told of after the last of them: only what it has
            # led to can be judged.
            death = self._deaths.pop(key, None)
            if (
                death is not None
                and death.record is record
                and death.address == (record.addr, record.port)
                and record.incarnation <= death.incarnation
            ):
                raise Violation(
                    "resurrection",
                    f"{member.name} came back at {who.id} in incarnation {record.incarnation},"
                    f" but died in {death.incarnation}",
                )
        if kind == "member-failed":
            self._judge_failure(who, member)

    def _judge_incarnation(self, who: "SimMember", record: NodeRecord) -> None:
        highest = self._highest.get(record.name, 0)
        if record.incarnation > highest:
            owners = [m for m in self._world.members.values() if m.name == record.name]
            highest = max((self.check_incarnation(owner) for owner in owners), default=0)
        if record.incarnation > highest:
            raise Violation(
                "incarnation",
                f"{who.id} holds {record.name} in incarnation {record.incarnation},"
                f" which itself never went beyond {highest}",
            )

    def _judge_failure(self, who: "SimMember", member: Member) -> None:
        self.failures += 1
        world = self._world
        owners = [m for m in world.members.values() if m.name == member.name and m.is_up]
        if not owners:
            return
        self.false_alarms += 1
        if self.expect_false_alarms or world.calm_since is None:
            return
        horizon = world.now - self.longest_suspicion() - 10 * self.timing.probe_interval
        healthy = [m for m in owners if m.up_since < horizon and m.joined]
        if healthy and world.calm_since < horizon:
            raise Violation("false alarm", f"{who.id} declares {member.name} failed, which is up")

    # --- events ---

    def expected_receivers(self) -> list["SimMember"]:
        """Give the members that must get an event sent now: nobody in a divided network."""
        world = self._world
        return [] if world.calm_since is None else [m for m in world.up if m.joined]

    def sent(self, name: str, payload: bytes, ltime: int, audience: list["SimMember"]) -> None:
        """Note that an event was sent, and who must get it.

        Those who joined just now are not told of what was sent at earlier Lamport times, though it
        may be sent later by the clock on the wall.
        """
        lives = {(m.id, m.life): None for m in audience if m.events_from <= ltime}
        self._sent[name, payload] = _Sent(lives)

    def on_event(self, who: "SimMember", event: UserEventReceived) -> None:
        """Judge a delivery."""
        delivery = event.ltime, event.name, event.payload
        delivered = self._delivered[who.id]
        if delivery in delivered:
            raise Violation("at most once", f"{who.id} got {event.name}@{event.ltime} twice")
        delivered.add(delivery)
        self._got.setdefault((event.name, event.payload), set()).add((who.id, who.life))

    # --- from time to time ---

    def check_all(self) -> None:
        """Look at incarnations and bounds: of all members, or of some in turn if they are many."""
        members = [who for who in self._world.members.values() if who.node is not None]
        for who in members:
            self.check_incarnation(who)
        count = min(len(members), max(1, _LOOKED_AT // max(1, len(members))))
        for number in range(self._looked_at, self._looked_at + count):
            who = members[number % len(members)]
            if who.node is not None:
                for record in who.node.memberlist.records.values():
                    if record.incarnation > self._highest.get(record.name, 0):
                        self._judge_incarnation(who, record)
                self._judge_bounds(who)
        self._looked_at += count

    def _judge_bounds(self, who: "SimMember") -> None:
        node = who.node
        if node is None:
            return
        names = {m.name for m in self._world.members.values()}
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
            "relays": MAX_RELAYS,
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
                    "bounds", f"{who.id}: {name} is {size}, expected at most {limits[name]}"
                )

    # --- agreement ---

    def disagreement(self) -> str | None:
        """Say in which respect members do not agree with the world; None if they all do."""
        world = self._world
        owners: dict[str, SimMember] = {}
        for member in world.members.values():
            if member.name not in owners or member.is_up:
                owners[member.name] = member
        truths = [_Expected.of(name, owner) for name, owner in owners.items()]
        # Who was the last to be wrong is asked first: mostly that is enough.
        for viewer in sorted(world.up, key=lambda viewer: viewer.id != self._last_wrong):
            fault = self._misbelief(viewer, truths)
            if fault is not None:
                self._last_wrong = viewer.id
                return f"{viewer.id} {fault}"
        return self._missing_event()

    def _misbelief(self, viewer: "SimMember", truths: list[_Expected]) -> str | None:
        node = viewer.node
        if node is None:
            return None
        records, member = node.memberlist.records, node.member
        for truth in truths:
            name = truth.name
            known = member(name)
            status = "unknown" if known is None else known.status_text
            if truth.allowed_statuses:
                if status not in truth.allowed_statuses:
                    return f"holds {name} for {status}, it {truth.owner.status}"
                continue
            record = records.get(name)
            if known is None or record is None or status != "alive" or record.state is not ALIVE:
                return f"holds {name} for {status}, it is up"
            if record.incarnation != truth.incarnation:
                return f"knows {name} in incarnation {record.incarnation}"
            if known.tags != truth.tags:
                return f"knows old tags of {name}"
        return None

    def _missing_event(self) -> str | None:
        lives = {(m.id, m.life) for m in self._world.up}
        for (name, payload), sent in self._sent.items():
            got = self._got.get((name, payload), set())
            if got.isdisjoint(lives):
                continue  # whoever had it crashed before it was passed on
            for life in sent.expected:
                if life in lives and life not in got:
                    return f"{life[0]} did not get the event {name}"
        return None
