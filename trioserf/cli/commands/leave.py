"""`leave`: make the agent leave the cluster."""

import typer

from trioserf.cli.app import SerfCommand, more, new_app
from trioserf.cli.connect import connect
from trioserf.cli.options import OwnFormat, RpcAddr, RpcAuth
from trioserf.cli.output import Output, check_format, reporting_errors
from trioserf.control.address import DEFAULT_ADDRESS

app = new_app()


class _LeaveCommand(SerfCommand):
    def stray_word_hint(self, word: str) -> str:
        """Return how another member is made to leave."""
        return f" (leave ends the agent itself; for a failed member: force-leave {word})"


@app.command(
    cls=_LeaveCommand,
    epilog=more(
        "leave",
        "leave -rpc-addr=unix:/run/trioserf.sock",
        page="trioserf/agent/README.md, § Signals",
    ),
)
def leave(
    ctx: typer.Context,
    output_format: OwnFormat = "text",
    rpc_addr: RpcAddr = DEFAULT_ADDRESS,
    rpc_auth: RpcAuth = "",
) -> None:
    """Make the agent leave the cluster gracefully, and exit."""
    out: Output = ctx.obj
    with connect(rpc_addr, rpc_auth) as session:
        check_format(output_format)
        with reporting_errors("Error leaving"):
            session.leave()
    out.line("Graceful leave complete")
    out.record({"left": True})
