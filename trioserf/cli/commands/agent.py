"""`agent`: declares its options to typer, and starts an agent."""

import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from trioserf.cli.agent_options import OPTIONS, agent_settings
from trioserf.cli.app import SerfCommand, more, new_app

app = new_app()


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
    settings = agent_settings(values, ctx.obj)
    raise typer.Exit(ctx.find_root().obj.start_agent(*settings))
