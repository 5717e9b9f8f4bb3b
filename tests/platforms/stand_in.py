"""Makes trioserf's modules see the Python of another platform (see tests/README.md, § Platforms).

    python -m tests.platforms.stand_in win32 members      # a command line, as on Windows
    python -m tests.platforms.stand_in win32 --import-all # every module

Modules of trioserf import limited views of modules of the standard library, which lack what Python
lacks on that platform and have what it has in addition. Trio, the other packages and the standard
library itself keep the modules of this system, without which they could not run.
"""

import builtins
import fcntl
import importlib
import os
import pkgutil
import select
import signal
import socket
import stat
import sys
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import trio

from tests.platforms.typeshed import NATIVE, changes, missing_modules

assert sys.platform == "linux"

LIMITED = ("asyncio", "errno", "os", "select", "signal", "socket", "subprocess", "sys", "time")
CONTROL_C_EXIT = -1073741510
EXCLUSIVE = socket.SO_OOBINLINE
"""In place of SO_EXCLUSIVEADDRUSE, an option that does nothing to a socket without such data."""
BREAK = signal.SIGTTIN
"""In place of SIGBREAK, which has the same number."""
_SIGNALS = ("SIGABRT", "SIGFPE", "SIGILL", "SIGINT", "SIGSEGV", "SIGTERM")


class View(ModuleType):
    """A module with some names less, and some names more."""

    def __init__(self, original: ModuleType, lacks: set[str], has: Mapping[str, Any]) -> None:
        def find(name: str) -> Any:
            if name in has:
                return has[name]
            if name in lacks:
                raise AttributeError(f"module {original.__name__!r} has no attribute {name!r}")
            return getattr(original, name)

        vars(self).clear()
        vars(self).update(__getattr__=find, __path__=[], __original__=original)

    def __setattr__(self, name: str, value: object) -> None:
        setattr(vars(self)["__original__"], name, value)


class MacPoll:
    """As on macOS, poll() refuses terminals and /dev/null, and reports pipes only if asked to."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._devices: list[int] = []

    def register(self, descriptor: int, events: int) -> None:
        if stat.S_ISCHR(os.fstat(descriptor).st_mode):
            self._devices.append(descriptor)
        elif events:
            self._poll.register(descriptor, events)

    def poll(self, timeout: float | None = None) -> list[tuple[int, int]]:
        if self._devices:
            return [(descriptor, select.POLLNVAL) for descriptor in self._devices]
        return self._poll.poll(timeout)


def windows_signal(number: int, handler: Any) -> Any:
    """As on Windows, accept the signals that it has, and no other number."""
    if number not in {*(getattr(signal, name) for name in _SIGNALS), BREAK}:
        raise ValueError("invalid signal value")
    return signal.signal(number, handler)


class Msvcrt(ModuleType):
    """The part of `msvcrt` that locks files."""

    LK_UNLCK = 0
    LK_LOCK = 1

    def locking(self, descriptor: int, mode: int, count: int) -> None:
        kind = fcntl.LOCK_EX if mode == self.LK_LOCK else fcntl.LOCK_UN
        fcntl.lockf(descriptor, kind, count, os.lseek(descriptor, 0, os.SEEK_CUR))


_open_process = trio.lowlevel.open_process


async def windows_process(
    command: str | Sequence[str], *, env: Mapping[str, str], creationflags: int, **streams: Any
) -> trio.Process:
    """Start a process with what Windows takes: a line, text, flags; any other option is an error.

    A line is split at its first space only: the program gets the rest as it is.
    """
    assert isinstance(command, str)
    assert all(isinstance(text, str) for item in env.items() for text in item)
    assert creationflags == _HAS["win32"]["subprocess"]["CREATE_NEW_PROCESS_GROUP"]
    assert set(streams) <= {"stdin", "stdout", "stderr"}
    program, _, line = command.partition(" ")
    return await _open_process([program, line], env=env, **streams)


_HAS: dict[str, dict[str, dict[str, Any]]] = {
    "win32": {
        "errno": {"WSAEMFILE": 10024},
        "os": {"name": "nt", "O_BINARY": 0, "O_NOINHERIT": os.O_CLOEXEC},
        "signal": {"SIGBREAK": BREAK, "signal": windows_signal},
        "socket": {"SO_EXCLUSIVEADDRUSE": EXCLUSIVE},
        "subprocess": {"CREATE_NEW_PROCESS_GROUP": 0x200},
        "sys": {"platform": "win32"},
    },
    "darwin": {
        "select": {"poll": MacPoll},
        "socket": {"TCP_KEEPALIVE": socket.TCP_KEEPIDLE},
        "sys": {"platform": "darwin"},
    },
}
"""What a platform has in addition or has otherwise, with values that this system understands."""


def install(platform: str) -> None:
    """Make modules of trioserf that are imported from now on see another platform."""
    assert platform != NATIVE
    assert not any(name.split(".")[0] == "trioserf" for name in sys.modules)
    modules: dict[str, ModuleType | None] = dict.fromkeys(missing_modules(platform))
    for name in LIMITED:
        lacks, _ = changes("asyncio.streams" if name == "asyncio" else name, platform)
        original = importlib.import_module(name)
        modules[name] = View(original, lacks, _HAS[platform].get(name, {}))
    if platform == "win32":
        modules["msvcrt"] = Msvcrt("msvcrt")
        trio.lowlevel.open_process = windows_process  # type: ignore[assignment]
    original_import = builtins.__import__

    def import_limited(
        name: str,
        globals: Mapping[str, Any] | None = None,  # noqa: A002 - the name is Python's
        locals: Mapping[str, Any] | None = None,  # noqa: A002
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        importer = (globals or {}).get("__name__", "")
        top = name.split(".")[0]
        if level or importer.split(".")[0] != "trioserf" or top not in modules:
            return original_import(name, globals, locals, fromlist or (), level)
        view = modules[top]
        if view is None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        if name != top:
            module = original_import(name, globals, locals, fromlist or (), level)
            return module if fromlist else view
        return view

    builtins.__import__ = import_limited


def import_all() -> int:
    """Import every module of trioserf; print their number."""
    import trioserf

    found = [one.name for one in pkgutil.walk_packages(trioserf.__path__, "trioserf.")]
    for name in found:
        if not name.endswith("__main__"):
            importlib.import_module(name)
    sys.stdout.write(f"{len(found)}\n")
    return 0


def main(platform: str, *words: str) -> None:
    install(platform)
    if words == ("--import-all",):
        raise SystemExit(import_all())
    from trioserf.cli.main import main as run

    sys.argv = ["trioserf", *words]
    run()


if __name__ == "__main__":
    main(*sys.argv[1:])
