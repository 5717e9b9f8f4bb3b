"""`event` and `query`: what is told to the members, and asked of them."""

from typing import Annotated, Any

from trioserf.agent.durations import parse_duration
from trioserf.cli.calling import connect, tags_of
from trioserf.cli.flags import Format, Option, OurFormat, RpcAddr, RpcAuth
from trioserf.cli.golang import bytes_of, parse_int, text_of
from trioserf.cli.output import FAILED, Failure, Misuse, Out, check_format, failing
from trioserf.control.address import DEFAULT_ADDRESS
from trioserf.control.client.records import QueryAck, QueryAnswer, QueryDone, QueryRecord

_TOO_MANY = "Too many command line arguments. Only a name and payload must be specified."


def positive(text: str) -> int:
    """Read a whole number above zero (ValueError: it is none)."""
    number = parse_int(text)
    if number < 1:
        raise ValueError("must be at least 1")
    return number


def event(
    out: Out,
    words: list[str],
    *,
    coalesce: Annotated[
        bool,
        Option(
            "coalesce",
            "Of several events with this name in a short time, let members take only the"
            " last one. Default true.",
            "true|false",
        ),
    ] = True,
    output_format: OurFormat = "text",
    rpc_addr: RpcAddr = DEFAULT_ADDRESS,
    rpc_auth: RpcAuth = "",
) -> int:
    """Send a user event, with a payload if there is one, to every member."""
    if not words:
        raise Misuse("An event name must be specified.")
    if len(words) > 2:
        raise Misuse(_TOO_MANY)
    name, payload = words[0], "".join(words[1:])
    with connect(rpc_addr, rpc_auth) as session:
        check_format(output_format, "Invalid format: {}")
        with failing("Error sending event"):
            session.event(name, bytes_of(payload), coalesce=coalesce)
    truth = "true" if coalesce else "false"
    out.line(f"Event '{name}' dispatched! Coalescing enabled: {truth}")
    out.record({"name": name, "coalesce": coalesce})
    return 0


def query(
    out: Out,
    words: list[str],
    *,
    output_format: Format = "text",
    node: Annotated[list[str], Option("node", "Ask only this member. Repeatable.", "NAME")] = [],  # noqa: B006 - only read
    tag: Annotated[
        list[str],
        Option("tag", "Ask only members whose tag KEY matches. Repeatable.", "KEY=REGEXP"),
    ] = [],  # noqa: B006 - only read
    timeout: Annotated[
        float,
        Option(
            "timeout",
            "How long to wait for answers, as in 300ms or 15s. Default: what suits the"
            " cluster's size.",
            "DURATION",
            read=parse_duration,
        ),
    ] = 0.0,
    no_ack: Annotated[
        bool, Option("no-ack", "Do not ask members to say that the query reached them.")
    ] = False,
    relay_factor: Annotated[
        int,
        Option(
            "relay-factor",
            "Let answers come by way of so many other members too, from 0 to 255.",
            "N",
            read=parse_int,
        ),
    ] = 0,
    first: Annotated[
        int | None,
        Option("first", "End after so many answers.", "N", ours=True, read=positive),
    ] = None,
    rpc_addr: RpcAddr = DEFAULT_ADDRESS,
    rpc_auth: RpcAuth = "",
) -> int:
    """Ask the members something and print what they answer, as it comes."""
    if not words:
        raise Misuse("A query name must be specified.")
    if len(words) > 2:
        raise Misuse(_TOO_MANY)
    name, payload = words[0], "".join(words[1:])
    if not 0 <= relay_factor <= 255:
        raise Failure("Relay factor must be between 0 and 255", "bad_request")
    tags = tags_of(tag)
    with connect(rpc_addr, rpc_auth) as session:
        check_format(output_format, "Invalid format: {}")
        try:
            with failing("Error sending query"):
                records = session.query(
                    name,
                    bytes_of(payload),
                    nodes=node,
                    tags=tags,
                    timeout=timeout,
                    ack=not no_ack,
                    relay_factor=relay_factor,
                    first=first,
                )
                out.line(f"Query '{name}' dispatched")
            answers = Answers(out, acks_wanted=not no_ack)
            with failing("The query ended before its time"):
                for record in records:
                    answers.take(record)
        except KeyboardInterrupt:
            return FAILED
    answers.finish()
    return 0


class Answers:
    """Prints what a query brings: lines at once, JSON at the end."""

    def __init__(self, out: Out, *, acks_wanted: bool) -> None:
        self._out = out
        self._acks_wanted = acks_wanted
        self._acks: list[str] = []
        self._answers: dict[str, bytes] = {}
        self._count = 0

    def take(self, record: QueryRecord) -> None:
        """Take one record."""
        match record:
            case QueryAck(source):
                self._acks.append(source)
                self._out.line(f"Ack from '{source}'")
            case QueryAnswer(source, payload):
                self._count += 1
                self._answers[source] = payload
                text = text_of(payload).removesuffix("\n")
                self._out.line(f"Response from '{source}': {text}")
            case QueryDone():
                pass

    def finish(self) -> None:
        """Say how many there were; members sort JSON answers by name."""
        if self._acks_wanted:
            self._out.line(f"Total Acks: {len(self._acks)}")
        self._out.line(f"Total Responses: {self._count}")
        self._out.record(self.record())

    def record(self) -> dict[str, Any]:
        """All of it as Serf's JSON; no acks are null."""
        answers = {name: text_of(self._answers[name]) for name in sorted(self._answers)}
        return {"Acks": self._acks or None, "Responses": answers}
