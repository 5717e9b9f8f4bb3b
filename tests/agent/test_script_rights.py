"""The user and the environment of scripts."""

import logging
import os
import pwd
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from trioserf.agent.config import HandlerOptions, Sources
from trioserf.agent.script_rights import ScriptUser, script_environment
from trioserf.errors import ConfigError

OWN = {
    "PATH": "/bin", "HOME": "/root", "LC_TIME": "C", "TZ": "UTC", "SSH_AUTH_SOCK": "/s",
    "SERF_RPC_ADDR": "x", "SERF_RPC_AUTH": "k1", "TRIOSERF_ENCRYPT": "k2", "MINE": "k3",
}  # fmt: skip
USER = ScriptUser("www", "/srv")


def chosen(user: ScriptUser | None = None, **options: object) -> dict[str, str]:
    return script_environment(OWN, HandlerOptions(**options), user, ("", "k3"))  # type: ignore[arg-type]


def test_inherited_environment_has_no_keys(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    hidden = {"SERF_RPC_AUTH", "TRIOSERF_ENCRYPT", "MINE"}
    assert chosen() == {name: value for name, value in OWN.items() if name not in hidden}
    [text] = caplog.messages
    assert (
        text == "Scripts do not get MINE, SERF_RPC_AUTH, TRIOSERF_ENCRYPT (see handler_env_pass)"
    )


def test_clean_environment_has_basic_variables_only() -> None:
    assert chosen(env="clean") == {"PATH": "/bin", "HOME": "/root", "LC_TIME": "C", "TZ": "UTC"}


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


def test_environment_of_another_kind_is_rejected() -> None:
    with pytest.raises(ConfigError, match="handler_env: expected inherit or clean, not 'none'"):
        Sources(overrides={"handler_env": "none"}).load()


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
