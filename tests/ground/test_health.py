"""What counts as a degraded agent."""

from typing import Any

import pytest

from trioserf.health import MOST_SCORE, Health

WELL = Health("alive", 0, {"alive": 3, "suspect": 0, "dead": 1, "left": 2}, {"inbox": 1}, True)
LIMITS = {"inbox": 512, "event": 128}


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"score": MOST_SCORE},
        {"joined": False},  # an agent without anything to join
        {"joined": None},
        {"members": {"alive": 1, "left": 5}},
        {"members": {"alive": 1, "suspect": 1, "dead": 5}},
        {"queues": {"inbox": 512, "event": 128, "probes": 10_000}},
    ],
)
def test_healthy_agent_has_no_reasons(change: dict[str, Any]) -> None:
    found = WELL._replace(**change).judged(LIMITS)
    assert (found.healthy, found.reasons) == (True, ())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"phase": "leaving"}, "the agent is leaving the cluster"),
        ({"phase": "left"}, "the agent has left the cluster"),
        ({"phase": "shutdown"}, "the agent is ending"),
        ({"score": MOST_SCORE + 1}, "health score 4, expected at most 3: "),
        ({"members": {"alive": 1, "dead": 2}}, "no other member is alive; 2 failed"),
        ({"members": {"alive": 1, "suspect": 0, "dead": 2}}, "no other member is alive; 2"),
        ({"queues": {"inbox": 513}}, "queue inbox: 513 items wait, expected at most 512"),
        ({"queues": {"event": 129}}, "queue event: 129 items wait, expected at most 128"),
    ],
)
def test_degraded_agent_has_a_reason(change: dict[str, Any], reason: str) -> None:
    found = WELL._replace(**change).judged(LIMITS)
    assert not found.healthy
    (text,) = found.reasons
    assert text.startswith(reason)


def test_agent_that_has_not_joined_yet_is_degraded_if_it_must_join() -> None:
    before = WELL._replace(joined=False)
    assert before.judged({}, waits_for_join=True).reasons == (
        "none of the addresses in start_join and retry_join was joined yet",
    )
    assert WELL.judged({}, waits_for_join=True).healthy


def test_every_reason_is_reported() -> None:
    found = Health("left", 7, {"alive": 1, "dead": 1}, {"inbox": 9}, True).judged({"inbox": 1})
    assert len(found.reasons) == 3
