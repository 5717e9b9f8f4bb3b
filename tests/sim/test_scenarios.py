"""Every scenario with a few seeds, on CI with fifty; `scripts/simulate` plays as many as asked."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import venv
from contextlib import suppress
from pathlib import Path

import pytest

from tests.interop.go_agents import until
from trioserf.sim.scenario import run
from trioserf.sim.scenarios import SCENARIOS

_SIMULATE = Path(__file__).resolve().parents[2] / "scripts" / "simulate"
_SEEDS = 50 if os.environ.get("CI") else 3
_PATIENCE = 500.0
"""Seconds for one scenario, several times what a slow and busy machine needs."""


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_all_invariants_hold(scenario: str) -> None:
    options = "--seeds", str(_SEEDS), "--scenario", scenario
    result = _simulate(*options, timeout=_PATIENCE, nice=10)  # others have deadlines
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"\n{_SEEDS} runs, 0 failed" in result.stdout


def test_each_scenario_says_what_it_tells() -> None:
    assert len(SCENARIOS) >= 13
    assert all(one.description.endswith(".") for one in SCENARIOS.values())


def _simulate(
    *args: str, timeout: float = 60, nice: int = 0
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["nice", "-n", str(nice), sys.executable, str(_SIMULATE), *args],
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
    )


def test_a_campaign_ends_with_a_table() -> None:
    result = _simulate("--scenario", "all", "--seeds", "1")
    assert result.returncode == 0, result.stderr
    assert f"\n{len(SCENARIOS)} runs, 0 failed" in result.stdout
    assert [line.split()[:3] for line in result.stdout.splitlines()[1:-2]] == [
        [name, "1", "0"] for name in SCENARIOS
    ]


def test_a_campaign_goes_on_where_it_was_broken_off(tmp_path: Path) -> None:
    book = tmp_path / "results.jsonl"
    options = "--scenario", "name_conflict", "--workers", "1", "--results", str(book)
    assert _simulate(*options, "--seeds", "2").returncode == 0
    first, second = book.read_text().splitlines()
    key, value = json.loads(second)
    failed = [key, value | {"failure": "it was raining"}]
    book.write_text(f"{first}\n{json.dumps(failed)}\n{first[:40]}")
    result = _simulate(*options, "--seeds", "3")
    assert result.returncode == 1
    assert "3 runs, 1 failed" in result.stdout
    assert "it was raining" in result.stdout
    assert [len(line) > 40 for line in book.read_text().splitlines()] == [True, True, False, True]


@pytest.mark.parametrize(
    ("victim", "number", "complaint"),
    [
        ("worker", signal.SIGKILL, b"A process of this program was killed; is there memory"),
        ("all", signal.SIGINT, b"interrupted\n"),
        ("itself", signal.SIGTERM, b"interrupted\n"),
    ],
)
def test_a_campaign_ends_when_it_is_broken_off(
    victim: str, number: signal.Signals, complaint: bytes, tmp_path: Path
) -> None:
    book = tmp_path / "results.jsonl"
    options = "--scenario", "name_conflict", "--seeds", "5000", "--workers", "1", "--results"
    command = [sys.executable, str(_SIMULATE), *options, str(book)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True) as process:
        try:
            until(lambda: book.exists() and book.read_bytes() != b"", 60)
            if victim == "worker":
                children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
                os.kill(int(children.read_text()), number)
            elif victim == "all":
                os.killpg(process.pid, number)  # as Ctrl-C does
            else:
                process.send_signal(number)
            _, told = process.communicate(timeout=60)  # all of them have closed it
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == (1 if victim == "worker" else 130)
    assert complaint in told
    assert b"Traceback" not in told
    assert len(book.read_bytes().splitlines()) < 5000


def test_results_that_find_no_room_end_a_campaign_at_once(tmp_path: Path) -> None:
    book = tmp_path / "results.jsonl"
    options = "--scenario", "name_conflict", "--seeds", "5000", "--results", str(book)
    limited = "/bin/sh", "-c", 'ulimit -f 1; exec "$0" "$@"'
    result = subprocess.run(
        [*limited, sys.executable, str(_SIMULATE), *options],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert result.returncode == 1
    assert f"--results {book}: [Errno {errno.EFBIG}]" in result.stderr
    assert "Traceback" not in result.stderr
    assert 0 < len(book.read_text().splitlines()) < 10


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--scale", "32,x"], "'32,x' is not a list of numbers from 8 to 32768, as 32,64"),
        (["--lifeguard", "128"], "'128' is not a list of numbers from 1 to 127, as 32,64"),
        (["--scale", "8", "--results", "/"], "--results /: "),
    ],
)
def test_what_cannot_be_measured_is_refused(options: list[str], complaint: str) -> None:
    result = _simulate(*options)
    assert result.returncode != 0
    assert complaint in result.stderr
    assert "Traceback" not in result.stderr


def test_results_of_another_kind_are_not_taken_for_ones_own(tmp_path: Path) -> None:
    book = tmp_path / "results.jsonl"
    first = _simulate("--scale", "8", "--results", str(book))
    assert first.returncode == 0
    again = _simulate("--scale", "8", "--results", str(book))
    assert again.stdout == first.stdout
    assert again.stderr == ""  # nothing was measured
    other = _simulate("--scenario", "steady", "--seeds", "1", "--results", str(book))
    assert other.returncode == 1
    assert "line 1 is not of such a run: [[8, 0], " in other.stderr
    assert len(book.read_text().splitlines()) == 1


@pytest.mark.parametrize(
    "line", ["1", "[1]", "[1, 2]", '[[{}, 0], {"failure": null}]', "[[1], []]"]
)
def test_lines_that_are_no_results_are_named(tmp_path: Path, line: str) -> None:
    book = tmp_path / "results.jsonl"
    book.write_text(f"{line}\n")
    result = _simulate("--scale", "8", "--results", str(book))
    assert result.returncode == 1
    assert f"line 1 is not of such a run: {line}" in result.stderr
    assert "Traceback" not in result.stderr


def test_one_run_can_be_shown() -> None:
    result = _simulate("--scenario", "name_conflict", "--seed", "3", "--seeds", "1", "--trace")
    assert result.returncode == 0, result.stderr
    trace = run(SCENARIOS["name_conflict"], seed=3)
    assert result.stdout == f"{trace.text}sha256 {trace.digest}\n"


def test_unknown_scenarios_are_refused() -> None:
    result = _simulate("--scenario", "unheard_of")
    assert result.returncode == 2
    assert "no scenario unheard_of; there are steady, " in result.stderr


def test_an_environment_without_what_it_needs_is_told_and_not_tried_again(tmp_path: Path) -> None:
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    for name in ("simulate", "own_python.py"):
        shutil.copy(_SIMULATE.with_name(name), scripts)
    venv.create(tmp_path / ".venv")
    python = Path(sys.base_prefix) / "bin" / "python3"
    result = subprocess.run(
        [python, str(scripts / "simulate")],
        capture_output=True, text=True, check=False, timeout=30, env={},
    )  # fmt: skip
    assert result.returncode == 1
    assert result.stderr.endswith("ModuleNotFoundError: No module named 'attrs'\n")
