"""What holds for all tests."""

import signal
import sys
from collections.abc import Generator

import pytest
import trio
from hypothesis import settings

from trioserf.sim.time_limit import real_time_limit

LIMIT = 600.0
"""Seconds after which a test hangs: the longest needs a fifth of it on a slow, busy machine."""

# How long an example takes says how busy the machine is, nothing about the code.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

# What a shell runs in the background ignores SIGINT, and so would the programs under test.
signal.signal(signal.SIGINT, signal.default_int_handler)

FIRST = ("tests/sim/test_scenarios.py", "tests/interop/")
"""What takes longest: the one computes, the other waits for agents, so they go well together."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest; the rest stays in its order."""
    items.sort(key=lambda item: [not item.nodeid.startswith(first) for first in FIRST])


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call() -> Generator[None, object, object]:
    """Let a test that hangs fail, and say what each of its tasks was waiting for."""
    with real_time_limit(LIMIT, tell_tasks):
        return (yield)


def tell_tasks() -> None:
    """Write the tree of Trio's tasks, each with the lines in which it is, innermost last."""
    try:
        below = [(trio.lowlevel.current_root_task(), "")]
    except RuntimeError:
        return  # Trio does not run; the traceback tells where it hung
    while below:
        task, indent = below.pop()
        if task is None:
            continue
        sys.stderr.write(f"{indent}{task.name}\n")
        for frame, line in task.iter_await_frames():
            code = frame.f_code
            sys.stderr.write(f"{indent}  | {code.co_filename}:{line} in {code.co_name}\n")
        for nursery in task.child_nurseries:
            below += [(child, f"{indent}  ") for child in nursery.child_tasks]
