"""`token`: create, list and remove tokens of the control port."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final

import typer

from trioserf.cli.app import ExtensionCommand, more, new_app
from trioserf.cli.completion import complete_from
from trioserf.cli.options import OwnFormat
from trioserf.cli.output import CommandError, Output, UsageError, check_format
from trioserf.control.server.permissions import SCOPES, Permissions
from trioserf.control.server.tokens import MAX_TOKENS, Token, dump, load, new_token
from trioserf.errors import ConfigError
from trioserf.operating_system.files import lock_for

_WORDS: Final = {"new": 2, "list": 1, "remove": 2}
"""Actions, and the number of words of each."""

app = new_app()


@app.command(
    cls=ExtensionCommand,
    epilog=more(
        "token new ci --scope read --scope 'event:deploy-*' --file=t.json",
        "token remove ci --file=t.json",
        page="trioserf/control/README.md, § Tokens",
    ),
)
def token(
    ctx: typer.Context,
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="new|list|remove [NAME]", autocompletion=complete_from(*_WORDS)),
    ] = None,
    scope: Annotated[
        list[str] | None,
        typer.Option(
            "--scope",
            metavar="SCOPE[:PATTERN]",
            help=f"A scope of the new token: {', '.join(SCOPES)}. Repeatable.",
            autocompletion=complete_from(*SCOPES),
        ),
    ] = None,
    file: Annotated[
        str,
        typer.Option("--file", metavar="PATH", help="The file of tokens (see rpc_tokens)."),
    ] = "",
    output_format: OwnFormat = "text",
) -> None:
    """Create, list or remove tokens of the control port.

    A token has scopes, which say what its clients may do. "token new" prints the token, which is
    stored nowhere, and adds its hash to the file; without a file it prints the entry for it.
    Agents read the file at the start and on SIGHUP.
    """
    out: Output = ctx.obj
    action, *names = words or [""]
    if len(words or ()) != _WORDS.get(action):
        raise UsageError(f"Unknown words: {' '.join(words)}" if words else "")
    check_format(output_format)
    if scope and action != "new":
        raise CommandError("Error: --scope is for token new only", "bad_request")
    if not file and action != "new":
        raise CommandError(f"Error: token {action} needs --file", "bad_request")
    try:
        match action:
            case "new":
                _new(out, names[0], scope or [], file)
            case "list":
                _list(out, Path(file))
            case _:
                _remove(out, names[0], Path(file))
    except ConfigError as error:
        raise CommandError(f"Error: {error}", "bad_config") from error
    except ValueError as error:
        raise CommandError(f"Error: {error}", "bad_request") from error


def _new(out: Output, name: str, scopes: list[str], file: str) -> None:
    text, entry = new_token(name, Permissions.parse(scopes))
    if file:
        with _changing(Path(file)) as tokens:
            if name in tokens:
                raise ValueError(f"there is a token {name!r} already; remove it first")
            if len(tokens) >= MAX_TOKENS:
                raise ValueError(f"the file has {MAX_TOKENS} tokens already")
            tokens[name] = entry
    out.line(text)
    if not file:
        out.line(dump([entry]).decode().strip("[]\n"))
    out.record({"token": text, "entry": entry.entry})


def _list(out: Output, path: Path) -> None:
    tokens = load(path, check_mode=False).values()
    width = max((len(one.name) for one in tokens), default=0)
    for one in tokens:
        out.line(f"{one.name:<{width}}  {one.permissions}")
    records = [{"name": one.name, "scopes": one.permissions.texts()} for one in tokens]
    out.record({"tokens": records})


def _remove(out: Output, name: str, path: Path) -> None:
    with _changing(path) as tokens:
        if tokens.pop(name, None) is None:
            raise ValueError(f"unknown token {name!r}")
    out.line(f"Removed token '{name}'")
    out.record({"removed": name})


@contextmanager
def _changing(path: Path) -> Iterator[dict[str, Token]]:
    """Yield the tokens of a file, then replace it atomically; a missing file is created.

    Owner and mode stay. Another process that changes the file waits.

    Raises:
        ConfigError: the file cannot be read or written.
    """
    from trioserf.agent.files import replace_file

    path = path.resolve()
    try:
        with lock_for(path):
            before = path.stat() if path.exists() else None
            tokens = load(path, check_mode=False) if before else {}
            yield tokens
            replace_file(path, dump(tokens.values()), like=before)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from error
