from hypothesis import example, given
from hypothesis import strategies as st

from trioserf.serf.lamport import (
    FAR,
    LAST_TIME,
    MAX_EPOCHS,
    LamportClock,
    LamportSlot,
    LamportWindow,
    Rejection,
    is_newer,
)

ANY_TIME = st.integers(0, LAST_TIME) | st.sampled_from(
    [0, 1, FAR, 2**63, LAST_TIME - FAR, LAST_TIME - 1, LAST_TIME]
)


def window(length: int = 8, budget: int = 1000) -> LamportWindow[set[str]]:
    return LamportWindow(length, set, budget=budget)


# --- the clock ---


def test_clock_starts_at_one() -> None:
    clock = LamportClock()
    assert clock.time == 1
    assert clock.increment() == 2
    assert repr(clock) == "LamportClock(2)"


def test_clock_is_set_behind_witnessed_time() -> None:
    clock = LamportClock()
    for seen, then in [(0, 1), (1, 2), (7, 8), (7, 8), (3, 8), (2**63, 2**63 + 1)]:
        clock.witness(seen)
        assert clock.time == then


def test_clock_wraps_to_zero_after_last_time() -> None:
    clock = LamportClock(LAST_TIME)
    assert clock.increment() == 0
    clock = LamportClock(LAST_TIME - 5)
    clock.witness(LAST_TIME)
    assert clock.time == 0


def test_jump_to_last_time_is_not_followed() -> None:
    clock = LamportClock(7)
    clock.witness(LAST_TIME)
    assert clock.time == 7
    clock.witness(LAST_TIME - 1)
    assert clock.time == LAST_TIME


@given(st.lists(ANY_TIME | st.none()))
def test_clock_decreases_only_at_end_of_range(steps: list[int | None]) -> None:
    clock = LamportClock()
    for seen in steps:
        before = clock.time
        if seen is None:
            clock.increment()
        else:
            clock.witness(seen)
        assert before <= clock.time <= LAST_TIME or (
            clock.time == 0 and before > LAST_TIME - FAR - 2
        )


@given(st.lists(st.integers(0, 2**40)))
def test_clock_is_set_behind_highest_time(seen: list[int]) -> None:
    clock = LamportClock()
    for time in seen:
        clock.witness(time)
    assert clock.time == max([1, *(time + 1 for time in seen)])


# --- the window ---


def entry(found: LamportSlot[set[str]] | Rejection) -> set[str]:
    assert isinstance(found, LamportSlot)
    return found.entry


class GoRing:
    """Serf's ring buffer, as plainly as possible."""

    def __init__(self, length: int) -> None:
        self.clock = 1
        self.ring: list[tuple[int, set[str]] | None] = [None] * length

    def takes(self, ltime: int, what: str) -> bool:
        self.clock = max(self.clock, ltime + 1)
        length = len(self.ring)
        if self.clock > length and ltime < self.clock - length:
            return False
        held = self.ring[ltime % length]
        if held is None or held[0] != ltime:
            held = self.ring[ltime % length] = (ltime, set())
        if what in held[1]:
            return False
        held[1].add(what)
        return True


@given(st.lists(st.tuples(st.integers(0, 40), st.sampled_from("xyz"))))
def test_window_equals_ring_buffer_of_serf(messages: list[tuple[int, str]]) -> None:
    ours, go = window(), GoRing(8)
    for ltime, what in messages:
        slot = ours.at(ltime)
        news = isinstance(slot, LamportSlot) and what not in slot.entry
        if isinstance(slot, LamportSlot):
            slot.entry.add(what)
        assert news == go.takes(ltime, what)
        assert ours.clock.time == go.clock


FEW_EPOCHS = st.integers(0, 40) | st.sampled_from(
    [2**40, 2**40 + 1, 2**63, 2**63 + 3, LAST_TIME - 1, LAST_TIME]
)


@given(st.lists(st.tuples(FEW_EPOCHS, st.sampled_from("xyz"))))
@example([(0, "x"), (8, "x"), (LAST_TIME - 1, "x"), (LAST_TIME, "x"), (0, "x")])
def test_message_is_new_once_while_its_epoch_is_kept(messages: list[tuple[int, str]]) -> None:
    """Nor after the clock has begun anew, but for what the ring had let go of before that."""
    ours = window()
    taken = set[tuple[int, str]]()
    for ltime, what in messages:
        before = ours.clock.time
        slot = ours.at(ltime)
        if ours.clock.time < before:
            epochs = [ours._current, *ours._others]
            held = {slot.ltime for epoch in epochs for slot in epoch.slots.values()}
            taken = {one for one in taken if one[0] in held or one[0] > FAR}
        if isinstance(slot, LamportSlot) and what not in slot.entry and ours.charge(slot, 4):
            slot.entry.add(what)
            assert (ltime, what) not in taken
            taken.add((ltime, what))


FAR_AWAY = st.integers(2**42, LAST_TIME) | st.sampled_from([2**63, LAST_TIME - 1, LAST_TIME])


@given(st.lists(FAR_AWAY, max_size=40), st.integers(0, 2**40))
def test_far_jumps_do_not_hide_other_messages(poison: list[int], honest: int) -> None:
    """Whoever counts on from where it was is heard, whatever others have been told."""
    ours = window()
    for number, ltime in enumerate(poison):
        for speaker, time in (("we", ours.clock.time), ("an honest peer", honest + number)):
            news = f"{number} of {speaker}"
            assert news not in entry(ours.at(time))
            entry(ours.at(time)).add(news)
        ours.at(ltime)
        assert len(ours._others) < MAX_EPOCHS


def test_time_older_than_window_is_rejected() -> None:
    ours = window()
    ours.at(20)
    assert ours.at(12) is Rejection.OLD
    assert entry(ours.at(13)) == set()


def test_time_before_start_is_rejected() -> None:
    ours = window()
    ours.witness(9)
    ours.start_at(10)
    ours.start_at(4)
    assert ours.min_time == 10
    assert ours.at(9) is Rejection.BEFORE_START
    assert ours.at(1) is Rejection.BEFORE_START
    assert entry(ours.at(10)) == set()


def test_start_in_future_is_ignored() -> None:
    ours = window()
    ours.start_at(LAST_TIME)
    assert entry(ours.at(1)) == set()


def test_messages_of_previous_epoch_are_accepted_after_jump() -> None:
    ours = window()
    entry(ours.at(5)).add("seen")
    ours.at(2**63)
    assert ours.clock.time == 2**63 + 1
    assert "seen" in entry(ours.at(5))
    assert entry(ours.at(6)) == set()
    assert entry(ours.at(2**63 + 7)) == set()


def test_previous_epoch_has_its_own_window() -> None:
    ours = window()
    ours.at(5)
    ours.at(2**63)
    ours.at(30)
    assert ours.at(5) is Rejection.OLD
    assert entry(ours.at(25)) == set()


def test_start_applies_to_its_epoch_only() -> None:
    ours = window()
    ours.at(9)
    ours.at(2**63)
    ours.start_at(8)
    assert ours.at(7) is Rejection.BEFORE_START
    assert entry(ours.at(8)) == set()
    assert entry(ours.at(2**63 + 1)) == set()


def test_replayed_message_from_before_start_is_rejected() -> None:
    ours = window()
    ours.witness(2**63)
    ours.start_at(2**63 + 1)
    assert ours.at(900, is_live=False) is Rejection.BEFORE_START
    assert entry(ours.at(1005)) == set()
    assert entry(ours.at(1006, is_live=False)) == set()
    assert entry(ours.at(2**63 + 1, is_live=False)) == set()


def test_replayed_message_of_other_epoch_is_accepted_without_start() -> None:
    ours = window()
    ours.witness(2**63)
    assert entry(ours.at(900, is_live=False)) == set()


def test_most_recently_used_epochs_are_kept() -> None:
    ours = window()
    entry(ours.at(5)).add("seen")
    for jump in range(1, MAX_EPOCHS):
        ours.at(jump * 2**40)
    assert "seen" in entry(ours.at(5))
    for jump in range(MAX_EPOCHS, 2 * MAX_EPOCHS):
        ours.at(jump * 2**40)
        assert "seen" in entry(ours.at(5))
    for jump in range(1, MAX_EPOCHS + 1):
        ours.at(2**63 + jump * 2**40)
    assert "seen" not in entry(ours.at(5))  # but it is heard


def test_window_accepts_messages_after_wrap() -> None:
    ours = window()
    ours.at(LAST_TIME - 1)
    assert ours.clock.time == LAST_TIME
    entry(ours.at(LAST_TIME)).add("last")
    assert ours.clock.time == 0
    entry(ours.at(0)).add("first")
    assert ours.clock.time == 1
    assert "last" in entry(ours.at(LAST_TIME))
    assert "first" in entry(ours.at(0))
    ours.at(LAST_TIME - 1)  # a double, late
    assert ours.clock.time == 1


def test_message_of_last_time_is_accepted_once() -> None:
    ours = window()
    entry(ours.at(5)).add("seen")
    entry(ours.at(LAST_TIME)).add("poison")
    assert "poison" in entry(ours.at(LAST_TIME))
    assert ours.clock.time == 6
    assert "seen" in entry(ours.at(5))


def test_time_from_end_of_range_can_be_superseded() -> None:
    assert is_newer(5, 4)
    assert not is_newer(4, 4)
    assert not is_newer(4, 5)
    assert not is_newer(4, 2**63)
    assert is_newer(4, LAST_TIME)
    assert is_newer(2**63, LAST_TIME)
    assert not is_newer(LAST_TIME - 1, LAST_TIME)


def test_oldest_time_is_dropped_above_budget() -> None:
    ours = window(budget=10)
    for ltime in (1, 2, 3):
        slot = ours.at(ltime)
        assert isinstance(slot, LamportSlot)
        assert ours.charge(slot, 4)
    assert [slot.ltime for slot in ours] == [2, 3]
    assert ours.at(1) is Rejection.BEFORE_START


def test_single_time_cannot_exceed_budget() -> None:
    ours = window(budget=10)
    slot = ours.at(1)
    assert isinstance(slot, LamportSlot)
    assert ours.charge(slot, 10)
    assert not ours.charge(slot, 1)


def test_dropped_slots_and_epochs_are_not_charged() -> None:
    ours = window(length=2, budget=100)
    for ltime in [*range(1, 100), *(n * 2**34 for n in range(1, 50))]:
        slot = ours.at(ltime)
        assert isinstance(slot, LamportSlot)
        assert ours.charge(slot, 10)
        assert ours.min_time == 0


def test_slots_are_iterated_in_order_of_time() -> None:
    ours = window()
    for ltime in (9, 7, 12, 8):
        ours.at(ltime)
    assert [slot.ltime for slot in ours] == [7, 8, 9, 12]
