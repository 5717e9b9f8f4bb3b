"""Settings of all tests: a time limit, the order, Hypothesis, signals."""

import logging
import os
import re
import shutil
import signal
import sys
import threading
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import settings
from trio._core._thread_cache import THREAD_CACHE

from trioserf.agent.log_lines import OWN_FIELDS
from trioserf.sim.time_limit import real_time_limit

LIMIT = 600.0
"""Seconds until a test is cut off: the longest needs a fifth of it on a slow, busy machine."""

# The time of an example depends on the load of the machine more than on the code.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

# Background jobs of a shell ignore SIGINT, with nohup SIGHUP; so would the tested programs.
signal.signal(signal.SIGINT, signal.default_int_handler)
if sys.platform != "win32":
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

_make_record = logging.getLogRecordFactory()


def make_checked_record(*args: Any, **kwargs: Any) -> logging.LogRecord:
    """Make a record of the log whose values have a text of their own, not one of Python's."""
    record = _make_record(*args, **kwargs)
    values = record.args or ()
    if isinstance(values, Mapping):
        assert OWN_FIELDS.isdisjoint(values), f"{record.msg!r} names a value as a part of the line"
        values = tuple(values.values())
    if record.name.startswith("trioserf") and not all(map(has_own_text, values)):
        raise AssertionError(f"{record.msg!r} shows a Python object: {values}")
    return record


def has_own_text(value: object) -> bool:
    """Return whether a value is a number, text, or an object that defines its text.

    Errors of the system are not: theirs begins with `[Errno 2]` (see `trioserf.errors.reason_of`).
    """
    if isinstance(value, OSError | KeyError | bool | bytes):
        return False
    return isinstance(value, int | float) or type(value).__str__ is not object.__str__


logging.setLogRecordFactory(make_checked_record)

FIRST = ("tests/sim/test_scenarios.py", "tests/interop/")
"""The longest tests: one computes, the others wait for agents, so they run well side by side."""
TIERS = ("interop", "sim")
"""Directories that are tiers; tests elsewhere that start agents have the mark `interop`, too."""


_NEEDS = re.compile(r'^assert sys\.platform (==|!=) "(\w+)"$', re.MULTILINE)
"""The line with which a test module names its platform, for mypy and for the function below."""


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Ignore a test module on a platform that it is not for."""
    if collection_path.suffix != ".py":
        return None
    needs = _NEEDS.search(collection_path.read_text("utf-8"))
    if needs is not None and (sys.platform == needs[2]) != (needs[1] == "=="):
        return True
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tiers, and put the longest tests first; keep the order of the others."""
    for item in items:
        for tier in TIERS:
            if item.nodeid.startswith(f"tests/{tier}/"):
                item.add_marker(tier)
    items.sort(key=lambda item: [not item.nodeid.startswith(first) for first in FIRST])


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test of the real program if that is not installed; in CI, fail on Linux."""
    if item.get_closest_marker("serf") is None or shutil.which("serf") is not None:
        return
    missing = "the real program is missing: apt-get install serf"
    if os.environ.get("CI") and sys.platform == "linux":
        pytest.fail(missing, pytrace=False)
    pytest.skip(missing)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Escape logged bytes that are not UTF-8: workers cannot send them."""
    report = yield
    report.sections = [
        (name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections
    ]
    return report


@pytest.fixture
def no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the start of each thread fail, as at a limit of the system."""

    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(THREAD_CACHE, "_idle_workers", {})
    monkeypatch.setattr(threading.Thread, "start", start)


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call() -> Generator[None, object, object]:
    """Cut off a test that hangs, after a report of what each of its tasks waits for."""
    with real_time_limit(LIMIT, print_tasks):
        return (yield)


def print_tasks() -> None:
    """Print the tree of Trio's tasks, each with its stack, innermost line last."""
    try:
        pending = [(trio.lowlevel.current_root_task(), "")]
    except RuntimeError:
        return  # Trio does not run; the traceback is enough
    while pending:
        task, indent = pending.pop()
        if task is None:
            continue
        sys.stderr.write(f"{indent}{task.name}\n")
        for frame, line in task.iter_await_frames():
            code = frame.f_code
            sys.stderr.write(f"{indent}  | {code.co_filename}:{line} in {code.co_name}\n")
        for nursery in task.child_nurseries:
            pending += [(child, f"{indent}  ") for child in nursery.child_tasks]
