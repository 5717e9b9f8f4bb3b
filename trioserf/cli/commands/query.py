"""`query`: send a query and print the responses."""

from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trioserf.agent.durations import parse_duration
from trioserf.cli.app import more, new_app
from trioserf.cli.commands.event import TOO_MANY_WORDS, MessageCommand
from trioserf.cli.completion import member_names, member_tags
from trioserf.cli.connect import connect, parse_tags
from trioserf.cli.go_format import parse_int, to_bytes, to_text
from trioserf.cli.hints import expression_errors, name_errors
from trioserf.cli.options import Format, RpcAddr, RpcAuth
from trioserf.cli.output import (
    FAILED,
    CommandError,
    Output,
    UsageError,
    check_format,
    reporting_errors,
)
from trioserf.control.address import DEFAULT_ADDRESS
from trioserf.control.errors import ControlError
from trioserf.printable import printable
from trioserf.results import QueryAck, QueryAnswer, QueryDone, QueryResult

if TYPE_CHECKING:
    from trioserf.control.client.session import AgentSession

_SIZE_HINT = {"too_large": "the agents' key query_size_limit is the limit: agent --set"}

app = new_app()


def parse_positive(text: str) -> int:
    """Parse an integer of 1 or more (raises ValueError)."""
    number = parse_int(text)
    if number < 1:
        raise ValueError("must be at least 1")
    return number


@app.command(
    cls=MessageCommand,
    epilog=more(
        "query -tag role=web load",
        "query -timeout=3s --first=1 leader",
        page="trioserf/agent/README.md, § Event handlers",
    ),
)
def query(
    ctx: typer.Context,
    words: Annotated[list[str] | None, typer.Argument(metavar="name [payload]")] = None,
    output_format: Format = "text",
    node: Annotated[
        list[str] | None,
        typer.Option(
            "-node",
            metavar="NAME",
            help="Ask only this member. Repeatable.",
            autocompletion=member_names,
        ),
    ] = None,
    tag: Annotated[
        list[str] | None,
        typer.Option(
            "-tag",
            metavar="KEY=REGEXP",
            help="Ask only members whose tag KEY matches. Repeatable.",
            autocompletion=member_tags,
        ),
    ] = None,
    timeout: Annotated[
        float,
        typer.Option(
            "-timeout",
            metavar="DURATION",
            help="Time to wait for responses, such as 300ms or 15s. The default depends on the"
            " size of the cluster.",
            parser=parse_duration,
        ),
    ] = 0.0,
    no_ack: Annotated[
        bool, typer.Option("-no-ack", help="Do not ask members to acknowledge the query.")
    ] = False,
    relay_factor: Annotated[
        int,
        typer.Option(
            "-relay-factor",
            metavar="N",
            help="Send responses through N other members, too; N is 0 to 255.",
            parser=parse_int,
        ),
    ] = 0,
    first: Annotated[
        int | None,
        typer.Option("--first", metavar="N", help="End after N responses.", parser=parse_positive),
    ] = None,
    rpc_addr: RpcAddr = DEFAULT_ADDRESS,
    rpc_auth: RpcAuth = "",
) -> None:
    """Send a query and print the responses.

    Each response is printed as it arrives.
    """
    out: Output = ctx.obj
    if not words:
        raise UsageError("A query name must be specified.")
    if len(words) > 2:
        raise UsageError(TOO_MANY_WORDS)
    name, payload = words[0], "".join(words[1:])
    if not 0 <= relay_factor <= 255:
        raise CommandError("Relay factor must be between 0 and 255", "bad_request")
    tags = parse_tags(tag or (), out)
    if wrong := expression_errors((f"-tag {key}", tags[key]) for key in tags):
        out.explain(f"{wrong}; no member responds", "invalid_filter")
    if timeout < 0:
        out.explain("a negative -timeout ends the query at once", "bad_request")
    with connect(rpc_addr, rpc_auth) as session:
        check_format(output_format)
        try:
            with reporting_errors("Error sending query", _SIZE_HINT):
                records = session.query(
                    name,
                    to_bytes(payload),
                    nodes=node or (),
                    tags=tags,
                    timeout=timeout,
                    ack=not no_ack,
                    relay_factor=relay_factor,
                    first=first,
                )
                out.line(f"Query '{name}' dispatched")
            responses = Responses(out, acks_requested=not no_ack)
            with reporting_errors("The query ended before its time"):
                for record in records:
                    responses.handle(record)
            responses.finish()
            _explain_silence(out, session, responses.heard, node or (), {} if wrong else tags)
        except KeyboardInterrupt:
            raise typer.Exit(FAILED) from None


def _explain_silence(
    out: Output,
    session: "AgentSession",
    heard: Collection[str],
    nodes: Iterable[str],
    tags: Mapping[str, str],
) -> None:
    """Report the names of a query that no live member has, and tags that match none."""
    errors = name_errors(session, (name for name in nodes if name not in heard), live=True)
    for error in errors:
        out.explain(error, "no_such_member")
    if heard or errors or not tags:
        return
    filters = " ".join(f"-tag {key}={tags[key]}" for key in tags)
    # As members compare: a search, where the list of members compares whole values.
    search = {key: f"(?s:.*)(?:{tags[key]})(?s:.*)" for key in tags}
    with suppress(ControlError):
        if not session.members(status="alive", tags=search):
            out.explain(f"no live member matches {filters}", "no_such_member")


class Responses:
    """Prints the records of a query: lines at once, JSON at the end."""

    def __init__(self, out: Output, *, acks_requested: bool) -> None:
        self._out = out
        self._acks_requested = acks_requested
        self._acks: list[str] = []
        self._payloads: dict[str, bytes] = {}
        self._count = 0

    @property
    def heard(self) -> set[str]:
        """The members that sent an ack or a response."""
        return {*self._acks, *self._payloads}

    def handle(self, record: QueryResult) -> None:
        """Handle one record."""
        match record:
            case QueryAck(source):
                self._acks.append(source)
                self._out.line(f"Ack from '{printable(source)}'")
            case QueryAnswer(source, payload):
                self._count += 1
                self._payloads[source] = payload
                text = to_text(payload).removesuffix("\n")
                self._out.line(f"Response from '{printable(source)}': ", text)
            case QueryDone():
                pass

    def finish(self) -> None:
        """Print the totals."""
        if self._acks_requested:
            self._out.line(f"Total Acks: {len(self._acks)}")
        self._out.line(f"Total Responses: {self._count}")
        self._out.record(self.record())

    def record(self) -> dict[str, Any]:
        """Return the records in Serf's JSON, which has null for an empty list of acks."""
        responses = {name: to_text(self._payloads[name]) for name in sorted(self._payloads)}
        return {"Acks": self._acks or None, "Responses": responses}
