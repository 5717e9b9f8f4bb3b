"""Handlers of both programs: the same calls, each with the same environment and input."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

import trioserf
from tests.interop.agents import (
    ROOT,
    SERF,
    TRIOSERF,
    Cluster,
    Process,
    cluster,
    following,
    records,
    streams_have_begun,
    until,
)
from tests.interop.helpers import Call, Recorder

pytestmark = pytest.mark.serf

TAGS = {"role": "web", "a-b.c": "ü,1=2", "tab": "x\ty\nz", "empty": ""}
OBSERVED = ("go-a", "py-a")
PAYLOADS = ("", "plain", "two\nlines\n", "\n", "\udcff\udcfe")
"""The last one stands for the bytes FF FE, which are not UTF-8."""

Recorders = dict[str, Recorder]


@pytest.fixture(scope="module")
def recorders(tmp_path_factory: pytest.TempPathFactory) -> Recorders:
    folder = tmp_path_factory.mktemp("calls")
    return {name: Recorder(folder / name) for name in OBSERVED}


@pytest.fixture(scope="module")
def four(recorders: Recorders) -> Iterator[Cluster]:
    """Two agents with recorders, and two others that join them at the same time."""
    tags = [f"-tag={name}={value}" for name, value in TAGS.items()]
    with cluster(121) as mixed:
        mixed.start("go-a", recorders["go-a"].option, *tags)
        seed = f"-join={mixed.host('go-a')}"
        mixed.start("py-a", recorders["py-a"].option, seed, *tags)
        mixed.start("go-c")
        mixed.start("py-c", "-tag=role=db", f"-join={mixed.host('go-c')}")
        for name in ("go-a", "py-a"):
            until(lambda name=name: len(mixed.running[name].statuses()) == 2)  # type: ignore[misc]
        for recorder in recorders.values():
            recorder.wait("member-join", "py-a")
        assert mixed.running["py-c"].ask("join", mixed.host("go-a"))[0] == 0
        mixed.all_see("alive", *mixed.running)
        yield mixed


def same_call(recorders: Recorders, event: str, about: str) -> Call:
    """Wait for one call by each agent; return ours after a comparison with Serf's."""
    for recorder in recorders.values():
        recorder.wait(event, about)
    calls = {name: recorder.of(event, about) for name, recorder in recorders.items()}
    for name, made in calls.items():
        # Serf repeats an update with each later event.
        assert len(made) == 1 or (event, name) == ("member-update", "go-a"), made
        assert made[0].env.pop("SERF_SELF_NAME") == name
    (go, *_), (ours,) = calls["go-a"], calls["py-a"]
    # Serf has no variable for the agent's control port.
    assert ours.env.pop("SERF_RPC_ADDR").endswith(":7373")
    assert go.env == ours.env
    if event.startswith("member-"):
        # Serf writes tags in any order; members stand in the order in which they became known.
        assert go.members[about] == ours.members[about]
        assert event == "member-update" or go.members == ours.members
    else:
        assert go.stdin == ours.stdin
    return ours


def test_burst_of_joins_is_one_call(four: Cluster, recorders: Recorders) -> None:
    call = same_call(recorders, "member-join", "go-c")
    assert set(call.members) == {"go-c", "py-c"}
    assert call.members["py-c"] == (four.host("py-c"), "db", frozenset({"role=db"}))
    assert call.env == {
        "SERF_EVENT": "member-join",
        "SERF_SELF_ROLE": "web",
        "SERF_TAG_ROLE": "web",
        "SERF_TAG_A_B_C": "ü,1=2",
        "SERF_TAG_TAB": "x\ty\nz",
        "SERF_TAG_EMPTY": "",
    }


def test_member_with_control_characters_in_tags_is_one_line(
    four: Cluster, recorders: Recorders
) -> None:
    for name in ("go-c", "py-c"):
        assert four.running[name].ask("tags", "-set=tab=x\ty\nz", f"-set=role={name}")[0] == 0
        call = same_call(recorders, "member-update", name)
        tags = frozenset({"tab=x\\ty\\nz", f"role={name}"})
        assert call.members[name] == (four.host(name), name, tags)


@pytest.mark.parametrize("by", ["go-c", "py-c"])
def test_events_and_queries_of_both_agents_make_equal_calls(
    four: Cluster, recorders: Recorders, by: str
) -> None:
    for number, payload in enumerate(PAYLOADS):
        name = f"{by}-{number}"
        sender = four.running[by]
        assert sender.ask("event", "-coalesce=false", name, payload)[0] == 0
        assert sender.ask("query", "-timeout=200ms", "-no-ack", name, payload)[0] == 0
        expected = payload.encode("utf-8", "surrogateescape")
        if expected and not expected.endswith(b"\n"):
            expected += b"\n"
        event = same_call(recorders, "user", name)
        query = same_call(recorders, "query", name)
        assert event.stdin == query.stdin == expected
        assert int(event.env["SERF_USER_LTIME"]) > 0
        assert int(query.env["SERF_QUERY_LTIME"]) > 0


def test_name_with_nul_is_failed_run_of_both_agents(four: Cluster, recorders: Recorders) -> None:
    trio.run(lambda: send_at_once(four.running["py-c"], ["a\0b"], coalesce=False))
    for name in OBSERVED:
        log = four.running[name].log_text
        until(lambda log=log: "environment variable contains NUL" in log(), what=log)  # type: ignore[misc]
        assert not recorders[name].of("user", "a") + recorders[name].of("user", "ab")


async def send_at_once(agent: Process, names: list[str], *, coalesce: bool) -> list[int]:
    """Send events over one connection; return their Lamport times."""
    async with trioserf.connect(agent.rpc) as client:
        return [
            await client.event(name, str(number).encode(), coalesce=coalesce)
            for number, name in enumerate(names)
        ]


def test_events_of_one_name_are_coalesced_for_handlers_only(
    four: Cluster, recorders: Recorders
) -> None:
    with (
        following(four.running["py-a"], "--type=user") as single,
        following(four.running["py-a"], "--type=user", "--coalesce") as coalesced,
    ):
        streams_have_begun(four.running["go-a"], (single, coalesced))
        for attempt in range(5):
            many, once = f"many-{attempt}", f"once-{attempt}"
            names = [many, many, once, many, many]
            ltimes = trio.run(lambda: send_at_once(four.running["py-c"], names, coalesce=True))  # noqa: B023

            def received(path: Path) -> list[tuple[str, str]]:
                """Return the received events, sorted: queues do not keep the order."""
                return sorted(
                    (one["name"], one["payload"])
                    for one in records(path)
                    if one["name"] in names  # noqa: B023
                )

            until(lambda: len(received(single)) == 5)
            assert received(single) == sorted((name, str(i)) for i, name in enumerate(names))
            newest = [(many, "4"), (once, "2")]
            until(lambda: set(newest) <= set(received(coalesced)))  # noqa: B023

            def payloads(name: str) -> list[list[bytes]]:
                return [
                    [call.stdin for call in recorder.of("user", name)]
                    for recorder in recorders.values()
                ]

            until(lambda: all(calls[-1:] == [b"4\n"] for calls in payloads(many)))  # noqa: B023
            until(lambda: all(calls[-1:] == [b"2\n"] for calls in payloads(once)))  # noqa: B023
            if received(coalesced) == newest and payloads(many) == [[b"4\n"]] * 2:
                break  # else a busy machine took over a second between two events
        else:
            pytest.fail("five bursts of events were not coalesced")
        for name, payload in newest:
            call = same_call(recorders, "user", name)
            assert call.stdin.decode() == f"{payload}\n"
            assert call.env["SERF_USER_LTIME"] == str(ltimes[int(payload)])


def test_events_sent_without_coalescing_stay_single(four: Cluster, recorders: Recorders) -> None:
    trio.run(lambda: send_at_once(four.running["py-c"], ["each"] * 5, coalesce=False))
    for recorder in recorders.values():
        until(lambda recorder=recorder: len(recorder.of("user", "each")) == 5)  # type: ignore[misc]
        stdins = sorted(call.stdin for call in recorder.of("user", "each"))
        assert stdins == [b"%d\n" % number for number in range(5)]


def test_event_of_each_command_line_runs_handlers_of_both_agents(
    four: Cluster, recorders: Recorders
) -> None:
    """Each program sends it through an agent of the other."""
    assert SERF is not None
    for program, through, version in (([SERF], "py-c", "v1"), (TRIOSERF, "go-c", "v2")):
        command = [*program, "event", f"-rpc-addr={four.running[through].rpc}"]
        text = subprocess.check_output([*command, f"deploy-{version}", version], cwd=ROOT)
        assert text.decode() == f"Event 'deploy-{version}' dispatched! Coalescing enabled: true\n"
        call = same_call(recorders, "user", f"deploy-{version}")
        assert call.stdin.decode() == f"{version}\n"


def test_background_process_without_output_runs_on(tmp_path: Path) -> None:
    with cluster(126) as mixed:
        for name in OBSERVED:
            background = (
                f"(until [ -e {tmp_path}/go ]; do sleep 0.1; done; echo >{tmp_path}/{name})"
            )
            handler = f"-event-handler=user:go={background} >/dev/null 2>&1 & echo over"
            agent = mixed.start(name, handler, "-log-level=debug")
            assert agent.ask("event", "-coalesce=false", "go")[0] == 0
            until(lambda agent=agent: "script output: over" in agent.log_text())  # type: ignore[misc]
        (tmp_path / "go").touch()
        until(lambda: all((tmp_path / name).exists() for name in OBSERVED))


def test_pruned_member_is_reported_as_reaped_only(four: Cluster, recorders: Recorders) -> None:
    """The forced leave before the reaping makes no call of its own."""
    host = four.host("go-c")
    four.end("go-c")
    failed = same_call(recorders, "member-failed", "go-c")
    assert four.running["py-a"].ask("force-leave", "-prune", "go-c")[0] == 0
    reaped = same_call(recorders, "member-reap", "go-c")
    line = (host, "go-c", frozenset({"tab=x\\ty\\nz", "role=go-c"}))
    assert failed.members == reaped.members == {"go-c": line}
    assert not any(recorder.of("member-leave", "go-c") for recorder in recorders.values())


def test_leave_is_reported(four: Cluster, recorders: Recorders) -> None:
    four.leave("py-c")
    call = same_call(recorders, "member-leave", "py-c")
    assert set(call.members) == {"py-c"}


def test_info_of_both_agents_shows_the_handler(four: Cluster, recorders: Recorders) -> None:
    for name in OBSERVED:
        code, text = four.running[name].ask("info", "-format=json")
        assert code == 0
        shown = json.loads(text)["event_handlers"]
        assert list(shown.values()) == [recorders[name].script]
