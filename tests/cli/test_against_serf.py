"""`serf` and `trioserf` with the same agents of Serf."""

import json
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.cli.helpers import COMMAND_LINES, LINES_WITHOUT_KEY, NET, normalise_output
from tests.interop.agents import (
    SERF,
    TRIOSERF,
    AgentAddresses,
    agent,
    net,
    repeating,
    serf_cluster,
    until,
)

pytestmark = [pytest.mark.interop, pytest.mark.serf]


HERE = net(0)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentAddresses]:
    with serf_cluster(HERE, tmp_path_factory.mktemp("serf") / "auth.json") as running:
        yield running


@pytest.mark.parametrize("words", COMMAND_LINES, ids=lambda words: " ".join(words)[:40])
def test_output_and_exit_code_equal_serf(cluster: AgentAddresses, words: list[str]) -> None:
    assert SERF is not None
    line = [word.replace(NET, HERE) for word in words]
    code, text = cluster.ask([SERF], *line)
    our_code, our_text = cluster.ask(TRIOSERF, *line)
    assert (our_code, normalise_output(our_text)) == (code, normalise_output(text))


@pytest.mark.parametrize("words", LINES_WITHOUT_KEY, ids=lambda words: " ".join(words))
def test_rejection_without_key_equals_serf(cluster: AgentAddresses, words: list[str]) -> None:
    assert SERF is not None
    expected = cluster.ask([SERF], *words, addr=cluster.secret)
    assert cluster.ask(TRIOSERF, *words, addr=cluster.secret) == expected
    assert "Authentication required" in expected[1]


def test_valid_key_is_accepted(cluster: AgentAddresses) -> None:
    words = ("members", "-rpc-auth=s3cret")
    assert SERF is not None
    assert cluster.ask(TRIOSERF, *words, addr=cluster.secret) == cluster.ask(
        [SERF], *words, addr=cluster.secret
    )


def test_keys_are_changed_and_rotated() -> None:
    assert SERF is not None
    key, other = (AgentAddresses("", "", "").ask(TRIOSERF, "keygen")[1].strip() for _ in range(2))
    encrypt = f"-encrypt={key}"
    with agent(f"{HERE}.4", "go-k", encrypt) as addr:
        cluster = AgentAddresses(addr, "", "")
        until(lambda: cluster.ask(TRIOSERF, "info")[0] == 0)
        for words in (["-install", other], ["-list"], ["-use", other], ["-remove", other]):
            serf = cluster.ask([SERF], "keys", *words)
            assert normalise_output(cluster.ask(TRIOSERF, "keys", *words)[1]) == normalise_output(
                serf[1]
            )
        with agent(f"{HERE}.6", "go-l", f"-encrypt={other}", f"-join={HERE}.4") as late:
            until(lambda: cluster.ask(TRIOSERF, "members", "-name=go-l", "-status=alive")[0] == 0)
            code, text = cluster.ask(TRIOSERF, "keys", "rotate", "--format=json")
            assert code == 0
            new = json.loads(text)
            assert sorted(new["removed"]) == sorted([key, other])
            listed = cluster.ask(TRIOSERF, "keys", "-list", addr=late)
            assert listed == cluster.ask([SERF], "keys", "-list")
            assert f"{new['key']}  [2/2]" in listed[1]
            report = json.loads(cluster.ask(TRIOSERF, "keys", "-list", "--format=json")[1])
            assert (report["keys"], report["primary_keys"]) == ({new["key"]: 2}, None)


def test_query_with_first_ends_with_first_response(cluster: AgentAddresses) -> None:
    code, text = cluster.ask(TRIOSERF, "query", "-timeout=25s", "load", "--first=1")
    assert code == 0
    assert "Response from 'go-a': 0.42" in text
    assert text.endswith("Total Responses: 1\n")


def lines_of(process: "subprocess.Popen[bytes]") -> Iterator[bytes]:
    assert process.stdout is not None
    with KillTimer(process):
        # `yield from` would close the pipe with the generator, and so end the process.
        while line := process.stdout.readline():
            yield line


class KillTimer:
    """Kills a process after a time limit, so that reading from it ends."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self._timer = threading.Timer(25, process.kill)

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()


def test_stream_writes_each_event_at_once(cluster: AgentAddresses) -> None:
    with cluster.follow("stream", "--type", "user:a,user:b", "--type=query:ping") as process:
        lines = lines_of(process)
        with repeating(lambda: send(cluster)):
            record = json.loads(next(lines))
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert record["event"] == "user"
    assert (record["name"], record["payload"]) == ("a", "ü<b>")


def send(cluster: AgentAddresses) -> None:
    """Send an event that the filter excludes, and one that it includes."""
    cluster.ask(TRIOSERF, "event", "-coalesce=false", "other", "x")
    cluster.ask(TRIOSERF, "event", "-coalesce=false", "a", "ü<b>")


def test_monitor_follows_log(cluster: AgentAddresses) -> None:
    with cluster.follow("monitor", "-log-level=debug") as process:
        first = next(lines_of(process))
        assert re.fullmatch(rb"\d{4}/\d\d/\d\d [\d:]{8} \[\w+\] [a-z.]+: .*\n", first)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0


def test_monitor_formats_events_as_serf(cluster: AgentAddresses) -> None:
    outputs = {}
    assert SERF is not None
    for program in (TRIOSERF, (SERF,)):
        with cluster.follow("monitor", program=program) as process:
            lines = lines_of(process)
            assert b" [INFO] " in next(lines)  # Serf's first lines have no fixed order
            with repeating(lambda: send(cluster)):
                event = block(lines, 'Name: "a"')
        outputs[program] = sorted(re.sub(r"LTime: \w+", "LTime: N", line) for line in event)
    assert outputs[TRIOSERF] == outputs[(SERF,)]
    assert "\tPayload: []byte{0xc3, 0xbc, 0x3c, 0x62, 0x3e}" in outputs[TRIOSERF]


def block(lines: Iterator[bytes], wanted: str) -> list[str]:
    """Return the first event of a monitor that has the line `wanted`."""
    event: list[str] = []
    for line in lines:
        text = line.decode().removesuffix("\n")
        if text == "Event Info:":
            event = []
        elif text.startswith("\t"):
            event.append(text)
        if len(event) == 5 and f"\t{wanted}" in event:
            return event
    raise AssertionError(f"no event with {wanted}")


def test_monitor_writes_log_as_json(cluster: AgentAddresses) -> None:
    with cluster.follow("monitor", "--format=json") as process:
        record = json.loads(next(lines_of(process)))["log"]
    assert set(record) == {"time", "level", "source", "message"}
    assert record["level"] == "INFO"
    sent = datetime.fromisoformat(record["time"])
    assert re.fullmatch(r"[\d-]{10}T[\d:]{8}\.\d{3}Z", record["time"])
    assert timedelta(0) <= datetime.now(UTC) - sent < timedelta(hours=1)


@pytest.mark.parametrize(("words", "code"), [(["monitor"], 141), (["stream"], 0)])
def test_follower_ends_when_reader_closes(
    cluster: AgentAddresses, words: list[str], code: int
) -> None:
    with cluster.follow(*words) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.wait(30) == code
        assert process.stderr.read() == b""


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["monitor"], (b"remote side has exited or crashed.\n", b"")),
        # Its standard output has only JSON.
        (["stream"], (b"", b"The stream ended: the agent has exited, or crashed\n")),
    ],
)
def test_follower_reports_end_of_agent(words: list[str], expected: tuple[bytes, bytes]) -> None:
    with agent(f"{HERE}.5", "go-x") as addr:
        cluster = AgentAddresses(addr, "", "")
        until(lambda: cluster.ask(TRIOSERF, "info")[0] == 0)
        with cluster.follow(*words) as process:
            until(lambda: connected(addr))
            assert cluster.ask(TRIOSERF, "leave") == (0, "Graceful leave complete\n")
            out, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert out.endswith(expected[0])
    assert err == expected[1]
    if words == ["stream"]:
        # The stream may have begun before the join event, or after the leave event.
        events = [json.loads(line)["event"] for line in out.splitlines()]
        assert events in ([], ["member-leave"], ["member-join", "member-leave"])


def connected(addr: str) -> bool:
    """Return whether a client is connected to an address."""
    host, _, port = addr.partition(":")
    numbers = "".join(f"{int(one):02X}" for one in reversed(host.split(".")))
    wanted = f"{numbers}:{int(port):04X} 01"
    return any(
        " ".join(line.split()[2:4]) == wanted
        for line in Path("/proc/net/tcp").read_text().splitlines()
    )


def test_interrupted_query_exits_with_error(cluster: AgentAddresses) -> None:
    with cluster.follow("query", "-timeout=25s", "no-handler") as process:
        assert next(lines_of(process)) == b"Query 'no-handler' dispatched\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert err == b""
    assert b"Total" not in out
