from hypothesis import given
from hypothesis import strategies as st

from trioserf.serf.clock import (
    CEILING,
    EPOCHS_KEPT,
    FAR,
    LAST_TIME,
    LamportClock,
    LamportWindow,
    Refusal,
    Slot,
)

ANY_TIME = st.integers(0, LAST_TIME) | st.sampled_from(
    [0, 1, FAR, 2**63, CEILING, CEILING + 1, LAST_TIME - 1, LAST_TIME]
)


def window(length: int = 8, budget: int = 1000) -> LamportWindow[set[str]]:
    return LamportWindow(length, set, budget=budget)


# --- the clock ---


def test_it_starts_at_one_and_counts() -> None:
    clock = LamportClock()
    assert clock.time == 1
    assert clock.increment() == 2
    assert repr(clock) == "LamportClock(2)"


def test_it_goes_on_behind_what_it_hears() -> None:
    clock = LamportClock()
    for seen, then in [(0, 1), (1, 2), (7, 8), (7, 8), (3, 8), (2**63, 2**63 + 1)]:
        assert clock.witness(seen)
        assert clock.time == then


def test_no_jump_leads_into_the_end_of_the_range() -> None:
    clock = LamportClock()
    for seen in (CEILING + 1, LAST_TIME - 1, LAST_TIME, LAST_TIME + 1, 2**80, -1):
        assert not clock.witness(seen)
        assert clock.time == 1
    assert clock.witness(CEILING)


def test_the_end_of_the_range_can_be_walked_into_and_is_not_left() -> None:
    clock = LamportClock(CEILING)
    assert clock.witness(LAST_TIME - 1)
    assert clock.time == LAST_TIME
    assert clock.increment() == LAST_TIME
    assert clock.witness(LAST_TIME)
    assert clock.time == LAST_TIME


@given(st.lists(ANY_TIME | st.none()))
def test_it_never_goes_back_nor_overflows(steps: list[int | None]) -> None:
    clock = LamportClock()
    for seen in steps:
        before = clock.time
        if seen is None:
            clock.increment()
        elif clock.witness(seen):
            assert clock.time > seen or clock.time == LAST_TIME
        else:
            assert clock.time == before
        assert before <= clock.time <= LAST_TIME


@given(st.lists(st.integers(0, 2**40)))
def test_honest_times_are_all_believed(seen: list[int]) -> None:
    clock = LamportClock()
    assert all(clock.witness(time) for time in seen)
    assert clock.time == max([1, *(time + 1 for time in seen)])


# --- the window ---


def entry(found: Slot[set[str]] | Refusal) -> set[str]:
    assert isinstance(found, Slot)
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
def test_among_honest_peers_it_is_serfs_ring_buffer(messages: list[tuple[int, str]]) -> None:
    ours, go = window(), GoRing(8)
    for ltime, what in messages:
        slot = ours.at(ltime)
        news = isinstance(slot, Slot) and what not in slot.entry
        if isinstance(slot, Slot):
            slot.entry.add(what)
        assert news == go.takes(ltime, what)
        assert ours.clock.time == go.clock


@given(st.lists(st.tuples(ANY_TIME | st.integers(0, 40), st.sampled_from("xyz"))))
def test_nothing_is_news_twice_whatever_comes(messages: list[tuple[int, str]]) -> None:
    ours = window(budget=20)
    taken = set()
    for ltime, what in messages:
        slot = ours.at(ltime)
        if isinstance(slot, Slot) and what not in slot.entry and ours.charge(slot, 4):
            slot.entry.add(what)
            assert (ltime, what) not in taken
            taken.add((ltime, what))


def test_old_times_are_refused() -> None:
    ours = window()
    ours.at(20)
    assert ours.at(12) is Refusal.OLD
    assert entry(ours.at(13)) == set()


def test_times_before_the_start_are_refused() -> None:
    ours = window()
    ours.witness(9)
    ours.start_at(10)
    ours.start_at(4)
    assert ours.min_time == 10
    assert ours.at(9) is Refusal.BEFORE_START
    assert ours.at(1) is Refusal.BEFORE_START
    assert entry(ours.at(10)) == set()


def test_a_start_in_the_future_is_none() -> None:
    ours = window()
    ours.start_at(LAST_TIME)
    assert entry(ours.at(1)) == set()


def test_impossible_times_are_refused_and_change_nothing() -> None:
    ours = window()
    assert ours.at(LAST_TIME) is Refusal.UNBELIEVABLE
    assert ours.clock.time == 1


def test_a_poisoned_window_follows_and_still_hears_those_who_did_not() -> None:
    ours = window()
    entry(ours.at(5)).add("seen")
    ours.at(2**63)
    assert ours.clock.time == 2**63 + 1
    assert "seen" in entry(ours.at(5))
    assert entry(ours.at(6)) == set()
    assert entry(ours.at(2**63 + 7)) == set()


def test_the_older_epoch_grows_old_too() -> None:
    ours = window()
    ours.at(5)
    ours.at(2**63)
    ours.at(30)
    assert ours.at(5) is Refusal.OLD
    assert entry(ours.at(25)) == set()


def test_a_start_belongs_to_its_epoch() -> None:
    ours = window()
    ours.at(9)
    ours.at(2**63)
    ours.start_at(8)
    assert ours.at(7) is Refusal.BEFORE_START
    assert entry(ours.at(8)) == set()
    assert entry(ours.at(2**63 + 1)) == set()


def test_epochs_are_bounded() -> None:
    ours = window()
    entry(ours.at(5)).add("seen")
    for jump in range(1, EPOCHS_KEPT + 1):
        ours.at(jump * 2**40)
    assert "seen" in entry(ours.at(5))
    ours.at(2**63)
    assert ours.at(5) is Refusal.OLD


def test_over_the_budget_the_oldest_is_forgotten_for_good() -> None:
    ours = window(budget=10)
    for ltime in (1, 2, 3):
        slot = ours.at(ltime)
        assert isinstance(slot, Slot)
        assert ours.charge(slot, 4)
    assert [slot.ltime for slot in ours] == [2, 3]
    assert ours.at(1) is Refusal.BEFORE_START


def test_one_time_alone_cannot_burst_the_budget() -> None:
    ours = window(budget=10)
    slot = ours.at(1)
    assert isinstance(slot, Slot)
    assert ours.charge(slot, 10)
    assert not ours.charge(slot, 1)


def test_what_is_overwritten_or_left_behind_is_not_charged_for_ever() -> None:
    ours = window(length=2, budget=100)
    for ltime in [*range(1, 100), *(n * 2**34 for n in range(1, 50))]:
        slot = ours.at(ltime)
        assert isinstance(slot, Slot)
        assert ours.charge(slot, 10)
        assert ours.min_time == 0


def test_slots_come_in_the_order_of_their_times() -> None:
    ours = window()
    for ltime in (9, 7, 12, 8):
        ours.at(ltime)
    assert [slot.ltime for slot in ours] == [7, 8, 9, 12]
