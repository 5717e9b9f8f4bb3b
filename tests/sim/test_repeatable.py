"""The same seed gives the same trace, byte for byte, in every process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from trioserf.sim.scenario import run
from trioserf.sim.scenarios import SCENARIOS

_ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", ["chaos", "loss_20", "key_rotation"])
def test_same_seed_gives_the_same_trace_in_one_process(name: str) -> None:
    first, second = (run(SCENARIOS[name], seed=7) for _ in range(2))
    assert first.text == second.text
    assert first.digest == second.digest
    assert first.checksum != 0


def test_another_seed_gives_another_trace() -> None:
    assert (
        run(SCENARIOS["crash_wave"], seed=1).digest != run(SCENARIOS["crash_wave"], seed=2).digest
    )


@pytest.mark.parametrize("hash_seed", ["0", "12345"])
def test_same_seed_gives_the_same_trace_in_another_process(hash_seed: str) -> None:
    code = (
        "import sys; from trioserf.sim.scenario import run;"
        "from trioserf.sim.scenarios import SCENARIOS;"
        "sys.stdout.write(run(SCENARIOS['chaos'], seed=7).text)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        cwd=_ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert result.stdout == run(SCENARIOS["chaos"], seed=7).text
