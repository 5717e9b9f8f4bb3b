"""`serf` and `trioserf` get the results from our agent that `serf` gets from its own."""

import json
import re
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import NamedTuple

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
THEIR_NET, OUR_NET = net(1), net(2)
REAL = (str(SERF),)
PROGRAMS = pytest.mark.parametrize("program", [REAL, TRIOSERF], ids=["serf", "trioserf"])


class Both(NamedTuple):
    """Two clusters: Serf's agents, and trioserf's; the second agent of each is Serf's."""

    theirs: AgentAddresses
    ours: AgentAddresses

    def ask(
        self, program: Sequence[str], words: Sequence[str], which: str = "first"
    ) -> tuple[tuple[int, str], tuple[int, str]]:
        """Return the result of `serf` with its own agent, and that of a program with ours."""
        jobs = [(REAL, THEIR_NET, self.theirs), (program, OUR_NET, self.ours)]

        def run(job: tuple[Sequence[str], str, AgentAddresses]) -> tuple[int, str]:
            by, here, cluster = job
            line = [word.replace(NET, here) for word in words]
            code, text = cluster.ask(by, *line, addr=getattr(cluster, which))
            return code, text.replace(here, NET)

        with ThreadPoolExecutor() as pool:
            theirs, ours = pool.map(run, jobs)
        return theirs, ours


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    path = tmp_path_factory.mktemp("drop-in")
    with ExitStack() as stack:
        theirs = stack.enter_context(serf_cluster(THEIR_NET, path / "theirs.json"))
        ours = stack.enter_context(serf_cluster(OUR_NET, path / "ours.json", TRIOSERF))
        yield Both(theirs, ours)


COMPARED = [words for words in COMMAND_LINES if words[0] != "info"]


@PROGRAMS
@pytest.mark.parametrize("words", COMPARED, ids=lambda words: " ".join(words)[:40])
def test_output_equals_serf(both: Both, program: Sequence[str], words: list[str]) -> None:
    theirs, ours = both.ask(program, words)
    assert (ours[0], normalise_output(ours[1])) == (theirs[0], normalise_output(theirs[1]))


@PROGRAMS
@pytest.mark.parametrize("words", LINES_WITHOUT_KEY, ids=" ".join)
def test_rejection_without_key_equals_serf(
    both: Both, program: Sequence[str], words: list[str]
) -> None:
    theirs, ours = both.ask(program, words, "secret")
    assert ours == theirs


@PROGRAMS
def test_response_to_right_and_wrong_key_equals_serf(both: Both, program: Sequence[str]) -> None:
    for key in ("s3cret", "wrong"):
        theirs, ours = both.ask(program, ["members", f"-rpc-auth={key}"], "secret")
        assert ours == theirs


@PROGRAMS
def test_info_has_every_value_of_serf(both: Both, program: Sequence[str]) -> None:
    theirs, ours = both.ask(program, ["info", "-format=json"])
    assert ours[0] == theirs[0]
    own, reference = json.loads(ours[1]), json.loads(theirs[1])
    assert set(own) - {"handler_stats"} == set(reference)  # an extension
    for group, values in reference.items():
        if group != "runtime":
            assert set(values) <= set(own[group]), group
    same = ("members", "failed", "left", "health_score", "encrypted")
    assert [own["serf"][one] for one in same] == [reference["serf"][one] for one in same]
    assert own["tags"] == reference["tags"]
    assert own["event_handlers"] == reference["event_handlers"]
    assert own["agent"]["name"] == reference["agent"]["name"]
    text = both.ask(program, ["info"])[1][1]
    for group, values in reference.items():
        assert f"{group}:\n" in text
        assert group == "runtime" or all(f"\t{name} = " in text for name in values)


@PROGRAMS
def test_force_leave_of_failed_member_equals_serf(both: Both, program: Sequence[str]) -> None:
    with ExitStack() as stack:
        for here in (THEIR_NET, OUR_NET):
            stack.enter_context(agent(f"{here}.9", "go-x", f"-join={here}.1"))
        until(lambda: all_show(both, "go-x.*alive"))
    until(lambda: all_show(both, "go-x.*failed"), 40)
    for words in (
        ["members", "-status=failed"],
        ["force-leave", "go-x"],
        ["members", "-status=left", "-format=json"],
        ["force-leave", "-prune", "go-x"],
        ["members", "-name=go-x"],
        ["force-leave", "go-x"],
    ):
        theirs, ours = both.ask(program, words)
        assert ours == theirs, words


def all_show(both: Both, wanted: str) -> bool:
    return all(re.search(wanted, one.ask(REAL, "members")[1]) for one in both)


@PROGRAMS
def test_monitor_shows_log_and_events_as_serf(both: Both, program: Sequence[str]) -> None:
    events = []
    # Our agent adds milliseconds to the time of Serf's.
    for by, cluster, time in (
        (REAL, both.theirs, r"[\d:]{8}"),
        (program, both.ours, r"[\d:]{8}\.\d{3}"),
    ):
        with cluster.follow("monitor", "-log-level=debug", program=by) as process:
            send = partial(cluster.ask, REAL, "event", "-coalesce=false", "seen", "ü<b>")
            with repeating(send):
                events.append(event_of(process, time))
    assert events[1] == events[0]


def event_of(process: "subprocess.Popen[bytes]", time: str) -> list[str]:
    """Return the event that was sent, as printed; check that lines of the log came before.

    Args:
        process: a monitor.
        time: an expression for the time in the lines of the log.
    """
    assert process.stdout is not None
    logged = False
    event: list[str] = []
    while data := process.stdout.readline():
        # The log may quote payloads that are not UTF-8.
        line = data.decode("utf-8", "surrogateescape").removesuffix("\n")
        if line.startswith("\t"):
            event.append(re.sub("LTime: .*", "LTime: N", line))
        elif line == "Event Info:":
            event = []
        elif re.match(rf"\d{{4}}(/\d\d){{2}} {time} \[[A-Z]+\] [a-z.]+: ", line):
            logged = True
        if len(event) == 5 and '\tName: "seen"' in event:
            assert logged
            return sorted(event)
    raise AssertionError("the monitor ended")


@PROGRAMS
def test_key_operations_equal_serf(program: Sequence[str]) -> None:
    key, other = (
        AgentAddresses("", "", "").ask(by, "keygen")[1].strip() for by in (REAL, program)
    )  # fmt: skip
    secret = f"-encrypt={key}"
    with ExitStack() as stack:
        start = stack.enter_context
        theirs = AgentAddresses(start(agent(f"{THEIR_NET}.4", "go-k", secret)), "", "")
        ours = AgentAddresses(
            start(agent(f"{OUR_NET}.4", "go-k", secret, program=TRIOSERF)), "", ""
        )
        both = Both(theirs, ours)
        until(lambda: all_show(both, "go-k"))
        for words in (
            ["-list"], ["-use", other], ["-install", other], ["-list"], ["-use", other],
            ["-remove", other], ["-remove", key], ["-remove", key], ["-list"],
        ):  # fmt: skip
            asked = both.ask(program, ["keys", *words])
            expected, actual = ((code, normalise_output(text)) for code, text in asked)
            assert actual == expected, words


@PROGRAMS
def test_leave_ends_agent(program: Sequence[str]) -> None:
    with ExitStack() as stack:
        start = stack.enter_context
        theirs = AgentAddresses(start(agent(f"{THEIR_NET}.5", "go-l")), "", "")
        ours = AgentAddresses(start(agent(f"{OUR_NET}.5", "go-l", program=TRIOSERF)), "", "")
        both = Both(theirs, ours)
        until(lambda: all_show(both, "go-l"))
        expected, actual = both.ask(program, ["leave"])
        assert actual == expected
        until(lambda: not any(one.ask(REAL, "members")[0] == 0 for one in both))
        expected, actual = both.ask(program, ["members"])
        assert actual == expected


@PROGRAMS
@pytest.mark.parametrize("how", ["leave", "kill"])
def test_monitor_ends_with_its_agent(program: Sequence[str], how: str) -> None:
    results = []
    for by, kind, here in ((REAL, (), THEIR_NET), (program, TRIOSERF, OUR_NET)):
        with ExitStack() as followers:
            with agent(f"{here}.6", "go-m", program=kind) as address:
                cluster = AgentAddresses(address, "", "")
                until(lambda cluster=cluster: cluster.ask(REAL, "members")[0] == 0)  # type: ignore[misc]
                process = followers.enter_context(cluster.follow("monitor", program=by))
                assert process.stdout is not None
                assert b"[INFO]" in process.stdout.readline()
                if how == "leave":
                    code, text = cluster.ask(REAL, "leave")
                    assert code == 0, text
            out, err = process.communicate(timeout=30)
        results.append((process.returncode, out.splitlines()[-3:], err))
    assert results[1] == results[0]
    assert results[0][0] == 1
