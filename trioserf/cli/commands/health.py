"""`health`: what an agent says about itself, with an exit code for containers and monitoring."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Final

import typer

from trioserf.agent.durations import parse_duration
from trioserf.cli.app import SerfCommand, more, new_app
from trioserf.cli.connect import connection_error, tls_of
from trioserf.cli.options import OwnFormat, RpcAddr, RpcAuth
from trioserf.cli.output import FAILED, CommandError, Output, check_format
from trioserf.control.address import DEFAULT_ADDRESS
from trioserf.control.errors import ControlError

if TYPE_CHECKING:
    from trioserf.health import Health

UNKNOWN: Final = 2
"""Exit code if no agent has answered: nothing is known."""

app = new_app()


@app.command(
    cls=SerfCommand,
    epilog=more(
        "health", "health --timeout=2s --format=json", page="trioserf/cli/README.md, § Health"
    ),
)
def health(
    ctx: typer.Context,
    timeout: Annotated[
        float,
        typer.Option(
            "--timeout",
            metavar="DURATION",
            help="Time limit of the connection, and of the answer. Default 5s.",
            parser=parse_duration,
        ),
    ] = 5.0,
    output_format: OwnFormat = "text",
    rpc_addr: RpcAddr = DEFAULT_ADDRESS,
    rpc_auth: RpcAuth = "",
) -> None:
    """Show whether the agent is healthy.

    The exit code is 0 for a healthy agent, 1 for a degraded one, whose reasons are printed, and 2
    if no agent has answered, or it refused the key: nothing is known then. "health" needs the
    scope read.
    """
    out: Output = ctx.obj
    check_format(output_format)
    if timeout <= 0:
        raise CommandError("Error: --timeout: expected a duration above 0s", "bad_request")
    try:
        found = _ask(rpc_addr, rpc_auth, timeout)
    except CommandError as error:
        out.error(error)
        raise typer.Exit(UNKNOWN) from error
    out.line(health_text(found))
    out.record({"healthy": found.healthy, **found._asdict()})
    if not found.healthy:
        raise typer.Exit(FAILED)


def _ask(address: str, auth: str, timeout: float) -> "Health":
    """Return the health of the agent at an address (raises CommandError)."""
    from trioserf.control.client import connect as client

    try:
        session = client.connect_any(address, auth or None, timeout=timeout, tls=tls_of(address))
    except ControlError as error:
        raise connection_error(address, error) from error
    with session:
        try:
            session.prompt_timeout = timeout
            return session.health()
        except ControlError as error:
            raise CommandError(f"Error querying agent: {error.message}", error.code) from error


def health_text(found: "Health") -> str:
    """Format the health of an agent: the verdict, its reasons, and the numbers."""
    joined = {True: "yes", False: "no", None: "not reported"}
    return "\n".join(
        (
            "healthy" if found.healthy else "degraded",
            *(f"  {reason}" for reason in found.reasons),
            f"phase: {found.phase}",
            f"joined: {joined[found.joined]}",
            f"health score: {found.score}",
            f"members: {_counts(found.members)}",
            f"queues: {_counts(found.queues)}",
        )
    )


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())
