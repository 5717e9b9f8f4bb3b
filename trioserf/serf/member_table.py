"""The members in Serf's view: alive, leaving, left or failed.

The failure detector reports joins and deaths; intents decide whether a dead member left or
failed (see serf/README.md, § Members and intents).
"""

import logging
import random
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import attrs

from trioserf._version import __version__
from trioserf.address import Address
from trioserf.event_filter import MemberEventKind
from trioserf.printable import short_name
from trioserf.serf.config import SerfOptions
from trioserf.serf.effects import Effects
from trioserf.serf.events import MemberEvent
from trioserf.serf.member import Member
from trioserf.swim.events import Cause
from trioserf.wire.serf_messages import Status
from trioserf.wire.serf_payloads import decode_tags
from trioserf.wire.swim_messages import Versions

_log = logging.getLogger("trioserf.serf")

_MAX_TAGS: Final = 256
"""Metadata whose decoded tags are cached; most clusters have few different ones."""


@attrs.define(eq=False, repr=False)
class MemberRecord:
    """A member and its internal fields.

    Attributes:
        member: the snapshot for users; a new one with each change.
        status_ltime: the Lamport time of the latest accepted intent.
        leave_time: when it left or failed, in seconds; undefined for other statuses.
    """

    member: Member
    status_ltime: int = 0
    leave_time: float = 0.0

    @property
    def status(self) -> Status:
        """The current status."""
        return self.member.status_code


class MemberTable:
    """All members by name, ourselves included.

    Args:
        name: our own name.
        options: timeouts.
        max_members: members in the table; above it, those that left or failed first are erased.
        effects: receives events.
        rng: chooses among failed members.
    """

    def __init__(
        self,
        name: str,
        *,
        options: SerfOptions,
        max_members: int,
        effects: Effects,
        rng: random.Random,
    ) -> None:
        self.name = name
        self.records: dict[str, MemberRecord] = {}
        self.failed: dict[str, MemberRecord] = {}
        self.left: dict[str, MemberRecord] = {}
        self.version = 0
        self._options = options
        self._max_members = max_members
        self._effects = effects
        self._rng = rng
        self._snapshot: tuple[Member, ...] | None = ()
        self._known_tags: dict[bytes, Mapping[str, str]] = {}

    # --- reading ---

    def __len__(self) -> int:
        return len(self.records)

    def snapshot(self) -> tuple[Member, ...]:
        """Return all members in the order of their first appearance; one tuple until a change."""
        if self._snapshot is None:
            self._snapshot = tuple([record.member for record in self.records.values()])
        return self._snapshot

    def get(self, name: str) -> Member | None:
        """Return the member with this name, or None."""
        record = self.records.get(name)
        return None if record is None else record.member

    def alive(self) -> Iterator[Member]:
        """Iterate over the members with status alive, ourselves included."""
        return (m for m in self.snapshot() if m.status_code is Status.ALIVE)

    @property
    def present_count(self) -> int:
        """The number of members that have neither failed nor left."""
        return len(self.records) - len(self.failed) - len(self.left)

    @property
    def has_others_alive(self) -> bool:
        """Whether another member is alive."""
        return any(member.name != self.name for member in self.alive())

    # --- events of the failure detector ---

    def on_join(
        self,
        name: str,
        address: Address,
        meta: bytes,
        versions: Versions,
        now: float,
        *,
        intent: tuple[Status, int] = (Status.ALIVE, 0),
    ) -> None:
        """Handle a join or rejoin.

        Args:
            name: the member's name.
            address: its address.
            meta: its encoded tags.
            versions: its protocol versions.
            now: the current time.
            intent: for new members, the status and Lamport time of a buffered intent.
        """
        record = self.records.get(name)
        if record is None:
            self._make_room()
            status, ltime = intent
            release = __version__ if name == self.name else ""
            member = Member(name, address, self._tags(meta), status, versions, release)
            self.records[name] = MemberRecord(member, ltime)
        else:
            if record.status is Status.FAILED:
                del self.failed[name]
                if now - record.leave_time < self._options.flap_timeout:
                    self._effects.flaps += 1
            elif record.status is Status.LEFT:
                del self.left[name]
            member = Member(name, address, self._tags(meta), Status.ALIVE, versions)
            record.member = member
        self._changed()
        self._emit("member-join", member, "EventMemberJoin: %(member)s %(address)s")

    def on_leave(self, name: str, now: float, cause: Cause | None = None) -> None:
        """Handle the death of a member: it left if an intent said so before, else it failed."""
        record = self.records.get(name)
        if record is None:
            return
        if record.status is Status.LEAVING:
            self.to_left(record, now)
            self._emit("member-leave", record.member, "EventMemberLeave: %(member)s %(address)s")
        elif record.status is Status.ALIVE:
            record.leave_time = now
            self._set_status(record, Status.FAILED)
            self.failed[name] = record
            self._emit(
                "member-failed", record.member, "EventMemberFailed: %(member)s %(address)s", cause
            )
        else:
            _log.warning("Bad state when leave: %d", record.status)

    def on_update(self, name: str, address: Address, meta: bytes, versions: Versions) -> None:
        """Handle an update of address, tags or versions."""
        record = self.records.get(name)
        if record is None:
            return
        release = record.member.release
        record.member = Member(name, address, self._tags(meta), record.status, versions, release)
        self._changed()
        self._emit("member-update", record.member, "EventMemberUpdate: %(member)s")

    def on_release(self, name: str, release: str) -> None:
        """Record the release from the ack of a member."""
        record = self.records.get(name)
        if record is not None and record.member.release != release:
            record.member = attrs.evolve(record.member, release=release)
            self._changed()

    def on_suspect(self, name: str, *, recovered: bool = False) -> None:
        """Emit the event of a suspicion or of its refutation."""
        member = self.get(name)
        if member is not None and member.status_code in {Status.ALIVE, Status.LEAVING}:
            kind: MemberEventKind = "member-recovered" if recovered else "member-suspect"
            self._effects.events.append(MemberEvent(kind, (member,)))

    # --- transitions by intents ---

    def to_leaving(self, record: MemberRecord) -> None:
        """Mark an alive member as leaving."""
        self._set_status(record, Status.LEAVING)

    def to_alive(self, record: MemberRecord) -> None:
        """Mark a leaving member as alive."""
        self._set_status(record, Status.ALIVE)

    def to_left(self, record: MemberRecord, now: float) -> None:
        """Mark a member as left; push/pulls report it to others until it is erased."""
        self.failed.pop(record.member.name, None)
        record.leave_time = now
        self._set_status(record, Status.LEFT)
        self.left[record.member.name] = record

    def force_left(self, record: MemberRecord, now: float) -> None:
        """Mark a failed member as left, as a leave intent requests."""
        self.to_left(record, now)
        self._emit(
            "member-leave", record.member, "EventMemberLeave (forced): %(member)s %(address)s"
        )

    def erase(self, name: str, *, forced: bool = False) -> None:
        """Erase a member."""
        record = self.records.pop(name)
        self.failed.pop(name, None)
        self.left.pop(name, None)
        self._changed()
        text = (
            "EventMemberReap (forced): %(member)s %(address)s"
            if forced
            else "EventMemberReap: %(member)s"
        )
        self._emit("member-reap", record.member, text)

    # --- time ---

    def reap(self, now: float) -> None:
        """Erase members that failed or left too long ago."""
        overdue = [
            *_overdue(self.failed.values(), now - self._options.reconnect_timeout),
            *_overdue(self.left.values(), now - self._options.tombstone_timeout),
        ]
        for name in overdue:
            self.erase(name)

    def _make_room(self) -> None:
        """Erase the member that left or failed first if the table is full."""
        if len(self.records) < self._max_members:
            return
        candidates = [next(iter(old.values())) for old in (self.left, self.failed) if old]
        if candidates:
            self.erase(min(candidates, key=lambda record: record.leave_time).member.name)

    def reconnect_candidate(self) -> Member | None:
        """Choose a failed member to reconnect to, or None.

        The probability is failed/alive, so that many members do not flood a failed one, and few
        members still try often.
        """
        if not self.failed:
            return None
        if self._rng.random() * max(1, self.present_count) > len(self.failed):
            _log.debug("forgoing reconnect for random throttling")
            return None
        record = self._rng.choice(list(self.failed.values()))
        _log.info(
            "attempting reconnect to %(member)s %(address)s",
            {"member": short_name(record.member.name), "address": record.member.address},
        )
        return record.member

    # --- internals ---

    def _set_status(self, record: MemberRecord, status: Status) -> None:
        old = record.member
        record.member = Member(old.name, old.address, old.tags, status, old.versions, old.release)
        self._changed()

    def _changed(self) -> None:
        self.version += 1
        self._snapshot = None

    def _tags(self, meta: bytes) -> Mapping[str, str]:
        """Decode metadata; members with the same tags share one mapping."""
        tags = self._known_tags.get(meta)
        if tags is None:
            try:
                tags = decode_tags(meta)
            except ValueError as error:
                _log.error("Failed to decode tags: %s", error)
                return {}
            if len(self._known_tags) >= _MAX_TAGS:
                self._known_tags.clear()
            self._known_tags[meta] = tags
        return tags

    def _emit(
        self, kind: MemberEventKind, member: Member, text: str, cause: Cause | None = None
    ) -> None:
        self._effects.events.append(MemberEvent(kind, (member,), cause))
        if _log.isEnabledFor(logging.INFO):
            host = member.address.host
            _log.info(text, {"member": short_name(member.name), "address": host})


def _overdue(records: Iterable[MemberRecord], before: float) -> list[str]:
    return [record.member.name for record in records if record.leave_time < before]
