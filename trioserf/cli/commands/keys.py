"""`keys`: change or list the cluster's encryption keys."""

from collections.abc import Sequence
from typing import Annotated

import typer

from trioserf.cli.app import SerfCommand, more, new_app
from trioserf.cli.commands.keygen import new_key
from trioserf.cli.commands.keys_rotate import rotate
from trioserf.cli.completion import complete_from
from trioserf.cli.connect import connect_any, connect_for
from trioserf.cli.key_operations import (
    keys_text,
    report_record,
    run_key_operation,
    with_missing_members,
)
from trioserf.cli.options import OwnFormat, RpcAddr, RpcAuth
from trioserf.cli.output import CommandError, Output, UsageError, check_format
from trioserf.control.address import DEFAULT_ADDRESS
from trioserf.control.client.connect import Action

app = new_app()


class _KeysCommand(SerfCommand):
    extension_word = "rotate"

    def check_words(self, words: Sequence[str]) -> str:
        """Return that words are unknown, unless the only one is `rotate`."""
        return f"unknown words: {' '.join(words)}" if words and words != ["rotate"] else ""


@app.command(
    cls=_KeysCommand,
    epilog=more("keys -list", "keys rotate", page="trioserf/agent/README.md, § Encryption"),
)
def keys(
    ctx: typer.Context,
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[rotate]", autocompletion=complete_from("rotate")),
    ] = None,
    install: Annotated[
        str,
        typer.Option(
            "-install", metavar="KEY", help="Add a key to every keyring, for decryption."
        ),
    ] = "",
    use: Annotated[
        str,
        typer.Option(
            "-use", metavar="KEY", help="Encrypt with this key, which was installed before."
        ),
    ] = "",
    remove: Annotated[
        str,
        typer.Option(
            "-remove",
            metavar="KEY",
            help="Remove a key from every keyring; it must not be the primary key.",
        ),
    ] = "",
    list_keys: Annotated[
        bool,
        typer.Option("-list", help="List the keys, with the number of members that have each."),
    ] = False,
    output_format: OwnFormat = "text",
    rpc_addr: RpcAddr = DEFAULT_ADDRESS,
    rpc_auth: RpcAuth = "",
) -> None:
    """Change or list the cluster's encryption keys.

    The exit code is 0 if every member succeeded. "trioserf keys rotate" makes a key, installs it,
    uses it and removes all others. It stops at the first step that fails on some member. The
    members can still decrypt each other's messages then, and the next "trioserf keys rotate"
    completes the rotation.
    """
    out: Output = ctx.obj
    operations: dict[Action, str] = {"install": install, "use": use, "remove": remove}
    actions: list[Action] = [action for action, key in operations.items() if key]
    actions += ["list"] if list_keys else []
    if words and actions:
        raise UsageError("keys rotate takes none of -install, -use, -remove, -list")
    if words:
        with connect_any(rpc_addr, rpc_auth) as session:
            check_format(output_format)
            return rotate(out, session, new_key())
    if not actions:
        raise UsageError
    if len(actions) > 1:
        text = "Only one of -install, -use, -remove, or -list allowed"
        raise CommandError(text, "bad_request")
    action = actions[0]
    # JSON has the primary keys, if the agent reports them; texts of errors are Serf's.
    with connect_for(out, rpc_addr, rpc_auth) as session:
        check_format(output_format)
        with with_missing_members(session, out.json):
            report = run_key_operation(out, session, action, operations.get(action))
    if action == "list":
        out.line()
        out.line(keys_text(report))
    out.record(report_record(report))
    return None
