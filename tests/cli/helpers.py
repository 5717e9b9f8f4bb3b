"""Shared by the tests of the command line: runs commands, replays agents, compares outputs."""

import io
import os
import re
import socket
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

import attrs
import msgpack
from typer.main import get_command

from tests.interop.agents import as_newest
from trioserf.cli.app import COMMANDS, SerfCommand, SerfContext, SerfGroup, app
from trioserf.cli.commands.agent_process import run_agent
from trioserf.cli.main import run
from trioserf.cli.output import Output

GOLDEN = Path(__file__).parent / "golden"
CLOSED = "127.17.0.250:7373"
"""An address without an agent."""
REPLAY_ADDRESS = "127.17.0.200"
NET = "127.17.NET"
"""Placeholder for the first three numbers of the agents' addresses, as long as they are."""
NAMES = [name for names in COMMANDS.values() for name in names]

_NO_BODY = frozenset(("members", "stats", "leave", "list-keys"))

Exchange = Sequence[dict[str, str]]


# --- commands in the test's own process ---


@attrs.frozen
class Printed:
    """Exit code and output of one command."""

    code: int
    out: str
    err: str


def run_command(words: Sequence[str], **env: str) -> Printed:
    """Run one command line to its end."""
    out, err = io.BytesIO(), io.BytesIO()
    with environment(env):
        code = run(words, out, err, partial(run_agent, out))
    return Printed(code, out.getvalue().decode(), err.getvalue().decode())


@contextmanager
def environment(env: dict[str, str]) -> Iterator[None]:
    """Replace Serf's environment variables in the block."""
    before = {name: os.environ.pop(name, None) for name in ("SERF_RPC_ADDR", "SERF_RPC_AUTH")}
    os.environ.update(env)
    try:
        yield
    finally:
        for name in env:
            del os.environ[name]
        os.environ.update({name: value for name, value in before.items() if value is not None})


def group() -> SerfGroup:
    """Return the program as typer runs it."""
    built = get_command(app)
    assert isinstance(built, SerfGroup)
    return built


def command(name: str) -> SerfCommand:
    """Return a command as typer runs it."""
    program = group()
    found = program.get_command(SerfContext(program), name)
    assert isinstance(found, SerfCommand)
    return found


def help_text(name: str = "") -> str:
    """Return the help text of a command, or of the program."""
    program = group()
    context = SerfContext(program, info_name="trioserf")
    if not name:
        return program.get_help(context)
    found = command(name)
    return found.get_help(SerfContext(found, parent=context, info_name=name))


class _Terminal(io.BytesIO):
    def isatty(self) -> bool:
        return True


class OutputBuffer:
    """An `Output` whose text can be read."""

    def __init__(self, *, terminal: bool = False, **settings: Any) -> None:
        self._written = _Terminal() if terminal else io.BytesIO()
        self.out = Output(self._written, **settings)

    @property
    def text(self) -> str:
        return self._written.getvalue().decode("utf-8", "surrogateescape")


# --- recorded exchanges with a Go agent ---


@contextmanager
def replayed(exchange: Exchange) -> Iterator[tuple[str, list[list[Any]]]]:
    """Serve one connection as a Go agent once did; yield its address and the requests."""
    with closing(socket.create_server((REPLAY_ADDRESS, 0))) as listener:
        listener.settimeout(10)
        requests: list[list[Any]] = []
        server = Thread(target=_replay, args=(listener, exchange, requests))
        server.start()
        port = listener.getsockname()[1]
        yield f"{REPLAY_ADDRESS}:{port}", requests
        # A program that never connected would leave the server waiting.
        with closing(socket.socket()) as nudge:
            nudge.connect_ex((REPLAY_ADDRESS, port))
        server.join()


def _replay(listener: socket.socket, exchange: Exchange, requests: list[list[Any]]) -> None:
    connection, _ = listener.accept()
    with closing(connection):
        connection.settimeout(10)
        unpacker = msgpack.Unpacker(raw=False)
        for message in exchange:
            if message["from"] == "agent":
                connection.sendall(bytes.fromhex(message["hex"]))
                continue
            request = _read_request(connection, unpacker)
            if request is None:
                return
            requests.append(request)


def _read_request(connection: socket.socket, unpacker: msgpack.Unpacker) -> list[Any] | None:
    """Read a header, and its body if the command has one."""
    request: list[Any] = []
    while not request or (len(request) == 1 and request[0]["Command"] not in _NO_BODY):
        try:
            request.append(unpacker.unpack())
        except msgpack.OutOfData:
            data = connection.recv(65536)
            if not data:
                return None
            unpacker.feed(data)
    return request


def recorded_requests(exchange: Exchange) -> list[list[Any]]:
    """Return the requests of a recorded exchange."""
    requests = []
    for message in exchange:
        if message["from"] == "client":
            unpacker = msgpack.Unpacker(raw=False)
            unpacker.feed(bytes.fromhex(message["hex"]))
            requests.append(list(unpacker))
    return requests


# --- outputs of both programs ---


def normalise_output(text: str) -> list[str]:
    """Blank measured values, and sort what Go's maps and the network put in any order."""
    text = as_newest(text)
    text = re.sub(r"[\d.]+ (sec|ms)\b", r"N \1", text)
    text = re.sub(r"(lookup \S+) on \S+:53:", r"\1:", text)
    text = re.sub(r"(goroutines|_time|_queue)(\W+ )\d+", r"\1\2N", text)
    text = re.sub(r"\S+=\S+,\S+", lambda found: ",".join(sorted(found[0].split(","))), text)
    return sorted(line.rstrip(" ,") for line in text.splitlines())


BIG = "x" * 1100
COMMAND_LINES: list[list[str]] = [
    ["members"],
    ["members", "-format", "json"],
    ["members", "-format=xml"],
    ["members", "-detailed"],
    ["members", "-name=go-(a|x)", "-status", "alive"],
    ["members", "-role=web"],
    ["members", "-tag", "role=w.*", "-tag=nosuch=.*"],
    ["members", "-status=failed"],
    ["members", "-status=failed", "-format=json"],
    ["members", "-name=(["],
    ["members", "-rpc-auth=wrong"],
    ["event", "deploy", "v1 <b>"],
    ["event", "-coalesce=false", "deploy"],
    ["event", "big", BIG],
    ["query", "-timeout=900ms", "load", "x"],
    ["query", "-timeout", "900ms", "-format=json", "raw"],
    ["query", "-timeout=900ms", "raw"],
    ["query", "-timeout=900ms", "-no-ack", "-node=go-a", "load"],
    ["query", "-timeout=900ms", "-node=go-b", "-tag", "role=web", "load"],
    ["query", "-timeout=300ms", "-node=no-such-node", "-format=json", "load"],
    ["query", "-timeout=300ms", "-tag", "role=([", "load"],
    ["query", "-relay-factor=1", "-timeout=900ms", "load"],
    ["query", "-format=xml", "load"],
    ["query", "big", BIG],
    ["info"],
    ["info", "-format=json"],
    ["info", "-format=xml"],
    ["tags", "-set", "x"],
    ["tags", "-set", "x=y=z", "-delete", "nosuch"],
    ["tags", "-set", f"x={BIG}"],
    ["keys", "-list"],
    ["keys", "-install", "x"],
    ["keys", "-use=AAAAAAAAAAAAAAAAAAAAAA=="],
    ["keys", "-remove", "AAAAAAAAAAAAAAAAAAAAAA=="],
    ["rtt", "go-a"],
    ["rtt", "go-a", "go-b"],
    ["rtt", "go-b", 'no"body'],
    ["join", f"{NET}.2", f"{NET}.99"],
    ["join", f"{NET}.98", f"{NET}.99"],
    ["join", "-replay", "nosuch.invalid"],
    ["force-leave", "no-such-node"],
    ["force-leave", "-prune", "no-such-node"],
    ["reachability"],
    ["reachability", "-verbose"],
    ["monitor", "-log-level=nosuch"],
]

LINES_WITHOUT_KEY: list[list[str]] = [
    ["members"], ["event", "x"], ["query", "x"], ["join", "x"], ["leave"], ["force-leave", "x"],
    ["tags", "-set", "a=b"], ["info"], ["keys", "-list"], ["monitor"], ["reachability"],
    ["keys", "-install", "x"], ["keys", "-use", "x"], ["keys", "-remove", "x"], ["rtt", "go-c"],
]  # fmt: skip
