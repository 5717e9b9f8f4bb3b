"""How a command says what options it takes.

A command is a plain function. Its positional words come as a list; each option is a keyword
parameter whose annotation carries an `Option`:

    def members(out: Out, words: list[str], *, detailed: Annotated[bool, Option(...)] = False): ...

`typer.Option` would say the same, but importing typer takes as long as the whole answer to
`trioserf members` may, and the agent would keep its modules in memory for ever. So these records
are what the quick path reads, and `cli.app` makes real typer commands of them.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, NamedTuple

from trioserf.cli.golang import parse_bool
from trioserf.control.address import DEFAULT_ADDRESS


class Option(NamedTuple):
    """One option of a command; a `bool | None` parameter tells false from not given.

    `flag` is its name without dashes, `metavar` what stands for its value in the usage text,
    `env` an environment variable that may set it. `ours` marks what Serf does not know. `read`
    makes a value of the text, raising ValueError with a reason. `into` names another parameter,
    whose list takes the values if their order among those of its own option counts.
    """

    flag: str
    help: str
    metavar: str = ""
    env: str = ""
    ours: bool = False
    read: Callable[[str], Any] | None = None
    into: str = ""


class Flag(NamedTuple):
    """An option together with the parameter that takes it."""

    parameter: str
    option: Option
    kind: type
    default: Any

    @property
    def boolean(self) -> bool:
        """It may stand without a value."""
        return self.kind is bool

    @property
    def repeatable(self) -> bool:
        """Every occurrence adds a value."""
        return self.kind is list

    def value_of(self, text: str) -> Any:
        """Read a value (ValueError: why it is none)."""
        if self.boolean:
            return parse_bool(text)
        return self.option.read(text) if self.option.read else text


def flags_of(function: Callable[..., int]) -> dict[str, Flag]:
    """Read the options from a command's annotations, by name, in the order of its parameters."""
    defaults: Mapping[str, Any] = function.__kwdefaults__ or {}
    found: dict[str, Flag] = {}
    for parameter, annotation in function.__annotations__.items():
        for note in getattr(annotation, "__metadata__", ()):
            if isinstance(note, Option):
                kind = annotation.__origin__
                kind = bool if kind == bool | None else getattr(kind, "__origin__", kind)
                found[note.flag] = Flag(note.into or parameter, note, kind, defaults[parameter])
    return found


RpcAddr = Annotated[
    str,
    Option(
        "rpc-addr",
        f"Where the agent listens: host:port or unix:PATH. Default {DEFAULT_ADDRESS},"
        " or what SERF_RPC_ADDR says.",
        "HOST:PORT",
        env="SERF_RPC_ADDR",
    ),
]
RpcAuth = Annotated[
    str,
    Option(
        "rpc-auth",
        "The agent's RPC key. Default: what SERF_RPC_AUTH says.",
        "KEY",
        env="SERF_RPC_AUTH",
    ),
]
Format = Annotated[
    str, Option("format", "What to print: text (the default) or json.", "text|json")
]
OurFormat = Annotated[
    str, Option("format", "What to print: text (the default) or json.", "text|json", ours=True)
]
