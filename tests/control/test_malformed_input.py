"""Clients that send malformed input, stall, hold resources or disconnect; in virtual time."""

import json
import tracemalloc
from contextlib import suppress
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.control.helpers import JsonClient, RpcClient, ServerUnderTest, serving
from trioserf.address import Address
from trioserf.control.server.admission import KEY_TRIES, Limits
from trioserf.control.server.connection import MAX_IN_FLIGHT, TURN
from trioserf.serf.member import Member
from trioserf.wire.serf_messages import Status


async def close_time(client: JsonClient) -> float:
    """Return when the server closes this connection; it must send nothing before."""
    assert await client.receive() is None
    return trio.current_time()


async def test_silent_connection_is_closed_at_deadline(autojump_clock: object) -> None:
    async with serving() as served:
        assert await close_time(served.connect()) == 60
        assert await served.is_empty()


@pytest.mark.parametrize("first", [b"{", b" ", b'{"command":"handshake"', b"\x82", b"\x82\xa7Com"])
async def test_incomplete_first_request_is_closed_at_deadline(
    first: bytes, autojump_clock: object
) -> None:
    async with serving() as served:
        client = served.connect()
        await client.stream.send_all(first)
        assert await close_time(client) == 60
        assert await served.is_empty()


async def test_one_byte_per_second_does_not_extend_the_deadline(autojump_clock: object) -> None:
    async with serving() as served:
        client = served.connect()

        async def dribble() -> None:
            for _ in range(100):
                await client.stream.send_all(b" ")
                await trio.sleep(1)

        served.nursery.start_soon(dribble)
        assert await close_time(client) == 60


async def test_idle_client_after_first_request_stays_connected(autojump_clock: object) -> None:
    async with serving() as served:
        client, rpc = served.connect(), await served.rpc()
        assert (await client.ask(command="handshake"))["ok"]
        await trio.sleep(80_000)
        assert (await client.ask(command="handshake"))["ok"]
        assert (await rpc.ask("event", body={}))["Error"] == ""


async def test_incomplete_later_request_is_closed_at_deadline(autojump_clock: object) -> None:
    async with serving() as served:
        client, rpc = served.connect(), await served.rpc()
        await client.ask(command="handshake")
        await trio.sleep(1000)
        await client.stream.send_all(b'{"comm')
        await rpc.send({"Command": "event", "Seq": 1})
        assert await close_time(client) == 1060
        assert await rpc.receive() is None
        assert trio.current_time() == 1060


async def test_unauthenticated_client_is_closed_after_20_seconds(autojump_clock: object) -> None:
    async with serving(auth="sesame") as served:
        client = served.connect()
        for guess in range(19):
            reply = await client.ask(command="auth", key=str(guess))
            assert reply["error"]["code"] == "auth_failed"
            reply = await client.ask(command="members", seq=guess)
            assert reply["error"]["code"] == "auth_required"
            assert reply["seq"] == guess
            assert trio.current_time() == guess + 1
        assert await close_time(client) == 20
        authenticated = served.connect()
        assert await authenticated.ask(command="auth", key="sesame", seq=1) == {
            "seq": 1,
            "ok": True,
        }
        await trio.sleep(1000)
        assert (await authenticated.ask(command="members"))["ok"]


@pytest.mark.parametrize("framing", ["json", "msgpack"])
async def test_wrong_keys_are_answered_late_limited_and_logged(
    framing: str, autojump_clock: object, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving("sesame") as served:

        async def rejected(key: str, source: str) -> bool:
            """Send a key on a connection of its own."""
            pipe = served.pipe(source)
            if framing == "json":
                return not (await JsonClient(pipe).ask(command="auth", key=key))["ok"]
            client = RpcClient(pipe)
            await client.handshake()
            reply = await client.ask("auth", body={"AuthKey": key})
            assert reply["Error"] in ("", "Invalid authentication token")
            return bool(reply["Error"])

        async def guess(key: str) -> None:
            assert await rejected(key, "10.0.0.1")

        async with trio.open_nursery() as nursery:
            for number in range(KEY_TRIES):
                nursery.start_soon(guess, str(number))
            await trio.testing.wait_all_tasks_blocked()
            assert not await rejected("sesame", "10.0.0.2")
            assert trio.current_time() == 0
            nursery.start_soon(guess, "sesame")
        assert trio.current_time() == 1
        assert not await rejected("sesame", "10.0.0.1")
        assert caplog.messages == ["Rejected a key from 10.0.0.1: wrong key"] * 5


async def test_message_of_unauthenticated_client_is_limited_to_16_kib() -> None:
    long = "x" * 20_000
    async with serving(auth="sesame") as served:
        client = served.connect()
        reply = await client.ask(command="auth", key=long)
        assert reply["error"]["code"] == "line_too_long"
        assert await client.receive() is None
        rpc = await served.rpc()
        await rpc.send(
            {"Command": "auth", "Seq": 1}, b"\x81\xa7AuthKey\xda\xff\xff" + b"x" * 20_000
        )
        assert await rpc.receive() is None
        authenticated = served.connect()
        assert (await authenticated.ask(command="auth", key="sesame"))["ok"]
        reply = await authenticated.ask(command="event", name=long)
        assert reply["error"]["code"] == "too_large"
        known_rpc = await served.rpc()
        assert (await known_rpc.ask("auth", 1, {"AuthKey": "sesame"}))["Error"] == ""
        reply = await known_rpc.ask("event", 2, {"Name": long})
        assert "exceeds" in reply["Error"]


async def test_unauthenticated_clients_do_not_block_authenticated_ones(
    autojump_clock: object,
) -> None:
    limits = Limits(connections=10, kept_for_unix=0, unauthenticated=3)
    async with serving("sesame", limits) as served:
        authenticated = []
        for _ in range(5):
            authenticated.append(served.connect())
            assert (await authenticated[-1].ask(command="auth", key="sesame"))["ok"]
        unauthenticated = []
        for _ in range(3):
            unauthenticated.append(served.connect())
            assert not (await unauthenticated[-1].ask(command="members"))["ok"]
        late = served.connect()
        assert (await late.ask(command="auth", key="sesame"))["ok"]
        assert await close_time(unauthenticated[0]) == 0
        for client in (*authenticated, late):
            assert (await client.ask(command="members"))["ok"]
        assert served.server.unauthenticated == 2
        assert served.server.refused == 0
        assert await close_time(unauthenticated[1]) == 20


async def test_busy_connections_make_no_room() -> None:
    async with serving(limits=Limits(connections=4, kept_for_unix=0)) as served:
        clients = [served.connect() for _ in range(3)]
        served.agent.node.delay = 1e9
        await clients[0].send({"command": "stream"})
        await clients[1].send({"command": "join", "addresses": ["x"]})
        await clients[2].send({"command": "query", "name": "x"})
        rpc = await served.rpc()
        assert (await rpc.ask("monitor", body={"LogLevel": "INFO"}))["Error"] == ""
        await trio.testing.wait_all_tasks_blocked()
        assert await served.connect().receive() is None
        assert served.server.refused == 1
        assert (await rpc.ask("stop", 8, {"Stop": 7}))["Error"] == ""
        assert (await served.connect().ask(command="handshake"))["ok"]
        assert await rpc.receive() is None


async def test_silent_then_idle_connections_make_room() -> None:
    async with serving(limits=Limits(connections=3, kept_for_unix=0)) as served:
        clients = [served.connect() for _ in range(3)]
        for number in (0, 2):
            assert (await clients[number].ask(command="handshake"))["ok"]
        for closed, used in ((1, 0), (2, 0), (3, 4)):
            clients.append(served.connect())
            assert (await clients[-1].ask(command="handshake"))["ok"]
            with trio.fail_after(5):
                assert await clients[closed].receive() is None
            assert (await clients[used].ask(command="handshake"))["ok"]
        assert served.server.connections == 3
        assert served.server.refused == 0


async def test_client_that_never_reads_is_disconnected(autojump_clock: object) -> None:
    async with serving() as served:
        stalled, other = JsonClient(served.narrow_pipe()), served.connect()
        await stalled.send({"command": "stream"})
        await trio.testing.wait_all_tasks_blocked()
        for number in range(5000):
            reply = await other.ask(command="event", name="x", seq=number)
            assert reply["ltime"] == number + 1
        assert trio.current_time() == 0
        await trio.sleep(31)
        assert served.server.connections == 1
        assert served.agent.node.subscriptions == 0


async def test_client_that_reads_late_receives_dropped_count(autojump_clock: object) -> None:
    async with serving() as served:
        client = JsonClient(served.narrow_pipe())
        await client.send({"command": "stream", "seq": 1})
        assert (await client.receive())["ok"]
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(3000):
            await served.agent.node.user_event("x")
        await trio.sleep(10)
        records: list[dict[str, Any]] = []
        while len(records) == 0 or records[-1]["event"] != "dropped":
            records.append(await client.receive())
        assert records[-1] == {"seq": 1, "event": "dropped", "count": 3000 - len(records) + 1}
        assert 1024 <= len(records) <= 1027
        await served.agent.node.user_event("y")
        assert (await client.receive())["name"] == "y"


async def test_unread_replies_delay_only_requests_of_same_connection(
    autojump_clock: object,
) -> None:
    async with serving() as served:
        stalled, other = JsonClient(served.narrow_pipe()), served.connect()
        await stalled.send({"command": "info"})
        with trio.move_on_after(5) as late:
            while True:
                await stalled.send({"command": "info"})
        assert late.cancelled_caught
        assert (await other.ask(command="info"))["ok"]
        await trio.sleep(31)
        assert served.server.connections == 1


async def test_replies_to_requests_that_arrive_together_keep_their_order() -> None:
    too_large = "x" * 600
    async with serving() as served:
        client, rpc = served.connect(), await served.rpc()
        requests = [
            {"command": "event", "name": "a", "seq": 1},
            {"command": "event", "name": too_large, "seq": 2},
            {"command": "coordinate", "seq": 3},
            *({"command": "event", "name": "b", "seq": seq} for seq in range(4, 90)),
            {"command": "nonsense", "seq": 90},
        ]
        await client.send(b"\n".join(json.dumps(request).encode() for request in requests))
        replies = [await client.receive() for _ in requests]
        assert [reply["seq"] for reply in replies] == list(range(1, 91))
        assert [reply["seq"] for reply in replies if not reply["ok"]] == [2, 90]
        assert [reply["ltime"] for reply in replies if "ltime" in reply] == list(range(1, 88))

        messages: list[Any] = []
        for seq in range(1, 90):
            name = too_large if seq == 2 else "a"
            messages += [{"Command": "event", "Seq": seq}, {"Name": name}]
        await rpc.send(*messages, {"Command": "nonsense", "Seq": 90})
        headers = [await rpc.receive() for _ in range(90)]
        assert [header["Seq"] for header in headers] == list(range(1, 91))
        assert [header["Seq"] for header in headers if header["Error"]] == [2, 90]


@pytest.mark.parametrize(
    ("framing", "command", "least"),
    [
        ("json", "info", 499),
        ("json", "event", 499 // TURN),
        ("msgpack", "stats", 499),
        ("msgpack", "event", 499 // TURN),
    ],
)
async def test_other_tasks_run_between_requests_that_arrive_together(
    framing: str, command: str, least: int
) -> None:
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with serving() as served:
        client, rpc = served.connect(), await served.rpc()
        served.nursery.start_soon(count_turns)
        if framing == "json":
            line = {"command": command} | ({"name": "x"} if command == "event" else {})
            await client.send(b"\n".join([json.dumps(line).encode()] * 500))
            for _ in range(500):
                assert (await client.receive())["ok"]
        else:
            header = {"Command": command, "Seq": 1}
            request = [header, {"Name": "x"}] if command == "event" else [header]
            await rpc.send(*request * 500)
            for _ in range(500):
                assert (await rpc.receive())["Error"] == ""
                if command == "stats":
                    assert "serf" in await rpc.receive()
        assert turns >= least


async def test_unread_replies_to_requests_that_arrive_together_are_bounded(
    autojump_clock: object,
) -> None:
    async with serving() as served:
        for number in range(1000):
            served.agent.node.put(Member(f"n{number}", Address("10.0.0.1", 1), {}, Status.ALIVE))
        stalled = RpcClient(served.narrow_pipe())
        await stalled.handshake()
        tracemalloc.start()
        await stalled.send(*({"Command": "members", "Seq": seq} for seq in range(1000)))
        await trio.testing.wait_all_tasks_blocked()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 5_000_000


async def test_number_of_requests_in_flight_is_limited(autojump_clock: object) -> None:
    async with serving() as served:
        served.agent.node.delay = 1
        served.agent.node.reachable = {"x"}
        client = served.connect()
        for number in range(MAX_IN_FLIGHT + 10):
            await client.send({"command": "join", "addresses": ["x"], "seq": number})
        received = [(await client.receive())["seq"] for _ in range(MAX_IN_FLIGHT + 10)]
        assert sorted(received) == list(range(MAX_IN_FLIGHT + 10))
        assert trio.current_time() == 2


async def test_number_of_streams_is_limited() -> None:
    async with serving() as served:
        client = served.connect()
        replies = [await client.ask(command="stream", seq=number) for number in range(200)]
        assert sum(reply["ok"] for reply in replies) == 128
        assert replies[-1]["error"]["code"] == "bad_request"


async def test_a_thousand_closed_connections_leave_no_subscription_or_task() -> None:
    async with serving() as served:
        for number in range(1000):
            if number % 2:
                client = served.connect()
                await client.send({"command": "stream"}, {"command": "monitor"})
                await client.receive()
                await client.stream.aclose()
            else:
                rpc = await served.rpc()
                await rpc.ask("stream", 1, {"Type": "*"})
                await rpc.ask("monitor", 2, {"LogLevel": "INFO"})
                await rpc.stream.aclose()
        assert await served.is_empty()


async def test_streams_end_with_the_agent() -> None:
    async with serving() as served:
        client = served.connect()
        await client.ask(command="stream")
        served.agent.node.close()
        await trio.testing.wait_all_tasks_blocked()
        assert served.agent.node.subscriptions == 0
        assert (await client.ask(command="handshake"))["ok"]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=200), min_size=1, max_size=5))
def test_random_bytes_leave_no_subscription_or_task(chunks: list[bytes]) -> None:
    async def main() -> None:
        async with serving() as served:
            pipe = served.pipe()
            for chunk in chunks:
                await pipe.send_all(chunk)
                await trio.testing.wait_all_tasks_blocked()
            await pipe.send_eof()
            with trio.fail_after(5):
                while await pipe.receive_some(65536):
                    pass
            assert await served.is_empty()

    trio.run(main)


async def send_and_drain(served: ServerUnderTest, head: dict[str, Any], body: Any) -> None:
    client: RpcClient = await served.rpc()
    await client.send(head, body)
    await client.stream.send_eof()
    with trio.fail_after(5):
        while await client.receive() is not None:
            pass


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(["event", "join", "stream", "query", "tags", "respond", "members-filtered"]),
    st.dictionaries(
        st.sampled_from(["Name", "Payload", "Existing", "Type", "Tags", "ID", "FilterNodes"]),
        st.one_of(
            st.none(), st.booleans(), st.text(st.characters(codec="utf-8")), st.binary(),
            st.integers(-(2**63), 2**64 - 1), st.lists(st.integers(0, 9)), st.floats(),
        ),
    ),
)  # fmt: skip
def test_every_body_is_answered_or_ends_the_connection(command: str, body: Any) -> None:
    async def main() -> None:
        async with serving() as served:
            await send_and_drain(served, {"Command": command, "Seq": 1}, body)
            assert await served.is_empty()

    trio.run(main)


@pytest.mark.parametrize(
    ("auth", "sent", "reason"),
    [
        ("", b'{"comm', "does not complete its request"),
        ("sesame", b'{"command": "handshake"}\n', "sends no valid key"),
        ("", b'{"command": "members"}\n' * 9999, "does not read"),
    ],
)
async def test_log_names_the_reason_of_a_disconnect(
    auth: str, sent: bytes, reason: str, autojump_clock: object, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(auth) as served:
        pipe = served.narrow_pipe()
        with trio.move_on_after(100), suppress(trio.BrokenResourceError):
            await pipe.send_all(sent)  # the reply is not read
            await trio.sleep_forever()
    assert f"Disconnected a client that {reason}" in caplog.text
