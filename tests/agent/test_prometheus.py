"""The page of metrics for Prometheus."""

import re
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from prometheus_client.parser import text_string_to_metric_families

from tests.agent.helpers import sample
from trioserf._version import __version__
from trioserf.agent.agent import Agent, open_agent
from trioserf.agent.config import AgentConfig
from trioserf.agent.logs import open_logs
from trioserf.agent.metrics import Report
from trioserf.agent.prometheus import PrometheusPage
from trioserf.settings import build
from trioserf.wire import errors

assert sys.platform != "win32"

HOST = "127.18.7.1"

REPORT = Report(
    {
        "memberlist.health.score": 2,
        "runtime.sys_bytes": 1e6,
        "memberlist.node.instances.alive": 5,
        "memberlist.node.instances.left": 1,
    },
    "serf-agent.host.",
    {
        "serf-agent.memberlist.udp.sent": sample(40, 2),
        "serf-agent.serf.events": sample(1, 1),
        "serf-agent.serf.events.dep loy": sample(1),
        'serf-agent.serf.events."': sample(1),
    },
    {
        "serf-agent.memberlist.probeNode": [1.5, 2.5],
        "serf-agent.agent.invoke./opt/notify.sh --key=secret": [3],
    },
)


def values(page: bytes) -> dict[tuple[str, str], float]:
    return {
        (sample.name, "".join(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(page.decode())
        for sample in family.samples
    }


def test_page_sums_up_reports() -> None:
    page = PrometheusPage()
    page.record(REPORT)
    page.record(REPORT)
    assert values(page.text()) == {
        ("trioserf_memberlist_health_score", ""): 2,
        ("trioserf_runtime_sys_bytes", ""): 1e6,
        ("trioserf_memberlist_node_instances", "alive"): 5,
        ("trioserf_memberlist_node_instances", "left"): 1,
        ("trioserf_memberlist_udp_sent_total", ""): 84,
        ("trioserf_serf_events_total", ""): 4,
        ("trioserf_serf_events_by_name_total", "dep loy"): 2,
        ("trioserf_serf_events_by_name_total", '"'): 2,
        ("trioserf_memberlist_probeNode_count", ""): 4,
        ("trioserf_memberlist_probeNode_sum", ""): 8,
        ("trioserf_agent_invoke_milliseconds_count", "notify.sh"): 2,
        ("trioserf_agent_invoke_milliseconds_sum", "notify.sh"): 6,
    }


def test_names_of_events_that_are_not_utf8_are_on_the_page() -> None:
    page = PrometheusPage()
    for name in ("\udc80", "\udc81", "é"):
        page.record(Report({}, "", {f"serf-agent.serf.events.{name}": sample(1)}, {}))
    assert values(page.text()) == {
        ("trioserf_serf_events_by_name_total", "?"): 2,
        ("trioserf_serf_events_by_name_total", "é"): 1,
    }


def test_label_values_are_bounded() -> None:
    page = PrometheusPage()
    for number in range(3000):
        page.record(Report({}, "", {f"serf-agent.serf.events.{number}": sample(1)}, {}))
    totals = values(page.text())
    assert len(totals) <= 1025
    assert sum(totals.values()) == 3000
    assert totals["trioserf_serf_events_by_name_total", "others"] == 3000 - 1024


@pytest.mark.parametrize(
    ("script", "label"),
    [
        ("notify", "notify"),
        ("/usr/bin/notify.sh --key=secret", "notify.sh"),
        ("KEY=secret PATH=/bin:/opt  ./notify-2 x", "notify-2"),
        ("curl -H 'Authorization: secret' http://host", "curl"),
        ("KEY='a secret' notify", "script"),
        ("KEY=$(cat secret) notify", "script"),
        ("(echo secret)", "script"),
        ("secret;notify", "script"),
        ("", "script"),
    ],
)
def test_label_of_a_script_is_its_program(script: str, label: str) -> None:
    page = PrometheusPage()
    page.record(Report({}, "", {}, {f"serf-agent.agent.invoke.{script}": [3]}))
    assert ("trioserf_agent_invoke_milliseconds_sum", label) in values(page.text())


def config(**values: Any) -> AgentConfig:
    defaults = {
        "node_name": "a", "bind": f"{HOST}:0", "rpc_addr": (f"{HOST}:0",),
        "http_addr": f"{HOST}:0",
    }  # fmt: skip
    return build(AgentConfig, defaults | values)


def page_of(agent: Agent) -> dict[tuple[str, str], float]:
    assert agent.page is not None
    return values(agent.page.text())


async def test_page_of_an_agent_has_its_figures(tmp_path: Path) -> None:
    handlers = ["user:good=true", "user:bad=false", "user:slow=sleep 60", "user:good=true --again"]
    timings = {"handler_timeout": 0.5, "handler_queue": 1}
    with open_logs("ERR") as logs:
        async with (
            open_agent(config(event_handlers=handlers, **timings), logs) as agent,
            open_agent(config(node_name="b"), logs) as other,
        ):
            before = page_of(agent)
            assert before["serf_members", "alive"] == 1
            assert [before["serf_members", one] for one in ("leaving", "left", "failed")] == [
                0
            ] * 3
            assert before["trioserf_handler_runs_total", "user:goodtrue"] == 0
            assert before["trioserf_build_info", _python() + __version__] == 1
            assert abs(before["trioserf_start_time_seconds", ""] - time.time()) < 600  # noqa: TID251
            assert ("serf_last_push_pull_timestamp_seconds", "") not in before
            for kind in errors.KINDS:
                assert before["serf_dropped_total", kind] == 0
            for name in (
                "serf_suspects", "serf_health_score", "serf_member_flaps_total",
                "process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds",
            ):  # fmt: skip
                assert (name, "") in before
            assert {label for name, label in before if name == "serf_queue_depth"} >= {
                *("inbox", "event", "query", "intent", "membership"),
            }
            await agent.join([str(other.node.bound)])
            for name in ("good", "bad", "slow"):
                await agent.node.user_event(name)
            with trio.fail_after(60):
                while page_of(agent)["trioserf_handler_timeouts_total", "user:slowsleep"] < 1:
                    await trio.testing.wait_all_tasks_blocked(0.01)
                while page_of(agent)["trioserf_handler_failures_total", "user:badfalse"] < 1:
                    await trio.testing.wait_all_tasks_blocked(0.01)
            after = page_of(agent)
    assert after["serf_members", "alive"] == 2
    # Two handlers with one program are one series.
    assert after["trioserf_handler_runs_total", "user:goodtrue"] == 2
    assert after["trioserf_handler_failures_total", "user:slowsleep"] == 1
    assert after["trioserf_handler_duration_seconds_count", "user:slowsleep"] == 1
    assert after["trioserf_handler_duration_seconds_sum", "user:slowsleep"] >= 0.5
    assert after["trioserf_handler_duration_seconds_bucket", "user:slow0.1sleep"] == 0
    assert after["trioserf_handler_duration_seconds_bucket", "user:slow+Infsleep"] == 1
    assert abs(after["serf_last_push_pull_timestamp_seconds", ""] - time.time()) < 600  # noqa: TID251


def _python() -> str:
    return ".".join(map(str, sys.version_info[:3]))


async def test_agent_without_http_has_no_page() -> None:
    with open_logs("ERR") as logs:
        async with open_agent(config(http_addr=""), logs) as agent:
            assert agent.page is None


async def test_every_family_has_a_text_and_one_block() -> None:
    with open_logs("ERR") as logs:
        async with open_agent(config(), logs) as agent:
            agent.metrics.collect()
            assert agent.page is not None
            text = agent.page.text().decode()
    families = list(text_string_to_metric_families(text))
    names = [family.name for family in families]
    assert len(names) == len(set(names))
    for family in families:
        assert len(family.documentation) > len(family.name) or " " in family.documentation
    kinds = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(kinds) == len(set(kinds))


def test_kinds_of_drops_are_those_that_are_raised() -> None:
    raised = set()
    package = Path(errors.__file__).parent.parent
    for path in package.rglob("*.py"):
        raised |= set(re.findall(r'WireError\(\s*"([a-z-]+)"', path.read_text("utf-8")))
    assert raised - {"not-allowed"} <= set(errors.KINDS)
    assert errors.WireError.__doc__ is not None
    documented = re.findall(r"- `([a-z-]+)`", errors.WireError.__doc__)
    assert sorted(documented) == sorted(errors.KINDS)
