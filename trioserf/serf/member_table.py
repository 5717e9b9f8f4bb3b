"""The members as Serf sees them: alive, leaving, left or failed, and for how long.

What the failure detector says arrives as notices; what members intend (`intents`) decides whether
a member that is gone has left or failed (spec: members and intents).
"""

import logging
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

import attrs

from trioserf.address import Address
from trioserf.serf.config import SerfOptions
from trioserf.serf.effects import Effects
from trioserf.serf.events import MemberEvent, MemberEventKind
from trioserf.serf.member import Member
from trioserf.wire.serf_messages import Status
from trioserf.wire.swim_messages import Versions

_log = logging.getLogger("trioserf.serf")

_TAGS_KEPT: Final = 256
"""Different metadata whose tags are remembered; in most clusters there are few."""


@attrs.define(slots=True, eq=False)
class MemberRecord:
    """A member, with what its users need not know.

    Attributes:
        member: the snapshot for users; a new one with each change.
        status_ltime: Lamport time of the newest intent that was believed.
        gone_since: the instant it left or failed, in seconds; meaningless otherwise.
    """

    member: Member
    status_ltime: int = 0
    gone_since: float = 0.0

    @property
    def status(self) -> Status:
        """The present status."""
        return self.member.status


class MemberTable:
    """All members by name, ourselves included.

    Args:
        name: our own name.
        options: the timeouts.
        max_members: number of members at once; beyond that those that left or failed first are
            erased.
        effects: where events are announced.
        decode_tags: reads metadata; a ValueError means that there are no tags.
        rng: for the choice among failed members.
    """

    def __init__(
        self,
        name: str,
        *,
        options: SerfOptions,
        max_members: int,
        effects: Effects,
        decode_tags: Callable[[bytes], Mapping[str, str]],
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
        self._decode_tags = decode_tags
        self._rng = rng
        self._snapshot: tuple[Member, ...] | None = ()
        self._known_tags: dict[bytes, Mapping[str, str]] = {}

    # --- reading ---

    def __len__(self) -> int:
        return len(self.records)

    def snapshot(self) -> tuple[Member, ...]:
        """All members in the order of their appearance; the same object until one changes."""
        if self._snapshot is None:
            self._snapshot = tuple([record.member for record in self.records.values()])
        return self._snapshot

    def get(self, name: str) -> Member | None:
        """Find a member by its name."""
        record = self.records.get(name)
        return None if record is None else record.member

    def alive(self) -> Iterator[Member]:
        """Give the members that are alive and not about to leave, ourselves included."""
        return (m for m in self.snapshot() if m.status is Status.ALIVE)

    @property
    def present_count(self) -> int:
        """Members that have neither failed nor left."""
        return len(self.records) - len(self.failed) - len(self.left)

    @property
    def has_others_alive(self) -> bool:
        """Whether there is anybody to tell something."""
        return any(member.name != self.name for member in self.alive())

    # --- notices of the failure detector ---

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
        """Take in a member that is new or has come back.

        Args:
            name: its name.
            address: where it is.
            meta: its metadata, the encoded tags.
            versions: what it speaks.
            now: the instant.
            intent: for new members, the status and Lamport time of a buffered intent.
        """
        record = self.records.get(name)
        if record is None:
            self._make_room()
            status, ltime = intent
            member = Member(name, address, self._tags(meta), status, versions)
            self.records[name] = MemberRecord(member, ltime)
        else:
            if record.status is Status.FAILED:
                del self.failed[name]
                if now - record.gone_since < self._options.flap_timeout:
                    self._effects.flaps += 1
            elif record.status is Status.LEFT:
                del self.left[name]
            member = Member(name, address, self._tags(meta), Status.ALIVE, versions)
            record.member = member
        self._changed()
        self._announce("member-join", member, "EventMemberJoin: %s %s")

    def on_leave(self, name: str, now: float) -> None:
        """Note that the failure detector has lost a member.

        Whether it has left depends on the intents heard before, not on the detector's opinion.
        """
        record = self.records.get(name)
        if record is None:
            return
        if record.status is Status.LEAVING:
            self.to_left(record, now)
            self._announce("member-leave", record.member, "EventMemberLeave: %s %s")
        elif record.status is Status.ALIVE:
            record.gone_since = now
            self._set_status(record, Status.FAILED)
            self.failed[name] = record
            self._announce("member-failed", record.member, "EventMemberFailed: %s %s")
        else:
            _log.warning("Bad state when leave: %d", record.status)

    def updated(self, name: str, address: Address, meta: bytes, versions: Versions) -> None:
        """Take in the new tags of a member."""
        record = self.records.get(name)
        if record is None:
            return
        record.member = Member(name, address, self._tags(meta), record.status, versions)
        self._changed()
        self._announce("member-update", record.member, "EventMemberUpdate: %s")

    def on_suspect(self, name: str, *, recovered: bool = False) -> None:
        """Pass on a suspicion, or its end, to those who asked for such events."""
        member = self.get(name)
        if member is not None and member.status in {Status.ALIVE, Status.LEAVING}:
            kind: MemberEventKind = "member-recovered" if recovered else "member-suspect"
            self._effects.events.append(MemberEvent(kind, (member,)))

    # --- transitions by intents ---

    def to_leaving(self, record: MemberRecord) -> None:
        """Note that a member that is alive is about to leave."""
        self._set_status(record, Status.LEAVING)

    def to_alive(self, record: MemberRecord) -> None:
        """Note that a leaving member stays after all."""
        self._set_status(record, Status.ALIVE)

    def to_left(self, record: MemberRecord, now: float) -> None:
        """Note that a member has left; the tombstone makes others believe it too."""
        self.failed.pop(record.member.name, None)
        record.gone_since = now
        self._set_status(record, Status.LEFT)
        self.left[record.member.name] = record

    def force_left(self, record: MemberRecord, now: float) -> None:
        """Declare on request that a failed member has left."""
        self.to_left(record, now)
        self._announce("member-leave", record.member, "EventMemberLeave (forced): %s %s")

    def erase(self, name: str, *, forced: bool = False) -> None:
        """Forget a member altogether."""
        record = self.records.pop(name)
        self.failed.pop(name, None)
        self.left.pop(name, None)
        self._changed()
        text = "EventMemberReap (forced): %s %s" if forced else "EventMemberReap: %s"
        self._announce("member-reap", record.member, text)

    # --- the passing of time ---

    def reap(self, now: float) -> None:
        """Erase those that failed or left too long ago."""
        overdue = [
            *_overdue(self.failed.values(), now - self._options.reconnect_timeout),
            *_overdue(self.left.values(), now - self._options.tombstone_timeout),
        ]
        for name in overdue:
            self.erase(name)

    def _make_room(self) -> None:
        """Erase whoever has been gone the longest if there is no room for another member."""
        if len(self.records) < self._max_members:
            return
        gone = [next(iter(some.values())) for some in (self.left, self.failed) if some]
        if gone:
            self.erase(min(gone, key=lambda record: record.gone_since).member.name)

    def reconnect_candidate(self) -> Member | None:
        """Choose a failed member to be called, or nobody.

        The chance that there is one is failed/alive: the fewer are left, the harder they try,
        while a large cluster does not drown one member in calls.
        """
        if not self.failed:
            return None
        if self._rng.random() * max(1, self.present_count) > len(self.failed):
            _log.debug("forgoing reconnect for random throttling")
            return None
        record = self._rng.choice(list(self.failed.values()))
        _log.info("attempting reconnect to %s %s", record.member.name, record.member.address)
        return record.member

    # --- inside ---

    def _set_status(self, record: MemberRecord, status: Status) -> None:
        old = record.member
        record.member = Member(old.name, old.address, old.tags, status, old.versions)
        self._changed()

    def _changed(self) -> None:
        self.version += 1
        self._snapshot = None

    def _tags(self, meta: bytes) -> Mapping[str, str]:
        """Read metadata; members that say the same share one mapping."""
        tags = self._known_tags.get(meta)
        if tags is None:
            try:
                tags = self._decode_tags(meta)
            except ValueError as error:
                _log.error("Failed to decode tags: %s", error)
                return {}
            if len(self._known_tags) >= _TAGS_KEPT:
                self._known_tags.clear()
            self._known_tags[meta] = tags
        return tags

    def _announce(self, kind: MemberEventKind, member: Member, text: str) -> None:
        self._effects.events.append(MemberEvent(kind, (member,)))
        if _log.isEnabledFor(logging.INFO):
            _log.info(text, *(member.name, member.address.host)[: text.count("%s")])


def _overdue(records: Iterable[MemberRecord], before: float) -> list[str]:
    return [record.member.name for record in records if record.gone_since < before]
