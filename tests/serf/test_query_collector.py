from hypothesis import given
from hypothesis import strategies as st

from trioserf.serf.query_collector import (
    QueryAck,
    QueryAnswer,
    QueryDone,
    QueryResult,
    RunningQuery,
)
from trioserf.wire.serf_messages import QueryResponse, ResponseFlag

ACK = int(ResponseFlag.ACK)
NO_ANSWER = int(ResponseFlag.ACK | ResponseFlag.NO_ANSWER_WILL_FOLLOW)


class Collected:
    """A query that expects a and b, and what came of it."""

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

    def take(self, source: str, flags: int = 0, payload: bytes = b"") -> list[QueryResult]:
        self.query.handle_response(QueryResponse(9, 77, source, flags, payload))
        found, self.results = self.results, []
        return found


def test_acks_and_responses_are_delivered_in_order() -> None:
    it = Collected()
    assert it.take("a", ACK) == [QueryAck("a")]
    assert it.take("a", 0, b"1") == [QueryAnswer("a", b"1")]
    assert not it.query.finished
    assert it.take("b", 0, b"2") == [QueryAnswer("b", b"2"), QueryDone(1, 2, 2, ())]
    assert it.query.finished


def test_duplicate_ack_and_response_are_ignored() -> None:
    it = Collected()
    it.take("a", ACK)
    it.take("a", 0, b"1")
    assert it.take("a", ACK) == []
    assert it.take("a", 0, b"1") == []


def test_final_ack_ends_wait_for_member() -> None:
    it = Collected()
    assert it.take("a", NO_ANSWER) == [QueryAck("a")]
    assert it.take("b", ACK) == [QueryAck("b")]
    assert it.take("b", NO_ANSWER) == [QueryDone(2, 0, 2, ())]


def test_response_after_final_ack_is_delivered() -> None:
    it = Collected()
    it.take("a", NO_ANSWER)
    assert it.take("a", 0, b"1") == [QueryAnswer("a", b"1")]


def test_finished_query_delivers_no_results() -> None:
    it = Collected()
    it.query.finish()
    assert it.results == [QueryDone(0, 0, 2, ("a", "b"))]
    it.results.clear()
    it.query.finish()
    assert it.take("a", 0, b"1") == []


def test_missing_members_sent_neither_ack_nor_response() -> None:
    it = Collected("a", "b", "c")
    it.take("a", ACK)
    it.take("b", 0, b"")
    it.query.finish()
    assert it.results == [QueryDone(1, 1, 3, ("c",))]


def test_unrequested_acks_are_not_delivered() -> None:
    it = Collected(wants_acks=False)
    assert it.take("a", ACK) == []
    it.query.finish()
    assert it.results == [QueryDone(0, 0, 2, ("b",))]


def test_query_finishes_with_acks_if_they_suffice() -> None:
    it = Collected(ack_suffices=True)
    it.take("a", ACK)
    assert it.take("b", ACK) == [QueryAck("b"), QueryDone(2, 0, 2, ())]


def test_query_finishes_after_requested_number_of_responses() -> None:
    it = Collected("a", "b", "c", first=2)
    it.take("a", ACK)
    it.take("c", 0, b"1")
    assert it.take("b", 0, b"2") == [QueryAnswer("b", b"2"), QueryDone(1, 2, 3, ())]


def test_dead_member_without_response_is_missing() -> None:
    it = Collected()
    it.take("a", 0, b"1")
    it.query.on_member_gone("x")
    assert it.results == []
    it.query.on_member_gone("b")
    assert it.results == [QueryDone(0, 1, 2, ("b",))]


def test_unexpected_responders_are_bounded() -> None:
    it = Collected()
    heard = [name for name in map(str, range(100)) if it.take(name, 0, b"")]
    assert len(heard) == 5
    assert it.take("a", 0, b"1") == []
    assert not it.query.finished


@given(
    st.lists(
        st.tuples(st.sampled_from("abcd"), st.sampled_from([0, ACK, NO_ANSWER, 256, 2, 3])),
        max_size=40,
    )
)
def test_done_is_delivered_last_with_correct_counts(
    responses: list[tuple[str, int]],
) -> None:
    it = Collected("a", "b")
    results = [result for source, flags in responses for result in it.take(source, flags)]
    it.query.finish()
    results += it.results
    done = results[-1]
    assert isinstance(done, QueryDone)
    assert sum(isinstance(result, QueryDone) for result in results) == 1
    acks = [result.source for result in results if isinstance(result, QueryAck)]
    answers = [result.source for result in results if isinstance(result, QueryAnswer)]
    assert len(acks) == len(set(acks)) == done.acks
    assert len(answers) == len(set(answers)) == done.responses
    assert set(done.missing) == {"a", "b"} - set(acks) - set(answers)
