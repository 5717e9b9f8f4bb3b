"""The user, the environment and the limits of scripts."""

import logging
import os
import pwd
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import trio

from trioserf.agent.config import HandlerOptions
from trioserf.agent.config_sources import Sources
from trioserf.agent.script_rights import (
    ScriptUser,
    control_environment,
    limiting_command,
    script_environment,
)
from trioserf.agent.script_runner import ShellRunner
from trioserf.errors import ConfigError

assert sys.platform != "win32"

OWN = {
    "PATH": "/bin:/usr/bin", "HOME": "/root", "LC_TIME": "C", "TZ": "UTC", "SSH_AUTH_SOCK": "/s",
    "SERF_RPC_ADDR": "x", "SERF_RPC_AUTH": "k1", "TRIOSERF_ENCRYPT": "k2", "MINE": "k3",
    "OPTIONS": "-encrypt=0123456789abcdef", "OTHER": "xk3",
}  # fmt: skip
USER = ScriptUser("www", "/srv")


def chosen(user: ScriptUser | None = None, **options: object) -> dict[str, str]:
    return script_environment(OWN, HandlerOptions(**options), user, ("", "k3", "0123456789abcdef"))  # type: ignore[arg-type]


def test_inherited_environment_has_no_keys(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    hidden = {"SERF_RPC_AUTH", "TRIOSERF_ENCRYPT", "MINE", "OPTIONS"}
    assert chosen() == {name: value for name, value in OWN.items() if name not in hidden}
    [text] = caplog.messages
    assert text == f"Scripts do not get {', '.join(sorted(hidden))} (see handler_env_pass)"


def test_clean_environment_has_basic_variables_only() -> None:
    assert chosen(env="clean") == {
        "PATH": "/bin:/usr/bin",
        "HOME": "/root",
        "LC_TIME": "C",
        "TZ": "UTC",
    }


@pytest.mark.parametrize("env", ["clean", "inherit"])
def test_named_variables_are_passed(env: str) -> None:
    passed = ["SERF_RPC_AUTH", "MINE", "MISSING"]
    own = chosen(env=env, env_pass=passed)
    assert {name: own.get(name) for name in passed} == {
        "SERF_RPC_AUTH": "k1", "MINE": "k3", "MISSING": None,
    }  # fmt: skip


def test_user_has_own_home_and_name() -> None:
    env = chosen(USER, env="clean", env_pass=["HOME"])
    assert (env["HOME"], env["USER"], env["LOGNAME"]) == ("/srv", "www", "www")


OTHER_USER = ScriptUser("www", "/srv", 33, 33, [33])


def test_scripts_find_the_control_port_and_its_key() -> None:
    options = HandlerOptions()
    found = control_environment(["127.0.0.9:7373"], "k1", options, None)
    assert found == {"SERF_RPC_ADDR": "127.0.0.9:7373", "SERF_RPC_AUTH": "k1"}
    assert control_environment(["unix:/a"], "", options, None) == {"SERF_RPC_ADDR": "unix:/a"}
    assert control_environment(["127.0.0.9:0"], "k1", options, None) == {}  # not known yet


@pytest.mark.parametrize(
    ("addresses", "user", "best"),
    [
        (["0.0.0.0:1"], None, "127.0.0.1:1"),
        (["[::]:1"], None, "[::1]:1"),
        ([":1"], None, "127.0.0.1:1"),
        (["tls://0.0.0.0:1"], None, "tls://127.0.0.1:1"),
        (["tls://127.0.0.1:1", "127.0.0.1:2", "unix:/a"], None, "unix:/a"),
        (["tls://127.0.0.1:1", "127.0.0.1:2", "unix:/a"], OTHER_USER, "127.0.0.1:2"),
        (["tls://127.0.0.1:1", "unix:/a"], OTHER_USER, "unix:/a"),
    ],
)
def test_scripts_get_the_address_that_they_can_use(
    addresses: list[str], user: ScriptUser | None, best: str
) -> None:
    found = control_environment(addresses, "", HandlerOptions(), user)
    assert found == {"SERF_RPC_ADDR": best}


@pytest.mark.parametrize(("env", "user"), [("clean", None), ("inherit", OTHER_USER)])
def test_key_of_control_port_is_for_scripts_with_the_rights_of_the_agent(
    env: str, user: ScriptUser | None
) -> None:
    options = HandlerOptions(env=env)
    found = control_environment(["a:1"], "k1", options, user)
    assert "SERF_RPC_AUTH" not in found
    options = HandlerOptions(env=env, env_pass=["SERF_RPC_AUTH"])
    found = control_environment(["a:1"], "k1", options, user)
    assert found["SERF_RPC_AUTH"] == "k1"


def test_environment_of_another_kind_is_rejected() -> None:
    with pytest.raises(ConfigError, match="handler_env: expected inherit or clean, not 'none'"):
        Sources(overrides={"handler_env": "none"}).load()


def test_script_without_limits_runs_directly() -> None:
    assert limiting_command(HandlerOptions(), None) == ""


def test_limit_of_processes_does_not_apply_to_root() -> None:
    root = ScriptUser("root", "/root", 0, 0, [0])
    with pytest.raises(ConfigError, match="the system does not limit root; expected a handler_u"):
        limiting_command(HandlerOptions(max_processes=50), root)


def test_limit_of_memory_below_that_of_a_shell_is_rejected() -> None:
    with pytest.raises(ConfigError, match="handler_max_memory: expected 0 or 16777216 bytes or m"):
        Sources(overrides={"handler_max_memory": 1 << 20}).load()


async def test_memory_of_script_is_limited() -> None:
    command = limiting_command(HandlerOptions(max_memory=64 << 20), None)
    run = ShellRunner(command=command)
    result = await run("ulimit -v; dd if=/dev/zero of=/dev/null bs=1M count=1", OWN, b"in")
    assert (result.status, result.output.partition(b"\n")[0]) == (0, b"65536")
    result = await run("dd if=/dev/zero of=/dev/null bs=128M count=1", OWN, b"")
    assert result.status


async def test_processes_of_script_are_limited_and_end_with_it() -> None:
    uid = os.geteuid()
    user = ScriptUser.find((pwd.getpwuid(uid) if uid else pwd.getpwnam("daemon")).pw_name)
    run = ShellRunner(user, limiting_command(HandlerOptions(max_processes=20), user))
    script = "for i in 1 2 3 4 5; do for j in 1 2 3 4 5; do sleep 300 & done; done; echo all"
    with trio.fail_after(60):
        result = await run(script, OWN, b"")
    assert result.status
    assert b"all" not in result.output
    assert result.left in ("they were ended", "")  # none, if the user has 20 processes already


@contextmanager
def without_root() -> Iterator[None]:
    """Give up root's rights, if any, while the block runs."""
    uid = os.geteuid()
    if uid == 0:
        os.seteuid(pwd.getpwnam("daemon").pw_uid)
    try:
        yield
    finally:
        os.seteuid(uid)


@pytest.mark.parametrize("name", ["no such user", "a\0b", ""])
def test_unknown_user_is_rejected(name: str) -> None:
    with pytest.raises(ConfigError, match="handler_user: this host has no user"):
        ScriptUser.find(name)


def test_agent_without_rights_cannot_run_scripts_as_another_user() -> None:
    expected = "expected an agent that runs as root or as this user"
    with without_root(), pytest.raises(ConfigError, match=f"'root'; {expected}"):
        ScriptUser.find("root")


def test_agent_runs_scripts_as_its_own_user() -> None:
    with without_root():
        entry = pwd.getpwuid(os.geteuid())
        assert ScriptUser.find(entry.pw_name) == ScriptUser(entry.pw_name, entry.pw_dir)
