"""All scenarios with three seeds each, in CI with fifty, and the script `scripts/simulate`."""

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

from tests.interop.agents import until
from trioserf.sim.scenario import run
from trioserf.sim.scenarios import SCENARIOS

assert sys.platform != "win32"

_SIMULATE = Path(__file__).resolve().parents[2] / "scripts" / "simulate"
_SEEDS = 50 if os.environ.get("CI") else 3
_TIMEOUT = 500.0
"""Seconds for one scenario, several times what a slow and busy machine needs."""


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_all_invariants_hold(scenario: str) -> None:
    options = "--seeds", str(_SEEDS), "--scenario", scenario
    result = _simulate(*options, timeout=_TIMEOUT, nice=10)  # other tests have deadlines
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"\n{_SEEDS} runs, 0 failed" in result.stdout


def test_each_scenario_has_a_description() -> None:
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


def test_campaign_ends_with_a_table() -> None:
    result = _simulate("--scenario", "all", "--seeds", "1", timeout=_TIMEOUT)
    assert result.returncode == 0, result.stderr
    assert f"\n{len(SCENARIOS)} runs, 0 failed" in result.stdout
    assert [line.split()[:3] for line in result.stdout.splitlines()[1:-2]] == [
        [name, "1", "0"] for name in SCENARIOS
    ]


def test_campaign_continues_from_its_results(tmp_path: Path) -> None:
    results = tmp_path / "results.jsonl"
    options = "--scenario", "name_conflict", "--workers", "1", "--results", str(results)
    assert _simulate(*options, "--seeds", "2").returncode == 0
    first, second = results.read_text().splitlines()
    key, value = json.loads(second)
    failed = [key, value | {"failure": "an old failure"}]
    results.write_text(f"{first}\n{json.dumps(failed)}\n{first[:40]}")
    result = _simulate(*options, "--seeds", "3")
    assert result.returncode == 1
    assert "3 runs, 1 failed" in result.stdout
    assert "an old failure" in result.stdout
    keys = [json.loads(line)[0] for line in results.read_text().splitlines()]
    assert keys == [["name_conflict", seed] for seed in range(3)]


def test_results_with_and_without_refusals_are_kept_apart(tmp_path: Path) -> None:
    results = tmp_path / "results.jsonl"
    options = "--scenario", "crash_wave", "--seeds", "1", "--results", str(results)
    for added in ([], ["--no-refusals"], ["--no-refusals"]):
        assert _simulate(*options, *added).returncode == 0
    with_, without = (json.loads(line) for line in results.read_text().splitlines())
    assert with_[0] == ["crash_wave", 0]
    assert with_[1]["counts"] != without[1]["counts"]


@pytest.mark.parametrize(
    ("target", "number", "message"),
    [
        ("worker", signal.SIGKILL, b"a worker process was killed; check whether memory suffices"),
        ("group", signal.SIGINT, b"interrupted\n"),
        ("main", signal.SIGTERM, b"interrupted\n"),
    ],
)
def test_campaign_ends_with_all_its_processes_on_signals(
    target: str, number: signal.Signals, message: bytes, tmp_path: Path
) -> None:
    results = tmp_path / "results.jsonl"
    options = "--scenario", "name_conflict", "--seeds", "5000", "--workers", "1", "--results"
    command = [sys.executable, str(_SIMULATE), *options, str(results)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True) as process:
        try:
            until(lambda: results.exists() and results.read_bytes() != b"", 60)
            if target == "worker":
                children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
                os.kill(int(children.read_text()), number)
            elif target == "group":
                os.killpg(process.pid, number)  # as Ctrl-C does
            else:
                process.send_signal(number)
            _, errors = process.communicate(timeout=60)  # this needs all processes to end
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == (1 if target == "worker" else 130)
    assert message in errors
    assert b"Traceback" not in errors
    assert len(results.read_bytes().splitlines()) < 5000


def test_campaign_ends_at_once_if_results_cannot_be_written(tmp_path: Path) -> None:
    results = tmp_path / "results.jsonl"
    options = "--scenario", "name_conflict", "--seeds", "5000", "--results", str(results)
    limited = "/bin/sh", "-c", 'ulimit -f 1; exec "$0" "$@"'
    result = subprocess.run(
        [*limited, sys.executable, str(_SIMULATE), *options],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert result.returncode == 1
    assert f"--results {results}: [Errno {errno.EFBIG}]" in result.stderr
    assert "Traceback" not in result.stderr
    assert 0 < len(results.read_text().splitlines()) < 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--scale", "32,x"], "'32,x' is not a list of numbers from 8 to 32768, such as 32,64"),
        (["--lifeguard", "128"], "'128' is not a list of numbers from 1 to 127, such as 32,64"),
        (["--scale", "8", "--results", "/"], "--results /: "),
        (["--delivery", "2", "--profile", "lan,x"], "unknown profile x; expected names of lan, "),
        (["--delivery", "2", "--loss", "100"], "'100' is not a number from 0 to 99"),
        (["--delivery", "2", "--pairs", "0"], "'0' is not a number from 1 to "),
    ],
)
def test_invalid_measurement_is_rejected(options: list[str], message: str) -> None:
    result = _simulate(*options)
    assert result.returncode != 0
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_results_of_another_kind_are_rejected(tmp_path: Path) -> None:
    results = tmp_path / "results.jsonl"
    first = _simulate("--scale", "8", "--results", str(results))
    assert first.returncode == 0
    again = _simulate("--scale", "8", "--results", str(results))
    assert again.stdout == first.stdout
    assert again.stderr == ""  # nothing was measured again
    other = _simulate("--scenario", "steady", "--seeds", "1", "--results", str(results))
    assert other.returncode == 1
    assert "line 1 is not a result of such a run: [[8, 0], " in other.stderr
    assert len(results.read_text().splitlines()) == 1


@pytest.mark.parametrize(("cut", "again"), [(0, 0), (1, 0), (20, 1), (10**6, 3)])
def test_interrupted_campaign_continues_after_an_incomplete_line(
    tmp_path: Path, cut: int, again: int
) -> None:
    results = tmp_path / "results.jsonl"
    options = "--scenario", "name_conflict", "--seeds", "3", "--results", str(results)
    first = _simulate(*options)
    assert first.returncode == 0, first.stderr
    assert "3/3 runs, 0 failed, took " in first.stderr
    written = results.read_bytes()
    results.write_bytes(written[: max(0, len(written) - cut)])  # as if killed while writing
    second = _simulate(*options)
    assert second.returncode == 0, second.stderr
    assert ("removed an incomplete last line" in second.stderr) == (cut == 20)
    assert (f"{3 - again} of 3 runs are known already" in second.stderr) == (again < 3)
    assert second.stdout.startswith(first.stdout.partition("\n")[0])
    keys = [json.loads(line)[0] for line in results.read_text().splitlines()]
    assert sorted(keys) == [["name_conflict", seed] for seed in range(3)]


def test_results_are_not_appended_to_another_file(tmp_path: Path) -> None:
    other = tmp_path / "notes.txt"
    other.write_text("first line\nlast line without an end")
    result = _simulate("--scenario", "name_conflict", "--seeds", "1", "--results", str(other))
    assert result.returncode == 1
    assert f"--results {other}: its last line is not a result" in result.stderr
    assert other.read_text() == "first line\nlast line without an end"


@pytest.mark.parametrize(
    "line", ["1", "[1]", "[1, 2]", '[[{}, 0], {"failure": null}]', "[[1], []]"]
)
def test_line_that_is_not_a_result_is_reported(tmp_path: Path, line: str) -> None:
    results = tmp_path / "results.jsonl"
    results.write_text(f"{line}\n")
    result = _simulate("--scale", "8", "--results", str(results))
    assert result.returncode == 1
    assert f"line 1 is not a result of such a run: {line}" in result.stderr
    assert "Traceback" not in result.stderr


def test_trace_option_prints_one_run() -> None:
    options = "--scenario", "crash_wave", "--seed", "3", "--seeds", "1", "--trace"
    result = _simulate(*options)
    assert result.returncode == 0, result.stderr
    trace = run(SCENARIOS["crash_wave"], seed=3)
    assert result.stdout == f"{trace.text}sha256 {trace.digest}\n"
    assert _simulate(*options, "--no-refusals").stdout not in ("", result.stdout)


def test_delivery_without_loss_is_complete() -> None:
    result = _simulate("--delivery", "3", "--profile", "lan", "--loss", "0", "--pairs", "20")
    assert result.returncode == 0, result.stderr
    head, row = result.stdout.splitlines()
    assert head.split()[:2] == ["cluster", "pairs"]
    # Of 20 pairs none is late, missing or doubled; each of ten queries has two acks.
    assert row.split()[:10] == ["lan", "3", "0", "%", "20", "0", "0", "0", "0", "20/20"]


def test_list_option_prints_all_scenarios() -> None:
    result = _simulate("--list")
    assert result.returncode == 0, result.stderr
    assert [line.split()[0] for line in result.stdout.splitlines()] == list(SCENARIOS)


def test_unknown_scenario_is_rejected() -> None:
    result = _simulate("--scenario", "unheard_of")
    assert result.returncode == 2
    assert "unknown scenario unheard_of; expected all or steady, " in result.stderr


def test_missing_dependency_is_reported_and_not_retried(tmp_path: Path) -> None:
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
