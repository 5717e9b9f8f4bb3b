"""Agents of both programs on two hosts find each other by multicast DNS."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from tests.interop.agents import ROOT, SERF, TRIOSERF, until
from tests.interop.namespaces import Host, two_hosts_or_skip

assert sys.platform != "win32"

pytestmark = pytest.mark.serf
GO = (str(SERF),)


@pytest.fixture(scope="module")
def hosts() -> Iterator[tuple[Host, Host]]:
    with two_hosts_or_skip() as both:
        yield both


class Agent:
    def __init__(
        self, host: Host, program: Sequence[str], name: str, *options: str, rpc: str
    ) -> None:
        self._host, self._rpc = host, f"-rpc-addr={rpc}"
        self.log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the agent
        self.process = subprocess.Popen(
            host.inside(
                *program, "agent", f"-node={name}", self._rpc, "-log-level=debug", *options
            ),
            stdout=self.log, stderr=subprocess.STDOUT, cwd=ROOT,
        )  # fmt: skip

    def log_text(self) -> str:
        # The agent shares the position in the file, so read without a change of it.
        return os.pread(self.log.fileno(), 1 << 20, 0).decode("utf-8", "replace")

    def members(self) -> set[str]:
        words = self._host.inside(*GO, "members", self._rpc, "-format=json", "-status=alive")
        done = subprocess.run(words, capture_output=True, check=False, timeout=30)
        if done.returncode:
            return set()
        return {one["name"] for one in json.loads(done.stdout)["members"]}

    def sees(self, *names: str) -> None:
        until(lambda: self.members() == set(names), what=self.log_text)


@contextmanager
def agent(
    host: Host, program: Sequence[str], name: str, *options: str, rpc: str = "127.0.0.1:7373"
) -> Iterator[Agent]:
    one = Agent(host, program, name, *options, rpc=rpc)
    try:
        until(lambda: name in one.members(), what=one.log_text)
        yield one
    finally:
        one.process.kill()
        one.process.wait()
        one.log.close()


@pytest.mark.parametrize(
    ("first", "second"),
    [(GO, TRIOSERF), (TRIOSERF, GO), (TRIOSERF, TRIOSERF)],
    ids=["serf-trioserf", "trioserf-serf", "trioserf-trioserf"],
)
@pytest.mark.parametrize("family", ["v4", "v6"])
def test_second_agent_joins_the_first(
    hosts: tuple[Host, Host], first: Sequence[str], second: Sequence[str], family: str
) -> None:
    one, two = hosts
    v6 = ("-iface=v0",) if family == "v6" else ()
    here, there = (f"[{one.v6}]", f"[{two.v6}]") if v6 else (one.v4, two.v4)
    with agent(one, first, "one", f"-bind={here}", "-discover=demo", *v6) as a:
        # Its own question was sent; the next follows in a minute.
        until(lambda: "mDNS cluster: demo" in a.log_text(), what=a.log_text)
        with agent(two, second, "two", f"-bind={there}", "-discover=demo", *v6) as b:
            b.sees("one", "two")
            a.sees("one", "two")
            until(lambda: "agent.mdns: Joined" in b.log_text(), what=b.log_text)
            assert f"{here}:7946" in b.log_text()


def test_clusters_with_different_names_stay_separate(hosts: tuple[Host, Host]) -> None:
    one, two = hosts
    with (
        agent(one, GO, "go", f"-bind={one.v4}", "-discover=demo") as a,
        agent(two, TRIOSERF, "other", f"-bind={two.v4}", "-discover=other", "-mdns-iface=v0") as b,
        agent(one, TRIOSERF, "third", f"-bind={one.v4}:7947", "-discover=demo", "-mdns-iface=v0",
              "-mdns-disable-ipv6", rpc="127.0.0.1:7374") as c,
    ):  # fmt: skip
        until(lambda: "agent.mdns: Joined 1 hosts" in c.log_text(), what=c.log_text)
        a.sees("go", "third")
        assert b.members() == {"other"}
