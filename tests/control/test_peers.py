"""Users of Unix sockets: rules, and clients that they admit or refuse."""

import grp
import json
import os
import pwd
import socket
import stat
import struct
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from tests.control.helpers import (
    FakeAgent,
    JsonClient,
    RpcClient,
    handshakes,
    serving,
    write_tokens,
)
from trioserf.control.server.access import AccessControl
from trioserf.control.server.admission import Limits
from trioserf.control.server.listener import Server, open_control
from trioserf.control.server.peers import PeerRules, SocketRights
from trioserf.control.server.permissions import ALL
from trioserf.errors import AddressError, ConfigError
from trioserf.operating_system.sockets import (
    Peer,
    PeerSocket,
    from_xucred,
    knows_peers,
    peer_of,
)

assert sys.platform != "win32"

OPS = Peer(1000, frozenset((1000, 70)))
RULES = ("uid:5", "gid:70=read,event:deploy-*", "uid:6=query")


def rules(*texts: str) -> PeerRules:
    return PeerRules.parse(texts or RULES)


# --- rules ---


@pytest.mark.parametrize(
    ("peer", "scopes"),
    [
        (Peer(5, frozenset()), str(ALL)),
        (OPS, "read, event:deploy-*"),
        (Peer(6, frozenset((7, 70))), "read, event:deploy-*, query"),
        (Peer(6, frozenset((5,))), "query"),
        (Peer(70, frozenset((6,))), "None"),
        (Peer(0, frozenset((0,))), "None"),
    ],
)
def test_user_has_the_scopes_of_all_rules_that_match(peer: Peer, scopes: str) -> None:
    assert str(rules().permissions_of(peer)) == scopes


def test_names_are_looked_up() -> None:
    by_name = rules("user:root=read", "group:root=query")
    assert str(by_name.permissions_of(Peer(0, frozenset()))) == "read"
    assert str(by_name.permissions_of(Peer(9, frozenset((0,))))) == "query"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("1000", "expected uid:NUMBER, user:NAME, gid:NUMBER or group:NAME"),
        ("uid:", "expected uid:NUMBER, user:NAME"),
        ("pid:1", "expected uid:NUMBER, user:NAME"),
        ("uid:root", "expected a number from 0 to 4294967294, not 'root'"),
        ("gid:-1", "expected a number from 0"),
        ("user:no-such-user", "unknown user"),
        ("group:no-such-group", "unknown group"),
        ("uid:0=", "unknown scope ''"),
        ("uid:0=read,keys:x", "the scope keys takes no pattern"),
    ],
)
def test_error_of_rule_names_it_and_the_expectation(text: str, error: str) -> None:
    with pytest.raises(ConfigError) as caught:
        rules("uid:0", text, "pid:2")
    first, second = str(caught.value).splitlines()
    assert first.startswith(f"rpc_allow: {text!r}: {error}")
    assert second.startswith("rpc_allow: 'pid:2': ")


def test_users_are_not_supported_on_every_system() -> None:
    assert knows_peers("linux")
    assert knows_peers("freebsd14")
    assert not knows_peers("openbsd7")


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (("uid:0",), (0o600, None)),
        (("uid:0", "uid:33=read"), (0o600, None)),
        (("gid:70",), (0o660, 70)),
        (("uid:0", "gid:70=read", "gid:70=event"), (0o660, 70)),
        (("gid:70", "gid:71"), (0o666, None)),
        (("gid:70", "uid:1000"), (0o666, None)),
        (("uid:1000",), (0o666, None)),
    ],
)
def test_mode_of_socket_admits_those_that_rules_name(
    texts: tuple[str, ...], expected: tuple[int, int | None]
) -> None:
    assert rules(*texts).socket_mode(33) == expected


# --- the system ---


def test_system_reports_user_and_groups() -> None:
    one, other = socket.socketpair(socket.AF_UNIX)
    with one, other:
        peer = peer_of(one)
    assert peer.uid == os.geteuid()
    assert peer.gids == {os.getegid(), *os.getgroups()}


def test_credentials_of_bsd_are_decoded() -> None:
    data = struct.pack("=IIh2x16I", 0, 501, 3, 20, 12, 61, *[0] * 13)
    assert from_xucred(data) == Peer(501, frozenset((20, 12, 61)))
    with pytest.raises(OSError, match="unknown credentials"):
        from_xucred(struct.pack("=IIh2x16I", 1, 501, 3, *[0] * 16))
    with pytest.raises(OSError, match="unknown credentials"):
        from_xucred(struct.pack("=IIh2x16I", 0, 501, 17, *[0] * 16))


# --- clients ---


@attrs.frozen
class UsersUnderTest:
    """A server, and Unix sockets that are closed at the end."""

    server: Server
    nursery: trio.Nursery
    streams: AsyncExitStack

    def pipe(self) -> Any:
        """Connect."""
        ours, theirs = map(trio.SocketStream, trio.socket.socketpair(socket.AF_UNIX))
        self.streams.push_async_callback(ours.aclose)
        self.nursery.start_soon(self.server.handle, theirs)
        return trio.StapledStream(ours, ours)

    def connect(self) -> JsonClient:
        return JsonClient(self.pipe())

    async def rpc(self) -> RpcClient:
        client = RpcClient(self.pipe())
        await client.handshake()
        return client


@asynccontextmanager
async def serving_users(
    peer: Peer | None, auth: str = "", token_file: Path | None = None, ruled: bool = True
) -> AsyncIterator[UsersUnderTest]:
    def fake_peer(sock: PeerSocket) -> Peer:
        if peer is None:
            raise OSError
        return peer

    control = AccessControl(auth, token_file, rules() if ruled else None, fake_peer)
    await control.reload()
    limits = Limits(wrong_key=0.01)
    async with serving(limits=limits, access=control) as served, AsyncExitStack() as streams:
        yield UsersUnderTest(served.server, served.nursery, streams)


REFUSED = "uid 9 is not allowed here; rpc_allow has uid:5, gid:70=read,event:deploy-*, uid:6=query"


async def test_admitted_user_has_the_scopes_of_its_rules() -> None:
    async with serving_users(OPS) as served:
        client = served.connect()
        assert (await client.ask(command="members"))["ok"]
        assert (await client.ask(command="event", name="deploy-web"))["ok"]
        refused = await client.ask(command="leave")
        assert refused["error"] == {
            "code": "forbidden",
            "message": "uid 1000 lacks the scope members; it has: read, event:deploy-*",
        }
        assert (await client.ask(command="auth", key="x"))["ok"]
        rpc = await served.rpc()
        assert (await rpc.ask("event", body={"Name": "deploy-web"}))["Error"] == ""
        refused = await rpc.ask("event", body={"Name": "restart"})
        assert refused["Error"].startswith("uid 1000 lacks the scope event:restart;")


@pytest.mark.parametrize("peer", [Peer(9, frozenset((9,))), None])
async def test_other_user_is_refused_with_those_that_are_allowed(peer: Peer | None) -> None:
    text = REFUSED if peer else REFUSED.replace("uid 9", "an unknown user")
    async with serving_users(peer) as served:
        client = served.connect()
        for request in (
            {"command": "members"},
            {"command": "handshake"},
            {"command": "auth", "key": ""},
            {"command": "auth", "key": "x"},
            {"command": "members"},
        ):
            assert (await client.ask(**request))["error"] == {"code": "forbidden", "message": text}
        rpc = await served.rpc()
        for key in ("", "x"):
            reply = await rpc.ask("auth", body={"AuthKey": key})
            assert reply["Error"] == "Invalid authentication token"
        for command, body in (("members", None), ("event", {"Name": "x"})):
            assert (await rpc.ask(command, body=body))["Error"] == text
        assert served.server.unauthenticated == 0  # Unix sockets do not count


async def test_other_user_may_authenticate_with_key_or_token(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    sent = write_tokens(path, ci="read")
    async with serving_users(Peer(9, frozenset()), "sesame", path) as served:
        client = served.connect()
        assert (await client.ask(command="members"))["error"] == {
            "code": "auth_required",
            "message": f"the first command must be auth, with the key ({REFUSED})",
        }
        assert (await client.ask(command="auth", key=sent["ci"]))["ok"]
        assert (await client.ask(command="members"))["ok"]
        assert (await client.ask(command="leave"))["error"]["code"] == "forbidden"
        assert (await client.ask(command="auth", key="sesame"))["ok"]
        assert (await client.ask(command="tags", set={"a": "b"}))["ok"]
        rpc = await served.rpc()
        assert (await rpc.ask("members"))["Error"] == "Authentication required"


async def test_token_of_admitted_user_replaces_its_scopes(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    sent = write_tokens(path, ci="query")
    async with serving_users(OPS, "", path) as served:
        client = served.connect()
        assert (await client.ask(command="members"))["ok"]
        assert (await client.ask(command="auth", key="ci.wrong"))["error"]["code"] == "auth_failed"
        assert (await client.ask(command="members"))["ok"]
        assert (await client.ask(command="auth", key=sent["ci"]))["ok"]
        assert (await client.ask(command="members"))["error"]["code"] == "forbidden"


async def test_without_rules_users_do_not_matter() -> None:
    async with serving_users(Peer(9, frozenset()), ruled=False) as served:
        assert (await served.connect().ask(command="leave"))["ok"]
    async with serving_users(OPS, "sesame", ruled=False) as served:
        reply = await served.connect().ask(command="members")
        assert reply["error"]["message"] == "the first command must be auth, with the key"


async def test_rules_do_not_apply_to_tcp() -> None:
    async with serving(access=AccessControl("sesame", None, rules())) as served:
        client = served.connect()
        assert (await client.ask(command="members"))["error"]["code"] == "auth_required"
        assert (await client.ask(command="auth", key="sesame"))["ok"]


# --- listeners ---


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory that every user can enter."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        path.chmod(0o755)
        yield path / "control.sock"


def owner(path: Path) -> tuple[int, int]:
    status = path.stat()
    return stat.S_IMODE(status.st_mode), status.st_gid


@pytest.mark.parametrize(
    ("addresses", "auth", "error"),
    [
        (["127.0.0.1:0"], "", "is about Unix sockets, but rpc_addr has none; expected an address"),
        (["127.0.0.1:0", "unix:PATH"], "", "every user can connect to 127.0.0.1:0; remove this"),
        (["127.0.0.1:0", "unix:PATH"], "sesame", ""),
    ],
)
async def test_rules_that_decide_nothing_end_the_start(
    public: Path, addresses: list[str], auth: str, error: str
) -> None:
    opening = open_control(
        FakeAgent(),
        [address.replace("PATH", str(public)) for address in addresses],
        auth=auth,
        allow=[f"uid:{os.geteuid()}"],
    )
    if error:
        with pytest.raises(ConfigError, match=error):
            async with opening:
                pass
        return
    async with opening as server:
        stream = await trio.open_unix_socket(server.addresses[1][5:])
        async with stream:
            assert await handshakes(stream)


async def test_socket_has_the_mode_and_group_that_rules_need(public: Path) -> None:
    group = os.getegid()
    for allow, mode in ((["uid:0"], 0o600), ([f"gid:{group}"], 0o660), (["uid:7"], 0o666)):
        async with open_control(FakeAgent(), [f"unix:{public}"], allow=allow):
            assert owner(public) == (mode, group)


@pytest.mark.parametrize(
    ("rights", "allow", "expected"),
    [
        (SocketRights("0660"), [], 0o660),
        (SocketRights("640"), [], 0o640),
        (SocketRights("", str(os.getegid())), [], 0o660),
        (SocketRights("", grp.getgrgid(os.getegid()).gr_name), [], 0o660),
        (SocketRights("0600", str(os.getegid())), [], 0o600),
        (SocketRights("0600"), ["uid:7"], 0o600),
    ],
)
async def test_socket_has_the_mode_and_group_of_the_configuration(
    public: Path, rights: SocketRights, allow: list[str], expected: int
) -> None:
    async with open_control(FakeAgent(), [f"unix:{public}"], allow=allow, rights=rights):
        assert owner(public) == (expected, os.getegid())


@pytest.mark.parametrize(
    ("rights", "text"),
    [
        (SocketRights("660x"), "'660x': expected an octal mode from 0600 to 0777"),
        (SocketRights("0060"), "'0060': expected an octal mode from 0600 to 0777"),
        (SocketRights("0999"), "'0999': expected an octal mode from 0600 to 0777"),
        (SocketRights("", "nosuch"), "'nosuch': unknown group; expected a group of this host"),
        (SocketRights("", "99999999999"), "expected a number from 0 to 4294967294"),
    ],
)
async def test_invalid_mode_or_group_ends_the_start(
    public: Path, rights: SocketRights, text: str
) -> None:
    with pytest.raises(ConfigError, match=text):
        async with open_control(FakeAgent(), [f"unix:{public}"], rights=rights):
            pass


def test_group_of_others_needs_root() -> None:
    uid = os.geteuid()
    if uid == 0:
        os.seteuid(pwd.getpwnam("daemon").pw_uid)
    try:
        with pytest.raises(ValueError, match="that is root or a member of this group"):
            SocketRights("", str(max({os.getegid(), *os.getgroups()}) + 1)).find_group()
    finally:
        os.seteuid(uid)


@pytest.mark.skipif(os.geteuid() == 0, reason="root can set every group")
async def test_group_that_cannot_be_set_ends_the_start(public: Path) -> None:
    with pytest.raises(AddressError, match="its group cannot be set to gid 0 for rpc_allow"):
        async with open_control(FakeAgent(), [f"unix:{public}"], allow=["gid:0"]):
            pass


CONNECT = """
import socket, sys
with socket.socket(socket.AF_UNIX) as stream:
    try:
        stream.connect(sys.argv[1])
    except OSError as error:
        print(type(error).__name__)
    else:
        stream.sendall(b'{"command": "members"}\\n{"command": "leave"}\\n')
        stream.shutdown(socket.SHUT_WR)
        print(stream.makefile().read(), end="")
"""


async def ask_as(path: Path, uid: int, *groups: int) -> list[Any]:
    """Send `members` and `leave` as another user; return the replies, or the error."""
    done = await trio.run_process(
        ["/usr/bin/python3", "-c", CONNECT, str(path)],
        user=uid,
        group=groups[0],
        extra_groups=groups[1:],
        capture_stdout=True,
        cwd="/",
    )
    lines = done.stdout.decode().splitlines()
    return [json.loads(line) if line.startswith("{") else line for line in lines]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be other users")
async def test_users_are_those_that_the_system_reports(public: Path) -> None:
    allow = ["uid:12001", "gid:12070=read"]
    async with open_control(FakeAgent(), [f"unix:{public}"], allow=allow) as server:
        by_group = await ask_as(public, 12002, 12002, 9, 12070)
        assert [reply["ok"] for reply in by_group] == [True, False]
        assert by_group[1]["error"]["message"] == "uid 12002 lacks the scope members; it has: read"
        for reply in (await ask_as(public, 12003, 12003), await ask_as(public, 0, 0)):
            text = reply[0]["error"]["message"]
            assert text.endswith("is not allowed here; rpc_allow has uid:12001, gid:12070=read")
        by_user = await ask_as(public, 12001, 12001)
        assert [reply["ok"] for reply in by_user] == [True, True]
        assert server.connections == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be other users")
async def test_socket_of_one_group_cannot_be_opened_by_others(public: Path) -> None:
    async with open_control(FakeAgent(), [f"unix:{public}"], allow=["gid:12070=read"]):
        assert (await ask_as(public, 12002, 12070))[0]["ok"]
        assert await ask_as(public, 12002, 12002) == ["PermissionError"]


def test_python_of_other_users_exists() -> None:
    assert subprocess.run(["/usr/bin/python3", "-V"], check=True).returncode == 0
