"""`agent`: its options, as overrides of what configuration files say."""

import json
from collections.abc import Iterable
from typing import Annotated, Any

from trioserf.agent.durations import parse_duration
from trioserf.cli.flags import Option
from trioserf.cli.golang import parse_int, quote
from trioserf.cli.output import Failure, Out
from trioserf.control.address import DEFAULT_ADDRESS

Overrides = dict[str, Any]
"""Values by the keys of configuration files; durations are still text."""


def agent(
    out: Out,
    words: list[str],  # noqa: ARG001 - Serf takes them and ignores them
    *,
    bind: Annotated[
        str,
        Option(
            "bind",
            "Address to listen on for gossip, IPv6 as [::1]:7946. Default 0.0.0.0:7946.",
            "HOST:PORT",
        ),
    ] = "",
    iface: Annotated[
        str,
        Option("iface", "Network interface to listen on, if its address is not known.", "NAME"),
    ] = "",
    advertise: Annotated[
        str, Option("advertise", "Address that other members shall use.", "HOST:PORT")
    ] = "",
    config_file: Annotated[
        list[str], Option("config-file", "Read this JSON file. Repeatable.", "PATH")
    ] = [],  # noqa: B006 - only read
    config_dir: Annotated[  # noqa: ARG001 - its values are among those of config_file
        list[str],
        Option(
            "config-dir",
            "Read every *.json in a directory, by name. Repeatable.",
            "PATH",
            into="config_file",
        ),
    ] = [],  # noqa: B006 - its values are among those of config_file
    discover: Annotated[
        str, Option("discover", "Find members of this cluster by multicast DNS.", "CLUSTER")
    ] = "",
    mdns_iface: Annotated[
        str, Option("mdns-iface", "Network interface for multicast DNS.", "NAME")
    ] = "",
    mdns_disable_ipv4: Annotated[
        bool, Option("mdns-disable-ipv4", "No multicast DNS over IPv4.")
    ] = False,
    mdns_disable_ipv6: Annotated[
        bool, Option("mdns-disable-ipv6", "No multicast DNS over IPv6.")
    ] = False,
    encrypt: Annotated[
        str, Option("encrypt", "Key to seal gossip with, in base64 (see keygen).", "KEY")
    ] = "",
    keyring_file: Annotated[
        str, Option("keyring-file", "Keep the keys in this file.", "PATH")
    ] = "",
    event_handler: Annotated[
        list[str],
        Option(
            "event-handler",
            "Run a script on events: SCRIPT, member-join=SCRIPT, user:deploy=SCRIPT,"
            " query:load=SCRIPT. Repeatable.",
            "[FILTER=]SCRIPT",
        ),
    ] = [],  # noqa: B006 - only read
    join: Annotated[
        list[str],
        Option("join", "Join at start, and end if nobody can be reached. Repeatable.", "HOST"),
    ] = [],  # noqa: B006 - only read
    replay: Annotated[bool, Option("replay", "Take in user events from before the join.")] = False,
    retry_join: Annotated[
        list[str], Option("retry-join", "Join, and try until it works. Repeatable.", "HOST")
    ] = [],  # noqa: B006 - only read
    retry_interval: Annotated[
        str,
        Option(
            "retry-interval",
            "How long to wait before each retry. Default 30s.",
            "DURATION",
        ),
    ] = "",
    retry_max: Annotated[
        int | None,
        Option(
            "retry-max", "Give up after so many retries. Default 0: never.", "N", read=parse_int
        ),
    ] = None,
    rejoin: Annotated[
        bool, Option("rejoin", "Rejoin from the snapshot even after a leave.")
    ] = False,
    log_level: Annotated[
        str, Option("log-level", "trace, debug, info (the default), warn or err.", "LEVEL")
    ] = "",
    node: Annotated[
        str, Option("node", "Name of this member. Default: the host's name.", "NAME")
    ] = "",
    profile: Annotated[
        str, Option("profile", "Timing for a lan (the default), a wan or local.", "NAME")
    ] = "",
    protocol: Annotated[
        int | None,
        Option("protocol", "Serf's protocol version to speak. Default 5.", "N", read=parse_int),
    ] = None,
    role: Annotated[str, Option("role", "Deprecated: the same as -tag role=NAME.", "NAME")] = "",
    tag: Annotated[
        list[str], Option("tag", "A tag of this member. Repeatable.", "KEY=VALUE")
    ] = [],  # noqa: B006 - only read
    tags_file: Annotated[
        str, Option("tags-file", "Keep the tags in this file (not together with -tag).", "PATH")
    ] = "",
    rpc_addr: Annotated[
        str,
        Option(
            "rpc-addr",
            f"Where to listen for clients: host:port or unix:PATH. Default {DEFAULT_ADDRESS}.",
            "HOST:PORT",
        ),
    ] = "",
    rpc_auth: Annotated[
        str, Option("rpc-auth", "Key that clients must show.", "KEY", ours=True)
    ] = "",
    snapshot: Annotated[
        str, Option("snapshot", "Remember members and clocks in this file.", "PATH")
    ] = "",
    syslog: Annotated[bool, Option("syslog", "Log to syslog too.")] = False,
    disable_compression: Annotated[
        bool, Option("disable-compression", "Do not compress messages.")
    ] = False,
    broadcast_timeout: Annotated[
        str,
        Option(
            "broadcast-timeout",
            "How long leaving and forcing to leave may take. Default 5s.",
            "DURATION",
        ),
    ] = "",
    label: Annotated[
        str,
        Option(
            "label",
            "Keep clusters apart: whoever has another label, or none, is not heard.",
            "TEXT",
            ours=True,
        ),
    ] = "",
    allowed_network: Annotated[
        list[str],
        Option(
            "allowed-network",
            "Hear only senders and members of this network. Repeatable. Default: all.",
            "CIDR",
            ours=True,
        ),
    ] = [],  # noqa: B006 - only read
    dead_node_reclaim_time: Annotated[
        str,
        Option(
            "dead-node-reclaim-time",
            "How long a member must have been dead before another address may take its name."
            " Default 0s: never.",
            "DURATION",
            ours=True,
        ),
    ] = "",
    validate_node_names: Annotated[
        bool,
        Option(
            "validate-node-names",
            "Accept only names of letters, digits, dashes and dots.",
            ours=True,
        ),
    ] = False,
    verify_incoming: Annotated[
        bool | None,
        Option(
            "verify-incoming",
            "With a key: refuse plaintext. The default; switch it off with =false.",
            ours=True,
        ),
    ] = None,
    verify_outgoing: Annotated[
        bool | None,
        Option(
            "verify-outgoing",
            "With a key: send no plaintext. The default; switch it off with =false.",
            ours=True,
        ),
    ] = None,
    settings: Annotated[
        list[str],
        Option(
            "set",
            "Any key of a configuration file, such as reconnect_timeout=1h or"
            " mdns.interface=eth0. Repeatable.",
            "KEY=VALUE",
            ours=True,
        ),
    ] = [],  # noqa: B006 - only read
) -> int:
    """Run an agent: one member of a cluster, until it is interrupted.

    Files are read in their order, options count more than files. SIGINT leaves the cluster in
    good order; SIGHUP reads log level, handlers, tags, a first key and the verify switches anew.

    Event handlers get the event in SERF_EVENT and other variables, and members or payload on
    standard input; what a query's handler prints is the answer.
    """
    for duration in (retry_interval, broadcast_timeout, dead_node_reclaim_time):
        check_duration(duration)
    overrides: Overrides = {
        "bind": bind,
        "interface": iface,
        "advertise": advertise,
        "discover": discover,
        "mdns": given(
            interface=mdns_iface, disable_ipv4=mdns_disable_ipv4, disable_ipv6=mdns_disable_ipv6
        ),
        "encrypt_key": encrypt,
        "keyring_file": keyring_file,
        "event_handlers": event_handler,
        "start_join": join,
        "replay_on_join": replay,
        "retry_join": retry_join,
        "retry_interval": retry_interval,
        "retry_max_attempts": retry_max,
        "rejoin_after_leave": rejoin,
        "log_level": log_level,
        "node_name": node,
        "profile": profile,
        "protocol": protocol,
        "tags": agent_tags(tag),
        "tags_file": tags_file,
        "rpc_addr": rpc_addr,
        "rpc_auth": rpc_auth,
        "snapshot_path": snapshot,
        "enable_syslog": syslog,
        "broadcast_timeout": broadcast_timeout,
        "label": label,
        "allowed_networks": allowed_network,
        "dead_node_reclaim_time": dead_node_reclaim_time,
        "validate_node_names": validate_node_names,
    }
    overrides = given(**overrides)
    if role:
        out.notice("==> Deprecation warning: 'Role' has been replaced with 'Tags'")
        overrides.setdefault("tags", {}).setdefault("role", role)
    if disable_compression:
        overrides["enable_compression"] = False
    if verify_incoming is not None:
        overrides["verify_incoming"] = verify_incoming
    if verify_outgoing is not None:
        overrides["verify_outgoing"] = verify_outgoing
    set_keys(overrides, settings)
    from trioserf.cli.serving import serve

    return serve(out, config_file, overrides)


def check_duration(text: str) -> None:
    """Look at a duration, as far as one is given.

    Raises:
        Failure: it is none.
    """
    try:
        parse_duration(text or "0s")
    except ValueError as error:
        raise Failure(f"==> Error: time: invalid duration {quote(text)}", "bad_config") from error


def given(**values: Any) -> Overrides:
    """Keep the options that were given; empty, false or missing ones were not."""
    return {key: value for key, value in values.items() if value not in ("", None, False, [], {})}


def agent_tags(pairs: Iterable[str]) -> dict[str, str]:
    """Read `key=value` pairs.

    Raises:
        Failure: one has no `=`, or no key.
    """
    from trioserf.cli.calling import tags_of

    try:
        return tags_of(pairs)
    except Failure as error:
        raise Failure(f"==> {error.text}", error.code) from error


def set_keys(overrides: Overrides, settings: Iterable[str]) -> None:
    """Add `KEY=VALUE` settings; dots lead into objects, values are JSON or else text.

    Raises:
        Failure: one has no `=`, or leads into what is no object.
    """
    for setting in settings:
        path, equals, text = setting.partition("=")
        *above, key = path.split(".")
        if not equals or not key:
            text = f"==> Error: Invalid setting: '{setting}' (expected KEY=VALUE)"
            raise Failure(text, "bad_request")
        place = overrides
        for name in above:
            place = place.setdefault(name, {})
            if not isinstance(place, dict):
                text = f"==> Error: Invalid setting: '{setting}' ({name} holds no keys)"
                raise Failure(text, "bad_request")
        place[key] = value_of(text)


def value_of(text: str) -> Any:
    """Read a value of a setting: JSON where it is that, text elsewhere."""
    try:
        return json.loads(text)
    except ValueError:
        return text
