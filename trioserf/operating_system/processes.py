"""Processes, signals, memory and output: what the systems do differently."""

import os
import signal
import sys
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final, NoReturn

SIGPIPE: Final = 13
"""The signal of a process whose reader has closed the pipe; on Windows only part of exit codes."""

if sys.platform == "win32":
    # As Go does: Ctrl-Break is an interrupt. Closing the console and shutting down arrive as
    # SIGBREAK, too.
    END_SIGNALS: Final[Mapping[int, str]] = {
        signal.SIGINT: "interrupt",
        signal.SIGBREAK: "interrupt",
        signal.SIGTERM: "terminated",
    }
    RELOAD_SIGNAL: Final[int | None] = None
    METRICS_SIGNAL: Final[int | None] = None
    CHILD_SIGNAL: Final[int | None] = None
    BASIC_VARIABLES: Final = (
        r"(?:HOME|LANG|LANGUAGE|LC_\w+|TZ|PATH|PATHEXT|COMSPEC|SYSTEMROOT|SYSTEMDRIVE|WINDIR|TEMP"
        r"|TMP|USERNAME|USERPROFILE|HOMEDRIVE|HOMEPATH|APPDATA|LOCALAPPDATA|PROGRAMDATA"
        r"|PROGRAMFILES\S*|PROCESSOR_\w+|NUMBER_OF_PROCESSORS)"
    )
    OUT_OF_REACH: Final = "without the shell that started them"
    _CONTROL_C_EXIT: Final = 0xC000013A - 2**32
else:
    END_SIGNALS: Final[Mapping[int, str]] = {
        signal.SIGINT: "interrupt",
        signal.SIGTERM: "terminated",
    }
    """Signals that end an agent, each with Go's name."""
    RELOAD_SIGNAL: Final[int | None] = signal.SIGHUP
    """The signal that makes an agent read its configuration again; None if there is none."""
    METRICS_SIGNAL: Final[int | None] = signal.SIGUSR1
    """The signal that makes an agent write its metrics; None if there is none."""
    CHILD_SIGNAL: Final[int | None] = signal.SIGCHLD
    """The signal that reports the end of a child process; None if there is none."""
    BASIC_VARIABLES: Final = r"HOME|LANG|LANGUAGE|LC_\w+|LOGNAME|PATH|SHELL|TZ|USER"
    """Names of the variables without which programs do not run as expected, as an expression."""
    OUT_OF_REACH: Final = "in another session or as another user"
    """Where processes of a script are that cannot be ended."""


def block_signals(numbers: Sequence[int]) -> None:
    """Make the system keep these signals until `unblock_signals`; nothing on Windows."""
    if sys.platform != "win32":
        signal.pthread_sigmask(signal.SIG_BLOCK, numbers)


def unblock_signals(numbers: Sequence[int]) -> None:
    """Receive these signals again, those that were kept among them; nothing on Windows."""
    if sys.platform != "win32":
        signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)


def end_interrupted() -> NoReturn:
    """End this process as Ctrl-C does: by the signal, on Windows with its exit code.

    Shells check for that.
    """
    if sys.platform == "win32":
        os._exit(_CONTROL_C_EXIT)
    else:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
        raise KeyboardInterrupt  # the signal is blocked


def reap_children(own: Container[int]) -> None:
    """Wait for children that have ended, up to the first one in `own`; only Linux can do that."""
    if sys.platform == "linux":
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return  # there is no child at all
            if ended is None or ended.si_pid in own:
                return
            os.waitpid(ended.si_pid, 0)


@contextmanager
def alarm(
    seconds: float, handler: Callable[[int, FrameType | None], object], interval: float = 0.0
) -> Iterator[None]:
    """Call `handler` in the main thread after `seconds`, if the block still runs.

    Only the main thread may enter the block. The alarm interrupts a system call that waits, but
    on Windows it arrives after that call. An alarm that was set before still arrives.

    Args:
        seconds: the time until the call, above 0.
        handler: a handler of signals; it may raise.
        interval: the time until each further call; 0 for none.
    """
    if sys.platform == "win32":
        import _thread
        import threading

        ended = threading.Event()

        def run() -> None:
            wait = seconds
            while wait and not ended.wait(wait):
                wait = interval
                _thread.interrupt_main(signal.SIGBREAK)

        before = signal.signal(signal.SIGBREAK, handler)
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            signal.signal(signal.SIGBREAK, before)
    else:
        import time

        before = signal.signal(signal.SIGALRM, handler)
        other, other_interval = signal.setitimer(signal.ITIMER_REAL, seconds, interval)
        began = time.monotonic()
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
            if other:
                left = other - (time.monotonic() - began)
                # 0 would disable the timer.
                signal.setitimer(signal.ITIMER_REAL, max(left, 1e-6), other_interval)


def wait_for_reader_to_close(descriptor: int) -> bool:
    """Wait until the reader of a pipe closes it; return False at once if that cannot be noticed.

    A file, and on macOS a terminal and /dev/null, which poll() refuses there, have no reader that
    closes them. Windows does not report it before the next write.
    """
    if sys.platform == "win32":
        return False
    elif sys.platform == "darwin":
        import select
        import stat

        if not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            return False
        # The end that writes becomes readable when the other end is closed.
        select.select((descriptor,), (), ())
        return True
    else:
        import select

        poll = select.poll()
        poll.register(descriptor, 0)
        poll.poll()
        return True


def is_closed_pipe(error: OSError) -> bool:
    """Return whether a write failed because the reader has closed the pipe.

    Windows reports EINVAL for that.
    """
    import errno

    is_broken = isinstance(error, BrokenPipeError)
    return is_broken or (sys.platform == "win32" and error.errno == errno.EINVAL)


def wait_until_writable(descriptor: int) -> None:
    """Wait until a pipe or terminal in non-blocking mode takes bytes (Windows has none)."""
    if sys.platform != "win32":
        import select

        select.select((), (descriptor,), ())


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def script_command(script: str, limits: str = "") -> Any:
    """Return the command that runs a script: words for /bin/sh, or a line for cmd.

    Args:
        script: the script, in the language of the system's shell.
        limits: a shell command that runs the script as its `$0`; empty on Windows.
    """
    if sys.platform == "win32":
        # With /S, cmd removes the first and the last quote and keeps all between them.
        return f'{_system_program("cmd")} /S /C "{script}"'
    else:
        words = ("/bin/sh", "-c", *([limits] if limits else ()), script)
        return list(map(_bytes, words))


def script_environment(env: Mapping[str, str]) -> Any:
    """Return the environment of a script for the system: bytes, on Windows text."""
    if sys.platform == "win32":
        return {key: _bytes(value).decode("utf-8", "replace") for key, value in env.items()}
    else:
        return {_bytes(key): _bytes(value) for key, value in env.items()}


def script_options(
    uid: int | None, gid: int | None, groups: Sequence[int] | None
) -> dict[str, Any]:
    """Return options of `subprocess.Popen` for a script: a group of its own, so that it can end.

    Args:
        uid: the user that it runs as; None for the agent's, as always on Windows.
        gid: the user's group, or None.
        groups: all groups of the user, or None.
    """
    if sys.platform == "win32":
        import subprocess

        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    else:
        return {"start_new_session": True, "user": uid, "group": gid, "extra_groups": groups}


def tree_killer(pid: int) -> list[str] | None:
    """Return the command that kills a process and its descendants; None where signals do that."""
    if sys.platform == "win32":
        return [_system_program("taskkill"), "/T", "/F", "/PID", str(pid)]
    else:
        return None


def signal_group(pid: int, *, kill: bool) -> bool:
    """Send SIGTERM or SIGKILL to a process group; return False if no process gets it."""
    if sys.platform == "win32":
        raise OSError("this system has no process groups; expected the use of tree_killer")
    else:
        try:
            os.killpg(pid, signal.SIGKILL if kill else signal.SIGTERM)
        except (ProcessLookupError, PermissionError):  # `sudo` runs as another user
            return False
        return True


if sys.platform == "win32":

    def _system_program(name: str) -> str:
        """Return the path of a program of Windows, so that none of the current directory runs."""
        root = os.environ.get("SYSTEMROOT", r"C:\Windows")
        return os.path.join(root, "System32", f"{name}.exe")  # noqa: PTH118 - see resident_memory
