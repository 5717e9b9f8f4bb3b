"""With which rights scripts run: user, environment and limits (see SECURITY.md, § Trust)."""

import logging
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Final, Self

import attrs

from trioserf.address import format_host_port, parse_host_port
from trioserf.agent.config import HandlerOptions
from trioserf.defaults import TLS, UNIX
from trioserf.errors import ConfigError
from trioserf.operating_system.processes import BASIC_VARIABLES
from trioserf.operating_system.users import (
    HAS_USERS,
    find_user,
    groups_of,
    lower_to_limit,
    user_id,
)
from trioserf.value_objects import ValueObject

_log = logging.getLogger("trioserf.agent")

_BASIC: Final = re.compile(BASIC_VARIABLES)
"""Variables in a clean environment."""
_SECRET: Final = re.compile(r"(?:TRIO)?SERF_\w*(?:AUTH|ENCRYPT|KEY|PASSWORD|SECRET|TOKEN)\w*")
"""Variables that carry keys of the agent and of its clients, such as SERF_RPC_AUTH."""
_RPC_ADDR: Final = "SERF_RPC_ADDR"
_RPC_AUTH: Final = "SERF_RPC_AUTH"
_LOOPBACK: Final = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104
_LONG: Final = 8
"""Characters of a secret that is searched for inside of values."""


@attrs.frozen(eq=False, repr=False)
class ScriptUser(ValueObject):
    """The user that scripts run as.

    Attributes:
        name: its name.
        home: its home directory.
        uid: its id; None if the agent runs as this user already.
        gid: its group; None as `uid`.
        groups: all its groups; None as `uid`.
    """

    name: str
    home: str
    uid: int | None = None
    gid: int | None = None
    groups: list[int] | None = None

    @classmethod
    def find(cls, name: str) -> Self:
        """Return the user with this name.

        Raises:
            ConfigError: there is none, or the agent may not run scripts as this user.
        """
        if not HAS_USERS:
            raise ConfigError(
                "handler_user: scripts run as the agent's user on this system; expected no value"
            )
        try:
            entry = find_user(name)
        except LookupError:
            raise ConfigError(
                f"handler_user: this host has no user {name!r}; expected the name of a user"
            ) from None
        uid = user_id()
        if uid == 0:
            return cls(name, entry.home, entry.uid, entry.gid, groups_of(name, entry.gid))
        if uid != entry.uid:
            raise ConfigError(
                f"handler_user: the agent runs as user {uid} and cannot run scripts as {name!r};"
                " expected an agent that runs as root or as this user"
            )
        return cls(name, entry.home)


def limiting_command(
    options: HandlerOptions, user: ScriptUser | None, descriptors: int | None = None
) -> str:
    """Return a shell command that sets the limits of a script and runs it as its `$0`.

    The limits cannot be set between fork and exec: that is unsafe in a process with threads. With
    limits of the agent's own that are lower, those stay.

    Args:
        options: the limits of processes and memory.
        user: the user that scripts run as, if not the agent's.
        descriptors: the soft limit of open descriptors, if it must be lowered.

    Returns:
        The command; empty if there are no limits.

    Raises:
        ConfigError: the number of processes is limited, but scripts run as root; or the system
            has no limits.
    """
    if not HAS_USERS and (options.max_processes or options.max_memory):
        raise ConfigError(
            "handler_max_processes, handler_max_memory: this system has no such limits; expected 0"
        )
    commands = [] if descriptors is None else [f"ulimit -S -n {descriptors}"]
    if options.max_processes:
        uid = user_id() if user is None or user.uid is None else user.uid
        if uid == 0:
            raise ConfigError(
                "handler_max_processes: the system does not limit root; expected a handler_user"
            )
        number = lower_to_limit(options.max_processes, "processes")
        # The option is -u in bash and -p in dash.
        commands.append(
            f"if (ulimit -u {number}) 2>/dev/null; then ulimit -u {number};"
            f" else ulimit -p {number}; fi"
        )
    if options.max_memory:
        commands.append(f"ulimit -v {lower_to_limit(options.max_memory, 'memory') // 1024}")
    return " && ".join([*commands, 'exec /bin/sh -c "$0"']) if commands else ""


def _contains(value: str, secret: str) -> bool:
    """Return whether a value contains a secret; a short one may be part of any text."""
    return bool(secret) and (value == secret or (len(secret) >= _LONG and secret in value))


def script_environment(
    own: Mapping[str, str],
    options: HandlerOptions,
    user: ScriptUser | None,
    secrets: Collection[str],
) -> dict[str, str]:
    """Return the part of the agent's environment that scripts get.

    Args:
        own: the agent's environment.
        options: `env` and `env_pass` choose the variables.
        user: the user that scripts run as, if not the agent's.
        secrets: keys of the agent; variables with one of them in their values are removed.
    """
    env = {name: value for name, value in own.items() if name in options.env_pass}
    hidden = []
    for name, value in own.items():
        if name in env or (options.env == "clean" and not _BASIC.fullmatch(name)):
            continue
        if _SECRET.fullmatch(name) or any(_contains(value, secret) for secret in secrets):
            hidden.append(name)
        else:
            env[name] = value
    if hidden:
        _log.info("Scripts do not get %s (see handler_env_pass)", ", ".join(sorted(hidden)))
    if user is not None:
        env |= {"HOME": user.home, "USER": user.name, "LOGNAME": user.name}
    return env


def control_environment(
    addresses: Sequence[str], auth: str, options: HandlerOptions, user: ScriptUser | None
) -> dict[str, str]:
    """Return the variables with which scripts reach the control port of their agent.

    Args:
        addresses: where it listens; those with port 0 are not known yet.
        auth: its key, `rpc_auth`. Scripts that run as another user, or in a clean environment, get
            it only if `handler_env_pass` names its variable.
        options: `env` and `env_pass` choose the variables.
        user: the user that scripts run as, if not the agent's.
    """
    known = [address for address in addresses if not address.endswith(":0")]
    if not known:
        return {}
    is_own_user = user is None or user.uid is None
    # Another user may be unable to open a Unix socket; TLS needs files of certificates.
    best = min(known, key=lambda one: (one.startswith(TLS), one.startswith(UNIX) != is_own_user))
    env = {_RPC_ADDR: _local(best)}
    if auth and ((is_own_user and options.env == "inherit") or _RPC_AUTH in options.env_pass):
        env[_RPC_AUTH] = auth
    return env


def _local(address: str) -> str:
    """Return an address to connect to; one of all interfaces becomes the loopback address."""
    if address.startswith(UNIX):
        return address
    prefix = TLS if address.startswith(TLS) else ""
    try:
        host, port = parse_host_port(address.removeprefix(prefix))
    except ValueError:  # the control port, which cannot open, reports it
        return address
    if host not in _LOOPBACK:
        return address
    host = _LOOPBACK[host]
    return prefix + (host if port is None else format_host_port(host, port))
