import logging

import pytest

from tests.serf.helpers import (
    query,
    serf,
)
from trioserf.serf.config import SerfOptions
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
