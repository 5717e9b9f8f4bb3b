"""Every program in scripts/examples runs with an agent, if its language is on this machine."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.interop.agents import NET, ROOT, TRIOSERF, AgentAddresses, agent, read_to, until

EXAMPLES = ROOT / "scripts" / "examples"
CLIENTS = {
    "client.py": ([sys.executable], "from Python"),
    "client.sh": (["sh"], "from a shell"),
    "client.mjs": (["node"], "from Node.js"),
    "client.go": (["go", "run"], "from Go"),
}
TESTED = {*CLIENTS, "embed.py", "handler.sh"}


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file in which the example of a handler writes."""
    return tmp_path_factory.mktemp("examples") / "events.log"


@pytest.fixture(scope="module")
def cluster(log: Path) -> Iterator[AgentAddresses]:
    """An agent that runs the example of a handler."""
    handler = f"--event-handler=*=HANDLER_LOG={log} {EXAMPLES}/handler.sh"
    with agent(f"{NET}.170", "ex-a", "--tag=role=web", handler, program=TRIOSERF) as address:
        running = AgentAddresses(address, "", "")
        until(lambda: running.ask(TRIOSERF, "info")[0] == 0)
        yield running


@contextmanager
def run_example(
    command: Sequence[str], *words: str, home: Path
) -> Iterator["subprocess.Popen[str]"]:
    """Run a program in an empty home directory; kill it when the block ends."""
    env = {**os.environ, "HOME": str(home), "TRIOSERF": " ".join(TRIOSERF)}
    with subprocess.Popen(
        [*command, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
        env={**env, "PYTHONPATH": str(ROOT)},
    ) as run:  # fmt: skip
        try:
            yield run
        finally:
            run.kill()


def test_every_example_is_tested() -> None:
    assert {path.name for path in EXAMPLES.iterdir() if path.suffix != ".md"} == TESTED


@pytest.mark.parametrize("name", CLIENTS)
def test_client_lists_members_and_receives_its_event(
    cluster: AgentAddresses, tmp_path: Path, name: str
) -> None:
    command, payload = CLIENTS[name]
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    with run_example([*command, str(EXAMPLES / name)], cluster.first, home=tmp_path) as client:
        out, err = client.communicate(timeout=120)
    assert (client.returncode, err) == (0, "")
    assert out == f"ex-a alive\nhello {payload}\n"


@pytest.mark.parametrize("name", CLIENTS)
def test_client_without_agent_fails(tmp_path: Path, name: str) -> None:
    command, _ = CLIENTS[name]
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    with run_example([*command, str(EXAMPLES / name)], f"{NET}.171:7373", home=tmp_path) as client:
        _, err = client.communicate(timeout=120)
    assert client.returncode != 0
    assert "refused" in err.lower()


def test_handler_logs_events_and_answers_query(cluster: AgentAddresses, log: Path) -> None:
    assert cluster.ask(TRIOSERF, "event", "--coalesce=false", "deploy", "v1 $(id)")[0] == 0
    code, text = cluster.ask(TRIOSERF, "query", "uptime")
    assert code == 0
    assert "Response from 'ex-a':" in text
    assert "load average" in text
    expected = {
        f"member-join ex-a {cluster.first.partition(':')[0]}",
        "user deploy v1 $(id)",
        "query uptime",
    }
    until(lambda: expected <= set(log.read_text().splitlines()), what=log.read_text)


def test_embedded_node_joins_answers_and_leaves(cluster: AgentAddresses, tmp_path: Path) -> None:
    seed = cluster.first.replace("7373", "7946")
    command = [sys.executable, "-W", "error", str(EXAMPLES / "embed.py")]
    with run_example(command, "ex-b", f"{NET}.172:7946", seed, home=tmp_path) as node:
        assert node.stdout is not None
        read_to(node.stdout, "ready\n")
        text = cluster.ask(TRIOSERF, "query", "-node=ex-b", "load")[1]
        assert "Response from 'ex-b': " in text
        assert cluster.ask(TRIOSERF, "event", "stop")[0] == 0
        _, err = node.communicate(timeout=30)
    assert (node.returncode, err) == (0, "")
    until(lambda: "ex-b" in cluster.ask(TRIOSERF, "members", "-status=left")[1])
