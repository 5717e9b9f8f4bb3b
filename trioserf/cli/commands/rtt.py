"""`rtt`: estimate the round-trip time between two members."""

from typing import Annotated

import typer

from trioserf.cli.app import SerfCommand, more, new_app
from trioserf.cli.completion import member_names
from trioserf.cli.connect import connect
from trioserf.cli.go_format import quote
from trioserf.cli.hints import name_errors
from trioserf.cli.options import OwnFormat, RpcAddr, RpcAuth
from trioserf.cli.output import CommandError, Output, UsageError, check_format, reporting_errors
from trioserf.control.address import DEFAULT_ADDRESS
from trioserf.control.errors import ControlError
from trioserf.printable import printable

app = new_app()


class _RttCommand(SerfCommand):
    words_are = ("a name", "the names")


@app.command(
    cls=_RttCommand,
    epilog=more("rtt db-1", "rtt db-1 db-2", page="trioserf/control/README.md, § Commands"),
)
def rtt(
    ctx: typer.Context,
    words: Annotated[
        list[str] | None, typer.Argument(metavar="node1 [node2]", autocompletion=member_names)
    ] = None,
    output_format: OwnFormat = "text",
    rpc_addr: RpcAddr = DEFAULT_ADDRESS,
    rpc_auth: RpcAuth = "",
) -> None:
    """Estimate the round-trip time between two members.

    The estimate comes from their network coordinates. Without a second name, the agent itself is
    the other member.
    """
    out: Output = ctx.obj
    with connect(rpc_addr, rpc_auth) as session:
        names = list(words or ())
        if len(names) not in (1, 2):
            raise UsageError("One or two node names must be specified")
        check_format(output_format)
        if len(names) == 1:
            with reporting_errors("Error querying agent"):
                names.append(str(session.info()["agent"]["name"]))
        coordinates = []
        for name in names:
            try:
                coordinates.append(session.coordinate(name))
            except ControlError as error:
                text, hint = f"Error getting coordinates: {error.message}", ""
                if error.code == "no_such_member":
                    text = f"Could not find a coordinate for node {quote(name)}"
                    hint = "; ".join(name_errors(session, [name]))
                raise CommandError(text, error.code, hint=hint) from error
    seconds = coordinates[0].distance(coordinates[1])
    first, second = map(printable, names)
    out.line(f"Estimated {first} <-> {second} rtt: {seconds * 1000:.3f} ms")
    out.record({"node": names[0], "other": names[1], "seconds": seconds})
