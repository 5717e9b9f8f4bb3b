"""What an agent is told by files and options (spec: configuration files).

Every source – a file, or the command line – is a JSON object. Each is checked by itself, so that
an error names its source; then they are laid over one another: lists grow, tags merge, all else
is replaced by what comes later. The keys of Serf keep Serf's names; the knobs beyond are flat keys
of the same style. Defaults of the node stand in `NodeConfig` and its options; here None means
that nobody said anything.
"""

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import attrs

from trioserf.agent.config_converter import Addresses, Seconds, Tags, Texts, kind_name, structurer
from trioserf.agent.durations import parse_duration
from trioserf.defaults import CONTROL_ADDRESS
from trioserf.errors import ConfigError

_log = logging.getLogger("trioserf.agent")

_RPC_ADDR: Final = Addresses((CONTROL_ADDRESS,))
_RETRY_INTERVAL: Final = Seconds(30.0)
_BROADCAST_TIMEOUT: Final = Seconds(5.0)
HANDLER_QUEUE: Final = 1024
"""Events that wait for one script: a join that replays brings those of 512 times at a stroke."""
LOG_LEVELS: Final = ("TRACE", "DEBUG", "INFO", "WARN", "ERR")
PROFILE_NAMES: Final = ("lan", "wan", "local")
SETUP_FAILED: Final = "Failed to setup the Serf agent"
"""What Serf says before some of its errors."""
_LEAST_RETRY: Final = 1.0
_LEAST_BROADCAST: Final = 1.0
_COMMAND_LINE: Final = "command line"


@attrs.frozen(slots=True, kw_only=True)
class MdnsConfig:
    """How multicast DNS is spoken."""

    interface: str = ""
    disable_ipv4: bool = False
    disable_ipv6: bool = False


@attrs.frozen(slots=True, kw_only=True)
class AgentConfig:
    """One agent. Durations are seconds, sizes bytes; None leaves a knob at the node's default.

    The first group are Serf's keys with Serf's meaning, the second ours for the agent, the third
    ours for the node (see `NodeConfig`, `Timing` and `SerfOptions` for their meaning).
    """

    node_name: str = ""
    role: str = ""
    disable_coordinates: bool = False
    tags: Tags = attrs.field(factory=dict)
    tags_file: str = ""
    bind: str = ""
    interface: str = ""
    advertise: str = ""
    discover: str = ""
    mdns: MdnsConfig = MdnsConfig()
    encrypt_key: str = attrs.field(default="", repr=False)
    keyring_file: str = ""
    log_level: str = "INFO"
    profile: str = "lan"
    protocol: int = 5
    rpc_addr: Addresses = _RPC_ADDR
    rpc_auth: str = attrs.field(default="", repr=False)
    event_handlers: Texts = attrs.field(factory=list)
    start_join: Texts = attrs.field(factory=list)
    replay_on_join: bool = False
    snapshot_path: str = ""
    leave_on_terminate: bool = False
    skip_leave_on_interrupt: bool = False
    reconnect_interval: Seconds | None = None
    reconnect_timeout: Seconds | None = None
    tombstone_timeout: Seconds | None = None
    disable_name_resolution: bool = False
    enable_syslog: bool = False
    syslog_facility: str = "LOCAL0"
    retry_join: Texts = attrs.field(factory=list)
    retry_max_attempts: int = 0
    retry_interval: Seconds = _RETRY_INTERVAL
    rejoin_after_leave: bool = False
    enable_compression: bool = True
    statsite_addr: str = ""
    statsd_addr: str = ""
    query_response_size_limit: int | None = None
    query_size_limit: int | None = None
    user_event_size_limit: int | None = None
    broadcast_timeout: Seconds = _BROADCAST_TIMEOUT
    validate_node_names: bool = False

    syslog_path: str = ""
    dns_servers: Texts = attrs.field(factory=list)
    metrics_addr: str = ""
    handler_timeout: Seconds | None = None
    handler_limit: int = 16
    handler_queue: int = HANDLER_QUEUE

    label: str = ""
    allowed_networks: Texts = attrs.field(factory=list)
    dead_node_reclaim_time: Seconds | None = None
    verify_incoming: bool = True
    verify_outgoing: bool = True
    tcp_pings: bool = True
    packet_size: int | None = None
    reap_interval: Seconds | None = None
    queue_check_interval: Seconds | None = None
    seed_interval: Seconds | None = None
    seed_interval_max: Seconds | None = None
    gossip_pause: Seconds | None = None
    max_streams: int | None = None
    stream_memory: int | None = None
    max_members: int | None = None
    inbox_depth: int | None = None

    tcp_timeout: Seconds | None = None
    indirect_checks: int | None = None
    retransmit_mult: int | None = None
    suspicion_mult: int | None = None
    suspicion_max_timeout_mult: int | None = None
    push_pull_interval: Seconds | None = None
    probe_timeout: Seconds | None = None
    probe_interval: Seconds | None = None
    awareness_max_multiplier: int | None = None
    gossip_nodes: int | None = None
    gossip_interval: Seconds | None = None
    gossip_to_the_dead_time: Seconds | None = None

    event_buffer: int | None = None
    query_buffer: int | None = None
    answer_cap: int | None = None
    flap_timeout: Seconds | None = None
    intent_timeout: Seconds | None = None
    leave_propagate_delay: Seconds | None = None
    query_timeout_mult: int | None = None
    queue_depth_warning: int | None = None
    max_queue_depth: int | None = None
    min_queue_depth: int | None = None

    @property
    def own_tags(self) -> dict[str, str]:
        """The tags to start with, the deprecated role among them."""
        return {"role": self.role, **self.tags} if self.role else dict(self.tags)


_NAMES = [field.name for field in attrs.fields(AgentConfig)]
_SERF_KEYS: Final = frozenset(_NAMES[: _NAMES.index("syslog_path")]) - {"enable_compression"}
"""Those that Serf knows; compression is the one that is on unless somebody turns it off."""
_SERF_DURATIONS: Final = frozenset(
    ("reconnect_interval", "reconnect_timeout", "tombstone_timeout", "retry_interval",
     "broadcast_timeout")
)  # fmt: skip


@attrs.frozen(slots=True)
class Sources:
    """Where a configuration comes from; read again on SIGHUP.

    Attributes:
        paths: JSON files, and directories whose `*.json` files are taken by name, in their order.
        overrides: keys given on the command line, which count most.
    """

    paths: Sequence[str] = ()
    overrides: Mapping[str, Any] = attrs.field(factory=dict, repr=False)

    def load(self, warn: Callable[[str], None] = _log.warning) -> AgentConfig:
        """Read everything.

        Args:
            warn: is told of settings that work, but hardly as they were meant.

        Raises:
            ConfigError: a file that cannot be read, or faults, each with its source, key and what
                was expected.
        """
        structured = structurer(AgentConfig)
        merged: dict[str, Any] = {}
        faults: list[str] = []
        for source, values in self._objects():
            try:
                structured(values)
            except ConfigError as error:
                faults += [f"{source}: {line}" for line in str(error).splitlines()]
            else:
                _merge(merged, values)
        if faults:
            raise ConfigError("\n".join(faults))
        return _checked(structured(merged), warn)

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
            yield from (one for one in inside if one.suffix == ".json" and not one.is_dir())


def _read_object(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_bytes())
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
        there = below.get(key)
        if _is_go_zero(key, value):
            continue
        if isinstance(there, list) and isinstance(value, list) and key != "rpc_addr":
            below[key] = there + value
        elif isinstance(there, dict) and isinstance(value, dict):
            below[key] = there | value
        else:
            below[key] = value


def _is_go_zero(key: str, value: Any) -> bool:
    """Tell whether a value of one of Serf's keys is Go's zero, which Serf takes for no value."""
    if key not in _SERF_KEYS:
        return False
    if isinstance(value, str) and key in _SERF_DURATIONS:
        return parse_duration(value) == 0
    return value in ("", 0, False)


# --- what values must be ---


def _checked(config: AgentConfig, warn: Callable[[str], None]) -> AgentConfig:
    """Check values that no type describes, and raise two durations to their least values.

    Raises:
        ConfigError: every fault, a line each.
    """
    faults = list(_value_faults(config))
    if faults:
        raise ConfigError("\n".join(faults))
    if config.rejoin_after_leave and not config.snapshot_path:
        warn("'RejoinAfterLeave' enabled without snapshot file")
    return attrs.evolve(
        config,
        log_level=config.log_level.upper(),
        retry_interval=Seconds(_at_least(config, "retry_interval", _LEAST_RETRY, warn)),
        broadcast_timeout=Seconds(_at_least(config, "broadcast_timeout", _LEAST_BROADCAST, warn)),
    )


def _at_least(config: AgentConfig, key: str, least: float, warn: Callable[[str], None]) -> float:
    value: float = getattr(config, key)
    if value < least:
        name = "".join(word.capitalize() for word in key.split("_"))
        warn(f"'{name}' is too low. Setting to {least:g}s")
    return max(value, least)


def _value_faults(config: AgentConfig) -> Iterable[str]:
    if config.log_level.upper() not in LOG_LEVELS:
        valid = " ".join(LOG_LEVELS)
        yield f"Invalid log level: {config.log_level.upper()}. Valid log levels are: [{valid}]"
    if config.profile not in PROFILE_NAMES:
        yield f"Unknown profile: {config.profile}; expected {', '.join(PROFILE_NAMES)}"
    if config.tags_file and config.own_tags:
        yield f"{SETUP_FAILED}: Tags config not allowed while using tag files"
    if config.encrypt_key and config.keyring_file:
        yield f"{SETUP_FAILED}: Encryption key not allowed while using a keyring"
    for key in ("handler_limit", "handler_queue"):
        if getattr(config, key) < 1:
            yield f"{key}: expected 1 or more, not {getattr(config, key)}"
    if config.retry_max_attempts < 0:
        yield f"retry_max_attempts: expected 0 or more, not {config.retry_max_attempts}"
