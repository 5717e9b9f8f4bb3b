from hypothesis import given
from hypothesis import strategies as st

from trioserf.results import QueryAck, QueryAnswer, QueryDone, QueryResult
from trioserf.serf.query_collector import RunningQuery
from trioserf.wire.serf_messages import QueryResponse, ResponseFlag

ACK = int(ResponseFlag.ACK)
FINAL_ACK = int(ResponseFlag.ACK | ResponseFlag.NO_ANSWER_WILL_FOLLOW)


class Collected:
    """A running query for a and b, and its results."""

    def __init__(
        self,
        *expected: str,
        wants_acks: bool = True,
        ack_suffices: bool = False,
        first: int | None = None,
    ) -> None:
        self.results: list[QueryResult] = []
        self.query = RunningQuery(
            9,
            77,
            "load",
            deadline=10.0,
            expected=expected or ("a", "b"),
            wants_acks=wants_acks,
            ack_suffices=ack_suffices,
            first=first,
            max_unexpected=3,
            deliver=lambda result: self.results.append(result),
        )

    def receive(self, source: str, flags: int = 0, payload: bytes = b"") -> list[QueryResult]:
        self.query.handle_response(QueryResponse(9, 77, source, flags, payload))
        results, self.results = self.results, []
        return results


def test_acks_and_responses_are_delivered_in_order() -> None:
    collected = Collected()
    assert collected.receive("a", ACK) == [QueryAck("a")]
    assert collected.receive("a", 0, b"1") == [QueryAnswer("a", b"1")]
    assert not collected.query.finished
    assert collected.receive("b", 0, b"2") == [QueryAnswer("b", b"2"), QueryDone(1, 2, 2, ())]
    assert collected.query.finished


def test_duplicate_ack_and_response_are_ignored() -> None:
    collected = Collected()
    collected.receive("a", ACK)
    collected.receive("a", 0, b"1")
    assert collected.receive("a", ACK) == []
    assert collected.receive("a", 0, b"1") == []


def test_final_ack_ends_wait_for_member() -> None:
    collected = Collected()
    assert collected.receive("a", FINAL_ACK) == [QueryAck("a")]
    assert collected.receive("b", ACK) == [QueryAck("b")]
    assert collected.receive("b", FINAL_ACK) == [QueryDone(2, 0, 2, ())]


def test_response_after_final_ack_is_delivered() -> None:
    collected = Collected()
    collected.receive("a", FINAL_ACK)
    assert collected.receive("a", 0, b"1") == [QueryAnswer("a", b"1")]


def test_finished_query_delivers_no_results() -> None:
    collected = Collected()
    collected.query.finish()
    assert collected.results == [QueryDone(0, 0, 2, ("a", "b"))]
    collected.results.clear()
    collected.query.finish()
    assert collected.receive("a", 0, b"1") == []


def test_missing_members_sent_neither_ack_nor_response() -> None:
    collected = Collected("a", "b", "c")
    collected.receive("a", ACK)
    collected.receive("b", 0, b"")
    collected.query.finish()
    assert collected.results == [QueryDone(1, 1, 3, ("c",))]


def test_unrequested_acks_are_not_delivered() -> None:
    collected = Collected(wants_acks=False)
    assert collected.receive("a", ACK) == []
    collected.query.finish()
    assert collected.results == [QueryDone(0, 0, 2, ("b",))]


def test_query_finishes_with_acks_if_they_suffice() -> None:
    collected = Collected(ack_suffices=True)
    collected.receive("a", ACK)
    assert collected.receive("b", ACK) == [QueryAck("b"), QueryDone(2, 0, 2, ())]


def test_query_finishes_after_requested_number_of_responses() -> None:
    collected = Collected("a", "b", "c", first=2)
    collected.receive("a", ACK)
    collected.receive("c", 0, b"1")
    assert collected.receive("b", 0, b"2") == [QueryAnswer("b", b"2"), QueryDone(1, 2, 3, ())]


def test_dead_member_without_response_is_missing() -> None:
    collected = Collected()
    collected.receive("a", 0, b"1")
    collected.query.stop_waiting_for("x")
    assert collected.results == []
    collected.query.stop_waiting_for("b")
    assert collected.results == [QueryDone(0, 1, 2, ("b",))]


def test_unexpected_responders_are_bounded() -> None:
    collected = Collected()
    delivered = [name for name in map(str, range(100)) if collected.receive(name, 0, b"")]
    assert len(delivered) == 5
    assert collected.receive("a", 0, b"1") == []
    assert not collected.query.finished


@given(
    st.lists(
        st.tuples(st.sampled_from("abcd"), st.sampled_from([0, ACK, FINAL_ACK, 256, 2, 3])),
        max_size=40,
    )
)
def test_done_is_delivered_last_with_correct_counts(
    responses: list[tuple[str, int]],
) -> None:
    collected = Collected("a", "b")
    results = [
        result for source, flags in responses for result in collected.receive(source, flags)
    ]
    collected.query.finish()
    results += collected.results
    done = results[-1]
    assert isinstance(done, QueryDone)
    assert sum(isinstance(result, QueryDone) for result in results) == 1
    acks = [result.source for result in results if isinstance(result, QueryAck)]
    responders = [result.source for result in results if isinstance(result, QueryAnswer)]
    assert len(acks) == len(set(acks)) == done.acks
    assert len(responders) == len(set(responders)) == done.responses
    assert set(done.missing) == {"a", "b"} - set(acks) - set(responders)
