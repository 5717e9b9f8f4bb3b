"""What is done once a claim is believed: the table changes, the owner is told, gossip goes on.

Which claims are believed is decided in `membership`.
"""

import logging
import random
from collections.abc import Callable

from trioserf.counters import Counters
from trioserf.swim.awareness import Awareness
from trioserf.swim.broadcast_queue import BroadcastQueue, OnDone
from trioserf.swim.config import SwimOptions, Timing
from trioserf.swim.events import Joined, Left, MembershipEvent, Recovered, Suspected, Updated
from trioserf.swim.node_record import NodeRecord
from trioserf.swim.protocol_versions import intern_versions
from trioserf.swim.roster import Roster
from trioserf.swim.suspicion import Suspicions
from trioserf.wire.swim_messages import ALIVE, DEAD, LEFT, SUSPECT, Alive, Dead, Message, Suspect

log = logging.getLogger("trioserf.memberlist")

MAX_INCARNATION = 2**32 - 1


class Beliefs(Roster):
    """A roster whose changes have consequences.

    Args:
        name: our own name.
        timing: timings and multipliers.
        rng: all random choices come from it.
        encode: spells a message for the wire.
        options: switches.

    Attributes:
        broadcasts: the messages about members that wait to be gossiped.
        awareness: the local health score.
        notices: what happened; the owner drains it after every call.
        tally: counts the claims that were believed.
    """

    def __init__(
        self,
        name: str,
        *,
        timing: Timing,
        rng: random.Random,
        encode: Callable[[Message], bytes],
        options: SwimOptions,
    ) -> None:
        super().__init__(name, timing, rng)
        self.options = options
        self.broadcasts = BroadcastQueue(
            timing.retransmit_mult, self.records.__len__, largest=options.largest_broadcast
        )
        self.awareness = Awareness(timing.awareness_max_multiplier, options.lha_probe)
        self.events: list[MembershipEvent] = []
        self.counters = tally = Counters()
        self._alive_count = tally.counter("memberlist.msg.alive")
        self._suspect_count = tally.counter("memberlist.msg.suspect")
        self._dead_count = tally.counter("memberlist.msg.dead")
        self._doubtful_count = tally.counter("memberlist.degraded.timeout")
        self._encode = encode
        self._suspicions = Suspicions(timing, options.lha_suspicion)

    def _refute(self, accused: int, called: str) -> None:
        local = self.local
        local.incarnation = min(max(local.incarnation, accused) + 1, MAX_INCARNATION)
        log.warning(
            "we are called %s, in incarnation %d; refuting in incarnation %d",
            called,
            accused,
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
        before, old_meta = record.state, record.meta
        was_suspect = before is SUSPECT
        if was_suspect:
            suspicion = self._suspicions.get(record.name)
            if suspicion is not None and suspicion.was_confirmed_by(self.name):
                log.info("%r has refuted the suspicion", record.name)
            self._suspicions.cancel(record.name)
        self._broadcast(record, message, urgent=was_suspect, on_done=on_done)
        record.incarnation = message.incarnation
        record.meta = message.meta
        if message.versions is not None:
            record.versions = intern_versions(message.versions)
        record.set_address(addr, message.port)
        if before is not ALIVE:
            self._set_state(record, ALIVE, now)
        if before >= DEAD:
            self.events.append(Joined(record))
            return
        if was_suspect:
            self.events.append(Recovered(record))
        if old_meta != record.meta:
            self.events.append(Updated(record))

    def _mark_suspect(self, record: NodeRecord, message: Suspect, now: float) -> None:
        self._suspect_count.add()
        self._broadcast(record, message)
        record.incarnation = message.incarnation
        self._set_state(record, SUSPECT, now)
        self._suspicions.start(message, self.estimated_size, now)
        self.events.append(Suspected(record))

    def _mark_dead(
        self, record: NodeRecord, message: Dead, now: float, on_done: OnDone | None = None
    ) -> None:
        self._dead_count.add()
        self._suspicions.cancel(record.name)
        self._broadcast(record, message, on_done=on_done)
        record.incarnation = message.incarnation
        by_itself = message.source == message.node
        self._set_state(record, LEFT if by_itself else DEAD, now)
        self.events.append(Left(record, by_itself))

    def _broadcast(
        self,
        record: NodeRecord,
        message: Message,
        *,
        urgent: bool = False,
        on_done: OnDone | None = None,
    ) -> None:
        self.broadcasts.queue(
            self._encode(message),
            name=record.name,
            on_done=on_done,
            urgent=urgent or record.name == self.name,
        )
