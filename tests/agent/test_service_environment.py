"""What a service manager passes: systemd's variables, its sockets and the journal."""

import os
import socket
import sys
from pathlib import Path

import pytest

from trioserf.control.server.inherited import check_inherited, find_inherited
from trioserf.errors import AddressError
from trioserf.operating_system.service_manager import is_journal, take_environment

assert sys.platform != "win32"

PID = str(os.getpid())


def test_nothing_is_found_without_variables() -> None:
    environ = {"PATH": "/bin"}
    assert take_environment(environ) == ("", 0.0, (), ())
    assert environ == {"PATH": "/bin"}


def test_variables_are_removed() -> None:
    names = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_PID", "LISTEN_FDNAMES")
    environ = {**dict.fromkeys(names, "1"), "LISTEN_FDS": "1", "LISTEN": "x"}
    take_environment(environ)
    assert environ == {"LISTEN": "x"}


@pytest.mark.parametrize(
    ("text", "address"), [("/run/notify", "/run/notify"), ("@a/b", "\0a/b"), ("", "")]
)
def test_address_is_a_path_or_abstract(text: str, address: str) -> None:
    assert take_environment({"NOTIFY_SOCKET": text})[0] == address


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": PID}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, 0.0),
        ({"WATCHDOG_USEC": "0"}, 0.0),
        ({"WATCHDOG_PID": PID}, 0.0),
    ],
)
def test_watchdog_is_for_this_process(environ: dict[str, str], seconds: float) -> None:
    found = take_environment(environ)
    assert (found.watchdog, found.problems) == (seconds, ())


def test_what_cannot_be_used_is_a_problem() -> None:
    found = take_environment(
        {"NOTIFY_SOCKET": "vsock:2:1", "WATCHDOG_USEC": "-1", "LISTEN_FDS": "x"}
    )
    assert found[:3] == ("", 0.0, ())
    assert [text.partition(":")[0] for text in found.problems] == [
        "NOTIFY_SOCKET",
        "WATCHDOG_USEC",
        "LISTEN_FDS",
    ]


def test_sockets_of_another_process_are_left_alone() -> None:
    assert take_environment({"LISTEN_PID": "1", "LISTEN_FDS": "1"}).sockets == ()


def test_socket_is_found_by_its_address(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_UNIX) as unix,
        socket.socket(socket.AF_UNIX) as idle,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagrams,
    ):
        unix.bind(path)
        unix.listen()
        idle.bind(path + "2")
        port = tcp.getsockname()[1]
        assert find_inherited(f"127.0.0.1:{port}", [unix, tcp]) is tcp
        assert find_inherited(f"unix:{path}", [tcp, unix]) is unix
        assert find_inherited("127.0.0.1:1", [tcp, unix]) is None
        check_inherited([f"unix:{path}", f"tls://127.0.0.1:{port}"], [tcp, unix])
        check_inherited(["nonsense:x:y"], [])
        with pytest.raises(AddressError, match=f"127.0.0.1:{port}, that is not in rpc_addr"):
            check_inherited([f"unix:{path}"], [tcp, unix])
        for other in (idle, datagrams):
            with pytest.raises(AddressError, match="does not accept connections"):
                check_inherited([f"unix:{path}2"], [other])


def test_stream_of_the_journal_is_recognised() -> None:
    ours, other = socket.socketpair()
    with ours, other:
        found = os.fstat(ours.fileno())
        stream = {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}
        assert is_journal(ours.fileno(), stream)
        assert not is_journal(other.fileno(), stream)
        assert not is_journal(ours.fileno(), {})
        assert not is_journal(ours.fileno(), {"JOURNAL_STREAM": "x"})
    assert not is_journal(-1, stream)
