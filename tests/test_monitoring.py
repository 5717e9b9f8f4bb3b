"""Alert rules and dashboard: valid, and every metric that they use exists on an agent's page."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest
import trio
import trio.testing
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.control.http_agents import http_agent

assert sys.platform != "win32"

DIRECTORY: Final = Path(__file__).parent.parent / "scripts" / "monitoring"
RULES: Final = yaml.safe_load((DIRECTORY / "alerts.yml").read_text("utf-8"))
DASHBOARD: Final = json.loads((DIRECTORY / "grafana-dashboard.json").read_text("utf-8"))
METRIC: Final = re.compile(r"\b((?:serf|trioserf|process|python)_[a-z_]+)\b(?!\()")
SELECTOR: Final = re.compile(r"([a-z_]+)\{([^}]*)\}")


def rules() -> list[dict[str, Any]]:
    return [rule for group in RULES["groups"] for rule in group["rules"]]


def expressions() -> list[str]:
    panels = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    variables = [
        one["query"]["query"]
        for one in DASHBOARD["templating"]["list"]
        if isinstance(one["query"], dict)
    ]
    return [*(rule["expr"] for rule in rules()), *panels, *variables]


async def labels_by_metric() -> dict[str, set[str]]:
    """Return the names of all samples, with their labels, of an agent that does everything."""
    async with (
        http_agent(node_name="b") as other,
        http_agent(event_handlers=["user,query=true"]) as served,
    ):
        node = served.agent.node
        await served.agent.join([str(other.agent.node.bound)])
        await node.user_event("deploy")
        async with node.query("load", timeout=5.0) as results:
            async for _ in results:
                pass
        found: dict[str, set[str]] = {}
        with trio.fail_after(60):
            while "trioserf_memberlist_udp_received_total" not in found:
                await trio.testing.wait_all_tasks_blocked(0.01)
                served.agent.metrics.collect()
                page = (await served.get("/metrics")).body.decode()
                found = {
                    sample.name: set(sample.labels)
                    for family in text_string_to_metric_families(page)
                    for sample in family.samples
                }
        return found


async def test_every_used_metric_exists_with_its_labels() -> None:
    found = await labels_by_metric()
    used = {name for text in expressions() for name in METRIC.findall(text)}
    assert len(used) > 20
    assert used <= set(found), used - set(found)
    for text in expressions():
        for name, matchers in SELECTOR.findall(text):
            labels = set(re.findall(r'(\w+)=~?"', matchers))
            assert labels - {"job", "instance"} <= found[name], text


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: str(rule["alert"]))
def test_rule_is_complete(rule: dict[str, Any]) -> None:
    assert rule["alert"].startswith("Serf")
    assert rule["labels"]["severity"] in ("warning", "critical")
    assert set(rule["annotations"]) == {"summary", "description"}
    tests = (DIRECTORY / "alerts.test.yml").read_text("utf-8")
    assert f'alertname="{rule["alert"]}"' in tests


def test_panels_do_not_overlap() -> None:
    places: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & places, panel["title"]
        assert max(x for x, _ in cells) < 24
        places |= cells
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


@pytest.mark.skipif(shutil.which("promtool") is None, reason="Debian's package prometheus")
@pytest.mark.parametrize(
    "arguments", [("check", "rules", "alerts.yml"), ("test", "rules", "alerts.test.yml")]
)
def test_rules_pass_promtool(arguments: tuple[str, ...]) -> None:
    done = subprocess.run(
        ["promtool", *arguments], capture_output=True, text=True, timeout=60, check=False,
        cwd=DIRECTORY,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
