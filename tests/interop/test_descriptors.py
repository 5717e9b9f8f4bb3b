"""An agent without free descriptors continues, and serves again when there are some."""

import resource
import sys

import pytest

from tests.interop.agents import CONVERGED_WITHIN, cluster, until

assert sys.platform == "linux"

pytestmark = pytest.mark.serf


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
            "cannot filter query filtered: 'w.*' cannot be compiled: [Errno 24]",
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
