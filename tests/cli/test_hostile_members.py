"""Members with control characters in name and tags, as every command shows them."""

import json
import os
import pty
import re
import subprocess
from collections.abc import Iterator

import attrs
import pytest

from tests.interop.agents import ROOT, TRIOSERF, AgentAddresses, agent, net, read_to, until
from tests.interop.fake_members import exchange, members
from trioserf.wire.serf_payloads import encode_tags

pytestmark = pytest.mark.interop
HERE = f"{net(7)}.83"
HOSTILE = "x\x1b[2J\n2026/11/29 08:00:00 [INFO] agent: forged\x9b\u202e\u2028"
SHOWN = r"x\x1b[2J\n2026/11/29 08:00:00 [INFO] agent: forged\x9b\u202e\u2028"


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    options = [f"-tag={HOSTILE}={HOSTILE}", "-event-handler=query=printf 'a\\033\\n\\tb\\n'"]
    with agent(HERE, "own", *options, program=TRIOSERF) as rpc:
        until(lambda: run(rpc, "info")[0] == 0)
        [member] = members(1)
        meta = encode_tags({HOSTILE: HOSTILE})
        exchange((HERE, 7946), [attrs.evolve(member, name=HOSTILE, meta=meta)])
        yield rpc


def run(rpc: str, *words: str) -> tuple[int, str]:
    """Run a command in a pipe; return its exit code and output."""
    done = subprocess.run(
        [*TRIOSERF, *words],
        env={**os.environ, "SERF_RPC_ADDR": rpc},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=60,
        check=False,
        cwd=ROOT,
    )
    return done.returncode, done.stdout.decode()


def run_on_terminal(rpc: str, *words: str) -> str:
    """Run a command on a terminal; return its output."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*TRIOSERF, *words],
        env={**os.environ, "SERF_RPC_ADDR": rpc},
        stdout=theirs,
        stderr=theirs,
        cwd=ROOT,
    ) as process:
        os.close(theirs)
        output = b""
        try:
            while data := os.read(ours, 65536):
                output += data
        except OSError:  # the terminal has no other end any more
            process.wait()
        finally:
            os.close(ours)
    return output.decode().replace("\r\n", "\n")


def without_changing_values(text: str) -> str:
    return re.sub("(uptime|goroutines|.*_queue|health_score) = .*", "", text)


def assert_is_printable(output: str) -> None:
    for line in output.replace("\t", "").split("\n"):
        assert line.isprintable(), repr(line)


@pytest.mark.parametrize(
    "line",
    [
        "members",
        "members -detailed",
        "info",
        "rtt no-such",
        "rtt own",
        "reachability -verbose",
        "query -timeout=300ms nothing",
    ],
)
def test_names_and_tags_are_printable(address: str, line: str) -> None:
    shown = run_on_terminal(address, *line.split())
    assert_is_printable(shown)
    if line.split()[0] in ("members", "info"):
        assert SHOWN in shown
        code, again = run(address, *line.split())
        assert (code, without_changing_values(again)) == (0, without_changing_values(shown))


def test_errors_are_printable(address: str) -> None:
    assert_is_printable(run(address, "rtt", HOSTILE)[1])
    assert_is_printable(run(address, "force-leave", HOSTILE + "x")[1])


@pytest.mark.parametrize("line", ["members", "info", "reachability", "query -timeout=300ms x"])
def test_json_is_printable(address: str, line: str) -> None:
    command, *options = line.split()
    code, shown = run(address, command, "-format=json", *options)
    assert code in (0, 1)
    assert json.loads(shown)
    assert_is_printable(shown)


def test_log_is_printable(address: str) -> None:
    for options in ((), ("--format=json",)):
        with AgentAddresses(address, "", "").follow("monitor", *options) as process:
            assert process.stdout is not None
            shown = read_to(process.stdout, b"EventMemberJoin: x").decode()
        assert_is_printable(shown)


def test_payloads_are_escaped_on_a_terminal_and_unchanged_in_a_pipe(address: str) -> None:
    line = ("query", "-timeout=300ms", "x")
    assert "Response from 'own': a\\x1b\n\tb\n" in run_on_terminal(address, *line)
    assert "Response from 'own': a\x1b\n\tb\n" in run(address, *line)[1]
