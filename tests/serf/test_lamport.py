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


def new_window(length: int = 8, budget: int = 1000) -> LamportWindow[set[str]]:
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
    """Serf's ring buffer."""

    def __init__(self, length: int) -> None:
        self.clock = 1
        self.ring: list[tuple[int, set[str]] | None] = [None] * length

    def accepts(self, ltime: int, what: str) -> bool:
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
    window, go = new_window(), GoRing(8)
    for ltime, what in messages:
        slot = window.at(ltime)
        is_new = isinstance(slot, LamportSlot) and what not in slot.entry
        if isinstance(slot, LamportSlot):
            slot.entry.add(what)
        assert is_new == go.accepts(ltime, what)
        assert window.clock.time == go.clock


FEW_EPOCHS = st.integers(0, 40) | st.sampled_from(
    [2**40, 2**40 + 1, 2**63, 2**63 + 3, LAST_TIME - 1, LAST_TIME]
)


@given(st.lists(st.tuples(FEW_EPOCHS, st.sampled_from("xyz"))))
@example([(0, "x"), (8, "x"), (LAST_TIME - 1, "x"), (LAST_TIME, "x"), (0, "x")])
@example(
    [
        (0, "y"), (LAST_TIME - 1, "y"), (LAST_TIME, "x"), (16, "x"), (40, "x"), (2**63 + 3, "x"),
        (0, "y"), (16, "x"),
    ]
)  # fmt: skip
def test_message_is_new_once_while_its_epoch_is_kept(messages: list[tuple[int, str]]) -> None:
    """After a wrap of the clock this applies to the times that the window still has."""
    window = new_window()
    accepted = set[tuple[int, str]]()
    for ltime, what in messages:
        before = window.clock.time
        slot = window.at(ltime)
        if window.clock.time < before:
            epochs = [window._current, *window._others]
            held = {slot.ltime for epoch in epochs for slot in epoch.slots.values()}
            accepted = {(time, name) for time, name in accepted if time in held or time > FAR}
        if isinstance(slot, LamportSlot) and what not in slot.entry and window.charge(slot, 4):
            slot.entry.add(what)
            assert (ltime, what) not in accepted
            accepted.add((ltime, what))


FAR_AWAY = st.integers(2**42, LAST_TIME) | st.sampled_from([2**63, LAST_TIME - 1, LAST_TIME])


@given(st.lists(FAR_AWAY, max_size=40), st.integers(0, 2**40))
def test_far_jumps_do_not_hide_other_messages(jumps: list[int], honest: int) -> None:
    """Messages of this node and of a member that witnesses no jump stay new."""
    window = new_window()
    for number, ltime in enumerate(jumps):
        for sender, time in (("self", window.clock.time), ("an honest peer", honest + number)):
            message = f"{number} of {sender}"
            assert message not in entry(window.at(time))
            entry(window.at(time)).add(message)
        window.at(ltime)
        assert len(window._others) < MAX_EPOCHS


def test_time_older_than_window_is_rejected() -> None:
    window = new_window()
    window.at(20)
    assert window.at(12) is Rejection.OLD
    assert entry(window.at(13)) == set()


def test_time_before_start_is_rejected() -> None:
    window = new_window()
    window.witness(9)
    window.start_at(10)
    window.start_at(4)
    assert window.min_time == 10
    assert window.at(9) is Rejection.BEFORE_START
    assert window.at(1) is Rejection.BEFORE_START
    assert entry(window.at(10)) == set()


def test_start_in_future_is_ignored() -> None:
    window = new_window()
    window.start_at(LAST_TIME)
    assert entry(window.at(1)) == set()


def test_messages_of_previous_epoch_are_accepted_after_jump() -> None:
    window = new_window()
    entry(window.at(5)).add("seen")
    window.at(2**63)
    assert window.clock.time == 2**63 + 1
    assert "seen" in entry(window.at(5))
    assert entry(window.at(6)) == set()
    assert entry(window.at(2**63 + 7)) == set()


def test_previous_epoch_has_its_own_window() -> None:
    window = new_window()
    window.at(5)
    window.at(2**63)
    window.at(30)
    assert window.at(5) is Rejection.OLD
    assert entry(window.at(25)) == set()


def test_start_applies_to_its_epoch_only() -> None:
    window = new_window()
    window.at(9)
    window.at(2**63)
    window.start_at(8)
    assert window.at(7) is Rejection.BEFORE_START
    assert entry(window.at(8)) == set()
    assert entry(window.at(2**63 + 1)) == set()


def test_replayed_message_from_before_start_is_rejected() -> None:
    window = new_window()
    window.witness(2**63)
    window.start_at(2**63 + 1)
    assert window.at(900, is_live=False) is Rejection.BEFORE_START
    assert entry(window.at(1005)) == set()
    assert entry(window.at(1006, is_live=False)) == set()
    assert entry(window.at(2**63 + 1, is_live=False)) == set()


def test_replayed_message_of_other_epoch_is_accepted_without_start() -> None:
    window = new_window()
    window.witness(2**63)
    assert entry(window.at(900, is_live=False)) == set()


def test_most_recently_used_epochs_are_kept() -> None:
    window = new_window()
    entry(window.at(5)).add("seen")
    for jump in range(1, MAX_EPOCHS):
        window.at(jump * 2**40)
    assert "seen" in entry(window.at(5))
    for jump in range(MAX_EPOCHS, 2 * MAX_EPOCHS):
        window.at(jump * 2**40)
        assert "seen" in entry(window.at(5))
    for jump in range(1, MAX_EPOCHS + 1):
        window.at(2**63 + jump * 2**40)
    assert "seen" not in entry(window.at(5))  # but it is accepted


def test_window_accepts_messages_after_wrap() -> None:
    window = new_window()
    window.at(LAST_TIME - 1)
    assert window.clock.time == LAST_TIME
    entry(window.at(LAST_TIME)).add("last")
    assert window.clock.time == 0
    entry(window.at(0)).add("first")
    assert window.clock.time == 1
    assert "last" in entry(window.at(LAST_TIME))
    assert "first" in entry(window.at(0))
    window.at(LAST_TIME - 1)  # a late duplicate
    assert window.clock.time == 1


def test_message_of_last_time_is_accepted_once() -> None:
    window = new_window()
    entry(window.at(5)).add("seen")
    entry(window.at(LAST_TIME)).add("jumps")
    assert "jumps" in entry(window.at(LAST_TIME))
    assert window.clock.time == 6
    assert "seen" in entry(window.at(5))


def test_time_from_end_of_range_can_be_superseded() -> None:
    assert is_newer(5, 4)
    assert not is_newer(4, 4)
    assert not is_newer(4, 5)
    assert not is_newer(4, 2**63)
    assert is_newer(4, LAST_TIME)
    assert is_newer(2**63, LAST_TIME)
    assert not is_newer(LAST_TIME - 1, LAST_TIME)


def test_oldest_time_is_dropped_above_budget() -> None:
    window = new_window(budget=10)
    for ltime in (1, 2, 3):
        slot = window.at(ltime)
        assert isinstance(slot, LamportSlot)
        assert window.charge(slot, 4)
    assert [slot.ltime for slot in window] == [2, 3]
    assert window.at(1) is Rejection.BEFORE_START


def test_single_time_cannot_exceed_budget() -> None:
    window = new_window(budget=10)
    slot = window.at(1)
    assert isinstance(slot, LamportSlot)
    assert window.charge(slot, 10)
    assert not window.charge(slot, 1)


def test_dropped_slots_and_epochs_are_not_charged() -> None:
    window = new_window(length=2, budget=100)
    for ltime in [*range(1, 100), *(n * 2**34 for n in range(1, 50))]:
        slot = window.at(ltime)
        assert isinstance(slot, LamportSlot)
        assert window.charge(slot, 10)
        assert window.min_time == 0


def test_slots_are_iterated_in_order_of_time() -> None:
    window = new_window()
    for ltime in (9, 7, 12, 8):
        window.at(ltime)
    assert [slot.ltime for slot in window] == [7, 8, 9, 12]


# --- wraps ---


def wrapped(*times: int) -> LamportWindow[set[str]]:
    """Return a window that has seen these times, and whose clock then wrapped."""
    window = new_window()
    for ltime in (*times, LAST_TIME - 1, LAST_TIME):
        entry(window.at(ltime)).add("seen")
    assert window.clock.time == 0
    return window


def test_time_of_the_last_lap_is_known_while_it_is_held() -> None:
    window = wrapped(0, 7)
    for is_live in (True, False):
        assert entry(window.at(0, is_live=is_live)) == {"seen"}


def test_replayed_time_that_the_last_lap_dropped_is_old_and_a_live_one_new() -> None:
    window = wrapped(0, 8)
    assert window.at(0, is_live=False) is Rejection.OLD
    assert entry(window.at(1, is_live=False)) == set()
    assert entry(window.at(0)) == set()  # as in Serf: a member of the new lap may have sent it
    assert entry(window.at(0, is_live=False)) == set()


def test_old_time_stays_old_after_a_jump_although_the_last_lap_is_near() -> None:
    window = wrapped(0)
    for ltime in (16, 40, 2**63):
        entry(window.at(ltime))
    assert entry(window.at(0)) == {"seen"}  # the last lap is now the epoch that was used last
    assert window.at(16) is Rejection.OLD
