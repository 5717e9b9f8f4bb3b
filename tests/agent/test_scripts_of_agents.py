"""Scripts of real agents: what they get, with which rights they run, and how they are bounded."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pytest

from tests.interop.agents import STARTED_WITHIN, TRIOSERF, Process, until
from trioserf.control.client.rpc_session import RpcSession

pytestmark = pytest.mark.interop


@contextmanager
def running(*options: str, env: Mapping[str, str] | None = None) -> Iterator[Process]:
    """Run an agent while the block runs."""
    environ = None if env is None else {**os.environ, **env}
    agent = Process(TRIOSERF, "a", 97, options, env=environ)
    try:
        until(lambda: "Log data will" in agent.log_text(), STARTED_WITHIN, agent.log_text)
        yield agent
    finally:
        agent.end()


def await_log(agent: Process, text: str) -> None:
    until(lambda: text in agent.log_text(), what=agent.log_text)


@pytest.mark.parametrize(
    "locale",
    [
        {"LC_ALL": "C.UTF-8"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
)
def test_scripts_get_utf8_in_every_locale(locale: dict[str, str]) -> None:
    script = """printf 'ü:%s:%s' "$SERF_USER_EVENT" "$OWN" | od -An -c | tr -d ' \\\\'"""
    options = ("-log-level=debug", f"-event-handler=user={script}")
    with (
        running(*options, env=locale | {"OWN": "ä"}) as agent,
        RpcSession.connect(agent.rpc) as session,
    ):
        session.event("中", b"", coalesce=False)
        await_log(agent, "303274:344270255:303244")
        session.event("n\0", b"", coalesce=False)
        await_log(agent, "exec: environment variable contains NUL")
        session.event("x", b"", coalesce=False)
        await_log(agent, "303274:x:303244")
