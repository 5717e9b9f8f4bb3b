"""The declarations of the agent's configuration (see agent/README.md, § Configuration).

They and those of the configuration classes that `AgentConfig` contains say which keys there are; a
key stands in one of them only. `config_sources.py` reads files by them.
"""

from typing import Final

import attrs

from trioserf.agent.config_converter import Addresses, Tags, Texts
from trioserf.agent.http_options import HttpOptions
from trioserf.agent.log_config import LogOptions
from trioserf.defaults import CONTROL_ADDRESS
from trioserf.node.config import NodeConfig
from trioserf.settings import one_of, setting, zero_or_at_least
from trioserf.value_objects import ValueObject

SETUP_FAILED: Final = "Failed to setup the Serf agent"
"""How some of Serf's errors begin."""
DEFAULT_PROFILE: Final = "lan"
HANDLER_ENVIRONMENTS: Final = ("inherit", "clean")
_LEAST_MEMORY: Final = 16 * 1024 * 1024
"""Bytes with which a shell and small programs run."""


@attrs.frozen(eq=False, repr=False, kw_only=True)
class MdnsConfig(ValueObject):
    """Options of multicast DNS."""

    interface: str = ""
    disable_ipv4: bool = False
    disable_ipv6: bool = False


@attrs.frozen(eq=False, repr=False, kw_only=True)
class HandlerOptions(ValueObject):
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
        check=one_of(HANDLER_ENVIRONMENTS),
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
        check=zero_or_at_least(_LEAST_MEMORY),
    )


@attrs.frozen(eq=False, repr=False, kw_only=True)
class AgentConfig(ValueObject):
    """The configuration of an agent. Durations are seconds.

    Attributes:
        node: the keys of the node. What depends on the keys here (addresses, tags, keys of
            encryption) is added by `node_config`.
        http: the keys of HTTP.
        handlers: the keys of event handlers.
        logs: further keys of the log.
    """

    node: NodeConfig = attrs.field(factory=NodeConfig)
    tags: Tags = setting(
        attrs.Factory(dict),
        "tags of this member, together 512 bytes encoded",
        serf=True,
        reloads=True,
    )
    tags_file: str = setting(
        "", "keeps tags that are set at run time; not together with `tags`", serf=True
    )
    role: str = setting("", "deprecated: the tag `role`", serf=True, reloads=True)
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
    log_level: str = setting(
        "INFO", "`TRACE`, `DEBUG`, `INFO`, `WARN` or `ERR`", serf=True, reloads=True
    )
    profile: str = setting(DEFAULT_PROFILE, "timings for a `lan`, a `wan` or `local`", serf=True)
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
        reloads=True,
    )
    rpc_tls_key: str = setting("", "its private key", shown="in `rpc_tls_cert`", reloads=True)
    rpc_tls_client_ca: str = setting(
        "",
        "CA that signed the clients' certificates, which they then must have",
        shown="none",
        reloads=True,
    )
    event_handlers: Texts = setting(
        attrs.Factory(list),
        "`[FILTER=]SCRIPT`, see [below](#event-handlers)",
        serf=True,
        reloads=True,
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
    ready_when_joined: bool = setting(
        False,
        "report to [systemd](#running-as-a-service) that the agent is ready when it has joined, or"
        " has seen another member, not as soon as it listens",
    )
    replay_on_join: bool = setting(False, "deliver user events from before the join", serf=True)
    snapshot_path: str = setting("", "remember members and clocks in this file", serf=True)
    rejoin_after_leave: bool = setting(
        False, "rejoin from the snapshot even after a leave", serf=True, reloads=True
    )
    leave_on_terminate: bool = setting(
        False, "leave gracefully on SIGTERM", serf=True, reloads=True
    )
    skip_leave_on_interrupt: bool = setting(
        False, "do not leave gracefully on SIGINT", serf=True, reloads=True
    )
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

    encrypt_key_file: str = setting(
        "",
        "file whose only line is the key of `encrypt_key`, which must then be missing",
    )
    rpc_auth_file: str = setting(
        "", "file whose only line is the key of `rpc_auth`, which must then be missing"
    )
    rpc_socket_mode: str = setting(
        "",
        'octal mode of `unix:PATH`, such as `"0660"`',
        shown="`0600`, or as `rpc_allow` or `rpc_socket_group` needs",
    )
    rpc_socket_group: str = setting(
        "", "group of `unix:PATH`, a name or a number", shown="the agent's"
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
    dns_servers: Texts = setting(
        attrs.Factory(list),
        "name servers, `address` or `address:port`, for [services](#addresses-to-join)",
        shown="the system's",
    )
    http: HttpOptions = attrs.field(factory=HttpOptions)
    handlers: HandlerOptions = attrs.field(factory=HandlerOptions)
    logs: LogOptions = attrs.field(factory=LogOptions)

    @property
    def own_tags(self) -> dict[str, str]:
        """The tags to start with, the deprecated role among them."""
        return {"role": self.role, **self.tags} if self.role else dict(self.tags)
