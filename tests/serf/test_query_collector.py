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


def test_answers_and_acknowledgements_come_as_they_are() -> None:
    it = Collected()
    assert it.take("a", ACK) == [QueryAck("a")]
    assert it.take("a", 0, b"1") == [QueryAnswer("a", b"1")]
    assert not it.query.finished
    assert it.take("b", 0, b"2") == [QueryAnswer("b", b"2"), QueryDone(1, 2, 2, ())]
    assert it.query.finished


def test_doubles_are_ignored() -> None:
    it = Collected()
    it.take("a", ACK)
    it.take("a", 0, b"1")
    assert it.take("a", ACK) == []
    assert it.take("a", 0, b"1") == []


def test_those_who_will_not_answer_are_not_waited_for() -> None:
    it = Collected()
    assert it.take("a", NO_ANSWER) == [QueryAck("a")]
    assert it.take("b", ACK) == [QueryAck("b")]
    assert it.take("b", NO_ANSWER) == [QueryDone(2, 0, 2, ())]


def test_an_answer_against_the_announcement_is_welcome() -> None:
    it = Collected()
    it.take("a", NO_ANSWER)
    assert it.take("a", 0, b"1") == [QueryAnswer("a", b"1")]


def test_after_the_end_nothing_comes() -> None:
    it = Collected()
    it.query.finish()
    assert it.results == [QueryDone(0, 0, 2, ("a", "b"))]
    it.results.clear()
    it.query.finish()
    assert it.take("a", 0, b"1") == []


def test_missing_are_those_of_whom_nothing_was_heard() -> None:
    it = Collected("a", "b", "c")
    it.take("a", ACK)
    it.take("b", 0, b"")
    it.query.finish()
    assert it.results == [QueryDone(1, 1, 3, ("c",))]


def test_unwanted_acknowledgements_count_for_nothing_but_presence() -> None:
    it = Collected(wants_acks=False)
    assert it.take("a", ACK) == []
    it.query.finish()
    assert it.results == [QueryDone(0, 0, 2, ("b",))]


def test_a_ping_is_done_with_the_acknowledgements() -> None:
    it = Collected(ack_suffices=True)
    it.take("a", ACK)
    assert it.take("b", ACK) == [QueryAck("b"), QueryDone(2, 0, 2, ())]


def test_the_first_answers_may_be_enough() -> None:
    it = Collected("a", "b", "c", first=2)
    it.take("a", ACK)
    it.take("c", 0, b"1")
    assert it.take("b", 0, b"2") == [QueryAnswer("b", b"2"), QueryDone(1, 2, 3, ())]


def test_whoever_has_gone_is_not_waited_for_and_is_missing() -> None:
    it = Collected()
    it.take("a", 0, b"1")
    it.query.on_member_gone("x")
    assert it.results == []
    it.query.on_member_gone("b")
    assert it.results == [QueryDone(0, 1, 2, ("b",))]


def test_strangers_are_heard_but_not_without_bound() -> None:
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
def test_the_count_is_right_and_the_end_comes_once_and_last(
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
