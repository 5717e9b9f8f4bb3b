"""The member table: who is in the cluster, and which of two claims about a member is believed.

Every member keeps such a table, and no two tables are ever quite equal: messages come late, twice
or never, in any order, from members that are wrong. What makes the tables converge is that all
of them prefer the same of any two claims, whichever came first. This is that preference.

**Incarnations.** A member numbers what it says about itself; nobody else may raise that number.
A claim about a member bears the incarnation it is about, and a claim about a newer incarnation
beats every claim about an older one. Within one incarnation bad news beats good: dead or left over
suspect, suspect over alive (SWIM §4.2). So an accusation can be answered by its victim alone, by
saying *alive* with a higher number: it **refutes**. Our own record is therefore never suspect, and
dead or left only when we leave.

**Suspicion.** A failed probe makes nobody dead. It makes a suspect, which has a time to refute,
longer if few confirm the accusation (see `suspicion`). Members only become suspect from alive;
for one that is suspect already another accuser is a confirmation, passed on if it was news.

**Joining.** Only an alive message adds a record; suspicions and obituaries of strangers mean
nothing. A new record is born dead in incarnation 0 and brought to life at once by the message
that made it, so that newcomers and those who return take the same path. For the same reason an
alive message in incarnation 0 about a stranger is nothing: no member ever has that incarnation.

**One name, one address.** An alive message from another address than the known one is somebody
else with the same name: a conflict, told to the owner and otherwise ignored. But the name of a
member that has left, or has been dead for longer than `dead_node_reclaim_time`, is free: the new
address takes it over, with whatever incarnation it has, even a lower one. A 16-byte v4-mapped
address is the same as its 4-byte form.

**Leaving.** A member that leaves says *dead* about itself, in its own incarnation and with itself
as the source; that is how *left* is told from *failed*. From then on it listens to nobody about
itself and its refuting is over.

**Merging.** Push/pull brings a whole foreign table. Its living and its left are taken at their
word; its dead and its suspects become suspects here, with ourselves as the accuser, so that nobody
is buried on hearsay without time to refute.

**The end of the numbers.** Incarnations are unsigned 32-bit numbers, and whoever accuses us in
incarnation 2³² − 1 (nobody gets there honestly) leaves no higher number to answer with. Counting
then stops: we answer in that same incarnation, others bury us, and take us back when they have
forgotten the record, at their next round after `gossip_to_the_dead_time`. Wrapping around to 0
would make every older claim about us newer.

Whatever changes a table is passed on: each claim that was believed is queued for broadcast under
the member's name, so that it replaces what was queued about that member before. Refutations are
urgent, and so is whatever we say about ourselves, our leaving above all.

The table has one owner. It calls, with the instant `now` in seconds of any monotonic clock,
never moving back; then it drains `notices`, looks at `next_suspicion_deadline`, and sends what
`broadcasts` holds. Nothing here blocks, sleeps, or reads a clock.
"""

import logging
import random
from collections.abc import Callable, Iterable

import attrs

from trioserf.address import address_of, normalise
from trioserf.swim.admission import AdmissionPolicy
from trioserf.swim.beliefs import MAX_INCARNATION, Beliefs
from trioserf.swim.broadcast_queue import OnDone
from trioserf.swim.config import SwimOptions, Timing
from trioserf.swim.events import Conflicted
from trioserf.swim.node_record import NodeRecord
from trioserf.swim.protocol_versions import is_valid_range, verify_versions
from trioserf.wire.swim_messages import (
    ALIVE,
    DEAD,
    LEFT,
    MAX_META,
    SUSPECT,
    Alive,
    Dead,
    Message,
    NodeState,
    Suspect,
    Versions,
)

log = logging.getLogger("trioserf.memberlist")

_ADDRESS_LENGTHS = (4, 16)
_DEFAULT_OPTIONS = SwimOptions()


class Membership(Beliefs):
    """The table of one member, together with everything its failure detector must remember.

    Args:
        name: our name.
        addr: the address we advertise, 4 or 16 raw bytes.
        port: the port we advertise.
        timing: timings and multipliers.
        rng: all random choices come from it.
        encode: spells a message for the wire.
        options: switches and hooks.

    Attributes:
        broadcasts: the messages about members that wait to be gossiped.
        awareness: the local health score.
        notices: what happened; the owner drains it after every call.
        leaving: whether we are leaving or have left.
    """

    def __init__(
        self,
        name: str,
        addr: bytes,
        port: int,
        *,
        timing: Timing,
        rng: random.Random,
        encode: Callable[[Message], bytes],
        options: SwimOptions = _DEFAULT_OPTIONS,
    ) -> None:
        super().__init__(name, timing=timing, rng=rng, encode=encode, options=options)
        self.leaving = False
        self._addr = normalise(addr)
        self._port = port
        self._admission = AdmissionPolicy(options)

    # What we say about ourselves

    def bootstrap(self, meta: bytes, versions: Versions, now: float) -> None:
        """Enter our own record: alive in incarnation 1. This comes before everything else.

        Raises:
            ValueError: more metadata than `MAX_META` bytes.
        """
        _check(meta)
        hello = Alive(1, self.name, self._addr, self._port, meta, versions)
        self._mark_alive(self._insert(hello.node, now), hello, self._addr, now)

    def update_meta(self, meta: bytes, now: float, on_done: OnDone | None = None) -> None:
        """Announce new metadata of ours in a new incarnation.

        Args:
            meta: at most `MAX_META` bytes.
            now: the instant.
            on_done: called when the announcement has been sent out or was replaced by a newer
                one; at once if we are leaving, for then nothing is announced any more.

        Raises:
            ValueError: too much metadata.
        """
        _check(meta)
        if not self.leaving:
            local = self.local
            incarnation = min(local.incarnation + 1, MAX_INCARNATION)
            news = attrs.evolve(local.to_alive(), incarnation=incarnation, meta=meta)
            self._mark_alive(local, news, local.addr, now, on_done)
        elif on_done is not None:
            on_done()

    def leave(self, now: float, on_done: OnDone | None = None) -> None:
        """Say goodbye: from now on we have left.

        Args:
            now: the instant.
            on_done: called when the goodbye has been sent out; at once if there is nobody to
                hear it, or if it was said before.
        """
        if not self.leaving:
            self.leaving = True
            has_audience = self.alive_count > 1
            goodbye = Dead(self.local.incarnation, self.name, self.name)
            self._mark_dead(self.local, goodbye, now, on_done if has_audience else None)
            if has_audience:
                return
        if on_done is not None:
            on_done()

    # What is said to us

    def alive(self, message: Alive, now: float) -> None:
        """Weigh the claim that a member lives, at this address and with this metadata."""
        is_local = message.node == self.name
        if is_local and self.leaving:
            return
        if message.versions is not None and not is_valid_range(message.versions):
            return
        addr = normalise(message.addr)
        if len(addr) not in _ADDRESS_LENGTHS:
            return
        record = self.records.get(message.node)
        if record is None:
            if message.incarnation > 0 and self._admits(message, addr):
                self._mark_alive(self._insert(message.node, now), message, addr, now)
        elif record.addr != addr or record.port != message.port:
            if self._admits(message, addr):
                self._handle_address_change(record, message, addr, now)
        elif is_local:
            self._handle_alive_about_self(message)
        elif message.incarnation > record.incarnation:
            self._mark_alive(record, message, addr, now)

    def suspect(self, message: Suspect, now: float) -> None:
        """Weigh an accusation: somebody could not reach a member."""
        record = self.records.get(message.node)
        if record is None or message.incarnation < record.incarnation:
            return
        suspicion = self._suspicions.get(record.name)
        if suspicion is not None:
            if self._suspicions.confirm(suspicion, message.source):
                self._broadcast(record, message)
            return
        if record.state is not ALIVE:
            return
        if record.name == self.name:
            self._refute(message.incarnation, f"suspect, by {message.source!r}")
        else:
            self._mark_suspect(record, message, now)

    def dead(self, message: Dead, now: float) -> None:
        """Weigh an obituary, or a member's own goodbye."""
        record = self.records.get(message.node)
        if record is None or message.incarnation < record.incarnation or record.is_dead_or_left:
            return
        if record.name == self.name:
            self._refute(message.incarnation, f"dead, by {message.source!r}")
        else:
            self._mark_dead(record, message, now)

    def merge(self, states: Iterable[NodeState], now: float) -> None:
        """Take in the table of another member (spec: push/pull merge).

        Raises:
            VersionMismatch: the clusters' versions exclude each other; then nothing is merged.
        """
        states = tuple(states)
        self.verify_protocol(states)
        self.merge_nodes(states, now)

    def verify_protocol(self, states: Iterable[NodeState]) -> None:
        """See whether the table of another member may be merged with ours.

        Raises:
            VersionMismatch: the clusters' versions exclude each other.
        """
        verify_versions(states, self.records.values())

    def merge_nodes(self, states: Iterable[NodeState], now: float) -> None:
        """Take in some rows of a table that was verified as a whole."""
        for state in states:
            record = self.records.get(state.name)
            if state.state is ALIVE:
                # Most of a foreign table is known: see that without making a message of it.
                known = record is not None and record.is_stale(state)
                if not known or state.name == self.name:
                    self.alive(_claim(state), now)
            elif record is None or record.is_dead_or_left:
                continue
            elif state.state is LEFT:
                self.dead(Dead(state.incarnation, state.name, state.name), now)
            else:
                self.suspect(Suspect(state.incarnation, state.name, self.name), now)

    # What our own probes and timers say

    def probe_succeeded(self) -> None:
        """Note that a probe was answered, directly or not: our health is better than thought."""
        self.awareness.apply_delta(-1)

    def probe_failed(
        self, record: NodeRecord, incarnation: int, expected_nacks: int, nacks: int, now: float
    ) -> None:
        """Suspect a member that did not answer.

        Args:
            record: whom we probed.
            incarnation: its incarnation when the probe began; if it has spoken since, nothing
                is held against it.
            expected_nacks: how many of the peers asked for help owe a nack.
            nacks: how many have sent one. Those missing, or the whole failure where nobody owed
                any, may be our own fault and count against our health (Lifeguard §IV-A).
            now: the instant.
        """
        self.awareness.apply_delta(max(0, expected_nacks - nacks) if expected_nacks else 1)
        if record.state is ALIVE and incarnation >= record.incarnation:
            log.info("%r (%s) does not answer; suspecting it", record.name, record.address)
        self.suspect(Suspect(incarnation, record.name, self.name), now)

    def expire_suspicions(self, now: float) -> None:
        """Declare dead whoever has not refuted in time. Early calls are harmless."""
        for suspicion in self._suspicions.pop_expired(now):
            record = self.records.get(suspicion.node)
            if record is None or record.state is not SUSPECT:
                continue
            if record.state_change != suspicion.started:
                continue
            log.info(
                "%r did not refute in time; declaring it dead (%d confirmations)",
                record.name,
                suspicion.confirmations,
            )
            if suspicion.lacks_confirmations:
                self._doubtful_count.add()
            self._mark_dead(record, Dead(record.incarnation, record.name, self.name), now)

    @property
    def suspect_count(self) -> int:
        """How many members are suspected."""
        return len(self._suspicions)

    @property
    def next_suspicion_deadline(self) -> float | None:
        """When to call `expire_suspicions` next; None while nobody is suspected."""
        return self._suspicions.next_deadline

    def _handle_address_change(
        self, record: NodeRecord, message: Alive, addr: bytes, now: float
    ) -> None:
        name_is_free = record.state is LEFT or (
            record.state is DEAD
            and 0 < self.options.dead_node_reclaim_time < now - record.state_change
        )
        if name_is_free:
            self._mark_alive(record, message, addr, now)
            return
        log.warning(
            "two members claim the name %r: %s, which holds it, and %s",
            record.name,
            record.address,
            address_of(addr, message.port),
        )
        self.events.append(Conflicted(record, addr, message.port))

    def _handle_alive_about_self(self, message: Alive) -> None:
        local = self.local
        if message.incarnation < local.incarnation:
            return
        theirs = (message.incarnation, message.meta, message.versions)
        if theirs != (local.incarnation, local.meta, local.versions):
            self._refute(message.incarnation, "alive with other data")

    def _admits(self, message: Alive, addr: bytes) -> bool:
        is_full = message.node not in self.records and (
            len(self.records) >= self.options.max_members
        )
        refusal = self._admission.check(message, addr, is_full=is_full)
        if refusal is not None:
            self.events.append(refusal)
        return refusal is None


def _check(meta: bytes) -> None:
    if len(meta) > MAX_META:
        raise ValueError(f"metadata of {len(meta)} bytes; {MAX_META} is the most")


def _claim(state: NodeState) -> Alive:
    return Alive(state.incarnation, state.name, state.addr, state.port, state.meta, state.versions)
