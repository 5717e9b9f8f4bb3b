"""Queues that drop items without room, count them and announce their number."""

import pytest

from trioserf.dropping_queue import DroppingQueue


def drain(queue: DroppingQueue[str]) -> list[str]:
    return [queue.pop() for _ in range(len(queue))]


def marker(count: int) -> str:
    return f"-{count}"


def test_items_are_returned_in_order() -> None:
    queue = DroppingQueue[str](2, marker)
    assert queue.put("a")
    assert queue.put("b")
    assert drain(queue) == ["a", "b"]
    with pytest.raises(IndexError):
        queue.pop()


def test_marker_takes_the_place_of_dropped_items() -> None:
    queue = DroppingQueue[str](2, marker)
    assert [queue.put(item) for item in "abcd"] == [True, True, False, False]
    assert queue.dropped == 2
    assert queue.pop() == "a"
    assert queue.put("e")
    assert queue.dropped == 0
    assert drain(queue) == ["b", "-2", "e"]


def test_marker_comes_last_if_no_item_follows() -> None:
    queue = DroppingQueue[str](1, marker)
    for item in "abc":
        queue.put(item)
    assert drain(queue) == ["a", "-2"]
    assert not queue


def test_bytes_are_bounded() -> None:
    queue = DroppingQueue[str](9, marker, max_bytes=5, size_of=len)
    assert queue.put("abc")
    assert not queue.put("def")
    assert queue.put("") is True  # the marker has two bytes
    assert not queue.put("g")
    assert drain(queue) == ["abc", "-1", "", "-1"]
    assert queue.put("abcde")
