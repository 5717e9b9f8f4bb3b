"""The benchmark: its table of rows, its arguments, its report, and what it leaves behind."""

import importlib.util
import json
import resource
import signal
import socket
import subprocess
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

import pytest

from tests.interop.agents import ROOT

assert sys.platform == "linux"

SCRIPTS = ROOT / "scripts"
BENCH = SCRIPTS / "bench"
GIT = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a checkout of git")


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the script as a module."""
    monkeypatch.syspath_prepend(SCRIPTS)
    loader = SourceFileLoader("bench", str(BENCH))
    spec = importlib.util.spec_from_loader("bench", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def run(bench: Any, monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["bench", *words])
    code = bench.main()
    assert isinstance(code, int)
    return code


def test_list_names_every_measurement_and_row(
    bench: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(bench, monkeypatch, "--list") == 0
    lines = capsys.readouterr().out.splitlines()
    names = [line.split(" ")[0] for line in lines if not line.startswith(" ")]
    assert names == list(bench.NAMES)
    assert len(set(names)) == len(names) == 15
    assert len(lines) == len(names) + sum(len(one.rows) for one in bench.MEASUREMENTS)


def test_no_row_is_declared_twice(bench: Any) -> None:
    rows = [f"{one.name}-{row.name}" for one in bench.MEASUREMENTS for row in one.rows]
    texts = [row.what for one in bench.MEASUREMENTS for row in one.rows]
    assert len(rows) == len(set(rows))
    assert len(texts) == len(set(texts))


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--only", "start,sleep"], "--only sleep: expected start, "),
        (["--programs", "consul"], "--programs consul: expected serf, trioserf, mixed"),
        (["--programs", "trioserf", "-n", "twenty"], "-n twenty: expected numbers"),
        (["--programs", "trioserf", "-n", "20,1"], "-n [20, 1]: expected 2 to 250"),
        (["--rounds", "0"], "--rounds 0: expected more than 0"),
        (["--seconds", "-1"], "--seconds -1.0: expected more than 0"),
        (["--json", "/nowhere/at/all"], "/nowhere/at/all: the folder does not exist"),
        (["--programs", "trioserf", "--against", "no-such"], "--against no-such: not a commit"),
    ],
)
def test_bad_argument_is_named(
    bench: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    error: str,
) -> None:
    with pytest.raises(SystemExit, match="2"):
        run(bench, monkeypatch, *words)
    assert f"error: {error}" in capsys.readouterr().err


def test_more_agents_than_descriptors_allow_is_an_error(
    bench: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _limit: (256, 512))
    with pytest.raises(SystemExit, match="2"):
        run(bench, monkeypatch, "--programs", "trioserf", "--only", "boot", "-n", "250")
    assert "250 agents need 1100 descriptors; ulimit -Hn is 512" in capsys.readouterr().err


def test_goals_compare_medians(bench: Any) -> None:
    goal = sys.modules["bench_rows"].Goal
    cases = [
        (goal(75), {"trioserf": 75.0}, True),
        (goal(75), {"trioserf": 75.1, "serf": 13.0}, False),
        (goal(0.5, of_serf=True), {"trioserf": 4.0, "serf": 9.0}, True),
        (goal(0.5, of_serf=True), {"trioserf": 5.0, "serf": 9.0}, False),
        (goal(4, at_least=True, of_serf=True), {"trioserf": 40.0, "serf": 10.0}, True),
        (goal(4, at_least=True, of_serf=True), {"trioserf": 39.0, "serf": 10.0}, False),
        (goal(4, of_serf=True), {"trioserf": 39.0}, None),
        (goal(4), {"serf": 39.0}, None),
    ]
    assert [one.is_met(medians) for one, medians, _ in cases] == [met for _, _, met in cases]


@pytest.mark.interop
def test_run_writes_all_samples(
    bench: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    file, picture = tmp_path / "bench.json", tmp_path / "bench.svg"
    done = subprocess.run(
        [sys.executable, BENCH, "--programs", "trioserf", "--only", "start", "--rounds", "2",
         "--json", file, "--goals"],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(file.read_text())
    assert report["problems"] == []
    assert report["machine"].keys() == {"cores", "cpu", "kernel", "python", "load"}
    assert report["options"]["only"] == ["start"]
    assert list(report["programs"]) == ["trioserf"]
    counts = {
        row["name"]: {name: len(found["samples"]) for name, found in row["programs"].items()}
        for row in report["rows"]
    }
    assert counts == {
        "start-wall": {"trioserf": 2, "import trio": 2},
        "start-ratio": {"trioserf": 2},
        "start-cpu": {"trioserf": 2, "import trio": 2},
        "start-cpu-ratio": {"trioserf": 2},
    }
    for row in report["rows"]:
        for found in row["programs"].values():
            assert 0 < found["min"] <= found["median"] <= found["max"]
    assert report["rows"][1]["goal"].keys() == {"text", "limit", "of_serf", "met"}

    assert run(bench, monkeypatch, "--from", str(file), "--goals") == 0
    assert capsys.readouterr().out == done.stdout
    assert run(bench, monkeypatch, "--from", str(file), "--plot", str(picture)) == 2
    assert "no row was measured for both programs" in capsys.readouterr().err


@pytest.mark.interop
def test_interrupted_run_ends_its_processes() -> None:
    bench = subprocess.Popen(
        [sys.executable, BENCH, "--programs", "trioserf", "--only", "retry-join,idle", "-n", "2",
         "--idle", "300", "--rounds", "1"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    with bench:
        assert bench.stderr is not None
        for line in bench.stderr:
            if "retry-join-cpu" in line:
                break
        host = f"127.{60 + bench.pid % 60}.0.1", 7373
        socket.create_connection(host).close()
        bench.send_signal(signal.SIGINT)
        output, error = bench.communicate(timeout=60)
        assert bench.returncode == 130, error
        assert "not measured: interrupted by SIGINT" in output
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(host)


@GIT
def test_checkout_of_another_commit_is_removed(bench: Any) -> None:
    with bench.checkout("HEAD") as root:
        assert (root / "trioserf" / "__main__.py").exists()
        assert str(root) in bench.git("worktree", "list")
    assert not root.parent.exists()
    assert str(root) not in bench.git("worktree", "list")


def test_readme_has_the_results_of_the_file(bench: Any) -> None:
    report = bench.bench_report.read_json(SCRIPTS / "bench.json")
    readme = (ROOT / "README.md").read_text("utf-8")
    assert bench.bench_report.with_results(readme, report) == readme
    assert (SCRIPTS / "bench.png").stat().st_size > 0


def test_picture_of_the_results_can_be_drawn(
    bench: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "bench.png"
    assert run(bench, monkeypatch, "--from", str(SCRIPTS / "bench.json"), "--plot", str(file)) == 0
    assert file.read_bytes().startswith(b"\x89PNG")
