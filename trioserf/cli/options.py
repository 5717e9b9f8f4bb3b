"""Options that several commands have."""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any

import typer

from trioserf.cli.completion import complete_from
from trioserf.control.address import DEFAULT_ADDRESS
from trioserf.control.tls import AgentAddress, Tls

FORMATS = complete_from("text", "json")
_FORMAT_HELP = "Output format: text (the default) or json."

Format = Annotated[
    str, typer.Option("-format", metavar="text|json", help=_FORMAT_HELP, autocompletion=FORMATS)
]
"""The format of a command whose format Serf can choose, too."""
OwnFormat = Annotated[
    str, typer.Option("--format", metavar="text|json", help=_FORMAT_HELP, autocompletion=FORMATS)
]
"""The format of every other command."""
StreamFormat = Annotated[
    str,
    typer.Option(
        "--format",
        metavar="json",
        help="Output format: json (the default), for errors, too, if it is given.",
        autocompletion=complete_from("json"),
    ),
]
"""The format of a command whose output is JSON anyway."""
RpcAddr = Annotated[
    str,
    typer.Option(
        "-rpc-addr",
        metavar="HOST:PORT",
        envvar="SERF_RPC_ADDR",
        help="Address of the agent: host:port, tls://host:port or unix:PATH. Default:"
        f" $SERF_RPC_ADDR, or else {DEFAULT_ADDRESS}.",
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

_TLS_HELP = {
    "ca": "CA that signed the certificate of a tls:// agent, PEM. Default: {}, or the system's.",
    "cert": "Client certificate for a tls:// agent, PEM. Default: {}.",
    "key": "Its private key. Default: {}, or in the same file.",
    "server_name": "Name in the agent's certificate. Default: {}, or the host of the address.",
}
"""The options of TLS, by the field of `Tls`."""


def with_tls(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of TLS to a command that connects to an agent; its address has them."""
    signature = inspect.signature(command)
    address = signature.parameters.get("rpc_addr")
    if address is None or address.annotation != RpcAddr:
        return command
    added = [_tls_parameter(f"tls_{field}", text) for field, text in _TLS_HELP.items()]

    @wraps(command)
    def run(*, rpc_addr: str, **values: Any) -> None:
        options = Tls(*(values.pop(parameter.name) for parameter in added))
        command(rpc_addr=AgentAddress(rpc_addr, options), **values)

    parameters = [*signature.parameters.values(), *added]
    run.__dict__["__signature__"] = signature.replace(parameters=parameters)
    return run


def _tls_parameter(name: str, text: str) -> inspect.Parameter:
    variable = f"SERF_{name.upper()}"
    declared = typer.Option(
        f"--{name.replace('_', '-')}",
        metavar="NAME" if name.endswith("name") else "PATH",
        envvar=variable,
        help=text.format(f"${variable}"),
    )
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default="", annotation=Annotated[str, declared]
    )
