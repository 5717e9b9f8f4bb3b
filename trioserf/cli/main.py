"""The program `trioserf`: runs one command line, and ends with its exit code.

Imports that take time are deferred, so that an interruption is handled from the start.
"""

import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, BinaryIO, NoReturn

from trioserf.cli import early_signals
from trioserf.operating_system import processes as system

BROKEN_PIPE = 128 + system.SIGPIPE
INTERRUPTED = 128 + signal.SIGINT
"""typer's exit code for a KeyboardInterrupt."""
StartAgent = Callable[[Sequence[str], Mapping[str, Any], Sequence[tuple[str, str]]], int]
"""Runs an agent with configuration files, values by key from the command line, and errors of the
command line by key; returns the exit code."""
_COMPLETE = "_TRIOSERF_COMPLETE"
"""Environment variable with which a shell asks for completions."""


def main() -> NoReturn:
    """Run the program with the arguments of this process, and end it.

    An interrupted process ends by the signal, not by an exit code: shells check for that.
    """
    early_signals.block()
    try:
        _open_closed_streams()
        _end(_run_process(sys.argv[1:]))
    except KeyboardInterrupt:
        system.end_interrupted()


def _open_closed_streams() -> None:
    """Open closed standard streams to /dev/null, so that no socket gets their numbers."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number: this one
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:
            setattr(sys, name, open(descriptor, "w"))  # noqa: SIM115, PTH123 - stays open


def _end(code: int) -> NoReturn:
    """End the process; an error of the last flush has been reported, or has no reader.

    With typer imported, end without Python's cleanup of modules, which takes 10 ms.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    if "typer" in sys.modules:
        os._exit(code)
    sys.exit(code)


def _run_process(argv: Sequence[str]) -> int:
    """Run a command line on the standard streams; return the exit code."""
    from trioserf.cli.go_flags import split
    from trioserf.cli.output import FAILED, Output, OutputError, ReaderClosedError

    invocation = split(argv)
    completes = os.environ.get(_COMPLETE) == "complete_bash"
    other = completes or invocation.help or invocation.version or invocation.misplaced
    is_agent = invocation.command == "agent" and not other
    if is_agent:
        early_signals.note()
    early_signals.unblock()
    try:
        if completes:
            from trioserf.cli.completion import join_bash_words

            join_bash_words(os.environ)
        elif is_agent:
            return _run_agent(argv, invocation.words)
        return run(argv, sys.stdout.buffer, sys.stderr.buffer, start_agent)
    except ReaderClosedError:
        return BROKEN_PIPE
    except OutputError as error:
        Output(sys.stderr.buffer).line_best_effort(f"trioserf: cannot write: {error}")
        return FAILED


def run(
    argv: Sequence[str],
    stdout: BinaryIO,
    stderr: BinaryIO,
    start: StartAgent,
) -> int:
    """Run one command line (without the program's name); return the exit code.

    Results, errors of commands and usage texts go to `stdout`, where Serf's scripts read them;
    errors of the command line itself go to `stderr`.

    Args:
        argv: the command line.
        stdout: standard output.
        stderr: standard error.
        start: runs an agent; returns its exit code.

    Raises:
        OutputError: a stream that cannot be written.
        KeyboardInterrupt: the command was interrupted.
    """
    from trioserf.cli.app import PROGRAM, Console, app

    console = Console(stdout, stderr, start)
    code = app(list(argv), prog_name=PROGRAM, standalone_mode=False, obj=console)
    if code == INTERRUPTED:
        raise KeyboardInterrupt
    return code or 0


def start_agent(
    paths: Sequence[str], overrides: Mapping[str, Any], errors: Sequence[tuple[str, str]]
) -> int:
    """Run an agent in this process (see `StartAgent`)."""
    from trioserf.cli.commands.agent_process import run_agent

    return run_agent(sys.stdout.buffer, paths, overrides, errors)


def _run_agent(argv: Sequence[str], words: Sequence[str]) -> int:
    """Run an agent without typer, which would stay in its memory for months.

    typer reports an error of the command line, with the usage text.
    """
    from trioserf.memory import skip_full_collections

    skip_full_collections()
    from trioserf.cli.agent_options import parse_settings
    from trioserf.cli.go_flags import FlagError
    from trioserf.cli.output import Output

    stdout, stderr = sys.stdout.buffer, sys.stderr.buffer
    try:
        settings = parse_settings(words, Output(stdout, stderr=stderr))
    except FlagError:
        return run(argv, stdout, stderr, start_agent)
    return start_agent(*settings)
