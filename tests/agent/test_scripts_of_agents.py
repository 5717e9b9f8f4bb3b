"""Scripts of real agents: what they get, with which rights they run, and how they are bounded."""

import os
import pwd
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.interop.agents import ROOT, STARTED_WITHIN, TRIOSERF, Process, until
from trioserf.control.client.json_session import JsonSession
from trioserf.control.client.rpc_session import RpcSession
from trioserf.results import QueryAck, QueryAnswer

assert sys.platform != "win32"

pytestmark = pytest.mark.interop


@contextmanager
def running(*options: str, env: Mapping[str, str] | None = None) -> Iterator[Process]:
    """Run an agent while the block runs."""
    environ = None if env is None else {**os.environ, **env}
    agent = Process(TRIOSERF, "a", 97, options, env=environ)
    try:
        until(lambda: "Log data will" in agent.log_text(), STARTED_WITHIN, agent.log_text)
        yield agent
        agent.signal(signal.SIGTERM)  # ends its scripts, too
        assert agent.wait() == 1
    finally:
        agent.end()


def await_log(agent: Process, text: str) -> None:
    until(lambda: text in agent.log_text(), what=agent.log_text)


@pytest.mark.parametrize("locale", ["C.UTF-8", "C", "POSIX", "en_US.ISO-8859-1"])
def test_scripts_get_utf8_in_every_locale(locale: str, tmp_path: Path) -> None:
    if shutil.which("localedef"):  # few systems have this locale, and use C instead of it
        words = ["-i", "en_US", "-f", "ISO-8859-1", str(tmp_path / "en_US.ISO-8859-1")]
        subprocess.run(["localedef", *words], capture_output=True, check=False)
    env = {"LC_ALL": locale, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "OWN": "ä"}
    if "ISO" in locale:
        env["LOCPATH"] = str(tmp_path)
    script = (
        """printf 'ü:%s:%s' "$SERF_USER_EVENT" "$OWN$SERF_TAG_X" """
        """| LC_ALL=C od -An -c | tr -d ' \\\\'"""
    )
    options = ("-log-level=debug", "-tag=x=Ä", f"-event-handler=user={script}")
    with (
        running(*options, env=env) as agent,
        RpcSession.connect(agent.rpc) as session,
    ):
        session.event("中", b"", coalesce=False)
        await_log(agent, "303274:344270255:303244303204")
        session.event("n\0", b"", coalesce=False)
        await_log(agent, "exec: environment variable contains NUL")
        session.event("x", b"", coalesce=False)
        await_log(agent, "303274:x:303244")


def test_hung_scripts_do_not_silence_queries() -> None:
    handlers = {"user:one": "sleep 60", "user:two": "sleep 61", "user:three": "sleep 62",
                "query:load": "echo 0.42", "query:slow": "sleep 63"}  # fmt: skip
    options = [f"-event-handler={events}={script}" for events, script in handlers.items()]
    with (
        running(*options, "--set=handler_limit=2") as agent,
        JsonSession.connect(agent.rpc) as session,
    ):

        def stats() -> Mapping[str, object]:
            return session.info()["handler_stats"]

        for name in ("one", "two"):
            session.event(name, b"", coalesce=False)
        until(lambda: stats()["running"] == 2)
        session.event("three", b"", coalesce=False)
        until(lambda: stats()["waiting"] == 1)
        assert stats()["user:three=sleep 62 queue"] == 1
        responses = [
            record.payload
            for record in session.query("load", timeout=20)
            if isinstance(record, QueryAnswer)
        ]
        assert responses == [b"0.42\n"]
        assert [type(record) for record in session.query("slow", timeout=0.5)][:-1] == [QueryAck]
        assert stats()["running"] == 3


def test_scripts_run_as_another_user_without_keys() -> None:
    own = pwd.getpwuid(os.geteuid())
    user = own if own.pw_uid else pwd.getpwnam("daemon")
    groups = os.getgroups() if own.pw_uid else os.getgrouplist(user.pw_name, user.pw_gid)
    script = (
        """printf '%s|' "$(id -u)" "$(id -g)" "$(id -G)" "$HOME" "$USER" "$LOGNAME" """
        """"${SERF_RPC_AUTH-none}" "$SERF_RPC_ADDR" "$SERF_EVENT" """
    )
    env = {"SERF_RPC_AUTH": "secret", "SERF_RPC_ADDR": "here"}
    options = (
        "-log-level=debug",
        f"--handler-user={user.pw_name}",
        f"-event-handler=user={script}",
    )
    with running(*options, env=env) as agent, RpcSession.connect(agent.rpc) as session:
        session.event("go", b"", coalesce=False)
        await_log(agent, "|user|")
        [line] = [line for line in agent.log_text().splitlines() if "|user|" in line]
        uid, gid, shown, *others, _ = line.partition("output: ")[2].split("|")
        assert (int(uid), int(gid)) == (user.pw_uid, user.pw_gid)
        assert set(map(int, shown.split())) == {user.pw_gid, *groups}
        assert others == [user.pw_dir, user.pw_name, user.pw_name, "none", agent.rpc, "user"]
        assert "Scripts do not get SERF_RPC_AUTH (see handler_env_pass)" in agent.log_text()


def test_script_reaches_its_agent_by_its_environment() -> None:
    command = f"PYTHONPATH={ROOT} {sys.executable} -m trioserf info --format=json"
    script = f"""echo "$SERF_RPC_ADDR $SERF_RPC_AUTH"; {command} > /dev/null && echo ok"""
    env = {"SERF_RPC_AUTH": "another key", "SERF_RPC_ADDR": "another address"}
    with (
        running("--rpc-auth=own", f"-event-handler=query={script}", env=env) as agent,
        JsonSession.connect(agent.rpc, auth="own") as session,
    ):
        responses = [
            record.payload
            for record in session.query("load", timeout=20)
            if isinstance(record, QueryAnswer)
        ]
        assert responses == [f"{agent.rpc} own\nok\n".encode()]


def test_agent_with_unknown_user_of_scripts_does_not_start() -> None:
    done = subprocess.run(
        [*TRIOSERF, "agent", "-bind=127.0.0.1:0", "--handler-user=no-such-user"],
        capture_output=True, timeout=STARTED_WITHIN, check=False, cwd=ROOT,
    )  # fmt: skip
    expected = (
        "==> command line: handler_user: this host has no user 'no-such-user'; expected the name"
        " of a user"
    )
    assert (done.returncode, done.stdout.decode().splitlines()[-1]) == (1, expected)


def test_excesses_of_scripts_are_logged_once_and_queries_go_on() -> None:
    handlers = {
        "user:daemon": "sleep 300 &",
        "user:flood": "head -c 99000000 /dev/zero",
        "user:greedy": "dd if=/dev/zero of=/dev/null bs=200M count=1",
        "query:load": "echo 0.42",
    }
    options = [f"-event-handler={events}={script}" for events, script in handlers.items()]
    with (
        running(*options, "--set=handler_max_memory=100000000") as agent,
        JsonSession.connect(agent.rpc) as session,
    ):
        expected = {
            "daemon": "Script 'sleep 300 &' left processes with its output: they were ended",
            "flood": "Script 'head -c 99000000 /dev/zero' generated 98991808 bytes too much",
            "greedy": "Error invoking script 'dd if=/dev/zero of=/dev/null bs=200M count=1': exit",
        }
        for name, text in expected.items():
            session.event(name, b"", coalesce=False)
            await_log(agent, text)
        assert QueryAnswer("a", b"0.42\n") in session.query("load", timeout=20)
        assert [agent.log_text().count(text) for text in expected.values()] == [1, 1, 1]
