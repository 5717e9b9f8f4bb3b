"""The real `serf` command line prints the same with this server as with Serf's agent."""

import re
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio

from tests.control.helpers import RECORDED, FakeAgent, recorded_agent
from tests.interop.agents import SERF, as_newest
from trioserf.control.server.listener import open_control
from trioserf.serf.events import MemberEvent
from trioserf.serf.member import Member

pytestmark = [pytest.mark.interop, pytest.mark.serf]


@attrs.frozen
class Printed:
    code: int
    text: str


@asynccontextmanager
async def served(agent: FakeAgent, auth: str = "") -> AsyncIterator[str]:
    async with open_control(agent, ["127.15.0.3:0"], auth=auth) as server:
        yield server.addresses[0]


async def serf(address: str, *words: str) -> Printed:
    assert SERF is not None
    verb, *rest = words
    command = [SERF, verb, f"-rpc-addr={address}", *rest]
    with trio.fail_after(30):
        done = await trio.run_process(
            command, capture_stdout=True, stderr=subprocess.STDOUT, check=False
        )
    return Printed(done.returncode, done.stdout.decode())


def normalise_output(text: str) -> list[str]:
    """Sort lines and tags, which come from Go's maps, and replace numbers that vary."""
    text = re.sub(r"rtt: [\d.]+ ms", "rtt: N ms", text)
    text = re.sub(r"time(: | to last response: )[\d.]+ sec", r"time\1N sec", text)
    text = as_newest(text)
    text = re.sub(r"dial tcp \S+: connect: connection refused", "connection refused", text)
    text = re.sub(r"\S+=\S+,\S+", lambda tags: ",".join(sorted(tags[0].split(","))), text)
    return sorted(text.splitlines())


def groups_of(text: str) -> set[str]:
    """Return the headings of `serf info`."""
    return {line for line in text.splitlines() if line and not line.startswith(("\t", " "))}


@pytest.mark.parametrize(
    "recorded",
    [recorded for recorded in RECORDED if recorded["cli"][1:]],
    ids=lambda recorded: recorded["title"],
)
async def test_serf_prints_the_same_as_against_its_own_agent(recorded: dict[str, Any]) -> None:
    words = recorded["cli"][1:]
    async with served(recorded_agent()) as address:
        printed = await serf(address, *words)
    assert printed.code == recorded["exit"]
    if words[0] == "info":
        assert groups_of(printed.text) == groups_of(recorded["stdout"])
    else:
        assert normalise_output(printed.text) == normalise_output(recorded["stdout"])


async def test_serf_keys_succeeds_on_all_members() -> None:
    key = "T9jncgl9mbLus+baTTa7q7nPSUrXwbDi2dhbtqir37s="
    agent = recorded_agent()
    agent.node.installed_keys = [key]
    async with served(agent) as address:
        for flag in (f"-install={key}", f"-use={key}", "-list"):
            printed = await serf(address, "keys", flag)
            assert printed.code == 0, printed.text
        assert f"{key}  [2/2]" in printed.text


async def test_serf_reports_wrong_and_missing_rpc_auth() -> None:
    async with served(recorded_agent(), auth="sesame") as address:
        assert (await serf(address, "members", "-rpc-auth=sesame")).code == 0
        refused = await serf(address, "members", "-rpc-auth=simsalabim")
        assert refused.code == 1
        assert "Invalid authentication token" in refused.text
        missing = await serf(address, "members")
        assert missing.code == 1
        assert "Authentication required" in missing.text


async def test_serf_monitor_prints_log_and_events() -> None:
    agent = recorded_agent()
    agent.logs.write("INFO", "serf", "EventMemberJoin: vec-b 127.0.0.22")
    async with served(agent) as address:
        assert SERF is not None
        command = [SERF, "monitor", f"-rpc-addr={address}", "-log-level=info"]
        process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE)
        try:
            with trio.fail_after(20):
                await wait_for_output(agent, process)
        finally:
            process.kill()
            await process.wait()


async def wait_for_output(agent: FakeAgent, process: trio.Process) -> None:
    """Wait until it has printed the first line and then the later ones."""
    assert process.stdout is not None
    received = b""
    async with process.stdout:
        while b"EventMemberJoin: vec-b" not in received:
            received += await process.stdout.receive_some(65536)
        own: Member = agent.node.members()[0]
        agent.node.publish(MemberEvent("member-update", (own,)))
        await agent.node.user_event("deploy", b"v1")
        agent.logs.write("WARN", "agent", "late words")
        while b"late words" not in received:
            received += await process.stdout.receive_some(65536)
