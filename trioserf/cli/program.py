"""The program: reads its command line, runs one command, turns faults into texts and codes."""

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import BinaryIO, NoReturn

from trioserf.cli.argv import FlagError, Invocation, parse, split
from trioserf.cli.commands import COMMANDS, PROGRAM, Command, flags, similar
from trioserf.cli.output import FAILED, Failure, Misuse, Out, OutputLost

NO_COMMAND = 127
"""Exit code without a command, or with an unknown one."""
BROKEN_PIPE = 128 + signal.SIGPIPE
_COMPLETION = ("--install-completion", "--show-completion")


def main() -> NoReturn:
    """Run the program with the arguments of this process, and end it."""
    _open_closed_streams()
    words = sys.argv[1:]
    if "_TRIOSERF_COMPLETE" in os.environ or (words and words[0] in _COMPLETION):
        from trioserf.cli.app import app

        app(prog_name="trioserf")
    try:
        code = run(words, sys.stdout.buffer, sys.stderr.buffer)
    except BrokenPipeError:
        code = BROKEN_PIPE
    except OutputLost as error:
        Out(sys.stderr.buffer).notice(f"{PROGRAM}: cannot write: {error.strerror}")
        code = FAILED
    _end(code)


def _open_closed_streams() -> None:
    """Open standard streams that are closed, to nowhere: a socket may get their numbers else."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:
            setattr(sys, name, open(descriptor, "w"))  # noqa: SIM115, PTH123 - for good


def _end(code: int) -> NoReturn:
    """End the process; output that could not be written was told already, or concerns nobody."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    sys.exit(code)


def run(
    argv: Sequence[str],
    stdout: BinaryIO,
    stderr: BinaryIO,
    env: Mapping[str, str] = os.environ,
) -> int:
    """Run one command line (without the program's name); gives the exit code.

    Results, errors of commands and usage texts go to `stdout`, as with Serf, whose scripts read
    them there; what is wrong with the command line itself goes to `stderr`.
    """
    asked = split(argv)
    if asked.version:
        asked = Invocation("version")
    if asked.command == "help":
        asked = Invocation("".join(asked.words[:1]), help=True)
    command = COMMANDS.get(asked.command)
    if command is None:
        return _without_command(asked, stdout, stderr)
    if asked.help or asked.stray:
        from trioserf.cli.usage import command_usage

        told = Out(stderr if asked.stray else stdout)
        if asked.stray:
            told.line(f"Invalid flags before the command: {asked.stray[0]}\n")
        told.line(command_usage(command))
        return FAILED if asked.stray else 0
    return run_command(command, asked.words, stdout, stderr, env)


def _without_command(asked: Invocation, stdout: BinaryIO, stderr: BinaryIO) -> int:
    from trioserf.cli.usage import program_usage

    if asked.help and not asked.command:
        Out(stdout).line(program_usage())
        return 0
    told = Out(stderr)
    if asked.command:
        hint = similar(asked.command, list(COMMANDS))
        told.line(f"no such command: {asked.command}{hint}\n")
    told.line(program_usage())
    return NO_COMMAND


def run_command(
    command: Command,
    words: Sequence[str],
    stdout: BinaryIO,
    stderr: BinaryIO,
    env: Mapping[str, str],
) -> int:
    """Read a command's options and run it; gives the exit code."""
    known = flags(command)
    try:
        if command.raw:
            values = {"output_format": "json" if wants_json(words) else "text"}
            rest = list(words)
        else:
            values, rest = parse(known, words, env, command.ours)
    except FlagError as error:
        hint = similar(error.unknown, list(known), "-") if error.unknown else ""
        return misused(command, f"{error}{hint}", Out(stdout, json=wants_json(words)), stderr)
    out = Out(stdout, json=values.get("output_format") == "json")
    try:
        return command.load()(out, rest, **values)
    except Misuse as error:
        return misused(command, str(error), out, None)
    except Failure as error:
        told = Out(stderr) if command.aside else out
        told.line(error.text)
        told.record(error.record)
        return FAILED


def misused(command: Command, message: str, out: Out, stderr: BinaryIO | None) -> int:
    """Say what is wrong with a command line, and show the usage; gives the exit code.

    The message goes before the usage where there is no `stderr` for it.
    """
    from trioserf.cli.usage import command_usage

    if out.json:
        out.record(Failure(message or "nothing to do", "usage").record)
        return FAILED
    if message and stderr is not None:
        Out(stderr).line(message)
    elif message:
        out.line(message + "\n")
    arrow = "==> " if command.name == "agent" else ""
    out.line(arrow + command_usage(command))
    return FAILED


def wants_json(words: Sequence[str]) -> bool:
    """Tell whether words that cannot be read as a whole ask for JSON."""
    text = "\0".join(words).replace("--format", "-format").replace("=", "\0")
    return "-format\0json" in text
