"""The options of the agent: a table of configuration keys, and what a command line makes of it.

Does not import typer, so that an agent starts without it: `commands/agent.py` declares these
options to typer, for help, completion and errors.
"""

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import takewhile
from typing import Any, Final, NamedTuple

from trioserf.agent.durations import parse_duration
from trioserf.cli.completion import (
    EVENT_FILTERS,
    LOG_LEVELS,
    complete_from,
    interface_names,
)
from trioserf.cli.connect import parse_tags
from trioserf.cli.go_flags import Flag, FlagError, parse
from trioserf.cli.go_format import parse_int, quote, to_text
from trioserf.cli.hints import value_hint
from trioserf.cli.output import CommandError, Output
from trioserf.control.address import DEFAULT_ADDRESS

Overrides = dict[str, Any]
"""Values by configuration key; durations are still text."""
OptionError = tuple[str, str]
"""A configuration key, empty for none, and an error of its option in Serf's words."""


class Kind(NamedTuple):
    """The type of a value, as typer reads it, and its conversion.

    `parser` converts the text, `convert` the result to the value of the key.
    """

    annotation: Any = str
    default: Any = ""
    parser: Callable[[str], Any] | None = None
    convert: Callable[[Any], Any] = lambda value: value

    @property
    def is_switch(self) -> bool:
        """Whether the option may stand without a value."""
        return self.annotation in (bool, bool | None)

    @property
    def is_repeatable(self) -> bool:
        """Whether each occurrence of the option appends a value."""
        return bool(self.annotation == list[str] | None)


def _check_duration(text: str) -> str:
    try:
        parse_duration(text)
    except ValueError as error:
        message = f"Error: time: invalid duration {quote(text)}"
        hint = value_hint("DURATION", text)
        raise CommandError(message, "bad_config", hint=hint) from error
    return text


def _tags(pairs: list[str]) -> dict[str, str]:
    return parse_tags(list(map(_utf8, pairs)))


def _utf8(text: str) -> str:
    """Decode an argument as UTF-8 whatever the locale is, as in a configuration file.

    Paths must stay as they are: the locale encodes them again.
    """
    return to_text(os.fsencode(text))


TEXT: Final = Kind()
NAME: Final = Kind(convert=_utf8)
DURATION: Final = Kind(convert=_check_duration)
LIST: Final = Kind(list[str] | None, None)
SCRIPTS: Final = Kind(list[str] | None, None, convert=lambda texts: list(map(_utf8, texts)))
TAGS: Final = Kind(list[str] | None, None, convert=_tags)
NUMBER: Final = Kind(int | None, None, parse_int)
SWITCH: Final = Kind(bool, False)
OFF: Final = Kind(bool, False, convert=lambda _: False)
CHOICE: Final = Kind(bool | None, None)
"""A boolean whose false is a value, too."""


class AgentOption(NamedTuple):
    """An option of the agent, and the configuration key that it sets.

    Attributes:
        names: with one dash as in Serf, or with two for an extension; an alias after a comma.
        key: the configuration key, with a dot into an object; "" for none.
        help: its description.
        metavar: placeholder of its value.
        kind: how its text is converted.
        completion: returns values for completion.
    """

    names: str
    key: str
    help: str
    metavar: str = ""
    kind: Kind = TEXT
    completion: Callable[[], list[str]] | None = None

    @property
    def parameter(self) -> str:
        """Name of the parameter."""
        return self.names.partition(",")[0].lstrip("-").replace("-", "_")


OPTIONS: Final[Mapping[str, tuple[AgentOption, ...]]] = {
    "Membership": (
        AgentOption(
            "-node", "node_name", "Name of this member. Default: the host name.", "NAME", NAME
        ),
        AgentOption("-tag", "tags", "A tag of this member. Repeatable.", "KEY=VALUE", TAGS),
        AgentOption(
            "-tags-file", "tags_file", "Keep the tags in this file (excludes -tag).", "PATH"
        ),
        AgentOption("-role", "", "Deprecated: the same as -tag role=NAME.", "NAME"),
        AgentOption(
            "-profile",
            "profile",
            "Timing for a lan (the default), wan or local network.",
            "NAME",
            completion=complete_from("lan", "wan", "local"),
        ),
        AgentOption("-protocol", "protocol", "Serf's protocol version. Default 5.", "N", NUMBER),
        AgentOption(
            "-disable-compression", "enable_compression", "Do not compress messages.", kind=OFF
        ),
        AgentOption(
            "-broadcast-timeout",
            "broadcast_timeout",
            "Time limit for leave and force-leave. Default 5s.",
            "DURATION",
            DURATION,
        ),
        AgentOption(
            "--label",
            "label",
            "Separate clusters: messages with another label, or none, are dropped.",
            "TEXT",
            NAME,
        ),
        AgentOption(
            "--allowed-network",
            "allowed_networks",
            "Accept only senders and members of this network. Repeatable. Default: all.",
            "CIDR",
            LIST,
        ),
        AgentOption(
            "--dead-node-reclaim-time",
            "dead_node_reclaim_time",
            "How long a member must have been dead before another address may take its name."
            " Default 0s: never.",
            "DURATION",
            DURATION,
        ),
        AgentOption(
            "--validate-node-names",
            "validate_node_names",
            "Accept only names of letters, digits, dashes and dots.",
            kind=SWITCH,
        ),
    ),
    "Addresses": (
        AgentOption(
            "-bind",
            "bind",
            "Address for gossip, IPv6 as [::1]:7946. Default 0.0.0.0:7946.",
            "HOST:PORT",
        ),
        AgentOption(
            "-iface",
            "interface",
            "Network interface for gossip, if its address is unknown.",
            "NAME",
            completion=interface_names,
        ),
        AgentOption("-advertise", "advertise", "Address for other members.", "HOST:PORT"),
    ),
    "Joining": (
        AgentOption(
            "-join",
            "start_join",
            "Join at start; exit if no address can be reached. Repeatable.",
            "HOST",
            LIST,
        ),
        AgentOption(
            "-replay", "replay_on_join", "Accept user events from before the join.", kind=SWITCH
        ),
        AgentOption(
            "-retry-join",
            "retry_join",
            "Join, and retry until it works. Repeatable.",
            "HOST",
            LIST,
        ),
        AgentOption(
            "-retry-interval",
            "retry_interval",
            "Time before each retry. Default 30s.",
            "DURATION",
            DURATION,
        ),
        AgentOption(
            "-retry-max",
            "retry_max_attempts",
            "Exit after N retries. Default 0: no limit.",
            "N",
            NUMBER,
        ),
        AgentOption(
            "-rejoin",
            "rejoin_after_leave",
            "Rejoin from the snapshot even after a leave.",
            kind=SWITCH,
        ),
        AgentOption(
            "--ready-when-joined",
            "ready_when_joined",
            "Report to systemd that the agent is ready after its first join, not before.",
            kind=SWITCH,
        ),
        AgentOption(
            "-discover", "discover", "Discover members of a cluster by multicast DNS.", "CLUSTER"
        ),
        AgentOption(
            "-mdns-iface",
            "mdns.interface",
            "Network interface for multicast DNS.",
            "NAME",
            completion=interface_names,
        ),
        AgentOption(
            "-mdns-disable-ipv4", "mdns.disable_ipv4", "No multicast DNS over IPv4.", kind=SWITCH
        ),
        AgentOption(
            "-mdns-disable-ipv6", "mdns.disable_ipv6", "No multicast DNS over IPv6.", kind=SWITCH
        ),
    ),
    "Encryption": (
        AgentOption("-encrypt", "encrypt_key", "Key for gossip, in base64 (see keygen).", "KEY"),
        AgentOption("-keyring-file", "keyring_file", "Keep the keys in this file.", "PATH"),
        AgentOption(
            "--encrypt-key-file",
            "encrypt_key_file",
            "Read the key of -encrypt from this file.",
            "PATH",
        ),
        AgentOption(
            "--verify-incoming",
            "verify_incoming",
            "With a key: reject plaintext. The default; =false accepts it.",
            kind=CHOICE,
        ),
        AgentOption(
            "--verify-outgoing",
            "verify_outgoing",
            "With a key: send no plaintext. The default; =false sends it.",
            kind=CHOICE,
        ),
    ),
    "Handlers": (
        AgentOption(
            "-event-handler",
            "event_handlers",
            "Run a script on events: SCRIPT, member-join=SCRIPT, user:deploy=SCRIPT,"
            " query:load=SCRIPT. Repeatable.",
            "[FILTER=]SCRIPT",
            SCRIPTS,
            complete_from(*(f"{name}=" for name in EVENT_FILTERS)),
        ),
        AgentOption(
            "--handler-timeout",
            "handler_timeout",
            "End a script that runs for longer; 0s: never. Default 1h.",
            "DURATION",
            DURATION,
        ),
        AgentOption(
            "--handler-user", "handler_user", "Run scripts as this user. Needs root.", "NAME"
        ),
        AgentOption(
            "--handler-env",
            "handler_env",
            "Environment of scripts: inherit (the default), the agent's without its keys; or"
            " clean.",
            "NAME",
            completion=complete_from("inherit", "clean"),
        ),
    ),
    "Control": (
        AgentOption(
            "-rpc-addr",
            "rpc_addr",
            f"Address for clients: host:port or unix:PATH. Default {DEFAULT_ADDRESS}.",
            "HOST:PORT",
        ),
        AgentOption("--rpc-auth", "rpc_auth", "Key that clients must present.", "KEY"),
        AgentOption(
            "--rpc-auth-file", "rpc_auth_file", "Read the key of --rpc-auth from a file.", "PATH"
        ),
        AgentOption(
            "--rpc-tokens",
            "rpc_tokens",
            "File of tokens, each with scopes, that clients may present instead (see token).",
            "PATH",
        ),
        AgentOption(
            "--rpc-allow",
            "rpc_allow",
            "Accept this user of a Unix socket without a key: uid:0, user:NAME, gid:0,"
            " group:ops=read,event:deploy-*. Repeatable.",
            "RULE",
            LIST,
        ),
        AgentOption(
            "--audit-log",
            "audit_log",
            "Write each change by a client to this file; - for stderr.",
            "PATH",
        ),
    ),
    "Files": (
        AgentOption(
            "-config-file,-config-dir",
            "",
            "Read this JSON file, or every *.json in a directory, by name. Repeatable.",
            "PATH",
            LIST,
        ),
        AgentOption(
            "-snapshot", "snapshot_path", "Store members and clocks in this file.", "PATH"
        ),
        AgentOption(
            "--set",
            "",
            "Any configuration key, such as reconnect_timeout=1h or mdns.interface=eth0."
            " Repeatable.",
            "KEY=VALUE",
            LIST,
        ),
    ),
    "Logs and metrics": (
        AgentOption(
            "-log-level",
            "log_level",
            "Lowest level: trace, debug, info (the default), warn or err.",
            "LEVEL",
            completion=LOG_LEVELS,
        ),
        AgentOption(
            "--log-format",
            "log_format",
            "Format of the log: text (the default), Serf's, or json.",
            "FORMAT",
            completion=complete_from("text", "json"),
        ),
        AgentOption(
            "--log-file", "log_file", "Write the log to this file, not to stderr.", "PATH"
        ),
        AgentOption("-syslog", "enable_syslog", "Log to syslog, too.", kind=SWITCH),
    ),
}


class Settings(NamedTuple):
    """What a command line configures.

    Attributes:
        paths: configuration files, and directories of them.
        overrides: values by configuration key.
        errors: errors of options.
    """

    paths: Sequence[str]
    overrides: Overrides
    errors: Sequence[OptionError]


def parse_settings(words: Sequence[str], out: Output) -> Settings:
    """Parse the command line of an agent.

    Args:
        words: the words after the command.
        out: the standard streams, for warnings.

    Raises:
        FlagError: the command line is not valid.
    """
    values, others, _ = parse(flags(), words, os.environ)
    if others:
        raise FlagError(f"unexpected word: {others[0]}")
    return agent_settings(values, out)


def flags() -> dict[str, Flag]:
    """Return the options by name, without dashes."""
    found: dict[str, Flag] = {}
    for option in (option for options in OPTIONS.values() for option in options):
        names = option.names.split(",")
        flag = Flag(
            option.parameter,
            [] if option.kind.is_repeatable else option.kind.default,
            boolean=option.kind.is_switch,
            repeatable=option.kind.is_repeatable,
            extension=names[0].startswith("--"),
            parse=option.kind.parser or str,
            hint=partial(value_hint, option.metavar),
        )
        found |= dict.fromkeys((name.lstrip("-") for name in names), flag)
    return found


def agent_settings(values: Mapping[str, Any], out: Output) -> Settings:
    """Convert the values of options, by parameter, for an agent that starts."""
    if values["role"]:
        out.line_best_effort("==> Deprecation warning: 'Role' has been replaced with 'Tags'")
    return settings_from(values, out)


def settings_from(values: Mapping[str, Any], out: Output) -> Settings:
    """Convert the values of options, by parameter, into configuration keys.

    As text, what mends an error goes to standard error.
    """

    def explain(error: CommandError) -> None:
        if error.hint and not out.json:
            out.explain(error.hint, error.code)

    overrides, errors = overrides_from(values, explain)
    if role := values["role"]:
        overrides.setdefault("tags", {}).setdefault("role", _utf8(role))
    errors += apply_settings(overrides, values["set"] or ())
    return Settings(values["config_file"] or (), overrides, errors)


def overrides_from(
    values: Mapping[str, Any], explain: Callable[[CommandError], None] = lambda _: None
) -> tuple[Overrides, list[OptionError]]:
    """Convert the values of options of `OPTIONS`, by parameter, into configuration keys.

    As in Serf, an empty, zero or false value counts as not given, except for a `CHOICE`.

    Args:
        values: the values.
        explain: called with each error.

    Returns:
        The values, and all errors.
    """
    overrides: Overrides = {}
    errors: list[OptionError] = []
    for options in OPTIONS.values():
        for option in options:
            value = values[option.parameter]
            if not option.key or not (value or (option.kind is CHOICE and value is not None)):
                continue
            try:
                _set_key(overrides, option.key, option.kind.convert(value))
            except CommandError as error:
                errors.append((option.key, error.text))
                explain(error)
    return overrides, errors


def apply_settings(overrides: Overrides, settings: Iterable[str]) -> list[OptionError]:
    """Add `KEY=VALUE` settings; dots lead into objects, values are JSON or else text.

    Return an error for each setting without `=`, or with a dot into a value that is not an
    object. It shows no value, which may be secret.
    """
    errors = []
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key or key.endswith("."):
            # A secret may follow: `rpc_auth:KEY`.
            shown = "".join(takewhile(lambda one: one.isalnum() or one in "_.", setting))
            shown += "…" * (shown != setting)
            errors.append(("", f"Error: Invalid setting: '{shown}' (expected KEY=VALUE)"))
            continue
        try:
            _set_key(overrides, key, parse_value(text))
        except KeyError as error:
            text = f"Error: Invalid setting: '{key}=' ({error.args[0]} has no keys)"
            errors.append(("", text))
    return errors


def _set_key(overrides: Overrides, key: str, value: Any) -> None:
    """Set a key, dots leading into objects.

    Raises:
        KeyError: a part of the key whose value is not an object.
    """
    *parents, name = key.split(".")
    values = overrides
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise KeyError(parent)
    values[name] = value


def parse_value(text: str) -> Any:
    """Parse the value of a setting: JSON if it is valid JSON, otherwise text."""
    try:
        return json.loads(text)
    except ValueError:
        return text
