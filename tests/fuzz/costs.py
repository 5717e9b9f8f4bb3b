"""The costs of an input: the time and memory of each operation on what is tested.

An operation is what an agent does without a pause for other work: a packet, a step of a stream or
of a merge, the work at a time. Targets mark their operations with `operation`; of a target that
marks none, the whole input is one. What a target does between operations costs nothing.
"""

import functools
import gc
import math
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

MAX_SECONDS: Final = 0.020
"""Process time of an operation, on a core that is not shared."""
MAX_BYTES: Final = 8 * 1024 * 1024
"""Additional memory of an operation at its peak."""
REPEATS: Final = 3
"""Measurements of an input; the least is its cost, since other processes disturb them."""
MAX_REPEATS: Final = 9
"""Measurements of an input whose least cost is over the limit."""


class Operation(NamedTuple):
    """The cost of an operation: process time in seconds, peak of additional memory in bytes."""

    what: str
    seconds: float
    bytes: int


class TooExpensiveError(AssertionError):
    """An operation exceeds `MAX_SECONDS` or `MAX_BYTES`."""


_measured: list[Operation] | None = None
"""The operations of the input that is measured now, in order."""


@contextmanager
def operation(what: str) -> Iterator[None]:
    """Measure an operation, also if it raises; `what` names its kind."""
    measured = _measured
    if measured is None:
        yield
        return
    traced = tracemalloc.is_tracing()
    before = 0
    if traced:
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
    began = time.process_time()
    try:
        yield
    finally:
        seconds = time.process_time() - began
        peak = tracemalloc.get_traced_memory()[1] - before if traced else 0
        measured.append(Operation(what, seconds, peak))


def run(target: Callable[[bytes], None], data: bytes) -> list[Operation]:
    """Run a target on an input; return its operations in order."""
    global _measured
    measured: list[Operation] = []
    _measured = measured
    try:
        with operation("input"):
            target(data)
    finally:
        _measured = None
    return measured[:-1] or measured


def measure(target: Callable[[bytes], None], data: bytes) -> tuple[Operation, Operation]:
    """Measure an input several times, without caches of earlier runs.

    Returns:
        The slowest operation, and the one that takes most memory, which is measured separately.
    """
    times = [_without_noise(target, data) for _ in range(REPEATS)]
    while len(times) < MAX_REPEATS and _slowest(times).seconds > MAX_SECONDS:
        times.append(_without_noise(target, data))
    tracemalloc.start()
    try:
        sizes = [_without_noise(target, data) for _ in range(2)]
    finally:
        tracemalloc.stop()
    return _slowest(times), _least(sizes, lambda one: one.bytes)


def _slowest(runs: list[list[Operation]]) -> Operation:
    return _least(runs, lambda one: one.seconds)


def _least(runs: list[list[Operation]], cost: Callable[[Operation], float]) -> Operation:
    """Return the most expensive operation, by the least cost of each in several runs."""
    least: list[Operation]
    if len({len(operations) for operations in runs}) > 1:
        least = [max(operations, key=cost) for operations in runs]
        return min(least, key=cost)
    least = [min(same, key=cost) for same in zip(*runs, strict=True)]
    return max(least, key=cost)


def check(slowest: Operation, largest: Operation) -> None:
    """Check the costs of an input.

    Raises:
        TooExpensiveError: they exceed the limits.
    """
    if slowest.seconds > MAX_SECONDS:
        raise TooExpensiveError(f"{slowest.what}: {slowest.seconds * 1000:.1f} ms")
    if largest.bytes > MAX_BYTES:
        raise TooExpensiveError(f"{largest.what}: {largest.bytes / 2**20:.1f} MiB")


def _without_noise(target: Callable[[bytes], None], data: bytes) -> list[Operation]:
    clear_caches()
    gc.collect()
    gc.disable()
    try:
        speed = _speed()
        operations = run(target, data)
        speed = min(speed, _speed())
    finally:
        gc.enable()
    return [one._replace(seconds=one.seconds * speed) for one in operations]


_fastest = math.inf


def _speed() -> float:
    """Return the speed of this process, 0 to 1; other processes on a shared core slow it down."""
    global _fastest
    began = time.process_time()
    for number in range(20_000):
        _ = {number: str(number)}
    seconds = time.process_time() - began
    _fastest = min(_fastest, seconds)
    return _fastest / seconds


def clear_caches() -> None:
    """Clear the caches of functions, which would make the second run of an input cheaper."""
    for cache in _caches():
        cache.cache_clear()


@functools.cache
def _caches() -> tuple["functools._lru_cache_wrapper[object]", ...]:
    return tuple(
        found
        for found in gc.get_objects()
        if isinstance(found, functools._lru_cache_wrapper)
        and str(getattr(found, "__module__", "")).startswith("trioserf")
    )


class PeakMemory:
    """The peak of this process's resident memory, which the kernel counts (Linux only)."""

    def __init__(self) -> None:
        self._reset = Path("/proc/self/clear_refs")
        self._status = Path("/proc/self/status")

    @property
    def works(self) -> bool:
        return self._reset.exists()

    def reset(self) -> int:
        """Forget the peak until now; return the resident memory in bytes."""
        self._reset.write_text("5")
        return self.bytes()

    def bytes(self) -> int:
        """Return the peak since the reset, in bytes."""
        _, _, after = self._status.read_text().partition("VmHWM:")
        return int(after.split(maxsplit=1)[0]) * 1024
