"""The agent's configuration from its sources (see agent/README.md, § Configuration).

Every source – a file, or the command line – is a JSON object. Each is checked by itself, so that
an error names its source; then later sources are merged over earlier ones: lists grow, tags
merge, and other values are replaced. The declarations of `AgentConfig` and of the configuration
classes that it contains say which keys there are; a key stands in one of them only.
"""

import errno
import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import attrs

from trioserf.agent.config_converter import (
    Addresses,
    Structure,
    Tags,
    Texts,
    canonical,
    kind_name,
    structurer,
)
from trioserf.agent.files import read_file
from trioserf.agent.logs import LEVELS
from trioserf.defaults import CONTROL_ADDRESS, TLS
from trioserf.errors import ConfigError
from trioserf.node.config import NodeConfig
from trioserf.settings import build, key_of, setting
from trioserf.swim.config import PROFILES

_log = logging.getLogger("trioserf.agent")

SETUP_FAILED: Final = "Failed to setup the Serf agent"
"""How some of Serf's errors begin."""
_LEAST: Final = {"retry_interval": 1.0, "broadcast_timeout": 1.0}
"""Durations that Serf raises to a least value, with a warning."""
_PROFILE: Final = "lan"
HANDLER_ENVIRONMENTS: Final = ("inherit", "clean")
_LEAST_MEMORY: Final = 16 * 1024 * 1024
"""Bytes with which a shell and small programs run."""
_COMMAND_LINE: Final = "command line"


@attrs.frozen(kw_only=True)
class MdnsConfig:
    """Options of multicast DNS."""

    interface: str = ""
    disable_ipv4: bool = False
    disable_ipv6: bool = False


def _check_handler_env(_: object, field: "attrs.Attribute[Any]", value: str) -> None:
    if value not in HANDLER_ENVIRONMENTS:
        expected = " or ".join(HANDLER_ENVIRONMENTS)
        raise ValueError(f"{key_of(field)}: expected {expected}, not {value!r}")


def _check_memory(_: object, field: "attrs.Attribute[Any]", value: int) -> None:
    if value and value < _LEAST_MEMORY:
        raise ValueError(
            f"{key_of(field)}: expected 0 or {_LEAST_MEMORY} bytes or more, not {value}"
        )


@attrs.frozen(kw_only=True)
class HandlerOptions:
    """Limits and rights of event handlers."""

    # Serf has no limit; a script that hangs would keep its place for ever.
    timeout: float = setting(
        3600.0,
        "end a script and all its processes after this time; `0s`: never",
        key="handler_timeout",
    )
    limit: int = setting(
        16,
        "scripts that run at a time on events, and as many on queries",
        key="handler_limit",
        least=1,
    )
    # A join with replay delivers the events of 512 Lamport times.
    queue: int = setting(
        1024,
        "events that wait for one script; further ones are dropped and counted",
        key="handler_queue",
        least=1,
    )
    user: str = setting(
        "",
        "user that scripts run as, with its groups; the agent must be root or this user",
        key="handler_user",
        shown="the agent's",
    )
    env: str = setting(
        "inherit",
        "`inherit`: scripts get the agent's environment without its keys; `clean`: only `PATH`,"
        " `HOME`, `USER`, `LOGNAME`, `SHELL`, `TZ`, `LANG`, `LANGUAGE` and `LC_…`",
        key="handler_env",
        check=_check_handler_env,
    )
    env_pass: Texts = setting(
        attrs.Factory(list),
        "further variables that scripts get, such as `SERF_RPC_AUTH`",
        key="handler_env_pass",
    )
    max_processes: int = setting(
        0,
        "processes and threads of the user that scripts run as, all together, beyond which scripts"
        " cannot start more; 0: no limit. Not for root",
        key="handler_max_processes",
        least=0,
    )
    max_memory: int = setting(
        0,
        "bytes of address space of each process of a script, 16 MiB or more; 0: no limit",
        key="handler_max_memory",
        check=_check_memory,
    )


@attrs.frozen(kw_only=True)
class AgentConfig:
    """The configuration of an agent. Durations are seconds.

    Attributes:
        node: the keys of the node. What depends on the keys here (addresses, tags, keys of
            encryption) is added by `node_config`.
        handlers: the keys of event handlers.
    """

    node: NodeConfig = attrs.field(factory=NodeConfig)
    tags: Tags = setting(
        attrs.Factory(dict), "tags of this member, together 512 bytes encoded", serf=True
    )
    tags_file: str = setting(
        "", "keeps tags that are set at run time; not together with `tags`", serf=True
    )
    role: str = setting("", "deprecated: the tag `role`", serf=True)
    bind: str = setting(
        "",
        "address to listen on for gossip, UDP and TCP; IPv6 as `[::1]:7946`",
        shown="`0.0.0.0:7946`",
        serf=True,
    )
    interface: str = setting("", "use the address of this network interface", serf=True)
    advertise: str = setting(
        "", "address that other members use", shown="the bound address", serf=True
    )
    encrypt_key: str = setting(
        "",
        "key in base64 of 16, 24 or 32 bytes; not together with `keyring_file`",
        serf=True,
        secret=True,
    )
    keyring_file: str = setting(
        "", "JSON list of keys, the primary one first; rewritten with every change", serf=True
    )
    log_level: str = setting("INFO", "`TRACE`, `DEBUG`, `INFO`, `WARN` or `ERR`", serf=True)
    profile: str = setting(_PROFILE, "timings for a `lan`, a `wan` or `local`", serf=True)
    rpc_addr: Addresses = setting(
        Addresses((CONTROL_ADDRESS,)),
        "where clients connect: `host:port`, `tls://host:port`, `unix:PATH`, or a list of these",
        serf=True,
    )
    rpc_auth: str = setting("", "key that clients must send", serf=True, secret=True)
    rpc_tls_cert: str = setting(
        "",
        "certificate for clients at `tls://` addresses, PEM with intermediate ones; see"
        " [TLS](../control/README.md#tls)",
    )
    rpc_tls_key: str = setting("", "its private key", shown="in `rpc_tls_cert`")
    rpc_tls_client_ca: str = setting(
        "", "CA that signed the clients' certificates, which they then must have", shown="none"
    )
    event_handlers: Texts = setting(
        attrs.Factory(list), "`[FILTER=]SCRIPT`, see [below](#event-handlers)", serf=True
    )
    start_join: Texts = setting(
        attrs.Factory(list), "join at start; exit if no member can be reached", serf=True
    )
    retry_join: Texts = setting(
        attrs.Factory(list), "join, and retry until it succeeds", serf=True
    )
    retry_interval: float = setting(30.0, "time between two tries, `1s` or more", serf=True)
    retry_max_attempts: int = setting(
        0, "number of retries before the agent exits with code 1; 0: no limit", serf=True, least=0
    )
    replay_on_join: bool = setting(False, "deliver user events from before the join", serf=True)
    snapshot_path: str = setting("", "remember members and clocks in this file", serf=True)
    rejoin_after_leave: bool = setting(
        False, "rejoin from the snapshot even after a leave", serf=True
    )
    leave_on_terminate: bool = setting(False, "leave gracefully on SIGTERM", serf=True)
    skip_leave_on_interrupt: bool = setting(False, "do not leave gracefully on SIGINT", serf=True)
    discover: str = setting(
        "",
        "find the members of this cluster by [multicast DNS](#mdns); needs"
        " `pip install '.[mdns]'`",
        serf=True,
    )
    mdns: MdnsConfig = setting(
        MdnsConfig(),
        "`interface` (default: that of `interface`, or the system's choice), `disable_ipv4`,"
        " `disable_ipv6`",
        shown="`{}`",
        serf=True,
    )
    enable_syslog: bool = setting(False, "log to syslog, too", serf=True)
    syslog_facility: str = setting("LOCAL0", "facility of these log lines", serf=True)
    statsite_addr: str = setting("", "send metrics to a statsite server, `host:port`", serf=True)
    statsd_addr: str = setting("", "send metrics to a statsd server, `host:port`", serf=True)
    msgpack_time: bool = setting(
        False,
        "accepted without effect: no message has a time",
        key="MsgpackUseNewTimeFormat",
        serf=True,
    )

    rpc_tokens: str = setting(
        "",
        "JSON file of [tokens](../control/README.md#tokens) that clients may send instead of"
        " `rpc_auth`, each with its scopes; read again on SIGHUP",
    )
    rpc_allow: Texts = setting(
        attrs.Factory(list),
        "[users](../control/README.md#users-of-a-unix-socket) that may use `unix:PATH` without a"
        " key: `uid:0`, `user:NAME`, `gid:0`, `group:ops=read,event:deploy-*`",
        shown="all that can open it",
    )
    audit_log: str = setting(
        "",
        "file for the [audit log](../control/README.md#audit-log), `-` for stderr: a line for each"
        " change by a client, and for refusals",
        shown="none",
    )
    syslog_path: str = setting(
        "",
        "socket of the syslog daemon",
        shown="`/dev/log`, `/var/run/syslog` or `/var/run/log`",
    )
    metrics_addr: str = setting(
        "",
        "serve `http://HOST:PORT/metrics` to Prometheus; needs"
        " `pip install '.[prometheus]'`",
    )
    dns_servers: Texts = setting(
        attrs.Factory(list),
        "name servers, `address` or `address:port`, for [services](#addresses-to-join)",
        shown="the system's",
    )
    handlers: HandlerOptions = attrs.field(factory=HandlerOptions)

    @property
    def own_tags(self) -> dict[str, str]:
        """The tags to start with, the deprecated role among them."""
        return {"role": self.role, **self.tags} if self.role else dict(self.tags)


@attrs.frozen
class Sources:
    """Sources of a configuration; read again on SIGHUP.

    Attributes:
        paths: JSON files, and directories of `*.json` files, which are read in order of name.
        overrides: keys from the command line, which have precedence.
    """

    paths: Sequence[str] = ()
    overrides: Mapping[str, Any] = attrs.field(factory=dict, repr=False)

    def load(self, warn: Callable[[str], None] = _log.warning) -> AgentConfig:
        """Read all sources.

        Args:
            warn: called with a text about each setting that works, but hardly as intended.

        Raises:
            ConfigError: a file cannot be read, or values are not valid: a line for each error,
                with source, key and what was expected.
        """
        structure = structurer(AgentConfig)
        settings = structure(self._merged(structure))
        errors = list(_value_errors(settings))
        if errors:
            raise ConfigError("\n".join(errors))
        if settings.get("rejoin_after_leave") and not settings.get("snapshot_path"):
            warn("'RejoinAfterLeave' enabled without snapshot file")
        for key, least in _LEAST.items():
            if settings.get(key, least) < least:
                name = "".join(word.capitalize() for word in key.split("_"))
                warn(f"'{name}' is too low. Setting to {least:g}s")
                settings[key] = least
        if handlers := settings.get("event_handlers"):
            settings["event_handlers"] = [text for text in handlers if text]  # as Serf does
        profile = attrs.asdict(PROFILES[settings.get("profile", _PROFILE)])
        return build(AgentConfig, profile | settings)

    def _merged(self, structure: Structure) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        errors: list[str] = []
        for source, given in self._objects():
            try:
                values = canonical(given, AgentConfig)
                settings = structure(values)
            except ConfigError as error:
                errors += [f"{source}: {line}" for line in str(error).splitlines()]
            else:
                _merge(merged, {key: values[key] for key in settings})
        if errors:
            raise ConfigError("\n".join(errors))
        return merged

    def _objects(self) -> Iterable[tuple[str, dict[str, Any]]]:
        for path in self._paths():
            yield str(path), _read_object(path)
        yield _COMMAND_LINE, dict(self.overrides)

    def _paths(self) -> Iterable[Path]:
        for path in map(Path, self.paths):
            if not path.is_dir():
                yield path
                continue
            try:
                inside = sorted(path.iterdir())
            except OSError as error:
                raise ConfigError(
                    f"{path}: cannot be read: {error.strerror}; expected a directory of"
                    " *.json files"
                ) from error
            yield from (file for file in inside if file.suffix == ".json" and not file.is_dir())


def _read_object(path: Path) -> dict[str, Any]:
    try:
        # A pipe such as `--config-file <(command)`.
        data = read_file(path, pipe=True)
        if data is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        values = json.loads(data)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except json.JSONDecodeError as error:
        at = f"line {error.lineno} column {error.colno}"
        raise ConfigError(f"{path}: {at}: {error.msg}; expected a JSON object") from None
    except (UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: not JSON: {error}; expected a JSON object") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected a JSON object, not {kind_name(values)}")
    return values


def _merge(below: dict[str, Any], above: Mapping[str, Any]) -> None:
    for key, value in above.items():
        earlier = below.get(key)
        if isinstance(earlier, list) and isinstance(value, list) and key != "rpc_addr":
            below[key] = earlier + value
        elif isinstance(earlier, dict) and isinstance(value, dict):
            below[key] = earlier | value
        else:
            below[key] = value


def _value_errors(settings: dict[str, Any]) -> Iterable[str]:
    """Check the values that depend on each other, and those for which Serf has its own texts."""
    if "log_level" in settings:
        level = settings["log_level"] = settings["log_level"].upper()
        if level not in LEVELS:
            yield f"Invalid log level: {level}. Valid log levels are: [{' '.join(LEVELS)}]"
    profile = settings.get("profile", _PROFILE)
    if profile not in PROFILES:
        yield f"Unknown profile: {profile}; expected {', '.join(PROFILES)}"
    if settings.get("tags_file") and (settings.get("tags") or settings.get("role")):
        yield f"{SETUP_FAILED}: Tags config not allowed while using tag files"
    if settings.get("mdns", MdnsConfig()).interface and not settings.get("discover"):
        yield "mDNS interface specified without enabling mDNS discovery"
    yield from _tls_errors(settings)
    if settings.get("encrypt_key") and settings.get("keyring_file"):
        yield f"{SETUP_FAILED}: Encryption key not allowed while using a keyring"


def _tls_errors(settings: dict[str, Any]) -> Iterable[str]:
    """Check that there are certificates if, and only if, an address needs them."""
    given = [key for key in settings if key.startswith("rpc_tls_") and settings[key]]
    is_tls = any(address.startswith(TLS) for address in settings.get("rpc_addr", ()))
    if is_tls and "rpc_tls_cert" not in given:
        yield f"rpc_tls_cert: required, because an address in rpc_addr begins with {TLS}"
    elif given and not is_tls:
        yield f"{given[0]}: no address in rpc_addr begins with {TLS}; expected {TLS}host:port"
