"""`validate`: check the configuration of an agent without a start."""

import os
from typing import Any

import typer

from trioserf.cli.agent_options import settings_from
from trioserf.cli.app import SerfCommand, more, new_app
from trioserf.cli.commands.agent import with_options
from trioserf.cli.options import OwnFormat
from trioserf.cli.output import FAILED, Output, check_format

app = new_app()


@app.command(
    cls=SerfCommand,
    epilog=more(
        "validate --config-dir=/etc/trioserf",
        "validate --config-file=a.json --set profile=wan --format=json",
        page="trioserf/agent/README.md, § Configuration",
    ),
)
@with_options
def validate(ctx: typer.Context, *, output_format: OwnFormat = "text", **values: Any) -> None:
    """Check the configuration of an agent.

    Takes the options of "agent", reads the same files and environment variables, and lists all
    errors of all of them, each with its source, key and what was expected. It makes the same
    checks as an agent at its start and on SIGHUP, but opens no socket and looks up no host. Run
    it as the user of the agent, because it checks which files that user may use.
    """
    # What an agent imports; help and completion need none of it.
    from trioserf.agent.config_sources import Sources
    from trioserf.control.server.config_check import check_configuration

    out: Output = ctx.obj
    check_format(output_format)
    settings = settings_from(values, out)
    sources = Sources(settings.paths, settings.overrides, os.environ, settings.errors)
    checked = check_configuration(sources)
    for problem in checked.problems:
        out.line(str(problem))
    for text in checked.warnings:
        out.line(f"Warning: {text}")
    count = len(checked.problems)
    read = ", ".join(checked.sources) or "defaults only"
    summary = f"{count} error{'s' * (count != 1)}" if count else "The configuration is valid"
    out.line(f"{summary} ({read})")
    out.record(
        {
            "valid": not checked.problems,
            "errors": [problem.record for problem in checked.problems],
            "warnings": checked.warnings,
            "sources": checked.sources,
        }
    )
    if checked.problems:
        raise typer.Exit(FAILED)
