"""Broadcast queues, and packets filled from one or several of them."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trioserf.swim.broadcast_queue import BroadcastQueue, FairFiller, retransmit_limit

VECTORS = Path(__file__).parent.parent / "vectors" / "memberlist.json"


def make_queue(mult: int = 4, n: int = 10, **options: Any) -> BroadcastQueue:
    return BroadcastQueue(mult, lambda: n, **options)


def sent_to(queue: BroadcastQueue, *targets: str) -> list[str]:
    """Offer a packet to each target in turn; return those that got one."""
    return [target for target in targets if queue.fill_packet(0, 1000, target)]


def test_packets_are_filled_in_order_of_vectors() -> None:
    vector = json.loads(VECTORS.read_text())["queue"]
    queue = make_queue(vector["retransmit_mult"], vector["n"])
    for text in vector["queued_in_order"]:
        queue.queue(text.encode())
    for row in vector["rounds"]:
        packed = queue.fill_packet(row["overhead"], row["limit"])
        assert [data.decode() for data in packed] == row["sent"]
        assert len(queue) == row["left"]


def test_retransmit_limit_follows_cluster_size() -> None:
    sizes = iter([1, 1000, 1])
    queue = BroadcastQueue(1, lambda: next(sizes))
    queue.queue(b"a")
    queue.queue(b"b")
    assert queue.fill_packet(0, 1) == [b"b"]  # n = 1: once is enough
    assert queue.fill_packet(0, 1) == [b"a"]  # n = 1000: four times
    assert len(queue) == 1
    assert queue.fill_packet(0, 1) == [b"a"]
    assert len(queue) == 0


def test_message_is_sent_once_in_empty_cluster() -> None:
    queue = make_queue(4, 0)
    queue.queue(b"a")
    assert queue.fill_packet(0, 10) == [b"a"]
    assert len(queue) == 0


def _queue_third(queue: BroadcastQueue) -> None:
    queue.queue(b"3", name="n")


class TestDone:
    def test_on_done_follows_last_transmission(self) -> None:
        done: list[str] = []
        queue = make_queue(1, 10)
        queue.queue(b"a", on_done=lambda: done.append("a"))
        queue.fill_packet(0, 10)
        assert done == []
        queue.fill_packet(0, 10)
        assert done == ["a"]
        assert queue.fill_packet(0, 10) == []
        assert done == ["a"]

    def test_replaced_message_is_done(self) -> None:
        done: list[str] = []
        queue = make_queue()
        queue.queue(b"old", name="n", on_done=lambda: done.append("old"))
        queue.queue(b"other", name="m", on_done=lambda: done.append("other"))
        queue.queue(b"new!", name="n", on_done=lambda: done.append("new"))
        assert done == ["old"]
        assert queue.fill_packet(0, 100) == [b"other", b"new!"]

    def test_message_replaced_after_transmission_is_done(self) -> None:
        done: list[str] = []
        queue = make_queue()
        queue.queue(b"old", name="n", urgent=True, on_done=lambda: done.append("old"))
        queue.fill_packet(0, 100)
        queue.queue(b"new", name="n")
        assert (done, queue.fill_packet(0, 100)) == (["old"], [b"new"])

    def test_on_done_may_queue_a_message(self) -> None:
        queue = make_queue()
        queue.queue(b"1", name="n", on_done=lambda: _queue_third(queue))
        queue.queue(b"2", name="n")
        assert queue.fill_packet(0, 100) == [b"3"]

    def test_messages_without_name_do_not_replace_each_other(self) -> None:
        queue = make_queue()
        queue.queue(b"a")
        queue.queue(b"a")
        assert queue.fill_packet(0, 100) == [b"a", b"a"]


class TestTargets:
    def test_transmissions_go_to_different_members(self) -> None:
        queue = make_queue(4, 10)
        queue.queue(b"a")
        for target in ("m1", "m1", "m2", "m1", "m2", "m3"):
            queue.fill_packet(0, 10, target)
        assert sent_to(queue, "m1", "m2", "m3") == []
        assert sent_to(queue, "m4", "m5", "m6", "m7") == ["m4", "m5", "m6", "m7"]

    def test_message_that_all_members_have_goes_to_any_again(self) -> None:
        queue = make_queue(4, 4)
        queue.queue(b"a")
        assert sent_to(queue, "m1", "m2", "m1", "m3", "m2", "m2") == ["m1", "m2", "m3", "m2"]
        assert len(queue) == 0

    def test_message_does_not_go_to_a_member_that_has_it(self) -> None:
        queue = make_queue()
        broadcast = queue.queue(b"a")
        assert broadcast is not None
        broadcast.add_holder("m1")
        assert sent_to(queue, "m1", "m2") == ["m2"]

    def test_skipped_message_keeps_its_place(self) -> None:
        queue = make_queue()
        queue.queue(b"long one")
        queue.fill_packet(0, 100, "m1")
        queue.queue(b"new")
        assert queue.fill_packet(0, 100, "m1") == [b"new"]
        assert queue.fill_packet(0, 100, "m2") == [b"long one", b"new"]

    def test_packet_does_not_search_a_long_queue(self) -> None:
        queue = make_queue()
        for number in range(100):
            queue.queue(b"%3d" % number)
        assert len(queue.fill_packet(0, 300, "m1")) == 100
        queue.queue(b"x")
        queue.queue(b"y")
        queue.fill_packet(0, 1, "m2")
        assert queue.fill_packet(0, 300, "m1") == [b"x"]
        assert queue.fill_packet(0, 300, "m1") == []
        assert len(queue) == 102

    def test_first_round_is_in_addition_to_the_limit(self) -> None:
        queue = make_queue(1, 6)
        queue.queue(b"a", cover=5)
        uncovered = []
        for target in ("m1", "m1", "m2", "m3", "m4", "m5", "m2", "m3"):
            uncovered.append(queue.has_uncovered)
            queue.fill_packet(0, 10, target)
        assert uncovered == 6 * [True] + 2 * [False]
        assert len(queue) == 0

    def test_dropped_message_needs_no_first_round(self) -> None:
        queue = make_queue()
        queue.queue(b"a", cover=5)
        queue.queue(b"b", name="n", cover=5)
        queue.queue(b"c", name="n")
        before = queue.has_uncovered
        queue.prune(0)
        assert (before, queue.has_uncovered) == (True, False)

    def test_finished_message_holds_no_memory(self) -> None:
        queue = make_queue(1, 1)
        broadcast = queue.queue(b"a" * 1000)
        assert broadcast is not None
        broadcast.add_holder("m1")
        queue.fill_packet(0, 1000, "m2")
        broadcast.add_holder("m3")
        assert (broadcast.data, broadcast.holders) == (b"", set())

    def test_holders_are_bounded(self) -> None:
        queue = make_queue(4, 10_000)
        broadcast = queue.queue(b"a")
        assert broadcast is not None
        for number in range(1000):
            broadcast.add_holder(number)
        assert len(broadcast.holders) == 64


class TestSpareRoom:
    """100 members: 6 transmissions by the multiplier, 12 by the least one."""

    def test_least_transmissions_beyond_eight_go_with_pings_only(self) -> None:
        queue = make_queue(2, 100, least_mult=4)
        queue.queue(b"a")
        assert len(sent_to(queue, *(f"m{number}" for number in range(20)))) == 8
        assert (len(queue), queue.has_gossip) == (1, False)
        found = [queue.fill_packet(0, 10, f"p{number}", spare=True) for number in range(10)]
        assert found == 4 * [[b"a"]] + 6 * [[]]
        assert len(queue) == 0

    def test_urgent_messages_and_those_of_the_multiplier_need_no_spare_room(self) -> None:
        queue = make_queue(4, 100, least_mult=4)
        queue.queue(b"a", cover=3)
        assert len(sent_to(queue, *(f"m{number}" for number in range(20)))) == 3 + 12
        queue = make_queue(2, 100, least_mult=4)
        queue.queue(b"a", urgent=True)
        assert len(sent_to(queue, *(f"m{number}" for number in range(20)))) == 12

    def test_other_messages_go_first_and_pruning_begins_with_these(self) -> None:
        queue = make_queue(2, 100, least_mult=4)
        queue.queue(b"spare")
        sent_to(queue, *(f"m{number}" for number in range(8)))
        queue.queue(b"b")
        assert FairFiller([queue, make_queue()]).fill(0, 100, "p", spare=True) == [b"b", b"spare"]
        assert queue.has_gossip
        queue.prune(1)
        assert (queue.has_gossip, queue.fill_packet(0, 100, "q", spare=True)) == (True, [b"b"])


class TestPriority:
    def test_urgent_message_goes_first_after_any_number_of_transmissions(self) -> None:
        queue = make_queue()
        queue.queue(b"urgent", urgent=True)
        assert queue.fill_packet(0, 100) == [b"urgent"]
        queue.queue(b"much longer and new")
        assert queue.fill_packet(0, 100) == [b"urgent", b"much longer and new"]

    def test_message_that_fits_passes_urgent_one_that_does_not(self) -> None:
        queue = make_queue()
        queue.queue(b"urgent", urgent=True)
        queue.queue(b"ab")
        assert queue.fill_packet(0, 5) == [b"ab"]


class TestPruning:
    def test_prune_drops_most_sent_first_and_urgent_last(self) -> None:
        done: list[bytes] = []
        queue = make_queue()

        def add(data: bytes, urgent: bool = False) -> None:
            queue.queue(data, urgent=urgent, on_done=lambda: done.append(data))

        add(b"sent")
        add(b"urgent", urgent=True)
        queue.fill_packet(0, 100)
        add(b"unsent-1")
        add(b"unsent-2")
        add(b"un")
        for keep in (5, 4, 3, 2, 1, 0):
            queue.prune(keep)
            assert len(queue) == keep
        assert done == [b"sent", b"un", b"unsent-1", b"unsent-2", b"urgent"]

    def test_message_too_long_for_any_packet_is_done_at_once(self) -> None:
        done: list[str] = []
        queue = make_queue(largest=5)
        queue.queue(b"12345", name="n", on_done=lambda: done.append("fits"))
        queue.queue(b"123456", name="n", on_done=lambda: done.append("does not"))
        assert done == ["fits", "does not"]
        assert len(queue) == 0


messages = st.lists(
    st.tuples(st.integers(1, 30), st.sampled_from([None, "a", "b", "c"]), st.booleans()),
    max_size=25,
)


@given(
    messages=messages,
    overhead=st.integers(0, 3),
    limits=st.lists(st.integers(0, 60), min_size=1, max_size=8),
    mult=st.integers(1, 3),
    n=st.integers(0, 200),
)
def test_any_messages_respect_budget_limit_and_callbacks(
    messages: list[tuple[int, str | None, bool]],
    overhead: int,
    limits: list[int],
    mult: int,
    n: int,
) -> None:
    done: list[bytes] = []
    sent: dict[bytes, int] = {}
    queue = make_queue(mult, n)
    queued = []
    for number, (length, name, urgent) in enumerate(messages):
        data = bytes([number]) * length
        queued.append(data)

        def on_done(data: bytes = data) -> None:
            done.append(data)

        queue.queue(data, name=name, urgent=urgent, on_done=on_done)
    for limit in limits:
        packed = queue.fill_packet(overhead, limit)
        assert sum(len(data) + overhead for data in packed) <= limit
        assert len(set(packed)) == len(packed)
        for data in packed:
            sent[data] = sent.get(data, 0) + 1
    assert all(times <= max(1, retransmit_limit(mult, n)) for times in sent.values())
    assert len(queue) == len(queued) - len(done)
    queue.prune(0)
    assert sorted(done) == sorted(queued)


class TestFairFiller:
    def test_filler_with_empty_queues_returns_nothing(self) -> None:
        assert FairFiller([make_queue(), make_queue()]).fill(2, 1400) == []

    def test_single_nonempty_queue_fills_the_packet(self) -> None:
        queue = make_queue()
        for _ in range(20):
            queue.queue(bytes(98))
        assert len(FairFiller([make_queue(), queue]).fill(2, 1400)) == 14

    def test_full_queues_share_packets_equally(self) -> None:
        queues = [make_queue() for _ in range(4)]
        for mark, queue in enumerate(queues):
            for _ in range(30):
                queue.queue(bytes([mark]) * 98)
        filler = FairFiller(queues)
        assert len(filler) == 120
        counts = [0] * 4
        for _ in range(8):
            for data in filler.fill(2, 1400):
                counts[data[0]] += 1
        assert counts == [28] * 4

    def test_unused_share_goes_to_other_queues(self) -> None:
        queues = [make_queue() for _ in range(3)]
        for _ in range(30):
            queues[0].queue(bytes(98))
        queues[2].queue(b"\2" * 98)
        packed = FairFiller(queues).fill(2, 1400)
        assert (len(packed), packed[1][0]) == (14, 2)

    def test_large_message_is_not_starved_by_small_ones(self) -> None:
        storm, large = make_queue(), make_queue()
        filler = FairFiller([storm, large])
        large.queue(b"event" * 250)
        packets = []
        for _ in range(2):
            for _ in range(30):
                storm.queue(bytes(60))
            packets.append(filler.fill(2, 1400))
        assert any(b"event" * 250 in packet for packet in packets)

    def test_urgent_messages_of_all_queues_go_first(self) -> None:
        queues = [make_queue(), make_queue()]
        queues[0].queue(b"first", urgent=True)
        queues[0].queue(b"a long one")
        queues[1].queue(b"second", urgent=True)
        assert FairFiller(queues).fill(2, 100) == [b"first", b"second", b"a long one"]

    def test_idle_queue_saves_at_most_one_share(self) -> None:
        early, late = make_queue(), make_queue()
        filler = FairFiller([early, late])
        for _ in range(200):
            early.queue(bytes(98))
        late.queue(b"x")
        for _ in range(5):
            filler.fill(2, 1400)
        for _ in range(100):
            late.queue(b"\1" * 98)
        # Its share is seven of fourteen; it can have saved at most seven more.
        assert sum(data[0] for data in filler.fill(2, 1400)) <= 14
        assert sum(data[0] for data in filler.fill(2, 1400)) == 7

    @given(
        lengths=st.lists(st.lists(st.integers(1, 40), max_size=12), min_size=4, max_size=4),
        overhead=st.integers(0, 3),
        limits=st.lists(st.integers(0, 80), min_size=1, max_size=6),
    )
    def test_packets_of_any_queues_respect_the_budget(
        self, lengths: list[list[int]], overhead: int, limits: list[int]
    ) -> None:
        queues = [make_queue(1, 9) for _ in range(4)]
        for mark, (queue, sizes) in enumerate(zip(queues, lengths, strict=True)):
            for number, length in enumerate(sizes):
                queue.queue(bytes([mark, number]) + bytes(length))
        filler = FairFiller(queues)
        before = len(filler)
        packed = [filler.fill(overhead, limit) for limit in limits]
        for packet, limit in zip(packed, limits, strict=True):
            assert sum(len(data) + overhead for data in packet) <= limit
        sent = [data for packet in packed for data in packet]
        assert len(set(sent)) == len(sent) == before - len(filler)

    @pytest.mark.parametrize("size", [1, 4])
    def test_every_message_is_sent_eventually(self, size: int) -> None:
        queues = [make_queue(1, 9) for _ in range(size)]
        filler = FairFiller(queues)
        waiting = set()
        for mark, queue in enumerate(queues):
            for number in range(20):
                data = bytes([mark, number]) * (10 + 5 * mark + number)
                queue.queue(data)
                waiting.add(data)
        for _ in range(80):
            waiting.difference_update(filler.fill(2, 200))
        assert not waiting


def test_dropped_cover_leaves_the_usual_number_of_transmissions() -> None:
    queue = make_queue(mult=1, n=9)  # one transmission each
    queue.queue(b"not sent", cover=5)
    queue.fill_packet(0, 1000, "a")
    queue.queue(b"new", cover=5)
    queue.drop_cover()
    assert not queue.has_uncovered
    sent = []
    while queue:
        sent.append(queue.fill_packet(0, 1000))
    assert sent == [[b"new", b"not sent"]]


def test_unsent_bytes_are_those_of_all_queues() -> None:
    first, second = make_queue(), make_queue(prefix=b"p")
    filler = FairFiller([first, second])
    first.queue(b"12345", urgent=True)
    first.queue(b"123")
    second.queue(b"12")
    assert filler.unsent_bytes() == 5 + 3 + 3
    filler.fill(0, 8)
    assert filler.unsent_bytes() == 3
    filler.fill(0, 1000)
    assert filler.unsent_bytes() == 0
    filler.drop_cover()
    assert not filler.has_uncovered
