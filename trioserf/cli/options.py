"""Options that several commands have."""

from typing import Annotated

import typer

from trioserf.cli.completion import complete_from
from trioserf.control.address import DEFAULT_ADDRESS

FORMATS = complete_from("text", "json")
LOG_LEVELS = complete_from("trace", "debug", "info", "warn", "err")
_FORMAT_HELP = "Output format: text (the default) or json."

Format = Annotated[
    str, typer.Option("-format", metavar="text|json", help=_FORMAT_HELP, autocompletion=FORMATS)
]
"""The format of a command whose format Serf can choose, too."""
OwnFormat = Annotated[
    str, typer.Option("--format", metavar="text|json", help=_FORMAT_HELP, autocompletion=FORMATS)
]
"""The format of every other command."""
RpcAddr = Annotated[
    str,
    typer.Option(
        "-rpc-addr",
        metavar="HOST:PORT",
        envvar="SERF_RPC_ADDR",
        help=f"Address of the agent: host:port or unix:PATH. Default: $SERF_RPC_ADDR, or else"
        f" {DEFAULT_ADDRESS}.",
    ),
]
RpcAuth = Annotated[
    str,
    typer.Option(
        "-rpc-auth",
        metavar="KEY",
        envvar="SERF_RPC_AUTH",
        help="The agent's RPC key. Default: $SERF_RPC_AUTH.",
    ),
]
