"""An agent without free descriptors continues, and serves again when there are some."""

import resource
import socket
import sys
from contextlib import ExitStack

import pytest

from tests.interop.agents import (
    CONVERGED_WITHIN,
    STARTED_WITHIN,
    TRIOSERF,
    Process,
    cluster,
    until,
)

assert sys.platform == "linux"

pytestmark = pytest.mark.serf


def test_idle_clients_make_room_when_no_descriptor_is_free() -> None:
    with cluster(242) as mixed, ExitStack() as stack:
        agent = mixed.start("py-a")
        mixed.all_see("alive", "py-a")
        limits = resource.prlimit(agent.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(agent.pid, resource.RLIMIT_NOFILE, (64, limits[1]))
        for _ in range(100):
            stack.enter_context(socket.create_connection((agent.host, 7373), timeout=10))
        assert agent.ask("members")[0] == 0
        log = agent.log_text()
        assert log.count("Failed to accept client: Too many open files") == 1
        assert "Traceback" not in log


def test_limit_of_descriptors_is_raised_and_restored_for_scripts() -> None:
    with cluster(243) as mixed:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        low = ("sh", "-c", 'ulimit -S -n 100; exec "$@"', "sh", *TRIOSERF)
        handler = "-event-handler=query:limit=ulimit -S -n; ulimit -H -n"
        agent = mixed.running["py-a"] = Process(low, "py-a", 243, [handler])
        until(lambda: "py-a" in agent.members(), STARTED_WITHIN, agent.log_text)
        assert resource.prlimit(agent.pid, resource.RLIMIT_NOFILE) == (hard, hard)
        assert f"Response from 'py-a': 100\n{hard}" in agent.ask("query", "limit")[1]
        assert "this process may open" not in agent.log_text()


def test_agent_without_free_descriptors_continues() -> None:
    """Filters of queries and control characters in the log would import modules."""
    with cluster(241) as mixed:
        other = mixed.start("go-a")
        agent = mixed.start(
            "py-a", f"-join={mixed.host('go-a')}", "-tag=role=web", "-log-level=debug",
            "-event-handler=user=echo x",
        )  # fmt: skip
        mixed.all_see("alive", "go-a", "py-a")
        limits = resource.prlimit(agent.pid, resource.RLIMIT_NOFILE)
        # Numbers below 3 are in use; higher ones that are open stay open.
        resource.prlimit(agent.pid, resource.RLIMIT_NOFILE, (3, limits[1]))
        assert other.ask("query", "-tag=role=w.*", "-timeout=1s", "filtered")[0] == 0
        assert other.ask("event", "tab\tand\nnewline")[0] == 0
        for text in (
            "cannot filter query filtered: 'w.*' cannot be compiled: Too many open files",
            r"user-event: tab\tand\nnewline",
            "Error invoking script 'echo x': Too many open files",
        ):
            until(lambda text=text: text in agent.log_text(), CONVERGED_WITHIN, agent.log_text)  # type: ignore[misc]
        resource.prlimit(agent.pid, resource.RLIMIT_NOFILE, limits)

        def is_acknowledged() -> bool:
            return "Ack from 'py-a'" in other.ask("query", "-tag=role=w.*", "again")[1]

        until(is_acknowledged, CONVERGED_WITHIN, agent.log_text)
        assert agent.exit_code() is None
        assert "Traceback" not in agent.log_text()
