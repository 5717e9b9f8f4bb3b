"""`agent`: its options, a table of configuration keys."""

import inspect
import json
import os
from collections.abc import Callable, Iterable, Mapping
from itertools import takewhile
from typing import Annotated, Any, Final, NamedTuple

import typer

from trioserf.agent.durations import parse_duration
from trioserf.cli.app import SerfCommand, more, new_app
from trioserf.cli.completion import EVENT_FILTERS, complete_from, interface_names
from trioserf.cli.connect import parse_tags
from trioserf.cli.go_format import parse_int, quote, to_text
from trioserf.cli.hints import value_hint
from trioserf.cli.options import LOG_LEVELS
from trioserf.cli.output import CommandError, Output
from trioserf.control.address import DEFAULT_ADDRESS

Overrides = dict[str, Any]
"""Values by configuration key; durations are still text."""
OptionError = tuple[str, str]
"""A configuration key, empty for none, and an error of its option in Serf's words."""

app = new_app()


class Kind(NamedTuple):
    """The conversion of a value: from text by `parser`, to the key's value by `convert`."""

    annotation: Any = str
    default: Any = ""
    parser: Callable[[str], Any] | None = None
    convert: Callable[[Any], Any] = lambda value: value


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
        AgentOption("-syslog", "enable_syslog", "Log to syslog, too.", kind=SWITCH),
    ),
}


def with_options(function: Callable[..., None]) -> Callable[..., None]:
    """Add a parameter for each option to the signature that typer reads, in front of its own."""
    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [inspect.Parameter("ctx", keyword, annotation=typer.Context)]
    own = inspect.signature(function).parameters.values()
    parameters += (one for one in own if one.kind is keyword)
    for group, options in OPTIONS.items():
        for option in options:
            declared = typer.Option(
                *option.names.split(","),
                metavar=option.metavar or None,
                help=option.help,
                parser=option.kind.parser,
                autocompletion=option.completion,
                rich_help_panel=group,
            )
            parameters.append(
                inspect.Parameter(
                    option.parameter,
                    keyword,
                    default=option.kind.default,
                    annotation=Annotated[option.kind.annotation, declared],
                )
            )
    function.__dict__["__signature__"] = inspect.Signature(parameters)
    return function


class _AgentCommand(SerfCommand):
    usage_prefix = "==> "

    def stray_word_hint(self, word: str) -> str:
        """Return what follows from a word."""
        return f" (agent takes options only, and none after a word; to join: -join={word})"


@app.command(
    cls=_AgentCommand,
    epilog=more(
        "agent --node=a --bind=127.0.0.1 --tag role=web",
        "agent --config-dir=/etc/trioserf --set reconnect_timeout=1h",
        page="trioserf/agent/README.md, § Configuration",
    ),
)
@with_options
def agent(ctx: typer.Context, **values: Any) -> None:
    """Run an agent.

    An agent is one member of a cluster; it runs until it is interrupted. Options override files,
    and later files override earlier ones. SIGINT leaves the cluster gracefully; SIGHUP reloads
    log level, handlers, tags, certificates, the first key, the verify switches and the tokens of
    clients.

    An event handler receives the event in SERF_EVENT and other variables, and members or payload
    on standard input; the output of a query's handler is the response.
    """
    out: Output = ctx.obj
    if values["role"]:
        out.line_best_effort("==> Deprecation warning: 'Role' has been replaced with 'Tags'")
    overrides, errors = settings_from(values, out)
    code = ctx.find_root().obj.start_agent(values["config_file"] or (), overrides, errors)
    raise typer.Exit(code)


def settings_from(values: Mapping[str, Any], out: Output) -> tuple[Overrides, list[OptionError]]:
    """Convert the values of options, by parameter, into configuration keys; return all errors.

    As text, what mends an error goes to standard error.
    """

    def explain(error: CommandError) -> None:
        if error.hint and not out.json:
            out.explain(error.hint, error.code)

    overrides, errors = overrides_from(values, explain)
    if role := values["role"]:
        overrides.setdefault("tags", {}).setdefault("role", _utf8(role))
    errors += apply_settings(overrides, values["set"] or ())
    return overrides, errors


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
