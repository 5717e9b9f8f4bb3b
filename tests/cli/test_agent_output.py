"""Outputs and exit codes of agents of both programs with equal command lines."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.interop.agents import ROOT, SERF, TRIOSERF, net, until

assert sys.platform != "win32"

pytestmark = pytest.mark.interop
HOST = f"{net(7)}.1"
PROGRAMS = [
    pytest.param(
        (str(SERF),),
        id="serf",
        marks=pytest.mark.serf,
    ),
    pytest.param(TRIOSERF, id="trioserf"),
]
either = pytest.mark.parametrize("program", PROGRAMS)


class Agent:
    def __init__(self, program: Sequence[str], options: Sequence[str], directory: Path) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the agent
        words = ["agent", f"-bind={HOST}", f"-rpc-addr={HOST}:7373", "-node=here", *options]
        self.process = subprocess.Popen(
            [*program, *words], stdout=self._log, stderr=subprocess.STDOUT, cwd=directory,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip

    def log_text(self) -> str:
        return os.pread(self._log.fileno(), 1 << 20, 0).decode("utf-8", "replace")

    def wait_for(self, text: str) -> None:
        until(lambda: text in self.log_text())

    def lines(self, first: str = "") -> list[str]:
        """Return the output before the log, from the first line with this text."""
        lines = self.log_text().partition("==> Log data")[0].splitlines()
        place = next((n for n, line in enumerate(lines) if first in line), len(lines))
        return lines[place:]

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self._log.close()


@contextmanager
def started(program: Sequence[str], directory: Path, *options: str) -> Iterator[Agent]:
    agent = Agent(program, options, directory)
    try:
        agent.wait_for("Log data will now stream in")
        yield agent
    finally:
        agent.end()


def signalled(
    number: signal.Signals, program: Sequence[str], directory: Path, *options: str
) -> tuple[int, str]:
    """Start an agent and send it a signal; return its exit code and output.

    Serf reports that it runs before it handles signals: an agent that one killed starts again.
    """
    for _ in range(5):
        with started(program, directory, *options) as agent:
            agent.process.send_signal(number)
            code, said = agent.process.wait(30), agent.log_text()
        if code != -number or program == TRIOSERF:
            break
    return code, said


def tags_of(program: Sequence[str]) -> dict[str, str]:
    done = subprocess.run(
        [*TRIOSERF, "members", f"-rpc-addr={HOST}:7373", "-format=json"],
        capture_output=True, check=True, timeout=30, cwd=ROOT,
    )  # fmt: skip
    tags: dict[str, str] = json.loads(done.stdout)["members"][0]["tags"]
    return tags


@either
@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["-log-level=foo"], "==> Invalid log level: FOO. Valid log levels are: [TRACE DEBUG"),
        (["-profile=foo"], "==> Unknown profile: foo"),
        (["-iface=nosuch0"], "interface"),
        (["-iface=lo", "-bind=10.254.254.254"], "==> Interface 'lo' has no '10.254.254.254'"),
        (["-protocol=9"], "9"),
        (["-protocol=1"], "1"),
        (["-retry-interval=foo"], '==> Error: time: invalid duration "foo"'),
        (["-tag=foo"], "==> Error: Invalid tag: 'foo'"),
        (["-config-file=nosuch.json"], "nosuch.json"),
        (["-config-dir=nosuch"], "nosuch"),
    ],
)
def test_invalid_configuration_exits_with_1(
    program: Sequence[str], options: list[str], code: str, tmp_path: Path
) -> None:
    agent = Agent(program, options, tmp_path)
    try:
        assert agent.process.wait(30) == 1
        assert code in agent.log_text()
        lines = [one for one in agent.log_text().splitlines() if not one.startswith("trioserf: ")]
        assert lines[-1].startswith("==> ")
    finally:
        agent.end()


@either
@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["-role=web"], "==> Deprecation warning: 'Role' has been replaced with 'Tags'"),
        (["-retry-interval=1ms"], "==> Warning: 'RetryInterval' is too low. Setting to 1s"),
        (["-broadcast-timeout=1ms"], "==> Warning: 'BroadcastTimeout' is too low. Setting to 1s"),
        (["-rejoin"], "==> Warning: 'RejoinAfterLeave' enabled without snapshot file"),
    ],
)
def test_warnings_come_first(
    program: Sequence[str], options: list[str], line: str, tmp_path: Path
) -> None:
    with started(program, tmp_path, *options) as agent:
        assert agent.lines()[0] == line


@either
def test_banner_shows_bound_and_advertised_address(program: Sequence[str], tmp_path: Path) -> None:
    with started(program, tmp_path, "-advertise=10.1.1.1") as agent:
        lines = agent.lines("Node name")
    assert [re.sub(" +", " ", line).strip() for line in lines[:4]] == [
        "Node name: 'here'",
        f"Bind addr: '{HOST}:7946'",
        "Advertise addr: '10.1.1.1:7946'",
        f"RPC addr: '{HOST}:7373'",
    ]


@either
def test_interface_selects_the_address(program: Sequence[str], tmp_path: Path) -> None:
    with started(program, tmp_path, "-bind=0.0.0.0:17946", "-iface=lo") as agent:
        said = agent.lines()
        assert said[0] == "==> Using interface 'lo' address '127.0.0.1'"
        assert any(line.endswith("Bind addr: '127.0.0.1:17946'") for line in said)


@either
def test_later_files_override_earlier_ones(program: Sequence[str], tmp_path: Path) -> None:
    folder = tmp_path / "conf.d"
    folder.mkdir()
    (folder / "inner.json").mkdir()
    (folder / "notes.txt").write_text("no JSON")
    for path, name in ((folder / "2.json", "two"), (folder / "10.json", "ten")):
        path.write_text(json.dumps({"tags": {"last": name, name: "here"}}))
    (tmp_path / "f.json").write_text(json.dumps({"tags": {"last": "file"}, "log_level": "warn"}))
    orders = (
        (["-config-dir=conf.d", "-config-file=f.json"], "file"),
        (["-config-file=f.json", "-config-file=conf.d"], "two"),
        (["-config-file=f.json", "-config-dir=conf.d", "-tag=last=word"], "word"),
    )
    for options, last in orders:
        with started(program, tmp_path, *options):
            assert tags_of(program) == {"last": last, "two": "here", "ten": "here"}


@either
def test_zero_values_do_not_override(program: Sequence[str], tmp_path: Path) -> None:
    first = {"node_name": "there", "tags": {"a": "b"}, "retry_interval": "7s", "profile": "local",
             "leave_on_terminate": True}  # fmt: skip
    zero = {"node_name": "", "tags": {}, "retry_interval": "0s", "profile": "", "protocol": 0,
            "leave_on_terminate": False, "broadcast_timeout": "0s"}  # fmt: skip
    (tmp_path / "1.json").write_text(json.dumps(first))
    (tmp_path / "2.json").write_text(json.dumps(zero))
    options = "-config-file=1.json", "-config-file=2.json"
    code, said = signalled(signal.SIGTERM, program, tmp_path, *options)
    assert code == 0  # it has left
    banner, _, _ = said.partition("==> Log data")
    assert "Warning" not in banner
    assert "Profile: local\n" in banner


@either
@pytest.mark.parametrize(
    ("number", "values", "code"),
    [
        (signal.SIGINT, {}, 0),
        (signal.SIGINT, {"skip_leave_on_interrupt": True}, 1),
        (signal.SIGTERM, {}, 1),
        (signal.SIGTERM, {"leave_on_terminate": True}, 0),
    ],
)
def test_signals_end_with_the_exit_codes_of_serf(
    program: Sequence[str], number: signal.Signals, values: object, code: int, tmp_path: Path
) -> None:
    (tmp_path / "f.json").write_text(json.dumps(values))
    ended, said = signalled(number, program, tmp_path, "-config-file=f.json")
    assert ended == code
    name = {signal.SIGINT: "interrupt", signal.SIGTERM: "terminated"}[number]
    assert f"==> Caught signal: {name}\n" in said
    assert ("==> Gracefully shutting down agent..." in said) is (code == 0)


@either
def test_second_signal_ends_a_leave(program: Sequence[str], tmp_path: Path) -> None:
    second = f"{net(7)}.2"
    other = subprocess.Popen(
        [*TRIOSERF, "agent", f"-bind={second}", f"-rpc-addr={second}:7373", "-node=there"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT,
    )  # fmt: skip
    try:
        with started(program, tmp_path, f"-retry-join={second}", "-retry-interval=1s") as agent:
            agent.wait_for("EventMemberJoin: there")
            agent.process.send_signal(signal.SIGINT)
            agent.wait_for("==> Gracefully shutting down agent...")
            agent.process.send_signal(signal.SIGINT)
            assert agent.process.wait(30) == 1
    finally:
        other.kill()
        other.wait()


@either
def test_reload_applies_level_handlers_and_tags(program: Sequence[str], tmp_path: Path) -> None:
    path = tmp_path / "f.json"
    path.write_text(json.dumps({"tags": {"a": "1", "b": "2"}}))
    with started(program, tmp_path, "-config-file=f.json") as agent:
        path.write_text(
            json.dumps({"tags": {"a": "3"}, "event_handlers": ["member-update=echo > ran"],
                        "log_level": "debug", "node_name": "other"})
        )  # fmt: skip
        agent.process.send_signal(signal.SIGHUP)
        agent.wait_for("==> Caught signal: hangup\n==> Reloading configuration...\n")
        until(lambda: tags_of(program) == {"a": "3"})
        until((tmp_path / "ran").exists)
        path.write_text("{")
        agent.process.send_signal(signal.SIGHUP)
        agent.wait_for("==> Failed to reload configs")
        assert tags_of(program) == {"a": "3"}


def test_reload_names_changed_keys_that_it_does_not_apply(tmp_path: Path) -> None:
    path = tmp_path / "f.json"
    path.write_text(json.dumps({"tags": {"a": "1"}, "profile": "lan"}))
    text = "these changed keys take effect with the next start only: "
    with started(TRIOSERF, tmp_path, "-config-file=f.json") as agent:
        path.write_text(
            json.dumps({"tags": {"a": "2"}, "leave_on_terminate": True, "log_level": "debug"})
        )
        agent.process.send_signal(signal.SIGHUP)
        agent.wait_for("Configuration reloaded")
        assert text not in agent.log_text()
        later = {"profile": "wan", "gossip_nodes": 9, "rpc_auth": "k", "max_members": 9}
        line = f"[WARN] agent: {text}gossip_nodes, max_members, profile, rpc_auth\n"
        path.write_text(json.dumps(later))
        agent.process.send_signal(signal.SIGHUP)
        until(lambda: agent.log_text().count(line) == 1)
        agent.process.send_signal(signal.SIGHUP)  # the running values stay: the same again
        until(lambda: agent.log_text().count(line) == 2)


def test_reload_with_errors_reports_all_of_them(tmp_path: Path) -> None:
    path = tmp_path / "f.json"
    path.write_text("{}")
    with started(TRIOSERF, tmp_path, "-config-file=f.json") as agent:
        path.write_text(
            json.dumps({"statsd_addr": "x", "event_handlers": ["x=y"], "max_members": 0})
        )
        agent.process.send_signal(signal.SIGHUP)
        agent.wait_for("==> Failed to reload configs")
        before = "[ERR] agent: the configuration stays as it was: "
        errors = [line for line in agent.log_text().splitlines() if before in line]
        assert len(errors) == 3
        assert all("f.json" in line for line in errors)


def test_reload_keeps_the_tags_file(tmp_path: Path) -> None:
    path = tmp_path / "f.json"
    path.write_text(json.dumps({"tags_file": "tags.json"}))
    with started(TRIOSERF, tmp_path, "-config-file=f.json") as agent:
        words = [*TRIOSERF, "tags", f"-rpc-addr={HOST}:7373", "-set", "a=1"]
        subprocess.run(words, check=True, capture_output=True, timeout=30, cwd=ROOT)
        assert json.loads((tmp_path / "tags.json").read_text()) == {"a": "1"}
        path.write_text(json.dumps({"tags_file": "tags.json", "log_level": "debug"}))
        agent.process.send_signal(signal.SIGHUP)
        agent.wait_for("Configuration reloaded")
        assert json.loads((tmp_path / "tags.json").read_text()) == {"a": "1"}
        assert tags_of(TRIOSERF) == {"a": "1"}
        path.write_text(json.dumps({"tags_file": "tags.json", "tags": {"b": "2"}}))
        agent.process.send_signal(signal.SIGHUP)
        agent.wait_for("==> Failed to reload configs")
        assert tags_of(TRIOSERF) == {"a": "1"}


def test_metrics_are_written_on_sigusr1(tmp_path: Path) -> None:
    at = r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d0 [+-]\d{4} \w+\]"
    updated = r"LastUpdated: \d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+ [+-]\d{4} \w+"
    lines = (
        rf"{at}\[G\] 'serf-agent\.runtime\.sys_bytes': \d+\.\d{{3}}\n",
        rf"{at}\[C\] 'serf-agent\.memberlist\.msg\.alive': Count: 1 Sum: 1\.000 {updated}",
        rf"{at}\[C\] 'serf-agent\.serf\.member\.join': Count: 1 Sum: 1\.000 {updated}",
    )
    with started(TRIOSERF, tmp_path) as agent:

        def is_dumped() -> bool:
            agent.process.send_signal(signal.SIGUSR1)
            return all(re.search(line, agent.log_text()) for line in lines)

        until(is_dumped, 30, agent.log_text)
