"""A short form of `scripts/chaos` with real agents, its plan, and how it judges its records."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from itertools import pairwise
from math import inf
from typing import Any

import pytest

from tests.interop.agents import ROOT
from tests.interop.chaos import KINDS, LANES, plan
from tests.interop.chaos_report import (
    Asked,
    Disturbance,
    Journal,
    Report,
    Run,
    Sample,
    Sent,
    judge,
)

assert sys.platform == "linux"

# --- agents ---

SHORT_FORM = ("kill", "stop", "descriptors", "cut", "disk")


def chaos(*options: str) -> tuple[int, dict[str, Any]]:
    """Run the program; return its exit code and report. Skip if namespaces cannot be made."""
    done = subprocess.run(
        [sys.executable, "scripts/chaos", "--json", *options],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=580,
    )  # fmt: skip
    if done.returncode == 2 and "usage:" not in done.stderr:
        pytest.skip(f"CHAOS IS NOT TESTED: {done.stderr}")
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


@pytest.mark.serf
def test_disturbed_cluster_heals_without_doubled_events_and_leaks() -> None:
    code, report = chaos(
        "--program=mixed", "--agents=3", "--minutes=0.4", "--seed=134",
        f"--only={','.join(SHORT_FORM)}",
    )  # fmt: skip
    text = json.dumps(report, indent=1)
    assert report["problems"] == [], text
    assert code == 0
    assert set(report["disturbances"]) == set(SHORT_FORM), text
    assert report["sent"] > 10, text
    assert report["asked"] > 2, text
    assert [one for one in report["lost"] if not one["during"]] == [], text


# --- the plan ---

AGENTS = ["py-a", "go-b", "py-c"]


def test_plan_is_repeatable_by_seed() -> None:
    assert plan(1, 600, KINDS, AGENTS) == plan(1, 600, KINDS, AGENTS)
    assert plan(1, 600, KINDS, AGENTS) != plan(2, 600, KINDS, AGENTS)


def test_plan_has_every_kind_equally_often() -> None:
    for lane, steps in zip(LANES, plan(1, 600, KINDS, AGENTS), strict=True):
        counts = [sum(step.kind == kind for step in steps) for kind in lane]
        assert min(counts) > 5
        assert max(counts) - min(counts) <= 1
        assert all(one.at + one.seconds < two.at for one, two in pairwise(steps))
        assert steps[-1].at + steps[-1].seconds <= 600


def test_plan_never_kills_the_first_agent_nor_steps_clocks_of_go() -> None:
    steps = [step for lane in plan(1, 3600, KINDS, AGENTS) for step in lane]
    assert {step.agent for step in steps if step.kind in ("kill", "dns")} == {"go-b", "py-c"}
    assert {step.agent for step in steps if step.kind == "clock"} == {"py-a", "py-c"}
    assert {step.agent for step in steps if step.kind == "stop"} == set(AGENTS)


# --- judging ---


def judged(journal: Journal) -> Report:
    return judge(
        journal, program="mixed", seed=1, minutes=1, skipped={"loss": "no netem"}, max_growth=20
    )


def run(agent: str, number: int = 1, *events: str, ready: float = 1, ended: float = inf) -> Run:
    """Return a run that received these events one second after they were sent, at 100 s."""
    streamed = [(101.0, event) for event in events]
    return Run(agent, number, ready - 1, ready, ended, streamed=streamed, handled=[*events])


def journal(
    *runs: Run, sent: Sequence[Sent] = (), disturbances: Sequence[Disturbance] = ()
) -> Journal:
    return Journal(list(runs), list(disturbances), list(sent))


EVENT = Sent("e", "py-a", 100)


def test_quiet_run_has_no_problems() -> None:
    report = judged(journal(run("py-a", 1, "e"), run("go-b", 1, "e"), sent=[EVENT]))
    assert (report.problems, report.lost, report.sent) == ([], [], 1)
    text = report.text()
    assert "1 sent, 0 lost" in text
    assert "SKIPPED       loss: no netem" in text
    assert text.endswith("no problems")


def test_event_is_lost_that_never_arrives_at_an_agent_that_was_up() -> None:
    cut = Disturbance("cut", "go-b", 99, 120)
    runs = run("py-a", 1, "e"), run("go-b")
    (lost,) = judged(journal(*runs, sent=[EVENT])).lost
    assert (lost.agent, lost.during) == ("go-b", ())
    (lost,) = judged(journal(*runs, sent=[EVENT], disturbances=[cut])).lost
    assert lost.during == ("cut go-b",)
    runs[1].ended = 250  # push/pulls may still have brought it
    assert judged(journal(*runs, sent=[EVENT], disturbances=[cut])).lost == []


@pytest.mark.parametrize(
    "receiver", [run("go-b", ready=99), run("go-b", ended=150)], ids=["new", "ended"]
)
def test_event_is_not_lost_at_an_agent_that_was_not_up_before_and_after(receiver: Run) -> None:
    assert judged(journal(run("py-a", 1, "e"), receiver, sent=[EVENT])).lost == []


@pytest.mark.parametrize(
    ("ended", "disturbances"), [(101, []), (150, [Disturbance("cut", "py-a", 90, 140)])]
)
def test_event_of_a_sender_that_ended_is_uncertain(
    ended: float, disturbances: list[Disturbance]
) -> None:
    runs = run("py-a", 1, "e", ended=ended), run("go-b")
    report = judged(journal(*runs, sent=[EVENT], disturbances=disturbances))
    assert (report.lost, report.uncertain) == ([], 1)


def test_event_that_was_delivered_before_and_after_a_restart_is_a_problem() -> None:
    runs = run("py-a", 1, "e", ended=110), run("py-a", 2, "e", ready=112)
    report = judged(journal(*runs, sent=[EVENT]))
    assert [one.what for one in report.replayed] == ["e"]
    assert report.problems == ["1 events were replayed"]


@pytest.mark.parametrize(
    ("ended", "disturbances"),
    [
        (101.5, []),
        (110, [Disturbance("disk", "py-a", 50, 70)]),
        (110, [Disturbance("descriptors", "py-a", 90, 95)]),
    ],
)
def test_replay_is_not_a_problem_if_the_snapshot_could_not_have_the_event(
    ended: float, disturbances: list[Disturbance]
) -> None:
    runs = run("py-a", 1, "e", ended=ended), run("py-a", 2, "e", ready=112)
    report = judged(journal(*runs, sent=[EVENT], disturbances=disturbances))
    assert (report.replayed, report.late_replays, report.problems) == ([], 1, [])


@pytest.mark.parametrize(("agent", "is_problem"), [("py-a", True), ("go-b", False)])
def test_doubled_event_is_a_problem_of_our_agents_only(agent: str, is_problem: bool) -> None:
    report = judged(journal(run(agent, 1, "e", "e"), sent=[Sent("e", agent, 100)]))
    assert len(report.doubled) == 2  # in the stream, and at the handler
    assert bool(report.problems) == is_problem


@pytest.mark.parametrize(("agent", "is_problem"), [("py-a", True), ("go-b", False)])
def test_agent_that_died_by_itself_is_reported(agent: str, is_problem: bool) -> None:
    ended = run(agent, ended=50)
    ended.by_itself = "exit code 1"
    report = judged(journal(ended))
    assert report.died == [f"{agent}, run 1, 50.0 s: exit code 1"]
    assert bool(report.problems) == is_problem


def test_query_is_incomplete_without_the_response_of_an_agent_that_was_up() -> None:
    asked = Asked("py-a", 100, frozenset(["py-a"]))
    records = journal(run("py-a"), run("go-b"), run("py-c", ready=99))
    records.asked = [asked]
    report = judged(records)
    assert [one.agent for one in report.incomplete] == ["go-b"]
    assert (report.complete, report.incomplete_disturbed) == (0, 0)
    records.disturbances = [Disturbance("stop", "go-b", 80, 95)]
    report = judged(records)
    assert (report.complete, report.incomplete_disturbed, report.incomplete) == (0, 1, [])
    records.asked = [Asked("py-a", 100, frozenset(["py-a", "go-b"]))]
    assert judged(records).complete == 1


def test_failure_is_false_if_the_member_was_undisturbed() -> None:
    observers = run("py-a"), run("py-c")
    for observer in observers:
        observer.failed.append((100, "go-b"))
    records = journal(*observers, run("go-b"))
    records.disturbances = [Disturbance("loss", "", 80, 95)]
    report = judged(records)
    (false,) = report.false_failures
    assert report.declared_failed == 2
    assert (false.member, false.by, false.during) == ("go-b", ("py-a", "py-c"), ("loss",))


@pytest.mark.parametrize(
    ("runs", "disturbances"),
    [
        ([run("go-b")], [Disturbance("stop", "go-b", 80, 90)]),
        ([run("go-b")], [Disturbance("cut", "go-b", 80, 90)]),
        ([run("go-b", ended=70)], []),
        ([run("go-b", ended=10), run("go-b", 2, ready=90)], []),
    ],
)
def test_failure_of_a_disturbed_or_restarted_member_is_not_false(
    runs: list[Run], disturbances: list[Disturbance]
) -> None:
    observer = run("py-a")
    observer.failed.append((100, "go-b"))
    assert judged(journal(observer, *runs, disturbances=disturbances)).false_failures == []


def sampled(agent: str, *samples: tuple[float, int]) -> Run:
    """Return a run with these amounts of memory and descriptors, ten seconds apart."""
    one = run(agent)
    one.samples = [Sample(10.0 * number, *each) for number, each in enumerate(samples, 1)]
    return one


def test_growth_of_memory_over_the_bound_is_a_problem() -> None:
    report = judged(journal(sampled("py-a", (40, 9), (45, 9), (50, 9), (61, 9))))
    assert report.problems == ["the memory of py-a grew by 21.0 MB, over 20"]
    assert judged(journal(sampled("py-a", (40, 9), (70, 9), (50, 9), (60, 9)))).problems == []
    assert judged(journal(sampled("go-a", (40, 9), (45, 9), (50, 9), (61, 9)))).problems == []


def test_descriptors_that_stay_open_are_a_problem() -> None:
    busy = [(40.0, 30)] * 4
    report = judged(journal(sampled("py-a", (40, 9), *busy, *busy)))
    assert report.problems == ["py-a has 30 open descriptors, 9 at the start"]
    assert judged(journal(sampled("py-a", (40, 9), *busy, (40, 9)))).problems == []


def test_unknown_disturbance_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, "scripts/chaos", "--only=kill,flood"],
        cwd=ROOT, capture_output=True, text=True, check=False, env=os.environ, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert "unknown: flood; known: kill, stop" in done.stderr
