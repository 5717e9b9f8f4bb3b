import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.serf.helpers import (
    Cluster,
    address_of,
    serf,
)
from trioserf.address import Address, packed
from trioserf.serf.config import SerfOptions
from trioserf.serf.effects import NameConflictLost
from trioserf.serf.name_conflict import NO_MEMBER_RESPONSE, ConflictVote
from trioserf.serf.outgoing_queries import QueryParams
from trioserf.serf.serf import Serf
from trioserf.wire.serf_codec import encode
from trioserf.wire.serf_messages import ConflictResponse, KeyRequest, QueryResponse
from trioserf.wire.swim_messages import OUR_VERSIONS

OTHER = Address("10.9.9.9", 7946)


def record(address: Address, name: str = "a") -> ConflictResponse:
    return ConflictResponse(name, packed(address.host), address.port, {}, 1, *OUR_VERSIONS)


@pytest.mark.parametrize(
    ("matching", "responses", "lost"),
    [
        (0, 0, None),
        (1, 1, False),
        (0, 1, True),
        (1, 2, None),
        (2, 2, False),
        (2, 3, False),
        (1, 3, True),
    ],
)
@pytest.mark.parametrize("is_newcomer", [False, True])
def test_vote_is_lost_with_less_than_half_of_the_responses_or_as_newcomer_with_half(
    matching: int, responses: int, lost: bool | None, is_newcomer: bool
) -> None:
    vote = ConflictVote(address_of("a"), OTHER, is_newcomer, responses, matching)
    assert vote.is_tie is (lost is None)
    assert vote.is_lost is (is_newcomer if lost is None else lost)


@given(st.lists(st.sampled_from(["ours", "other port", "other host", "unknown"])))
def test_vote_counts_matching_addresses(kinds: list[str]) -> None:
    ours = address_of("a")
    vote = ConflictVote(ours, OTHER)
    for text in kinds:
        vote.count(
            {
                "ours": record(ours),
                "other port": record(Address(ours.host, 1)),
                "other host": record(OTHER),
                "unknown": None,
            }[text]
        )
    assert (vote.matching, vote.responses) == (kinds.count("ours"), len(kinds))


def test_mapped_ipv4_address_matches() -> None:
    vote = ConflictVote(Address("10.0.0.1", 7946), OTHER)
    mapped = b"\0" * 10 + b"\xff\xff" + packed("10.0.0.1")
    vote.count(ConflictResponse("a", mapped, 7946, {}, 1, *OUR_VERSIONS))
    assert vote.matching == 1


def test_conflict_about_other_member_is_only_logged(caplog: pytest.LogCaptureFixture) -> None:
    state = serf("a", "b")
    state.member_conflicted("b", OTHER, 0.0)
    text = "Name conflict for 'b' both 10.0.0.98:7946 and 10.9.9.9:7946 are claiming"
    assert [(r.levelname, r.message) for r in caplog.records] == [("WARNING", text)]
    assert state.next_deadline is None


def test_name_is_kept_with_majority(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    cluster = Cluster("a", "b", "c")
    caplog.clear()
    cluster["a"].member_conflicted("a", OTHER, 0.0)
    cluster["a"].member_conflicted("a", OTHER, 0.0)
    cluster.run(0.0)
    assert cluster["a"].shutdown_orders == []
    assert cluster["a"].next_deadline is None
    assert [(r.levelname, r.message) for r in caplog.records] == [
        (
            "ERROR",
            "Node name conflicts with another node at 10.9.9.9:7946."
            " Names must be unique! (Resolution enabled: true)",
        ),
        ("INFO", "majority in name conflict resolution [2 / 2]"),
    ]


def test_shutdown_is_ordered_without_majority(caplog: pytest.LogCaptureFixture) -> None:
    cluster = Cluster("a", "b", "c")
    for name in "bc":
        cluster[name].member_updated("a", OTHER, b"", OUR_VERSIONS)
    cluster["a"].member_conflicted("a", OTHER, 0.0)
    cluster.run(0.0)
    assert cluster["a"].shutdown_orders == [NameConflictLost(0, 2, OTHER)]
    assert "minority in name conflict resolution, quitting [0 / 2]" in caplog.text


def in_conflict() -> tuple[Serf, int, int]:
    """Return the Serf layer of a, and the Lamport time and id of its conflict query to b."""
    state = serf("a", "b")
    state.member_conflicted("a", OTHER, 0.0)
    (query,) = state._outgoing_queries._running.values()
    return state, query.ltime, query.id


@pytest.mark.parametrize(
    ("payload", "order"),
    [
        (NO_MEMBER_RESPONSE, NameConflictLost(0, 1, OTHER)),
        (b"\x06torn", None),
        (b"", None),
        (encode(KeyRequest(b"")), None),
        (encode(record(OTHER)), NameConflictLost(0, 1, OTHER)),
        (encode(record(address_of("a"))), None),
    ],
)
def test_vote_counts_valid_responses_only(payload: bytes, order: NameConflictLost | None) -> None:
    state, ltime, number = in_conflict()
    state.handle(encode(QueryResponse(ltime, number, "b", 0, payload)), 1.0)
    assert state.shutdown_orders == ([] if order is None else [order])


@pytest.mark.parametrize(("joined_at", "stays"), [(None, True), (-70.0, True), (-50.0, False)])
def test_without_majority_the_later_one_goes(
    joined_at: float | None, stays: bool, caplog: pytest.LogCaptureFixture
) -> None:
    state = serf("a", "b")
    if joined_at is not None:
        state.announce_join(joined_at)
        state.announce_join(-1.0)  # a lost seed
    state.member_conflicted("a", OTHER, 0.0)
    state.expire(3.2)
    assert state.shutdown_orders == ([] if stays else [NameConflictLost(0, 0, OTHER)])
    what = (
        "stays, because it was first"
        if stays
        else "shuts down, because it joined less than a minute"
    )
    text = f"The member at {OTHER} has our name, too: no other member was there to decide"
    assert f"{text}; this one {what}" in caplog.text


def test_incumbent_stays_in_a_tie() -> None:
    cluster = Cluster("a", "b", "c")
    cluster["c"].member_updated("a", OTHER, b"", OUR_VERSIONS)
    cluster["a"].member_conflicted("a", OTHER, 0.0)
    cluster.run(0.0)
    assert cluster["a"].shutdown_orders == []


def test_members_without_vote_do_not_count() -> None:
    state = serf("a", "b", may_vote=lambda name: name != "b")
    state.member_conflicted("a", OTHER, 0.0)
    (query,) = state._outgoing_queries._running.values()
    response = QueryResponse(query.ltime, query.id, "b", 0, encode(record(OTHER)))
    state.handle(encode(response), 1.0)
    state.expire(3.2)
    assert state.shutdown_orders == []


def test_second_conflict_starts_second_vote_after_a_pause() -> None:
    state, ltime, number = in_conflict()
    state.handle(encode(QueryResponse(ltime, number, "b", 0, encode(record(OTHER)))), 1.0)
    state.member_conflicted("a", OTHER, 9.9)
    assert state.next_deadline is None
    state.member_conflicted("a", OTHER, 10.0)
    assert state.next_deadline == pytest.approx(10.1)


def test_disabled_resolution_starts_no_vote(caplog: pytest.LogCaptureFixture) -> None:
    state = serf("a", "b", options=SerfOptions(disable_name_resolution=True))
    state.member_conflicted("a", OTHER, 0.0)
    assert "(Resolution enabled: false)" in caplog.text
    assert state.next_deadline is None


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (SerfOptions(running_queries=1), "1 queries are running already"),
        (SerfOptions(query_size_limit=64), "query exceeds limit of 64 bytes"),
    ],
)
def test_claim_of_our_name_over_own_limits_starts_no_vote(
    options: SerfOptions, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    state = serf("a", "b", options=options)
    if options.running_queries == 1:
        running = state.ask(QueryParams(name="load"), lambda _: None, 0.0)
    state.member_conflicted("a", OTHER, 0.0)
    assert f"Failed to start name resolution query: {text}" in caplog.text
    if options.running_queries == 1:
        state.cancel(running)
        state.member_conflicted("a", OTHER, 10.0)
        assert state.next_deadline == pytest.approx(10.1)


def test_vote_emits_no_events() -> None:
    state, ltime, number = in_conflict()
    state.handle(encode(QueryResponse(ltime, number, "b", 1)), 1.0)
    assert not state.events
