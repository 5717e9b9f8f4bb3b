"""Lines on standard error about what both agents are silent on; output and code stay Serf's."""

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

import trioserf
from tests.cli.helpers import Printed, run_command
from tests.interop.agents import (
    TRIOSERF,
    AgentAddresses,
    agent,
    net,
    repeating,
    serf_cluster,
    until,
)

pytestmark = [pytest.mark.interop, pytest.mark.serf]
KINDS = pytest.mark.parametrize("cluster", ["serf", "trioserf"], indirect=True)
NETS = {"serf": net(3), "trioserf": net(4)}


@pytest.fixture(scope="module")
def clusters(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, AgentAddresses]]:
    path = tmp_path_factory.mktemp("explanations")
    with (
        serf_cluster(NETS["serf"], path / "theirs.json") as theirs,
        serf_cluster(NETS["trioserf"], path / "ours.json", TRIOSERF) as ours,
    ):
        yield {"serf": theirs, "trioserf": ours}


@pytest.fixture
def cluster(clusters: dict[str, AgentAddresses], request: pytest.FixtureRequest) -> AgentAddresses:
    return clusters[request.param]


def run(cluster: AgentAddresses, *words: str) -> Printed:
    return run_command(words, SERF_RPC_ADDR=cluster.first)


INVALID = "is not a valid regular expression: missing ): ("


@KINDS
@pytest.mark.parametrize(
    ("line", "explained"),
    [
        ("members -name=(", f"-name=( {INVALID}"),
        ("members -tag role=(", f"-tag role=( {INVALID}"),
        ("members -status=alve", "-status=alve matches no status: alive, leaving, left, failed"),
        ("members -tag role=x -tag role=web", "tag role is given twice: only role=web counts"),
        ("members -tag role=web -role=x", "-role=x has no effect beside -tag role"),
        ("query -timeout=300ms -tag role=( x", f"-tag role=( {INVALID}; no member responds"),
        ("query -timeout=300ms -tag role=cow x", "no live member matches -tag role=cow"),
        ("query -timeout=300ms -node=go-x x", "no member has the name 'go-x' (did you mean go-"),
        ("query -timeout=-1s x", "a negative -timeout ends the query at once"),
        ("tags -set x=1 -set x=1", "tag x is given twice: only x=1 counts"),
        ("force-leave go-x", "no member has the name 'go-x' (did you mean go-"),
        ("force-leave -prune go-x", "no member has the name 'go-x' (did you mean go-"),
        ("rtt go-x", "no member has the name 'go-x' (did you mean go-"),
        ("keys -list", "start the agents with -encrypt=KEY or -keyring-file=PATH"),
        ("keys -use=abc", "a key is 16, 24 or 32 bytes in base64: trioserf keygen makes one"),
        ("monitor -log-level=loud", "the levels are trace, debug, info, warn and err"),
        ("event big " + 1100 * "x", "the agents' key user_event_size_limit is the limit"),
    ],
)
def test_silence_is_explained_on_standard_error(
    cluster: AgentAddresses, line: str, explained: str
) -> None:
    printed = run(cluster, *line.split())
    assert printed.err.startswith(f"trioserf: {explained}")
    assert printed.err.count("\n") == 1


@KINDS
@pytest.mark.parametrize(
    "line",
    [
        "members -name=no-such",
        "members -status=failed",
        "query -timeout=300ms -tag role=w.b x",
        "query -timeout=300ms -node=go-a x",
        "query -timeout=300ms -no-ack x",
    ],
)
def test_results_that_may_be_empty_are_not_explained(cluster: AgentAddresses, line: str) -> None:
    printed = run(cluster, *line.split())
    assert (printed.code, printed.err) == (0, "")


@KINDS
def test_failed_member_of_a_query_is_explained(cluster: AgentAddresses) -> None:
    host = cluster.first.rpartition(".")[0]
    with agent(f"{host}.9", "go-x", f"-join={host}.1"):
        until(lambda: "go-x" in run(cluster, "members", "-status=alive").out)
    until(lambda: "go-x" in run(cluster, "members", "-status=failed").out, 40)
    printed = run(cluster, "query", "-timeout=300ms", "-node=go-x", "x")
    assert printed.err == "trioserf: the member 'go-x' is not alive: its status is failed\n"
    assert run(cluster, "force-leave", "-prune", "go-x") == Printed(0, "", "")


@KINDS
def test_explanations_are_errors_in_json(cluster: AgentAddresses) -> None:
    printed = run(cluster, "query", "-format=json", "-timeout=300ms", "-node=no-such", "x")
    assert printed.code == 0
    assert json.loads(printed.out) == {"Acks": None, "Responses": {}}
    assert json.loads(printed.err)["error"]["code"] == "no_such_member"
    for line, code in (
        ("members -name=( -format=json", "invalid_filter"),
        ("force-leave --format=json no-such", "no_such_member"),
        ("force-leave -prune --format=json no-such", "no_such_member"),
    ):
        printed = run(cluster, *line.split())
        assert (printed.code, printed.err) == (1, "")
        assert json.loads(printed.out)["error"]["code"] == code
        assert "client closed" not in printed.out


@KINDS
def test_results_in_json_have_numbers_and_what_the_socket_reports(
    cluster: AgentAddresses, clusters: dict[str, AgentAddresses]
) -> None:
    ours = cluster is clusters["trioserf"]
    ltime = json.loads(run(cluster, "event", "--format=json", "x").out)["ltime"]
    assert (ltime > 0) if ours else (ltime is None)
    tags = json.loads(run(cluster, "tags", "-set", "n=1", "--format=json").out)["tags"]
    assert tags is None or (tags["n"], tags["role"]) == ("1", "web")
    groups = json.loads(run(cluster, "info", "--format=json").out)
    assert groups["serf"]["members"] == 2
    assert groups["serf"]["encrypted"] is False
    assert groups["tags"]["n"] == "1"
    as_serf = json.loads(run(cluster, "info", "-format=json").out)
    assert as_serf["serf"]["members"] == "2"


def test_info_describes_the_agent(clusters: dict[str, AgentAddresses], tmp_path: Path) -> None:
    cluster = clusters["trioserf"]
    agents = json.loads(run(cluster, "info", "--format=json").out)["agent"]
    assert agents["name"] == "go-a"
    assert agents["version"] == trioserf.__version__
    assert Path(f"/proc/{agents['pid']}/cmdline").read_bytes().count(b"go-a") == 1
    assert agents["uptime"] > 0
    assert agents["advertise"] == f"{NETS['trioserf']}.1:7946"
    assert agents["config_files"] == []
    secret = ("info", f"-rpc-addr={cluster.secret}", "-rpc-auth=s3cret")
    [file] = json.loads(run(cluster, *secret, "--format=json").out)["agent"]["config_files"]
    assert json.loads(Path(file).read_text()) == {"rpc_auth": "s3cret"}
    assert f"\tconfig_files = {file}\n" in run(cluster, *secret).out


@KINDS
@pytest.mark.parametrize(
    ("command", "field"), [("monitor -log-level=debug", "log"), ("stream user:seen", "event")]
)
def test_followers_write_json_lines_if_asked_for(
    cluster: AgentAddresses, clusters: dict[str, AgentAddresses], command: str, field: str
) -> None:
    with cluster.follow(*command.split(), "--format=json") as process:
        assert process.stdout is not None
        with repeating(lambda: run(cluster, "event", "-coalesce=false", "seen")):
            record = json.loads(process.stdout.readline())
    assert field in record
    if field == "event" and cluster is clusters["serf"]:
        assert "time" not in record  # Serf's RPC has none
        return
    text = record["log"]["time"] if field == "log" else record["time"]
    assert re.fullmatch(r"[\d-]{10}T[\d:]{8}\.\d{3}Z", text)
    assert abs((datetime.now(UTC) - datetime.fromisoformat(text)).total_seconds()) < 600
