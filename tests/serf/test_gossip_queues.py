import logging

import pytest

from tests.serf.helpers import (
    query,
    serf,
)
from trioserf.address import Address
from trioserf.serf.config import SerfOptions
from trioserf.serf.outgoing_queries import QueryParams
from trioserf.wire.serf_codec import encode
from trioserf.wire.serf_messages import (
    Join,
    UserEvent,
)


def test_queues_are_in_packet_order() -> None:
    state = serf("a", "b")
    state.announce_join(0.0)
    state.user_event("x")
    assert list(state.queues) == ["Intent", "Query", "Event"]
    assert [len(queue) for queue in state.queues.values()] == [1, 0, 1]


def test_queue_depth_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    options = SerfOptions(max_queue_depth=50)
    state = serf("a", options=options)
    for ltime in range(1, 500):
        state.handle(encode(UserEvent(ltime, "x")), 0.0)
        state.handle(query(ltime), 0.0)
    assert len(state.queues["Event"]) <= 100
    assert len(state.queues["Query"]) <= 100
    state.check_queues()
    assert len(state.queues["Event"]) <= 50
    assert any("exceeds limit (50), dropping messages!" in text for text in caplog.messages)


@pytest.mark.parametrize(("least", "limit"), [(0, 4096), (3, 4), (300, 300)])
def test_queue_limit_follows_options(least: int, limit: int) -> None:
    state = serf("a", "b", options=SerfOptions(min_queue_depth=least))
    assert state._gossip_queues.limit == limit


def test_long_queue_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    state = serf("a", options=SerfOptions(queue_depth_warning=2))
    state.user_event("x")
    state.check_queues()
    assert caplog.messages == []
    state.user_event("y")
    state.check_queues()
    assert [(r.levelno, r.message) for r in caplog.records] == [
        (logging.WARNING, "Event queue depth: 2")
    ]


def test_recent_message_is_known_as_duplicate() -> None:
    state = serf("a")
    raw = encode(UserEvent(3, "x"))
    state.handle(raw, 0.0)
    assert state._gossip_queues.is_duplicate(raw)
    assert not state._gossip_queues.is_duplicate(encode(Join(3, "b")))


def test_duplicate_marks_its_sender_as_a_holder() -> None:
    state = serf("a", "b", "c", "d")
    raw = encode(UserEvent(3, "x"))
    first, second, third = (Address(f"10.0.0.{number}", 7946) for number in (2, 3, 4))
    state.handle(raw, 0.0, first)
    state.handle(raw, 0.0, second)
    queue = state.queues["Event"]
    assert queue.fill_packet(0, 100, first) == queue.fill_packet(0, 100, second) == []
    assert len(queue.fill_packet(0, 100, third)) == 1


def test_own_event_and_query_have_a_first_round_but_no_other_message() -> None:
    state = serf("a", "b", "c")
    state.announce_join(0.0)
    state.handle(encode(UserEvent(3, "theirs")), 0.0)
    assert not any(queue.has_uncovered for queue in state.queues.values())
    state.user_event("ours")
    assert state.queues["Event"].has_uncovered
    state.ask(QueryParams(name="ours"), lambda _: None, 0.0)
    assert state.queues["Query"].has_uncovered
