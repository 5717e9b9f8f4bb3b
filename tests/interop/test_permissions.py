"""Serf's command line with tokens: a scope each, refusals, and a reload of the file."""

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.control.helpers import KEY
from tests.interop.agents import STARTED_WITHIN, TRIOSERF, Process, until
from trioserf.control.server.permissions import SCOPES

assert sys.platform != "win32"

pytestmark = pytest.mark.serf

COMMANDS = {
    "members": ("read", ("members",)),
    "info": ("read", ("info",)),
    "rtt": ("read", ("rtt", "py-locked")),
    "monitor": ("read", ("monitor",)),
    "event": ("event:deploy-web", ("event", "deploy-web", "v1")),
    "query": ("query:load", ("query", "-timeout=1s", "load")),
    "tags": ("tags", ("tags", "-set", "a=b")),
    "join": ("members", ("join", "127.0.0.1:1")),
    "leave": ("members", ("leave",)),
    "force-leave": ("members:web-1", ("force-leave", "web-1")),
    "keys": ("keys", ("keys", "-list")),
    "install": ("keys", ("keys", "-install", KEY)),
}
"""A command line of Serf, and the scope that it needs."""


class Locked:
    """An agent that requires tokens, and its file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tokens: dict[str, str] = {}
        for scope in SCOPES:
            self.add(f"no-{scope}", *(one for one in SCOPES if one != scope))
            self.add(f"only-{scope}", scope)
        self.add("deploy", "event:deploy-*", "query:load", "members:web-*")
        self.audit = path.with_name("audit.log")
        options = ("-log-level=debug", f"--rpc-tokens={path}", f"--audit-log={self.audit}")
        self.agent = Process(TRIOSERF, "py-locked", 233, options)

    def add(self, name: str, *scopes: str) -> None:
        done = trioserf(
            "token", "new", name, f"--file={self.path}", *map("--scope={}".format, scopes)
        )
        self.tokens[name] = done.rstrip("\n")

    def serf(self, token: str, *words: str) -> tuple[int, str]:
        command, *rest = words
        return self.agent.ask(command, f"-rpc-auth={self.tokens[token]}", *rest)

    def audited(self, **fields: object) -> list[dict[str, Any]]:
        """Wait for lines of the audit log with these fields."""

        def found() -> list[dict[str, Any]]:
            lines = map(json.loads, self.audit.read_text().splitlines())
            return [line for line in lines if fields.items() <= line.items()]

        until(lambda: bool(found()), what=self.audit.read_text)
        return found()

    def reload(self, expected: str) -> None:
        count = self.agent.log_text().count(expected)
        self.agent.signal(signal.SIGHUP)
        until(lambda: self.agent.log_text().count(expected) > count, what=self.agent.log_text)


def trioserf(*words: str) -> str:
    done = subprocess.run([*TRIOSERF, *words], capture_output=True, text=True, check=True)
    return done.stdout


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Locked]:
    running = Locked(tmp_path_factory.mktemp("tokens") / "tokens.json")
    try:
        until(
            lambda: running.serf("only-read", "members")[0] == 0,
            STARTED_WITHIN,
            running.agent.log_text,
        )
        yield running
    finally:
        running.agent.end()


def test_command_without_token_is_refused(locked: Locked) -> None:
    code, text = locked.agent.ask("members")
    assert (code, text) == (1, "Error retrieving members: Authentication required\n")
    code, text = locked.agent.ask("members", "-rpc-auth=only-read.wrong")
    assert code == 1
    assert "Invalid authentication token" in text


@pytest.mark.parametrize("command", COMMANDS)
def test_command_without_its_scope_is_refused_with_the_scope(locked: Locked, command: str) -> None:
    scope, words = COMMANDS[command]
    plain = scope.partition(":")[0]
    code, text = locked.serf(f"no-{plain}", *words)
    held = ", ".join(one for one in SCOPES if one != plain)
    assert f"this token lacks the scope {scope}; it has: {held}" in text
    assert code == 1


def test_command_with_its_scope_works(locked: Locked) -> None:
    assert locked.serf("only-read", "members")[1].startswith("py-locked")
    assert "Event 'x' dispatched!" in locked.serf("only-event", "event", "x")[1]
    assert "Total Acks: 1" in locked.serf("only-query", "query", "-timeout=5s", "load")[1]
    assert locked.serf("only-tags", "tags", "-set", "role=web")[0] == 0
    assert locked.serf("only-members", "force-leave", "web-9")[0] == 0
    assert "lacks the scope" not in locked.serf("only-keys", "keys", "-list")[1]


def test_token_with_patterns_is_restricted_to_names(locked: Locked) -> None:
    has = "it has: event:deploy-*, query:load, members:web-*"
    assert locked.serf("deploy", "event", "deploy-web")[0] == 0
    assert locked.serf("deploy", "force-leave", "web-1")[0] == 0
    for words, scope in (
        (("event", "restart"), "event:restart"),
        (("query", "uptime"), "query:uptime"),
        (("force-leave", "db-1"), "members:db-1"),
        (("join", "127.0.0.1:1"), "members"),
        (("leave",), "members"),
        (("members",), "read"),
    ):
        code, text = locked.serf("deploy", *words)
        assert code == 1
        assert f"this token lacks the scope {scope}; {has}" in text


def test_changes_and_refusals_are_in_the_audit_log(locked: Locked) -> None:
    locked.serf("deploy", "event", "deploy-audit", "s3cret-payload")
    (line,) = locked.audited(name="deploy-audit")
    assert line["from"].startswith("127.")
    del line["time"], line["from"]
    assert line == {
        "who": "token:deploy",
        "command": "event",
        "name": "deploy-audit",
        "payload_bytes": len("s3cret-payload"),
        "coalesce": True,
        "outcome": "ok",
    }
    locked.serf("only-read", "keys", "-install", KEY)
    refused = locked.audited(command="keys", outcome="forbidden", who="token:only-read")
    assert refused[0]["action"] == "install"
    locked.agent.ask("members", "-rpc-auth=only-read.guess")
    assert locked.audited(command="auth", outcome="auth_failed")[0]["count"] >= 1
    text = locked.audit.read_text()
    for secret in ("s3cret-payload", KEY, "only-read.guess", *locked.tokens.values()):
        assert secret not in text


def test_audit_log_may_be_rotated(locked: Locked) -> None:
    locked.serf("only-event", "event", "before")
    locked.audited(name="before")
    locked.audit.rename(locked.audit.with_name("audit.log.1"))
    locked.reload("Configuration reloaded")
    locked.serf("only-event", "event", "after")
    until(locked.audit.exists)
    assert [line["name"] for line in locked.audited(command="event")] == ["after"]
    assert stat.S_IMODE(locked.audit.stat().st_mode) == 0o600


def test_agent_admits_users_of_its_unix_socket(tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/control.sock"
    me = os.geteuid()
    rules = (f"--rpc-allow=uid:{me}=read,event:deploy-*", f"--set=rpc_addr={address}")
    agent = Process(TRIOSERF, "py-users", 234, rules)

    def ask(*words: str) -> tuple[int, str]:
        command, *rest = words
        done = subprocess.run(
            [*TRIOSERF, command, f"-rpc-addr={address}", *rest], capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        return done.returncode, done.stdout

    try:
        until(lambda: ask("members")[0] == 0, STARTED_WITHIN, agent.log_text)
        assert ask("event", "deploy-web")[0] == 0
        code, text = ask("leave")
        has = "it has: read, event:deploy-*"
        assert (code, text) == (1, f"Error leaving: uid {me} lacks the scope members; {has}\n")
        _, text = ask("event", "--format=json", "restart")
        assert json.loads(text)["error"]["code"] == "forbidden"
    finally:
        agent.end()


def test_reload_adds_and_removes_tokens(locked: Locked) -> None:
    locked.add("late", "read")
    assert "Invalid authentication token" in locked.serf("late", "members")[1]
    locked.reload("Configuration reloaded")
    until(lambda: locked.serf("late", "members")[0] == 0)
    trioserf("token", "remove", "late", f"--file={locked.path}")
    before = locked.path.read_text()
    locked.path.write_text("nonsense")
    locked.reload("the tokens stay as they were")
    assert locked.serf("late", "members")[0] == 0
    locked.path.write_text(before)
    locked.reload("Configuration reloaded")
    until(lambda: "Invalid authentication token" in locked.serf("late", "members")[1])
