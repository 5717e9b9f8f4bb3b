"""Every scenario with a few seeds; `scripts/simulate` plays many."""

import subprocess
import sys
from pathlib import Path

import pytest

from trioserf.sim.scenario import run
from trioserf.sim.scenarios import SCENARIOS

_SIMULATE = Path(__file__).resolve().parents[2] / "scripts" / "simulate"


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("name", SCENARIOS)
def test_all_invariants_hold(name: str, seed: int) -> None:
    trace = run(SCENARIOS[name], seed=seed)
    assert trace.counts["settled"] >= 1


def test_each_scenario_says_what_it_tells() -> None:
    assert len(SCENARIOS) >= 13
    assert all(one.about.endswith(".") for one in SCENARIOS.values())


def _simulate(*args: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, str(_SIMULATE), *args],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_a_campaign_ends_with_a_table() -> None:
    result = _simulate("--scenario", "crash_wave,name_conflict", "--seeds", "2", "--workers", "1")
    assert result.returncode == 0, result.stderr
    assert "4 runs, 0 failed" in result.stdout
    assert "crash_wave" in result.stdout


def test_one_run_can_be_shown() -> None:
    result = _simulate("--scenario", "name_conflict", "--seed", "3", "--seeds", "1", "--trace")
    assert result.returncode == 0, result.stderr
    trace = run(SCENARIOS["name_conflict"], seed=3)
    assert result.stdout == f"{trace.text}sha256 {trace.digest}\n"


def test_unknown_scenarios_are_refused() -> None:
    result = _simulate("--scenario", "unheard_of")
    assert result.returncode == 2
    assert "no scenario unheard_of; there are steady, " in result.stderr
