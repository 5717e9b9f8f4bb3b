"""`validate`: the check of a configuration without a start."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.cli.helpers import run_command
from tests.interop.agents import ROOT, TRIOSERF


def write(path: Path, values: object) -> str:
    path.write_text(json.dumps(values))
    return str(path)


def test_valid_configuration_exits_with_0(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", {"node_name": "a"})
    printed = run_command(["validate", f"-config-file={path}", "-tag=a=b"])
    assert (printed.code, printed.err) == (0, "")
    assert printed.out == f"The configuration is valid ({path}, command line)\n"


def test_errors_of_files_variables_and_options_are_listed(tmp_path: Path) -> None:
    first = write(tmp_path / "1.json", {"protocol": 9, "log_level": "loud"})
    second = write(tmp_path / "2.json", {"max_members": 0})
    printed = run_command(
        ["validate", f"-config-dir={tmp_path}", "-retry-interval=x", "-tag=y", "--set=z"],
        TRIOSERF_PACKET_SIZE="1",
    )
    levels = "TRACE DEBUG INFO WARN ERR"
    assert printed.code == 1
    assert printed.err.startswith("trioserf: a tag is KEY=VALUE\ntrioserf: expected a duration")
    assert printed.out.splitlines() == [
        f"{first}: protocol: 9 is not supported, expected 2 to 5",
        f"Invalid log level: LOUD. Valid log levels are: [{levels}] (log_level in {first})",
        f"{second}: max_members: expected 1 to 1048576, not 0",
        "TRIOSERF_PACKET_SIZE: packet_size: expected 512 to 65507, not 1",
        "Error: Invalid tag: 'y'",
        'Error: time: invalid duration "x"',
        "Error: Invalid setting: 'z' (expected KEY=VALUE)",
        f"7 errors ({first}, {second}, TRIOSERF_PACKET_SIZE, command line)",
    ]


def test_errors_and_warnings_are_in_json(tmp_path: Path) -> None:
    path = write(tmp_path / "1.json", {"tags": {"a": "b"}, "rpc_auth": "secret"})
    (tmp_path / "1.json").chmod(0o644)
    printed = run_command(
        ["validate", f"-config-file={path}", "-tags-file=/t", "-rejoin", "--format=json"]
    )
    found = json.loads(printed.out)
    text = "Failed to setup the Serf agent: Tags config not allowed while using tag files"
    assert printed.code == 1
    assert found == {
        "valid": False,
        "errors": [
            {
                "source": "command line",
                "key": "tags_file",
                "value": "/t",
                "message": text,
                "others": [{"source": path, "key": "tags"}],
            }
        ],
        "warnings": [
            f"{path}: every user can read or change it (mode 0644), and it has secrets;"
            " expected mode 0600",
            "'RejoinAfterLeave' enabled without snapshot file",
        ],
        "sources": [path, "command line"],
    }
    valid = json.loads(run_command(["validate", "--format=json"]).out)
    assert valid == {"valid": True, "errors": [], "warnings": [], "sources": []}


@pytest.mark.interop
def test_start_reports_the_same_errors(tmp_path: Path) -> None:
    write(
        tmp_path / "1.json",
        {"protocol": 9, "log_level": "loud", "event_handlers": ["x=y"], "statsd_addr": "z"},
    )
    write(tmp_path / "2.json", {"max_members": 0, "snapshot_path": "/nonexistent/s"})
    words = [f"-config-dir={tmp_path}", "-retry-interval=x", "--handler-user=nosuchuser"]
    environ = {**os.environ, "TRIOSERF_PACKET_SIZE": "1"}
    started, validated = (
        subprocess.run(
            [*TRIOSERF, command, *words],
            capture_output=True, text=True, timeout=30, check=False, cwd=ROOT, env=environ,
        )
        for command in ("agent", "validate")
    )  # fmt: skip
    assert (started.returncode, validated.returncode) == (1, 1)
    *lines, _ = validated.stdout.splitlines()
    assert len(lines) == 9
    assert started.stdout.splitlines() == [f"==> {line}" for line in lines]
