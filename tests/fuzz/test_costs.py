"""Costs of inputs: what is measured, and mutations of records."""

import random

import pytest

from tests.fuzz import costs, records
from tests.fuzz.costs import MAX_BYTES, MAX_SECONDS, Operation, TooExpensiveError


def test_operations_of_a_target_are_measured_in_order() -> None:
    def target(data: bytes) -> None:
        for byte in data:
            with costs.operation(f"byte {byte}"):
                pass

    assert [one.what for one in costs.run(target, b"\1\2")] == ["byte 1", "byte 2"]


def test_target_without_operations_is_one() -> None:
    [whole] = costs.run(lambda data: None, b"")
    assert whole.what == "input"


def test_operations_are_not_recorded_after_an_error() -> None:
    def target(data: bytes) -> None:
        with costs.operation("first"):
            raise ValueError("wrong")

    with pytest.raises(ValueError, match="wrong"):
        costs.run(target, b"")
    with costs.operation("second"):
        pass
    assert costs._measured is None


def test_peak_of_memory_is_measured() -> None:
    def target(data: bytes) -> None:
        bytearray(MAX_BYTES + 1)

    _, largest = costs.measure(target, b"")
    assert MAX_BYTES < largest.bytes < 2 * MAX_BYTES
    with pytest.raises(TooExpensiveError, match=r"input: 8\.0 MiB"):
        costs.check(Operation("x", 0.0, 0), largest)


def test_slow_operation_is_too_expensive() -> None:
    cheap = Operation("cheap", MAX_SECONDS, 0)
    costs.check(cheap, cheap)
    with pytest.raises(TooExpensiveError, match=r"slow: 40\.0 ms"):
        costs.check(Operation("slow", 2 * MAX_SECONDS, 0), cheap)


def test_mutation_keeps_the_form_of_records() -> None:
    data = records.join(b"hh", *(bytes((n,)) * records.RECORD for n in range(24)))
    assert len(data) == records.MAX_INPUT
    for seed in range(500):
        data = records.mutate(data, records.MAX_INPUT, seed, lambda one, size: one[:-1])
        assert len(data) <= records.MAX_INPUT
        assert len(data) % records.RECORD == records.HEADER
        assert records.split(data)


def test_mutation_of_any_bytes_returns_records() -> None:
    rng = random.Random(1)
    for seed in range(200):
        data = records.mutate(rng.randbytes(seed), records.MAX_INPUT, seed, lambda one, size: one)
        assert len(data) > records.HEADER
