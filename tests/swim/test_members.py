"""Members: the order of probes, removal of old records, and random choice."""

import random
from collections.abc import Callable

import pytest

from trioserf.swim.config import LAN
from trioserf.swim.members import Members
from trioserf.swim.node_record import NodeRecord
from trioserf.wire.swim_messages import ALIVE, DEAD, LEFT, SUSPECT, State


def members(count: int) -> Members:
    table = Members("us", LAN, random.Random(1))
    for name in ("us", *(f"m{number}" for number in range(count))):
        table.set_state(table.insert(name, 0.0), ALIVE, 0.0)
    return table


def test_each_round_probes_every_other_member_once_in_another_order() -> None:
    table = members(20)
    rounds = []
    for _ in range(3):
        probed = [table.next_probe(1.0) for _ in range(20)]
        rounds.append([record.name for record in probed if record is not None])
    assert all(sorted(names) == sorted(rounds[0]) for names in rounds)
    assert len(set(rounds[0])) == 20
    assert "us" not in rounds[0]
    assert rounds[0] != rounds[1] != rounds[2]


def test_dead_and_left_members_are_not_probed() -> None:
    table = members(3)
    for name, state in (("m0", DEAD), ("m1", LEFT), ("m2", SUSPECT)):
        table.set_state(table.records[name], state, 1.0)
    assert table.next_probe(1.0) is table.next_probe(1.0) is table.records["m2"]
    assert table.alive_count == 2
    table.set_state(table.records["m2"], DEAD, 1.0)
    assert table.next_probe(1.0) is None


@pytest.mark.parametrize("state", [DEAD, LEFT])
def test_end_of_round_removes_old_dead_and_left_records_except_our_own(state: State) -> None:
    table = members(2)
    table.set_state(table.records["us"], LEFT, 1.0)
    table.set_state(table.records["m0"], state, 1.0)
    for now, remaining in ((31.0, ["us", "m0", "m1"]), (31.1, ["us", "m1"])):
        for _ in range(2):
            table.next_probe(now)
        assert list(table.records) == remaining
        assert table.alive_count == 1


@pytest.mark.parametrize("count", [2, 5, 8, 9, 100])
def test_k_random_nodes_are_distinct_and_eligible(count: int) -> None:
    table = members(count)
    for _ in range(50):
        chosen = [record.name for record in table.k_random_nodes(3, exclude=("m0",))]
        assert len(set(chosen)) == len(chosen) == min(3, count - 1)
        assert not {"us", "m0"} & set(chosen)


def test_gossip_targets_include_suspects_and_recently_dead_members_only() -> None:
    table = members(4)
    for name, state, at in (
        ("m0", SUSPECT, 1.0), ("m1", DEAD, 70.1), ("m2", DEAD, 70.0), ("m3", LEFT, 99.0),
    ):  # fmt: skip
        table.set_state(table.records[name], state, at)
    assert {record.name for record in table.gossip_targets(100.0)} == {"m0", "m1"}


@pytest.mark.parametrize(("count", "covered"), [(1, 1), (32, 32), (33, 32), (500, 32)])
def test_first_round_covers_all_members_or_32_of_them(count: int, covered: int) -> None:
    table = members(count + 2)
    table.set_state(table.records["m0"], DEAD, 1.0)
    table.set_state(table.records["m1"], LEFT, 1.0)
    targets = [record.name for record in table.cover_targets()]
    assert len(set(targets)) == len(targets) == covered
    assert not {"us", "m0", "m1"} & set(targets)


def choose_three(eligible: Callable[[str], bool]) -> tuple[set[str], int]:
    """Choose among 2,000 members; return the chosen ones, and how many were checked."""
    checked = 0

    def is_eligible(record: NodeRecord) -> bool:
        nonlocal checked
        checked += 1
        return eligible(record.name)

    chosen = members(2000).k_random_nodes(3, predicate=is_eligible)
    return {record.name for record in chosen}, checked


def test_few_eligible_members_among_many_are_found_in_one_pass() -> None:
    chosen, checked = choose_three(lambda name: name in {"m7", "m1900"})
    assert chosen == {"m7", "m1900"}
    assert 2000 <= checked <= 2200


def test_choice_among_many_eligible_members_checks_few() -> None:
    chosen, checked = choose_three(lambda _: True)
    assert (len(chosen), checked) == (3, 3)


def test_choice_among_a_hundredth_of_many_members_does_not_check_all() -> None:
    table = members(0)
    for number in range(32_000):
        record = table.insert(f"m{number}", 0.0)
        if number % 100 == 0:
            table.set_state(record, ALIVE, 0.0)
    checked = 0

    def is_alive(record: NodeRecord) -> bool:
        nonlocal checked
        checked += 1
        return record.state is ALIVE

    for _ in range(20):
        chosen = table.k_random_nodes(3, predicate=is_alive)
        assert len({record.name for record in chosen}) == 3
    assert checked < 20 * 32_000 / 16
