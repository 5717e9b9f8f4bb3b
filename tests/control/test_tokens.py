"""Tokens: their file, and clients that send one, in both framings."""

import json
import os
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from tests.control.helpers import (
    FakeAgent,
    JsonClient,
    RpcClient,
    ServerUnderTest,
    serving,
    write_tokens,
)
from trioserf.control.errors import ControlError
from trioserf.control.server import access, tokens
from trioserf.control.server.access import AccessControl
from trioserf.control.server.admission import Limits
from trioserf.control.server.listener import open_control
from trioserf.control.server.permissions import ALL, SCOPES, Permissions
from trioserf.control.server.tokens import TokenHash, dump, load, new_token
from trioserf.errors import ConfigError

assert sys.platform != "win32"

SECRET = "open sesame"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tokens.json"


@asynccontextmanager
async def serving_tokens(path: Path, auth: str = "") -> AsyncIterator[ServerUnderTest]:
    control = AccessControl(auth, path)
    await control.reload()
    async with serving(access=control, limits=Limits(wrong_key=0.01)) as served:
        yield served


# --- the file ---


def test_file_keeps_names_and_scopes_but_no_token(path: Path) -> None:
    text, token = new_token("ci", Permissions.parse(["read", "event:deploy-*"]))
    assert text.startswith("ci.")
    assert len(text) >= len("ci.") + 43
    path.write_bytes(dump([token]))
    path.chmod(0o600)
    assert text[3:] not in path.read_text()
    assert load(path) == {"ci": token}
    assert token.hash.matches(text)
    assert not token.hash.matches(text + "x")
    assert not token.hash.matches("ci.")


def test_equal_tokens_have_different_salts() -> None:
    one, other = TokenHash.of("a.b"), TokenHash.of("a.b")
    assert one.salt != other.salt
    assert one.digest != other.digest


GOOD = "scrypt$2$1$1$c2FsdA==$" + "A" * 43 + "="


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ("{", "not JSON"),
        ("{}", "expected a JSON list of objects with name, hash and scopes"),
        ([1], r"\[0\]: expected an object with the keys name, hash, scopes"),
        ([{"name": "a", "hash": GOOD}], r"\[0\]: expected an object with the keys"),
        ([{"name": "a b", "hash": GOOD, "scopes": ["read"]}], r"\[0\].name: invalid name 'a b'"),
        ([{"name": [], "hash": GOOD, "scopes": ["read"]}], r"\[0\].name: expected text"),
        ([{"name": "a", "hash": "s3cret", "scopes": ["read"]}], r"\[0\].hash: expected scrypt"),
        (
            [{"name": "a", "hash": GOOD.replace("$2$", "$3$"), "scopes": ["read"]}],
            r"\[0\].hash: expected N as a power of 2",
        ),
        (
            [{"name": "a", "hash": GOOD.replace("$2$1", "$1048576$8"), "scopes": ["read"]}],
            r"\[0\].hash: takes 1073741824 bytes of memory; expected 67108864 at most",
        ),
        ([{"name": "a", "hash": GOOD, "scopes": "read"}], r"\[0\].scopes: expected a list of"),
        ([{"name": "a", "hash": GOOD, "scopes": []}], r"\[0\].scopes: no scope; expected some"),
        ([{"name": "a", "hash": GOOD, "scopes": ["x"]}], r"\[0\].scopes: unknown scope 'x'"),
        (
            [{"name": "a", "hash": GOOD, "scopes": ["read"]}] * 2,
            r"\[1\].name: there is another token with this name",
        ),
    ],
)
def test_error_of_file_names_path_and_expectation(path: Path, content: Any, error: str) -> None:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    path.chmod(0o600)
    with pytest.raises(ConfigError, match=error) as caught:
        load(path)
    assert str(caught.value).startswith(f"rpc_tokens {path}: ")
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(("mode", "is_valid"), [
    (0o600, True), (0o640, True), (0o400, True), (0o644, False), (0o660, False), (0o602, False),
])  # fmt: skip
def test_file_that_others_can_use_is_rejected(path: Path, mode: int, is_valid: bool) -> None:
    path.write_text("[]")
    path.chmod(mode)
    if is_valid:
        assert load(path) == {}
    else:
        with pytest.raises(ConfigError, match=f"mode {mode:04o}; expected 0600, or 0640"):
            load(path)


def test_file_that_is_not_regular_is_rejected(path: Path) -> None:
    os.mkfifo(path, 0o600)
    with pytest.raises(ConfigError, match="expected a regular file"):
        load(path)


async def test_missing_file_ends_the_start(path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        async with open_control(FakeAgent(), [], tokens=str(path)):
            pass


# --- clients ---


async def test_json_client_has_the_scopes_of_its_token(path: Path) -> None:
    sent = write_tokens(path, ci="event:deploy-*", ops="read query")
    async with serving_tokens(path) as served:
        client = served.connect()
        assert (await client.ask(command="members"))["error"]["code"] == "auth_required"
        for wrong in ("", "ci", "ci.", sent["ci"] + "x", "x." + sent["ci"], SECRET, "\ud800."):
            reply = await client.ask(command="auth", key=wrong)
            assert reply["error"]["code"] in ("auth_failed", "bad_request")
        assert (await client.ask(command="auth", key=sent["ci"]))["ok"]
        assert (await client.ask(command="event", name="deploy-web"))["ok"]
        assert (await client.ask(command="members"))["error"] == {
            "code": "forbidden",
            "message": "this token lacks the scope read; it has: event:deploy-*",
        }
        assert (await client.ask(command="auth", key=sent["ops"]))["ok"]
        assert (await client.ask(command="members"))["ok"]
        refused = await client.ask(command="event", name="deploy-web")
        assert refused["error"]["message"].endswith("event:deploy-web; it has: read, query")


async def test_rpc_client_sends_token_as_its_key(path: Path) -> None:
    sent = write_tokens(path, ci="event:deploy-*")
    async with serving_tokens(path) as served:
        client = await served.rpc()
        assert (await client.ask("members"))["Error"] == "Authentication required"
        for wrong in ("", "ci.wrong"):
            refused = await client.ask("auth", body={"AuthKey": wrong})
            assert refused["Error"] == "Invalid authentication token"
        assert (await client.ask("auth", body={"AuthKey": sent["ci"]}))["Error"] == ""
        assert (await client.ask("event", body={"Name": "deploy-web"}))["Error"] == ""
        refused = await client.ask("members")
        assert refused["Error"] == "this token lacks the scope read; it has: event:deploy-*"


REQUESTS: tuple[tuple[str, dict[str, Any], str, Any], ...] = (
    ("read", {"command": "members"}, "members", None),
    ("event", {"command": "event", "name": "x"}, "event", {"Name": "x"}),
    ("query", {"command": "query", "name": "x"}, "query", {"Name": "x"}),
    ("respond", {"command": "respond", "id": 1}, "respond", {"ID": 1}),
    ("tags", {"command": "tags"}, "tags", {"Tags": {}}),
    ("members", {"command": "leave"}, "leave", None),
    ("keys", {"command": "keys", "action": "list"}, "list-keys", None),
)
"""A request of each scope, as JSON and in RPC."""


async def test_each_scope_is_refused_to_a_token_without_it(path: Path) -> None:
    assert [scope for scope, *_ in REQUESTS] == list(SCOPES)
    sent = write_tokens(
        path, **{scope: " ".join(one for one in SCOPES if one != scope) for scope in SCOPES}
    )
    async with serving_tokens(path) as served:
        client = served.connect()
        for scope, request, command, body in REQUESTS:
            assert (await client.ask(command="auth", key=sent[scope]))["ok"]
            error = (await client.ask(**request))["error"]
            assert error["code"] == "forbidden"
            expected = f"this token lacks the scope {scope}"
            assert error["message"].startswith(expected)
            rpc = await served.rpc()
            assert (await rpc.ask("auth", body={"AuthKey": sent[scope]}))["Error"] == ""
            assert (await rpc.ask(command, body=body))["Error"] == error["message"]


async def test_rpc_auth_is_a_token_of_all_scopes(path: Path) -> None:
    write_tokens(path, ci="read")
    async with serving_tokens(path, SECRET) as served:
        client = served.connect()
        assert (await client.ask(command="auth", key=SECRET))["ok"]
        for request in ({"command": "members"}, {"command": "tags", "set": {"a": "b"}}):
            assert (await client.ask(**request))["ok"]


async def test_empty_key_is_not_valid_without_rpc_auth(path: Path) -> None:
    write_tokens(path)
    async with serving_tokens(path) as served:
        reply = await served.connect().ask(command="auth", key="")
        assert reply["error"]["code"] == "auth_failed"
        assert served.server.unauthenticated == 1


async def test_token_is_hashed_once_and_in_another_thread(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = write_tokens(path, ci="read")
    threads: list[threading.Thread] = []
    matches = TokenHash.matches

    def counted(self: TokenHash, token: str) -> bool:
        threads.append(threading.current_thread())
        return matches(self, token)

    monkeypatch.setattr(TokenHash, "matches", counted)
    async with serving_tokens(path) as served:
        for _ in range(5):
            assert (await served.connect().ask(command="auth", key=sent["ci"]))["ok"]
        assert len(threads) == 1
        for _ in range(2):
            assert not (await served.connect().ask(command="auth", key="ci.wrong"))["ok"]
        assert len(threads) == 3
        assert not (await served.connect().ask(command="auth", key="unknown.wrong"))["ok"]
        assert len(threads) == 3
    assert threading.main_thread() not in threads


async def test_checks_at_once_are_bounded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tokens(path, ci="read")
    running, most, lock = 0, 0, threading.Lock()
    others_wait = threading.Event()

    def slow(self: TokenHash, token: str) -> bool:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        assert others_wait.wait(10)
        with lock:
            running -= 1
        return False

    monkeypatch.setattr(TokenHash, "matches", slow)
    async with serving_tokens(path) as served:
        clients = [served.connect() for _ in range(10)]
        for client in clients:
            await client.send({"command": "auth", "key": "ci.wrong"})
        # The loop is not held: another connection is refused at once meanwhile.
        assert (await served.connect().ask(command="members"))["error"]["code"] == "auth_required"
        with trio.fail_after(10):
            while served.server.context.access._checks.statistics().tasks_waiting < 9:
                await trio.lowlevel.checkpoint()
        others_wait.set()
        for client in clients:
            assert (await client.receive())["error"]["code"] == "auth_failed"
    assert most == access.MAX_CHECKS


# --- reload ---


async def open_stream(served: ServerUnderTest, key: str) -> JsonClient:
    client = served.connect()
    assert (await client.ask(command="auth", key=key))["ok"]
    assert (await client.ask(command="stream"))["ok"]
    return client


async def test_reload_disconnects_clients_of_removed_and_changed_tokens(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sent = write_tokens(path, kept="read", removed="read", changed="read event")
    async with serving_tokens(path, SECRET) as served:
        kept = await open_stream(served, sent["kept"])
        owner = await open_stream(served, SECRET)
        removed = await open_stream(served, sent["removed"])
        changed = RpcClient(served.pipe())
        await changed.handshake()
        assert (await changed.ask("auth", body={"AuthKey": sent["changed"]}))["Error"] == ""
        write_tokens(path, kept="read", changed="event", added="read")
        await served.server.reload()
        assert await removed.receive() is None
        assert await changed.receive() is None
        assert "Disconnected token:removed: its token was removed" in caplog.text
        assert "Disconnected token:changed: its token was removed" in caplog.text
        await served.agent.node.user_event("deploy")
        for client in (kept, owner):
            assert (await client.receive())["event"] == "user"
        again = served.connect()
        refused = await again.ask(command="auth", key=sent["removed"])
        assert refused["error"]["code"] == "auth_failed"
        assert (await again.ask(command="auth", key=sent["changed"]))["ok"]
        assert (await again.ask(command="members"))["error"]["code"] == "forbidden"


async def test_stream_of_removed_token_ends_although_client_has_sent_another(path: Path) -> None:
    sent = write_tokens(path, first="read", second="event")
    async with serving_tokens(path) as served:
        client = await open_stream(served, sent["first"])
        assert (await client.ask(command="auth", key=sent["second"]))["ok"]
        write_tokens(path, second="event")
        await served.server.reload()
        assert await client.receive() is None


def break_file(path: Path) -> None:
    path.write_text("[{]")


async def test_broken_file_leaves_the_old_tokens(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sent = write_tokens(path, ci="read")
    async with serving_tokens(path) as served:
        client = await open_stream(served, sent["ci"])
        break_file(path)
        await served.server.reload()
        assert f"the tokens stay as they were: rpc_tokens {path}: not JSON" in caplog.text
        await served.agent.node.user_event("deploy")
        assert (await client.receive())["event"] == "user"
        assert (await served.connect().ask(command="auth", key=sent["ci"]))["ok"]


async def test_token_removed_during_its_check_is_not_valid(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = write_tokens(path, ci="read")
    may_go_on, begun = threading.Event(), threading.Event()
    matches = TokenHash.matches

    def slow(self: TokenHash, token: str) -> bool:
        begun.set()
        assert may_go_on.wait(10)
        return matches(self, token)

    monkeypatch.setattr(TokenHash, "matches", slow)
    async with serving_tokens(path) as served:
        client = served.connect()
        await client.send({"command": "auth", "key": sent["ci"]})
        assert await trio.to_thread.run_sync(begun.wait, 10)
        write_tokens(path)
        await served.server.reload()
        may_go_on.set()
        assert (await client.receive())["error"]["code"] == "auth_failed"


async def test_forgotten_clients_are_not_kept(path: Path) -> None:
    sent = write_tokens(path, ci="read")
    async with serving_tokens(path) as served:
        client = await open_stream(served, sent["ci"])
        await client.stream.aclose()
        assert await served.is_empty()
        assert not served.server.context.access._clients


def test_every_scope_can_be_written_to_a_file(path: Path) -> None:
    write_tokens(path, all=" ".join(ALL.texts()))
    assert load(path)["all"].permissions == ALL
    assert tokens.MAX_TOKENS >= 1000


async def test_token_without_a_thread_for_its_hash_may_be_sent_again(
    path: Path, request: pytest.FixtureRequest
) -> None:
    sent = write_tokens(path, ci="read")
    control = AccessControl("", path)
    await control.reload()
    request.getfixturevalue("no_threads")
    with pytest.raises(ControlError, match="no thread can be started; try again"):
        await control.authenticate(access.Client(), sent["ci"])
    with pytest.raises(ConfigError, match="rpc_tokens: cannot be read: no thread"):
        await control.reload()
