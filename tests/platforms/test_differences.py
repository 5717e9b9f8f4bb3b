"""Single differences between platforms: sockets, limits of time."""

import errno
import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from tests.interop.agents import ROOT
from trioserf.control.server.tokens import load
from trioserf.errors import ConfigError
from trioserf.net.sockets import SocketTransport, open_sockets
from trioserf.operating_system.sockets import allow_large_datagrams, claim_port

assert sys.platform == "linux"

PREPARE = "from tests.platforms import stand_in; import socket, trio; stand_in.install({!r})\n"


def run(platform: str, text: str) -> str:
    """Run a program, as on a platform; return its output."""
    words = [sys.executable, "-c", PREPARE.format(platform) + text]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout


OPTIONS = """
from trioserf.control.server.tokens import load
from trioserf.errors import ConfigError
from trioserf.net.sockets import _bind
for one in _bind("127.0.0.1", 0):
    reuse = one.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
    print(reuse, one.getsockopt(socket.SOL_SOCKET, stand_in.EXCLUSIVE))
    one.close()
"""


@pytest.mark.parametrize(
    ("platform", "expected"), [("win32", "0 1\n0 1\n"), ("darwin", "1 0\n0 0\n")]
)
def test_port_is_exclusive_on_windows_and_reusable_elsewhere(platform: str, expected: str) -> None:
    assert run(platform, OPTIONS) == expected


KEEPALIVE = """
from trioserf.operating_system.sockets import KEEPALIVE
one = socket.socket()
for level, option, value in KEEPALIVE:
    one.setsockopt(level, option, value)
print(*(one.getsockopt(socket.IPPROTO_TCP, option) for option in (4, 5, 6)))
one.close()
"""


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_keepalive_is_set_by_the_name_that_the_platform_has(platform: str) -> None:
    assert run(platform, KEEPALIVE) == "60 15 4\n"


LIMIT = """
from trioserf.sim.time_limit import SimulationTimeout, real_time_limit
try:
    with real_time_limit(0.3):
        with real_time_limit(30.0):
            pass
        while True:
            pass
except SimulationTimeout as error:
    print(error)
"""


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_endless_loop_is_cut_off(platform: str) -> None:
    assert run(platform, LIMIT) == "still running after 0.3 s of real time\n"


CLOSED = """
from trioserf.operating_system.processes import is_closed_pipe
print(*map(is_closed_pipe, (OSError(22, ""), BrokenPipeError(), OSError(28, ""))))
"""


@pytest.mark.parametrize(
    ("platform", "expected"),
    [("win32", "True True False\n"), ("darwin", "False True False\n")],
)
def test_closed_pipe_is_recognized_by_the_error_of_the_platform(
    platform: str, expected: str
) -> None:
    assert run(platform, CLOSED) == expected


REFUSED = """
from trioserf.agent.config import HandlerOptions
from trioserf.agent.script_rights import ScriptUser, limiting_command
from trioserf.errors import ConfigError
for options in (HandlerOptions(max_processes=9), HandlerOptions(max_memory=2**30)):
    try:
        limiting_command(options, None)
    except ConfigError as error:
        print(error)
try:
    ScriptUser.find("root")
except ConfigError as error:
    print(error)
"""


def test_windows_refuses_users_and_limits_of_scripts() -> None:
    limits = (
        "handler_max_processes, handler_max_memory: this system has no such limits; expected 0\n"
    )
    user = "handler_user: scripts run as the agent's user on this system; expected no value\n"
    assert run("win32", REFUSED) == limits + limits + user


TOKENS = """
import pathlib
from trioserf.control.server.tokens import load
print(load(pathlib.Path({!r})))
"""


def test_windows_does_not_check_modes_of_files(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_text("[]")
    path.chmod(0o666)
    assert run("win32", TOKENS.format(str(path))) == "{}\n"
    with pytest.raises(ConfigError, match="mode 0666"):
        load(path)


CHECK = """
import json, sys
from trioserf.agent.config_sources import Sources
from trioserf.control.server.config_check import check_configuration
checked = check_configuration(Sources(overrides=json.loads({!r}), environ={{}}))
print(*(problem.message for problem in checked.problems), *checked.warnings, sep="\\n")
"""


def test_windows_refuses_users_of_sockets_and_does_not_warn_of_modes(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("secret")
    key.chmod(0o666)
    values = {
        "rpc_addr": [f"unix:{tmp_path}/socket"],
        "rpc_allow": ["uid:0"],
        "rpc_auth_file": str(key),
        "rpc_socket_group": "0",
    }
    check = CHECK.format(json.dumps(values))
    assert run("win32", check).splitlines() == [
        f"unix:{tmp_path}/socket: this system has no Unix sockets; expected an address such as"
        " 127.0.0.1:7373",
        "this system does not report the users of Unix sockets; expected no value",
        "'0': this system has no groups; expected no value",
    ]
    assert "every user can read or change it (mode 0666)" in run("darwin", check)


REQUESTS = """
from trioserf.operating_system.sockets import multicast_interface
for joins in (True, False):
    print(multicast_interface("224.0.0.251", 3, joins=joins).hex())
"""


@pytest.mark.parametrize(
    ("platform", "expected"),
    [
        ("win32", "e00000fb00000003\n00000003\n"),
        ("darwin", "e00000fb0000000003000000\n" * 2),
    ],
)
def test_interface_of_multicast_is_named_as_the_platform_expects(
    platform: str, expected: str
) -> None:
    assert run(platform, REQUESTS) == expected


def test_small_send_buffer_is_enlarged_for_the_largest_datagram() -> None:
    """macOS begins with 9,216 bytes."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 9216)
        size = one.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
        assert size < 65_507
        allow_large_datagrams(one)
        assert one.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) >= 65_507


class ResetOnce(socket.socket):
    """A UDP socket of Windows: an ICMP error about an earlier datagram is an error of a read."""

    resets = 1

    def recvfrom(self, *args: int) -> tuple[bytes, tuple[str, int]]:
        if self.resets:
            self.resets -= 1
            raise ConnectionResetError(errno.ECONNRESET, "WSAECONNRESET")
        data, source = super().recvfrom(*args)
        return data, source


async def test_reset_of_a_datagram_does_not_end_the_receiver() -> None:
    tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    udp = ResetOnce(socket.AF_INET, socket.SOCK_DGRAM)
    for one in (tcp, udp):
        one.setblocking(False)
        claim_port(one)
        one.bind(("127.0.0.1", 0))
    tcp.listen()
    transport = SocketTransport(tcp, udp)
    async with open_sockets("127.0.0.1", 0) as other:
        assert other.send_packet(b"ping", transport.address)
        with trio.fail_after(10):
            assert await transport.receive_packets() == [(b"ping", other.address)]
    assert transport.errors == {"ECONNRESET": 1}
    await transport.aclose()
