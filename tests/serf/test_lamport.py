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


def test_it_starts_at_one_and_counts() -> None:
    clock = LamportClock()
    assert clock.time == 1
    assert clock.increment() == 2
    assert repr(clock) == "LamportClock(2)"


def test_it_goes_on_behind_what_it_hears() -> None:
    clock = LamportClock()
    for seen, then in [(0, 1), (1, 2), (7, 8), (7, 8), (3, 8), (2**63, 2**63 + 1)]:
        clock.witness(seen)
        assert clock.time == then


def test_after_the_last_time_it_begins_anew() -> None:
    clock = LamportClock(LAST_TIME)
    assert clock.increment() == 0
    clock = LamportClock(LAST_TIME - 5)
    clock.witness(LAST_TIME)
    assert clock.time == 0


def test_a_jump_to_the_last_time_is_not_followed() -> None:
    clock = LamportClock(7)
    clock.witness(LAST_TIME)
    assert clock.time == 7
    clock.witness(LAST_TIME - 1)
    assert clock.time == LAST_TIME


@given(st.lists(ANY_TIME | st.none()))
def test_it_goes_back_only_at_the_end_of_the_range(steps: list[int | None]) -> None:
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
def test_all_times_are_followed(seen: list[int]) -> None:
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
def test_among_honest_peers_it_is_serfs_ring_buffer(messages: list[tuple[int, str]]) -> None:
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
def test_nothing_is_news_twice_while_its_epoch_is_kept(messages: list[tuple[int, str]]) -> None:
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
def test_no_poison_makes_it_deaf(poison: list[int], honest: int) -> None:
    """Whoever counts on from where it was is heard, whatever others have been told."""
    ours = window()
    for number, ltime in enumerate(poison):
        for speaker, time in (("we", ours.clock.time), ("an honest peer", honest + number)):
            news = f"{number} of {speaker}"
            assert news not in entry(ours.at(time))
            entry(ours.at(time)).add(news)
        ours.at(ltime)
        assert len(ours._others) < MAX_EPOCHS


def test_old_times_are_refused() -> None:
    ours = window()
    ours.at(20)
    assert ours.at(12) is Rejection.OLD
    assert entry(ours.at(13)) == set()


def test_times_before_the_start_are_refused() -> None:
    ours = window()
    ours.witness(9)
    ours.start_at(10)
    ours.start_at(4)
    assert ours.min_time == 10
    assert ours.at(9) is Rejection.BEFORE_START
    assert ours.at(1) is Rejection.BEFORE_START
    assert entry(ours.at(10)) == set()


def test_a_start_in_the_future_is_none() -> None:
    ours = window()
    ours.start_at(LAST_TIME)
    assert entry(ours.at(1)) == set()


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
    assert ours.at(5) is Rejection.OLD
    assert entry(ours.at(25)) == set()


def test_a_start_belongs_to_its_epoch() -> None:
    ours = window()
    ours.at(9)
    ours.at(2**63)
    ours.start_at(8)
    assert ours.at(7) is Rejection.BEFORE_START
    assert entry(ours.at(8)) == set()
    assert entry(ours.at(2**63 + 1)) == set()


def test_what_others_remember_from_before_a_start_is_not_news() -> None:
    ours = window()
    ours.witness(2**63)
    ours.start_at(2**63 + 1)
    assert ours.at(900, is_live=False) is Rejection.BEFORE_START
    assert entry(ours.at(1005)) == set()
    assert entry(ours.at(1006, is_live=False)) == set()
    assert entry(ours.at(2**63 + 1, is_live=False)) == set()


def test_whoever_wants_all_is_told_all() -> None:
    ours = window()
    ours.witness(2**63)
    assert entry(ours.at(900, is_live=False)) == set()


def test_epochs_are_bounded_and_those_used_last_are_kept() -> None:
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


def test_at_the_end_it_begins_anew_and_hears_on() -> None:
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


def test_the_last_time_is_heard_once_and_not_followed() -> None:
    ours = window()
    entry(ours.at(5)).add("seen")
    entry(ours.at(LAST_TIME)).add("poison")
    assert "poison" in entry(ours.at(LAST_TIME))
    assert ours.clock.time == 6
    assert "seen" in entry(ours.at(5))


def test_intents_from_the_end_of_the_range_can_be_overruled() -> None:
    assert is_newer(5, 4)
    assert not is_newer(4, 4)
    assert not is_newer(4, 5)
    assert not is_newer(4, 2**63)
    assert is_newer(4, LAST_TIME)
    assert is_newer(2**63, LAST_TIME)
    assert not is_newer(LAST_TIME - 1, LAST_TIME)


def test_over_the_budget_the_oldest_is_forgotten_for_good() -> None:
    ours = window(budget=10)
    for ltime in (1, 2, 3):
        slot = ours.at(ltime)
        assert isinstance(slot, LamportSlot)
        assert ours.charge(slot, 4)
    assert [slot.ltime for slot in ours] == [2, 3]
    assert ours.at(1) is Rejection.BEFORE_START


def test_one_time_alone_cannot_burst_the_budget() -> None:
    ours = window(budget=10)
    slot = ours.at(1)
    assert isinstance(slot, LamportSlot)
    assert ours.charge(slot, 10)
    assert not ours.charge(slot, 1)


def test_what_is_overwritten_or_left_behind_is_not_charged_for_ever() -> None:
    ours = window(length=2, budget=100)
    for ltime in [*range(1, 100), *(n * 2**34 for n in range(1, 50))]:
        slot = ours.at(ltime)
        assert isinstance(slot, LamportSlot)
        assert ours.charge(slot, 10)
        assert ours.min_time == 0


def test_slots_come_in_the_order_of_their_times() -> None:
    ours = window()
    for ltime in (9, 7, 12, 8):
        ours.at(ltime)
    assert [slot.ltime for slot in ours] == [7, 8, 9, 12]
