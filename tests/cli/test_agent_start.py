"""Starts that fail: one clear line and exit code 1."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.interop.agents import ROOT, SERF, TRIOSERF, read_to
from trioserf.agent.config import AgentConfig
from trioserf.agent.config_converter import Addresses
from trioserf.cli.commands.agent_process import open_handlers_warning

assert sys.platform != "win32"

pytestmark = pytest.mark.interop
HOST = "127.17.9.1"


def start(*options: str, pass_fds: Sequence[int] = ()) -> tuple[int, str]:
    done = subprocess.run(
        [*TRIOSERF, "agent", f"--bind={HOST}:0", f"--rpc-addr={HOST}:0", *options],
        capture_output=True, timeout=30, check=False, cwd=ROOT,
        pass_fds=pass_fds,
    )  # fmt: skip
    assert b"Traceback" not in done.stderr
    return done.returncode, done.stdout.decode()


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("--bind=nosuch.invalid", "Invalid bind address"),
        ("--bind=127.0.0.1:x", "expected a port"),
        (f"--node={'x' * 200}", "200 bytes, expected 1 to 128"),
        (f"--join={HOST}:1", "connection refused"),
        ("--event-handler=foo=x", "Invalid event script"),
        ("--encrypt=x", "Invalid encryption key"),
        ("--keyring-file=/nonexistent/keys", "/nonexistent/keys: no such file or directory"),
        ("--snapshot=/nonexistent/snapshot", "expected a file that can be read"),
        ("--set=foo=1", "unknown key"),
        ("--set=statsd_addr=nowhere", "statsd_addr: 'nowhere': expected host:port"),
        ("--set=statsite_addr=:1", "statsite_addr: ':1': expected host:port"),
        (
            "--allowed-network=10.0.0.0/33",
            "allowed_networks: '10.0.0.0/33' is not a valid network such as",
        ),
        (f"--label={'x' * 256}", "label: 256 bytes, expected at most 255"),
        ("--rpc-addr=unix:/nonexistent/socket", "No such file"),
    ],
)
def test_invalid_option_is_reported_in_one_line(option: str, text: str) -> None:
    code, output = start(option)
    assert code == 1
    assert text in output
    assert output.splitlines()[-1 if "join" not in option else -2].startswith(("==>", "\t*"))


def test_name_is_validated_if_configured() -> None:
    code, output = start("--node=not_valid", "--validate-node-names")
    assert code == 1
    assert "node_name: 'not_valid' is not valid, expected letters, digits, dashes" in output


@pytest.mark.parametrize("device", ["", "/dev/zero"])
@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("snapshot", "{}: not a regular file; expected a file that can be read"),
        ("keyring-file", "Failed to read keyring file: read {}: not a regular file"),
        ("tags-file", "tags_file: {}: cannot be read: not a regular file"),
        ("config-file", "{}: cannot be read: not a regular file"),
    ],
)
def test_pipes_and_devices_are_refused(
    tmp_path: Path, option: str, text: str, device: str
) -> None:
    path = device or str(tmp_path / "pipe")
    if not device:
        os.mkfifo(path)
        if option == "config-file":
            text = "{}: line 1 column 1: Expecting value; expected a JSON object"
    code, output = start(f"--{option}={path}")
    assert code == 1
    assert text.format(path) in output.splitlines()[-1]


def test_configuration_may_come_from_a_pipe() -> None:
    reading, writing = os.pipe()
    os.write(writing, b'{"log_level": "loud"}')
    os.close(writing)
    code, output = start(f"--config-file=/dev/fd/{reading}", pass_fds=(reading,))
    os.close(reading)
    assert (code, "Invalid log level: LOUD" in output) == (1, True)


KEY = "5K9OtfP7efFrNKe5WCQvXvnaXJ5cWP0SvXiwe0kkjM4="
KEYRINGS = {
    "missing": None,
    "empty list": "[]",
    "no JSON": "{",
    "nothing": "",
    "an object": "{}",
    "a number": "[1]",
    "no base64": '["!!"]',
    "a short key": '["AAAA"]',
    "both": f'["{KEY}"]',
}


@pytest.mark.serf
@pytest.mark.parametrize("case", KEYRINGS)
def test_invalid_keyring_files_have_the_errors_of_serf(tmp_path: Path, case: str) -> None:
    path = tmp_path / "keys"
    content = KEYRINGS[case]
    if content is not None:
        path.write_text(content)
    options = [f"-keyring-file={path}", *([f"-encrypt={KEY}"] if case == "both" else [])]
    code, output = start(*options)
    assert SERF is not None
    theirs = subprocess.run(
        [SERF, "agent", f"-bind={HOST}:7946", f"-rpc-addr={HOST}:7373", *options],
        capture_output=True, timeout=30, check=False,
    )  # fmt: skip
    assert (code, theirs.returncode) == (1, 1)
    line, ours = theirs.stdout.decode().splitlines()[-1], output.splitlines()[-1]
    exactly = line.removeprefix("==> Failed to setup the Serf agent: ")
    assert exactly != line
    words = exactly.partition(": ")[0]  # the rest may be a text of Go's library
    assert ours.startswith(f"==> Failed to setup the Serf agent: {words}")
    assert "AAAA" not in output
    assert KEY not in output


def test_port_in_use_is_reported_before_gossip_begins() -> None:
    other = "another agent may be running there"
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        for options, text in (
            (
                (f"--bind={HOST}:{port}", f"--rpc-addr={HOST}:0"),
                f"==> cannot listen on {HOST}:{port}: TCP or UDP port {port} is in use; {other}"
                " (--bind=HOST:PORT chooses another)\n",
            ),
            (
                (f"--bind={HOST}:0", f"--rpc-addr={HOST}:{port}"),
                f"==> control address {HOST}:{port}: already in use; {other}"
                " (--rpc-addr chooses another)\n",
            ),
        ):
            done = subprocess.run(
                [*TRIOSERF, "agent", *options, f"--retry-join={HOST}:{port}"],
                capture_output=True, timeout=30, check=False, cwd=ROOT,
            )  # fmt: skip
            assert done.returncode == 1
            assert done.stdout.decode().endswith(text)
            assert b"EventMemberJoin" not in done.stderr
            assert b"joining: [" not in done.stderr


@pytest.mark.parametrize(
    ("options", "attempts"),
    [
        ([f"--join={HOST}:1"], 1),
        ([f"--retry-join={HOST}:1", "--retry-interval=1s", "--retry-max=1"], 2),
    ],
)
def test_failed_join_is_reported_once(options: list[str], attempts: int) -> None:
    done = subprocess.run(
        [*TRIOSERF, "agent", f"--bind={HOST}:0", f"--rpc-addr={HOST}:0", *options],
        capture_output=True, timeout=30, check=False, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 1
    text = (done.stdout + done.stderr).decode()
    assert text.count(f"joining: [{HOST}:1]") == attempts
    assert text.count(f"failed to join {HOST}:1: connection refused") == attempts


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--set=syslog_path=/nonexistent/log"], "no daemon listens at /nonexistent/log"),
        (["--set=syslog_facility=LOCAL8"], "invalid syslog facility: LOCAL8"),
    ],
)
def test_missing_syslog_is_reported(options: list[str], text: str) -> None:
    code, output = start("--syslog", *options)
    assert (code, "==> Syslog setup failed: " in output, text in output) == (1, True, True)


@pytest.mark.parametrize(
    ("setting", "module", "extra"),
    [
        ("metrics_addr=127.0.0.1:9", "prometheus_client", "http"),
        ("http_addr=127.0.0.1:9", "hypercorn", "http"),
        ("http_addr=127.0.0.1:9", "starlette", "http"),
        ("discover=demo", "dns", "mdns"),
    ],
)
def test_missing_package_is_named(setting: str, module: str, extra: str) -> None:
    code = f"import sys; sys.modules[{module!r}] = None; import trioserf.cli.main as program"
    code += "; program.main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "agent", f"--bind={HOST}:0", f"--set={setting}"],
        capture_output=True, timeout=30, check=False, cwd=ROOT, text=True,
    )  # fmt: skip
    key = setting.partition("=")[0]
    output = f"==> command line: {key}: the module {module} is missing; it comes with"
    assert (done.returncode, output in done.stdout, f"'.[{extra}]'" in done.stdout) == (
        1,
        True,
        True,
    )
    assert "Traceback" not in done.stderr


def test_missing_interface_of_discovery_is_reported() -> None:
    code, output = start("--discover=demo", "--mdns-iface=nosuch0")
    assert code == 1
    assert "Error starting mDNS listener: no such network interface: 'nosuch0'" in output


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("--bind=203.0.113.5:7946", "cannot listen on 203.0.113.5:7946: Cannot assign"),
        ("--bind=[2001:db8::1]:7946", "cannot listen on [2001:db8::1]:7946: Cannot assign"),
        ("--bind=127.0.0.1:99999", "expected a port from 0 to 65535"),
        ("--bind=[::1", "expected [IPv6 address]:port"),
        ("--advertise=nosuch.invalid", "Invalid advertise address: 'nosuch.invalid'"),
        ("--iface=nosuch0", "interface 'nosuch0' does not exist"),
        ("--iface=lo", f"Interface 'lo' has no '{HOST}' address; it has 127.0.0.1"),
        (f"--node={'é' * 65}", "130 bytes, expected 1 to 128"),
        ("--set=validate_node_names=true\0--node=a b", "expected letters, digits, dashes"),
        (f"--tag=a={'x' * 600}", "Encoded length of tags exceeds limit of 512 bytes"),
        ("--protocol=9", "protocol: 9 is not supported, expected 2 to 5"),
        ("--profile=moon", "Unknown profile: moon"),
        ("--log-level=loud", "Invalid log level: LOUD"),
        ("--set=probe_interval=0s", "probe_interval"),
        ('--set=allowed_networks=["10.0.0.1/8"]', "allowed_networks"),
        ("--rpc-addr=203.0.113.5:7373", "Cannot assign requested address"),
    ],
)
def test_invalid_value_is_named(option: str, text: str) -> None:
    code, output = start(*option.split("\0"))
    assert code == 1
    assert text in output
    *banner, last = output.splitlines()
    assert text in last
    assert last.startswith("==>")
    assert all(line.startswith("==>") for line in banner)


def test_failed_join_names_every_address(tmp_path: Path) -> None:
    code, output = start(f"--join={HOST}:1", "--join=nosuch.invalid", "--join=[::1")
    assert code == 1
    assert "==> 3 errors occurred:\n" in output
    causes = sorted(line for line in output.splitlines() if line.startswith("\t* "))
    assert [line.partition(": ")[0] for line in causes] == [
        f"\t* failed to join {HOST}:1",
        "\t* failed to join [::1",
        "\t* failed to join nosuch.invalid",
    ]


def run_and_end(
    *options: str, number: int = signal.SIGTERM, hang_up: bool = False
) -> tuple[int, str, str]:
    """Start an agent, and end it when it runs; return exit code, banner and log."""
    with subprocess.Popen(
        [*TRIOSERF, "agent", f"--bind={HOST}:0", f"--rpc-addr={HOST}:0", "--node=n", *options],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT,
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            assert process.stderr is not None
            banner = read_to(process.stdout, b"Node name")
            if hang_up:
                process.stdout.close()
            else:
                banner += read_to(process.stdout, b"Log data will now stream")
            log = read_to(process.stderr, b"EventMemberJoin")
            process.send_signal(number)
            log += process.stderr.read()
            return process.wait(20), banner.decode(), log.decode()
        finally:
            process.kill()


def test_banner_shows_addresses_of_all_listeners() -> None:
    _, banner, log = run_and_end("--advertise=8.8.4.4:7946")
    assert f"\n                      Bind addr: '{HOST}:" in banner
    assert "\n    Advertise addr: '8.8.4.4:7946'\n" in banner
    assert "[WARN] serf: advertising the public address 8.8.4.4:7946" in log


OPEN = ("127.0.0.1:7373",)
HANDLERS = ["user=true"]
UNIX = ("unix:/run/trioserf.sock",)


@pytest.mark.parametrize(
    ("config", "uid", "is_open"),
    [
        (AgentConfig(event_handlers=HANDLERS), 0, True),
        (AgentConfig(event_handlers=HANDLERS, rpc_addr=Addresses(UNIX + OPEN)), 0, True),
        (AgentConfig(event_handlers=HANDLERS, rpc_addr=Addresses(UNIX)), 0, False),
        (AgentConfig(event_handlers=HANDLERS, rpc_auth="x"), 0, False),
        (AgentConfig(event_handlers=HANDLERS, rpc_tokens="x"), 0, False),
        (AgentConfig(event_handlers=HANDLERS), 1000, False),
        (AgentConfig(), 0, False),
    ],
)
def test_handlers_of_root_behind_an_open_port_are_a_warning(
    config: AgentConfig, uid: int, is_open: bool
) -> None:
    warning = open_handlers_warning(config, uid)
    assert bool(warning) is is_open
    if is_open:
        assert "127.0.0.1:7373" in warning
        assert "rpc_addr = unix:/run/trioserf.sock, or rpc_auth" in warning


@pytest.mark.skipif(os.geteuid() != 0, reason="the warning is about root")
def test_warning_about_open_port_is_one_line_of_the_log(tmp_path: Path) -> None:
    handler = "--event-handler=query:load=true"
    _, _, log = run_and_end(handler)
    assert log.count("can run the event handlers as root") == 1
    assert f"[WARN] agent: every user who can connect to {HOST}:0 can run" in log
    _, _, log = run_and_end(handler, f"--rpc-addr=unix:{tmp_path}/control.sock")
    assert "event handlers as root" not in log


def test_end_without_a_leave_is_logged() -> None:
    code, _, log = run_and_end()
    assert code == 1
    assert "[WARN] serf: Shutdown without a Leave" in log
    code, _, log = run_and_end(number=signal.SIGINT)
    assert code == 0
    assert "without a Leave" not in log


def test_agent_continues_after_its_output_closes() -> None:
    code, _, log = run_and_end(number=signal.SIGINT, hang_up=True)
    assert "Traceback" not in log
    assert "requesting graceful leave" in log
    assert code == 0
