"""`version`: the versions of the program and of the protocol."""

import typer

from trioserf import __version__
from trioserf.cli.app import SerfCommand, more, new_app
from trioserf.cli.options import OwnFormat
from trioserf.cli.output import Output, check_format

PROTOCOL = 5
OLDEST_PROTOCOL = 2

app = new_app()


class _VersionCommand(SerfCommand):
    ignores_options = True


@app.command(
    cls=_VersionCommand,
    epilog=more("version", "version --format=json", page="README.md, § What works today"),
)
def version(ctx: typer.Context, output_format: OwnFormat = "text") -> None:
    """Print the version of this program and of its protocol."""
    out: Output = ctx.obj
    check_format(output_format)
    out.line(__version__)
    out.line(f"Agent Protocol: {PROTOCOL} (Understands back to: {OLDEST_PROTOCOL})")
    out.record({"version": __version__, "protocol": {"max": PROTOCOL, "min": OLDEST_PROTOCOL}})
