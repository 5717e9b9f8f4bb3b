"""`service print`: files for service managers, checked by systemd's own tools."""

import json
import plistlib
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.cli.helpers import run_command
from trioserf.agent.config import AgentConfig
from trioserf.agent.config_converter import Structurer
from trioserf.cli.commands.service import FILES, program, with_program

SYSTEMD = shutil.which("systemd-analyze")
needs_systemd = pytest.mark.skipif(SYSTEMD is None, reason="systemd-analyze is not installed")
MOST_EXPOSED = 2.0
"""The exposure that `systemd-analyze security` may find, 0 to 10; below 4 is OK for it."""


def printed(*options: str) -> str:
    done = run_command(["service", "print", *options])
    assert (done.code, done.err) == (0, "")
    return done.out


def analyze(*words: str) -> subprocess.CompletedProcess[str]:
    assert SYSTEMD is not None
    return subprocess.run(
        [SYSTEMD, *words], capture_output=True, text=True, check=False, timeout=60
    )


@needs_systemd
def test_units_are_valid_for_systemd(tmp_path: Path) -> None:
    unit, socket = tmp_path / "trioserf.service", tmp_path / "trioserf.socket"
    unit.write_text(printed())
    socket.write_text(printed("--socket"))
    done = analyze("verify", "--man=no", str(unit), str(socket))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    # The check finds errors at all.
    unit.write_text(printed().replace("KillMode=mixed", "KillMode=nosuch"))
    assert "kill mode" in analyze("verify", "--man=no", str(unit)).stderr


@needs_systemd
def test_unit_exposes_little_of_the_host(tmp_path: Path) -> None:
    unit = tmp_path / "trioserf.service"
    unit.write_text(printed())
    words = ("security", "--offline=true", "--no-pager", f"--threshold={MOST_EXPOSED * 10:.0f}")
    done = analyze(*words, str(unit))
    assert done.returncode == 0, done.stdout


def test_unit_runs_this_program_and_leaves_gracefully() -> None:
    lines = printed().splitlines()
    assert f"ExecStart={' '.join(program())} agent --config-dir=/etc/trioserf" in lines
    assert {"Type=notify", "KillSignal=SIGINT", "DynamicUser=yes"} <= set(lines)


def test_example_of_a_configuration_is_valid() -> None:
    values = json.loads(printed("--config"))
    checked, problems = Structurer(AgentConfig)(values)
    assert problems == []
    assert checked["rpc_addr"] == ("unix:/run/trioserf/control.sock",)


def test_socket_is_not_in_a_directory_that_the_service_removes() -> None:
    lines = printed("--socket").splitlines()
    (path,) = (line.partition("=")[2] for line in lines if line.startswith("ListenStream="))
    assert "RuntimeDirectory=trioserf" in printed().splitlines()
    assert not path.startswith("/run/trioserf/")
    assert f'"unix:{path}"' in printed("--socket")
    # The agent's own socket is in it.
    assert json.loads(printed("--config"))["rpc_addr"].startswith("unix:/run/trioserf/")


def test_property_list_runs_this_program() -> None:
    found = plistlib.loads(printed("--launchd").encode())
    words = found["ProgramArguments"]
    assert words[: len(program())] == program()
    assert "leave_on_terminate=true" in words
    assert found["KeepAlive"] == {"SuccessfulExit": False}


def test_program_is_quoted() -> None:
    words = ["/opt/my tools/100%/trioserf", "-m", "$x"]
    unit = with_program((FILES / "trioserf.service").read_text("utf-8"), words)
    assert '\nExecStart="/opt/my tools/100%%/trioserf" -m "$$x" agent' in unit
    plist = with_program((FILES / "org.trioserf.agent.plist").read_text("utf-8"), ["/a&b <c>"])
    assert plistlib.loads(plist.encode())["ProgramArguments"][0] == "/a&b <c>"


def test_json_has_name_and_text() -> None:
    found = json.loads(printed("--format=json"))
    assert found == {"name": "trioserf.service", "text": printed()}


@pytest.mark.parametrize("words", [[], ["install"], ["print", "x"]])
def test_other_words_are_an_error(words: list[str]) -> None:
    assert run_command(["service", *words]).code == 1


def test_only_one_file_is_printed() -> None:
    done = run_command(["service", "print", "--config", "--socket"])
    assert (done.code, "expected one of" in done.out) == (1, True)
