"""The member table: handles messages about members, probe results and expired suspicions.

The rule of precedence decides which message is accepted (see `precedence`). An accepted message
updates the record, is queued for broadcast under the member's name, where it replaces the older
one, and is reported as an event. Refutations, and all messages about ourselves, are urgent.

Our own record is never suspect. After we leave, we ignore all messages about ourselves.
"""

import logging
import random
from collections.abc import Callable, Iterable

import attrs

from trioserf.address import Address, address_of, normalise
from trioserf.counters import Counters
from trioserf.printable import short_name
from trioserf.swim import events
from trioserf.swim.admission import AdmissionPolicy
from trioserf.swim.awareness import Awareness
from trioserf.swim.broadcast_queue import BroadcastQueue, OnDone
from trioserf.swim.config import SwimOptions, Timing
from trioserf.swim.members import Members
from trioserf.swim.node_record import NodeRecord
from trioserf.swim.precedence import (
    is_at_least,
    is_name_free,
    next_incarnation,
    supersedes,
)
from trioserf.swim.protocol_versions import intern_versions, is_valid_range
from trioserf.swim.refusals import RETRY, is_checker
from trioserf.swim.suspicion import Suspicion, Suspicions
from trioserf.wire.swim_codec import encode
from trioserf.wire.swim_messages import (
    ALIVE,
    DEAD,
    LEFT,
    MAX_META,
    SUSPECT,
    Alive,
    Dead,
    NodeState,
    Suspect,
    Versions,
)

log = logging.getLogger("trioserf.memberlist")


class Memberlist:
    """The member table of one node.

    The caller passes `now`, in seconds of a monotonic clock, calls `expire_suspicions` at
    `next_suspicion_deadline`, and sends what `broadcasts` holds.

    Args:
        name: our name.
        addr: our advertised address, 4 or 16 raw bytes.
        port: our advertised port.
        timing: timings and multipliers.
        rng: source of all random choices.
        on_event: called with each event and its instant, after the record has changed. It must
            not call the table.
        options: switches and hooks.

    Attributes:
        members: the records, the probe order and random choice.
        records: the records by name (`members.records`).
        broadcasts: messages about members that wait to be gossiped.
        awareness: the local health score.
        counters: accepted messages, counted for metrics.
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
        on_event: Callable[[events.MembershipEvent, float], None],
        options: SwimOptions,
    ) -> None:
        self.name = name
        self.timing = timing
        self.options = options
        self.members = Members(name, timing, rng)
        self.records = self.members.records
        self.broadcasts = BroadcastQueue(
            timing.retransmit_mult,
            self.members.__len__,
            others=lambda: self.members.alive_count - 1,
            largest=options.largest_broadcast,
        )
        self.awareness = Awareness(timing.awareness_max_multiplier, options.lha_probe)
        self.leaving = False
        self._addr = normalise(addr)
        self._port = port
        self._on_event = on_event
        self._admission = AdmissionPolicy(options, self.records)
        self._suspicions = Suspicions(
            timing, options.lha_suspicion, counts_refusals=options.refusal_timeout > 0
        )
        self.counters = counters = Counters()
        self._alive_count = counters.counter("memberlist.msg.alive")
        self._suspect_count = counters.counter("memberlist.msg.suspect")
        self._dead_count = counters.counter("memberlist.msg.dead")
        self._degraded_count = counters.counter("memberlist.degraded.timeout")

    @property
    def local(self) -> NodeRecord:
        """Our own record.

        Raises:
            KeyError: before `bootstrap`.
        """
        return self.records[self.name]

    @property
    def estimated_size(self) -> int:
        """The cluster size in formulas: all records, including ours and the recently dead."""
        return len(self.records)

    @property
    def alive_count(self) -> int:
        """Number of alive and suspect members, including ourselves until we leave."""
        return self.members.alive_count

    # --- our own record ---

    def bootstrap(self, meta: bytes, versions: Versions, now: float) -> None:
        """Insert our own record, alive in incarnation 1. Call this first.

        Raises:
            ValueError: `meta` is longer than `MAX_META` bytes.
        """
        _check_meta(meta)
        message = Alive(1, self.name, self._addr, self._port, meta, versions)
        self._mark_alive(self.members.insert(self.name, now), message, self._addr, now)

    def update_meta(self, meta: bytes, now: float, on_done: OnDone | None = None) -> None:
        """Announce new metadata in a new incarnation.

        Args:
            meta: at most `MAX_META` bytes.
            now: the current instant.
            on_done: called when the broadcast is finished or replaced; at once if we leave.

        Raises:
            ValueError: `meta` is too long.
        """
        _check_meta(meta)
        if not self.leaving:
            local = self.local
            incarnation = next_incarnation(local.incarnation)
            message = attrs.evolve(local.to_alive(), incarnation=incarnation, meta=meta)
            self._mark_alive(local, message, local.addr, now, on_done)
        elif on_done is not None:
            on_done()

    def leave(self, now: float, on_done: OnDone | None = None) -> None:
        """Leave the cluster: broadcast a Dead message about ourselves.

        Args:
            now: the current instant.
            on_done: called when the broadcast is finished; at once if no other member is alive,
                or if we are leaving already.
        """
        has_receivers = not self.leaving and self.members.alive_count > 1
        if not self.leaving:
            self.leaving = True
            message = Dead(self.local.incarnation, self.name, self.name)
            self._mark_dead(self.local, message, now, on_done if has_receivers else None)
        if on_done is not None and not has_receivers:
            on_done()

    # --- received messages ---

    def alive(self, message: Alive, now: float) -> None:
        """Handle an alive message."""
        is_local = message.node == self.name
        if is_local and self.leaving:
            return
        addr = message.addr if len(message.addr) == 4 else normalise(message.addr)
        has_valid_versions = message.versions is None or is_valid_range(message.versions)
        if not has_valid_versions or len(addr) not in (4, 16):
            return
        record = self.records.get(message.node)
        if record is None:
            if message.incarnation > 0 and self._admits(message, addr, now):
                self._mark_alive(self.members.insert(message.node, now), message, addr, now)
        elif record.addr != addr or record.port != message.port:
            if self._admits(message, addr, now):
                self._handle_address_change(record, message, addr, now)
        elif is_local:
            received = (message.incarnation, message.meta, message.versions)
            known = (record.incarnation, record.meta, record.versions)
            if is_at_least(message.incarnation, record.incarnation) and received != known:
                self._refute(message.incarnation, "announced with other data")
        elif supersedes(record, ALIVE, message.incarnation):
            self._mark_alive(record, message, addr, now)

    def suspect(self, message: Suspect, now: float, reason: events.Reason = "reported") -> None:
        """Handle a suspect message: suspect the member, or count a confirmation."""
        record = self.records.get(message.node)
        if record is None:
            return
        if supersedes(record, SUSPECT, message.incarnation):
            if record.name == self.name:
                self._refute(message.incarnation, f"suspected by '{short_name(message.source)}'")
            else:
                self._mark_suspect(record, message, reason, now)
        elif is_at_least(message.incarnation, record.incarnation):
            suspicion = self._suspicions.get(record.name)
            if suspicion is not None and self._suspicions.confirm(
                suspicion, message.source, message.refused
            ):
                self._broadcast(record, message)

    def dead(self, message: Dead, now: float) -> None:
        """Handle a dead message: the member failed, or left by itself."""
        record = self.records.get(message.node)
        if record is None or not supersedes(record, DEAD, message.incarnation):
            return
        if record.name == self.name:
            self._refute(message.incarnation, f"declared dead by '{short_name(message.source)}'")
        else:
            self._mark_dead(record, message, now)

    def merge_nodes(self, states: Iterable[NodeState], now: float) -> None:
        """Merge rows of another member's table (swim/README.md, § Push/pull).

        Alive and left rows are handled as the member's own messages. Dead and suspect rows
        become suspicions from ourselves, so that the member has time to refute.
        """
        for state in states:
            record = self.records.get(state.name)
            if state.state is ALIVE:
                # Most rows are known already; skip them without building a message.
                if (
                    record is None
                    or supersedes(record, ALIVE, state.incarnation)
                    or record.addr != state.addr
                    or record.port != state.port
                    or state.name == self.name
                ):
                    self.alive(state.to_alive(), now)
            elif record is None or record.is_dead_or_left:
                continue
            elif state.state is LEFT:
                self.dead(Dead(state.incarnation, state.name, state.name), now)
            else:
                suspect = Suspect(state.incarnation, state.name, self.name)
                self.suspect(suspect, now, "push/pull")

    # --- our own probes and timers ---

    def probe_succeeded(self, record: NodeRecord) -> None:
        """Improve our health score after an acknowledged probe of a member."""
        record.is_reached = True
        self.awareness.apply_delta(-1)

    def exchange_succeeded(self, address: Address) -> None:
        """Note that the member at this address has answered our push/pull."""
        for record in self.records.values():
            if record.address == address:
                record.is_reached = True

    def probe_failed(
        self,
        record: NodeRecord,
        incarnation: int,
        expected_nacks: int,
        nacks: int,
        now: float,
        reason: events.Reason = "no ack",
    ) -> None:
        """Suspect a member that did not acknowledge a probe.

        Args:
            record: the probed member.
            incarnation: its incarnation at the start of the probe; ignored if it has a higher one.
            expected_nacks: number of peers that owe a nack.
            nacks: number of received nacks. Missing ones, or the failure itself if none was owed,
                may be our own fault and worsen our health score (Lifeguard §IV-A). A refused
                connection shows that our network works.
            now: the current instant.
            reason: what is known about it.
        """
        refused = reason == "refused"
        if not refused:
            self.awareness.apply_delta(max(0, expected_nacks - nacks) if expected_nacks else 1)
        if supersedes(record, SUSPECT, incarnation):
            what = "refuses connections" if refused else "does not answer"
            log.info("'%s' (%s) %s; suspecting it", short_name(record.name), record.address, what)
        self.suspect(Suspect(incarnation, record.name, self.name, refused), now, reason)

    def must_connect(self, suspect: NodeRecord) -> bool:
        """Return whether we must connect to a suspect, to find out whether it has crashed.

        If our own probe failed, that depends on whether it was refused; else on `is_checker`.
        """
        suspicion = self._suspicions.get(suspect.name)
        if suspicion is not None and suspicion.source == self.name:
            return suspicion.reason == "refused"
        return is_checker(self.name, suspect, self.records.values())

    def connection_refused(self, name: str, incarnation: int, now: float) -> float | None:
        """Count our refused connection to a suspect, which confirms the suspicion.

        Declare it dead if our first one was `refusal_timeout` ago, and enough members were refused
        (swim/README.md, § Refused connections).

        Args:
            name: the suspect.
            incarnation: its incarnation when the connection was begun.
            now: the current instant.

        Returns:
            The instant at which to connect again; None if the suspicion is over.
        """
        record, suspicion = self.records.get(name), self._suspicions.get(name)
        if record is None or suspicion is None or record.incarnation != incarnation:
            return None
        self.suspect(Suspect(incarnation, name, self.name, refused=True), now)
        if suspicion.refused_at is None:
            suspicion.refused_at = now
        due = suspicion.refused_at + self.options.refusal_timeout
        if now < due or not suspicion.has_enough_refusals:
            return max(due, now + RETRY)
        self._declare_dead(suspicion, now)
        return None

    def expire_suspicions(self, now: float) -> None:
        """Declare members dead whose suspicion has expired. Early calls do nothing."""
        for suspicion in self._suspicions.pop_expired(now):
            if suspicion.lacks_confirmations:
                self._degraded_count.add()
            self._declare_dead(suspicion, now)

    def _declare_dead(self, suspicion: Suspicion, now: float) -> None:
        record = self.records[suspicion.node]  # suspect: every change cancels the suspicion
        log.info(
            "'%s' did not refute in time; declaring it dead (%d confirmations)",
            short_name(record.name),
            suspicion.confirmations,
        )
        message = Dead(record.incarnation, record.name, self.name)
        self._mark_dead(record, message, now, suspicion=suspicion)

    @property
    def suspect_count(self) -> int:
        """Number of suspect members."""
        return len(self._suspicions)

    @property
    def next_suspicion_deadline(self) -> float | None:
        """The instant of the next `expire_suspicions`, or None without suspects."""
        return self._suspicions.next_deadline

    def _handle_address_change(
        self, record: NodeRecord, message: Alive, addr: bytes, now: float
    ) -> None:
        if is_name_free(record, self.options.dead_node_reclaim_time, now):
            self._mark_alive(record, message, addr, now)
            return
        log.warning(
            "two members claim the name '%s': %s, which holds it, and %s",
            short_name(record.name),
            record.address,
            address_of(addr, message.port),
        )
        self._on_event(events.Conflicted(record, addr, message.port), now)

    def _admits(self, message: Alive, addr: bytes, now: float) -> bool:
        refused = self._admission.check(message, addr)
        if refused is not None:
            self._on_event(refused, now)
        return refused is None

    # --- effects of an accepted message: record, broadcast, event ---

    def _refute(self, incarnation: int, reason: str) -> None:
        local = self.local
        local.incarnation = next_incarnation(incarnation)
        log.warning(
            "we are %s in incarnation %d; refuting in incarnation %d",
            reason,
            incarnation,
            local.incarnation,
        )
        self.awareness.apply_delta(1)
        self._broadcast(local, local.to_alive())

    def _mark_alive(
        self,
        record: NodeRecord,
        message: Alive,
        addr: bytes,
        now: float,
        on_done: OnDone | None = None,
    ) -> None:
        self._alive_count.add()
        old_state, old_meta = record.state, record.meta
        was_suspect = old_state is SUSPECT
        if was_suspect:
            suspicion = self._suspicions.get(record.name)
            if suspicion is not None and suspicion.was_confirmed_by(self.name):
                log.info("'%s' has refuted the suspicion", short_name(record.name))
            self._suspicions.cancel(record.name)
        self._broadcast(record, message, urgent=was_suspect, on_done=on_done)
        record.incarnation = message.incarnation
        record.meta = message.meta
        if message.versions is not None:
            record.versions = intern_versions(message.versions)
        record.set_address(addr, message.port)
        if old_state is not ALIVE:
            self.members.set_state(record, ALIVE, now)
        if old_state >= DEAD:
            self._on_event(events.Joined(record), now)
            return
        if was_suspect:
            self._on_event(events.Recovered(record), now)
        if old_meta != record.meta:
            self._on_event(events.Updated(record), now)

    def _mark_suspect(
        self, record: NodeRecord, message: Suspect, reason: events.Reason, now: float
    ) -> None:
        self._suspect_count.add()
        self._broadcast(record, message)
        record.incarnation = message.incarnation
        self.members.set_state(record, SUSPECT, now)
        self._suspicions.start(message, self.estimated_size, now, reason)
        self._on_event(events.Suspected(record), now)

    def _mark_dead(
        self,
        record: NodeRecord,
        message: Dead,
        now: float,
        on_done: OnDone | None = None,
        suspicion: Suspicion | None = None,
    ) -> None:
        self._dead_count.add()
        suspicion = suspicion or self._suspicions.get(record.name)
        self._suspicions.cancel(record.name)
        self._broadcast(record, message, on_done=on_done)
        record.incarnation = message.incarnation
        by_itself = message.source == message.node
        self.members.set_state(record, LEFT if by_itself else DEAD, now)
        cause = None
        if not by_itself:
            cause = _cause(suspicion, message.source)
            named = {"member": short_name(record.name), "reason": cause.text}
            log.info("'%(member)s' has failed: %(reason)s", named)
        self._on_event(events.Left(record, by_itself, cause), now)

    def _broadcast(
        self,
        record: NodeRecord,
        message: Alive | Suspect | Dead,
        *,
        urgent: bool = False,
        on_done: OnDone | None = None,
    ) -> None:
        self.broadcasts.queue(
            encode(message),
            name=record.name,
            on_done=on_done,
            urgent=urgent or record.name == self.name,
        )


def _cause(suspicion: Suspicion | None, declared_by: str) -> events.Cause:
    if suspicion is None:
        return events.Cause("", None, declared_by)
    return events.Cause(suspicion.source, suspicion.reason, declared_by)


def _check_meta(meta: bytes) -> None:
    if len(meta) > MAX_META:
        raise ValueError(f"metadata of {len(meta)} bytes; the maximum is {MAX_META}")
