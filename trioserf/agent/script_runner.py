"""Run one script for one event: its environment, its input and its output."""

import errno
import logging
import re
import signal
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from typing import Final, Protocol

import attrs
import trio

from trioserf.agent.orphans import OrphanReaper
from trioserf.agent.script_rights import ScriptUser
from trioserf.net.threads import thread_errors
from trioserf.operating_system import processes as system
from trioserf.serf.events import Event, MemberEvent, QueryReceived, UserEventReceived
from trioserf.serf.member import Member
from trioserf.value_objects import ValueObject

_log = logging.getLogger("trioserf.agent")

OUTPUT_KEPT: Final = 8 * 1024
"""Bytes of output that are kept, the last ones."""
GRACE: Final = 1.0
"""Seconds between SIGTERM and SIGKILL."""
_DRAIN: Final = 1.0
"""Seconds that processes of a script may hold its output after its end."""
_START_DELAYS: Final = (0.5, 1.0, 2.0)
"""Seconds before a script is started again that got no thread or no process (EAGAIN)."""
_NOT_IN_NAMES = re.compile(r"[^A-Z0-9_]")


@attrs.frozen(eq=False, repr=False)
class Result(ValueObject):
    """The result of a script.

    Attributes:
        status: the exit code; negative for a signal, None if the script could not be started.
        output: the last 8 KiB of stdout and stderr.
        lost: bytes of output before that.
        left: what became of processes that still held the output; empty if there was none.
        failure: the reason for a failure; empty for a success.
    """

    status: int | None
    output: bytes = b""
    lost: int = 0
    failure: str = ""
    left: str = ""


class ScriptRunner(Protocol):
    """Runs scripts; cancelling it ends the script and its processes."""

    async def __call__(self, script: str, env: Mapping[str, str], stdin: bytes) -> Result:
        """Run a script to its end."""
        ...


def environment(
    event: Event, name: str, tags: Mapping[str, str], base: Mapping[str, str]
) -> dict[str, str]:
    """Return a script's environment (see agent/README.md, § Event handlers).

    Args:
        event: the event that the script handles.
        name: this node's name.
        tags: this node's tags.
        base: the part of the agent's environment that scripts get.
    """
    env = dict(base)
    env["SERF_EVENT"] = event.kind
    env["SERF_SELF_NAME"] = name
    env["SERF_SELF_ROLE"] = tags.get("role", "")
    for key, value in tags.items():
        env["SERF_TAG_" + _NOT_IN_NAMES.sub("_", key.upper())] = value
    match event:
        case UserEventReceived():
            env["SERF_USER_EVENT"] = event.name
            env["SERF_USER_LTIME"] = str(event.ltime)
        case QueryReceived():
            env["SERF_QUERY_NAME"] = event.name
            env["SERF_QUERY_LTIME"] = str(event.ltime)
        case MemberEvent():
            pass
    return env


def standard_input(event: Event) -> bytes:
    """Return a script's input: a line for each member, or the payload with a newline."""
    if isinstance(event, MemberEvent):
        text = "".join(map(_member_line, event.members))
        return _encode(text)
    payload = event.payload
    return payload if not payload or payload.endswith(b"\n") else payload + b"\n"


def _member_line(member: Member) -> str:
    tags = ",".join(f"{key}={value}" for key, value in member.tags.items())
    fields = (member.name, member.address.host, member.tags.get("role", ""), tags)
    return "\t".join(map(_clean, fields)) + "\n"


def _clean(text: str) -> str:
    return text.replace("\t", "\\t").replace("\n", "\\n")


def _encode(text: str) -> bytes:
    """Encode text for a script as UTF-8, as in Serf; Python would use the locale."""
    return text.encode("utf-8", "surrogateescape")


class ShellRunner:
    """Runs scripts with the system's shell, `/bin/sh -c` or `cmd /C`, each in a group of its own.

    Args:
        user: the user that scripts run as; default: the agent's.
        command: a shell command that runs the script as its `$0`; default: none.
        reaper: learns which processes are scripts; default: one that does not run.
    """

    def __init__(
        self,
        user: ScriptUser | None = None,
        command: str = "",
        reaper: OrphanReaper | None = None,
    ) -> None:
        self._user = user or ScriptUser("", "")
        self._reaper = reaper or OrphanReaper()
        self._limits = command

    async def __call__(self, script: str, env: Mapping[str, str], stdin: bytes) -> Result:
        """Run a script to its end; if cancelled, end its process group.

        A script that cannot be started is a failure of this run only.
        """
        if any("\0" in value for value in env.values()):  # other members choose names
            return Result(None, failure="exec: environment variable contains NUL")
        try:
            with self._reaper.starting():
                process = await self._start(script, env)
                self._reaper.add(process.pid)
        except (OSError, ValueError) as error:
            return Result(None, failure=_start_failure(error))
        output, left = _Output(), ""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_feed, process, stdin)
                nursery.start_soon(output.read, process)
                try:
                    await process.wait()
                    with trio.move_on_after(_DRAIN):
                        await output.closed.wait()
                finally:
                    left = await _end(process, output)
                    output.stop_draining()
                nursery.cancel_scope.cancel()
        finally:
            self._reaper.remove(process.pid)
            await _close(process)
        status = process.returncode
        return Result(status, bytes(output.kept), output.lost, _failure(status), left)

    async def _start(self, script: str, env: Mapping[str, str]) -> trio.Process:
        """Start a script; try again for a few seconds without a thread or process for it.

        Raises:
            OSError: it cannot be started.
            ValueError: it cannot be passed to the system.
        """
        command = system.script_command(script, self._limits)
        options = system.script_options(self._user.uid, self._user.gid, self._user.groups)
        delays = iter(_START_DELAYS)
        while True:
            try:
                with thread_errors():
                    return await trio.lowlevel.open_process(
                        command,
                        stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE,
                        stderr=subprocess.STDOUT,
                        env=system.script_environment(env),
                        **options,
                    )
            except BlockingIOError:
                delay = next(delays, None)
                if delay is None:
                    raise
            await trio.sleep(delay)


def _start_failure(error: OSError | ValueError) -> str:
    if not isinstance(error, OSError):
        return str(error)
    too_long = error.errno == errno.E2BIG
    return "event and tags are too long" if too_long else error.strerror or str(error)


def _failure(status: int | None) -> str:
    if not status:
        return ""
    if status < 0:
        return f"signal: {signal.strsignal(-status) or -status}".lower()
    return f"exit status {status}"


async def _feed(process: trio.Process, stdin: bytes) -> None:
    if process.stdin is None:
        return
    async with process.stdin:
        with suppress(trio.BrokenResourceError):  # a script need not read
            await process.stdin.send_all(stdin)


class _Output:
    """Reads a script's output and keeps the end of it.

    Attributes:
        kept: the last bytes.
        lost: the number of bytes before.
        closed: set when no process can write any more.
    """

    def __init__(self) -> None:
        self.closed = trio.Event()
        self.kept = bytearray()
        self.lost = 0
        # A script may write while it handles SIGTERM, and must not die of a closed pipe.
        self._scope = trio.CancelScope(shield=True)

    async def read(self, process: trio.Process) -> None:
        if process.stdout is None:
            return
        with self._scope:
            async for chunk in process.stdout:
                self.kept += chunk
                over = len(self.kept) - OUTPUT_KEPT
                if over > 0:
                    del self.kept[:over]
                    self.lost += over
            self.closed.set()

    def stop_draining(self) -> None:
        """Stop shielding the reader, so that a cancelled caller need not wait for more output."""
        self._scope.shield = False


async def _end(process: trio.Process, output: _Output) -> str:
    """End a process group whose leader still runs, or whose processes hold the output.

    Return what became of processes that outlived the leader, for the log.
    """
    has_ended = process.returncode is not None
    if has_ended and output.closed.is_set():
        return ""
    if not await _end_group(process, kill=False) and has_ended:
        return f"they run on {system.OUT_OF_REACH}, and cannot write any more"
    with trio.CancelScope(shield=True):
        with trio.move_on_after(GRACE):
            await process.wait()
            await output.closed.wait()
        await _end_group(process, kill=True)
        with trio.move_on_after(GRACE):
            await process.wait()
    if process.returncode is None:
        _log.error("Process %d of a script cannot be ended, and runs on", process.pid)
    return "they were ended"


async def _close(process: trio.Process) -> None:
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(stream)


async def _end_group(process: trio.Process, *, kill: bool) -> bool:
    """End the processes of a script; return False if there are none that can be ended.

    Args:
        process: the script.
        kill: do not let them end by themselves. Where there are no signals, they never can.
    """
    command = system.tree_killer(process.pid)
    if command is None:
        return system.signal_group(process.pid, kill=kill)
    deadline = trio.current_time() + GRACE
    with trio.CancelScope(deadline=deadline, shield=True), suppress(OSError), thread_errors():
        done = await trio.run_process(
            command, capture_stdout=True, capture_stderr=True, check=False
        )
        return done.returncode == 0
    return False
