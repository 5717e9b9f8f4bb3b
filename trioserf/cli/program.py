"""The program: reads its command line, runs one command, turns faults into texts and codes."""

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import BinaryIO, NoReturn

from trioserf.cli.argv import FlagError, Invocation, parse, split
from trioserf.cli.commands import COMMANDS, Command, flags, similar
from trioserf.cli.golang import bytes_of
from trioserf.cli.output import FAILED, Failure, Misuse, Out

NO_COMMAND = 127
"""Exit code without a command, or with an unknown one."""
BROKEN_PIPE = 128 + signal.SIGPIPE
_COMPLETION = ("--install-completion", "--show-completion")


def main() -> NoReturn:
    """Run the program with the arguments of this process, and end it."""
    words = sys.argv[1:]
    if "_TRIOSERF_COMPLETE" in os.environ or (words and words[0] in _COMPLETION):
        from trioserf.cli.app import app

        app(prog_name="trioserf")
    try:
        code = run(words, sys.stdout.buffer, sys.stderr.buffer)
    except BrokenPipeError:
        code = BROKEN_PIPE
    except KeyboardInterrupt:
        # Die of the signal itself, so that shells and their loops see an interruption.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
        code = 128 + signal.SIGINT
    _end(code)


def _end(code: int) -> NoReturn:
    """End the process; a pipe that nobody reads any more shall not be complained about."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
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
    from_usage = stderr if asked.stray else stdout
    if asked.stray:
        text = f"Invalid flags before the command: {asked.stray[0]}\n\n"
        stderr.write(bytes_of(text))
    if asked.help or asked.stray:
        from trioserf.cli.usage import command_usage

        from_usage.write(bytes_of(command_usage(command) + "\n"))
        return FAILED if asked.stray else 0
    return run_command(command, asked.words, stdout, stderr, env)


def _without_command(asked: Invocation, stdout: BinaryIO, stderr: BinaryIO) -> int:
    from trioserf.cli.usage import program_usage

    if asked.help and not asked.command:
        stdout.write(bytes_of(program_usage()))
        return 0
    if asked.command:
        hint = similar(asked.command, list(COMMANDS))
        stderr.write(bytes_of(f"no such command: {asked.command}{hint}\n\n"))
    stderr.write(bytes_of(program_usage()))
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
    if stderr is not None:
        stderr.write(bytes_of(message + "\n" if message else ""))
        stderr.flush()
    elif message:
        out.line(message + "\n")
    arrow = "==> " if command.name == "agent" else ""
    out.line(arrow + command_usage(command))
    return FAILED


def wants_json(words: Sequence[str]) -> bool:
    """Tell whether words that cannot be read as a whole ask for JSON."""
    text = "\0".join(words).replace("--format", "-format").replace("=", "\0")
    return "-format\0json" in text
