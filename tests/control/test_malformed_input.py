"""Clients that lie, dawdle, hoard or vanish; all in virtual time."""

from contextlib import suppress
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.control.helpers import JsonClient, RpcClient, ServerUnderTest, serving
from trioserf.control.server.connection import MAX_IN_FLIGHT, Limits


async def ends_at(wire: JsonClient) -> float:
    """When the server ends this connection; nothing may be said on it before."""
    assert await wire.receive() is None
    return trio.current_time()


async def test_silence_is_ended(autojump_clock: object) -> None:
    async with serving() as world:
        assert await ends_at(world.wire()) == 60
        assert await world.empty()


@pytest.mark.parametrize("first", [b"{", b" ", b'{"command":"handshake"', b"\x82", b"\x82\xa7Com"])
async def test_a_first_request_that_never_ends_is_ended(
    first: bytes, autojump_clock: object
) -> None:
    async with serving() as world:
        wire = world.wire()
        await wire.stream.send_all(first)
        assert await ends_at(wire) == 60
        assert await world.empty()


async def test_one_byte_a_second_gains_no_time(autojump_clock: object) -> None:
    async with serving() as world:
        wire = world.wire()

        async def dribble() -> None:
            for _ in range(100):
                await wire.stream.send_all(b" ")
                await trio.sleep(1)

        world.nursery.start_soon(dribble)
        assert await ends_at(wire) == 60


async def test_a_known_client_may_be_silent_for_most_of_a_day(autojump_clock: object) -> None:
    async with serving() as world:
        wire, rpc = world.wire(), await world.rpc()
        assert (await wire.ask(command="handshake"))["ok"]
        await trio.sleep(80_000)
        assert (await wire.ask(command="handshake"))["ok"]
        assert (await rpc.ask("event", body={}))["Error"] == ""


async def test_but_not_in_the_middle_of_a_request(autojump_clock: object) -> None:
    async with serving() as world:
        wire, rpc = world.wire(), await world.rpc()
        await wire.ask(command="handshake")
        await trio.sleep(1000)
        await wire.stream.send_all(b'{"comm')
        await rpc.send({"Command": "event", "Seq": 1})
        assert await ends_at(wire) == 1060
        assert await rpc.receive() is None
        assert trio.current_time() == 1060


async def test_strangers_have_no_time_to_guess_keys(autojump_clock: object) -> None:
    async with serving(auth="sesame") as world:
        wire = world.wire()
        for guess in range(19):
            reply = await wire.ask(command="auth", key=str(guess))
            assert reply["error"]["code"] == "auth_failed"
            reply = await wire.ask(command="members", seq=guess)
            assert reply["error"]["code"] == "auth_required"
            assert reply["seq"] == guess
            await trio.sleep(1)
        assert await ends_at(wire) == 20
        known = world.wire()
        assert await known.ask(command="auth", key="sesame", seq=1) == {"seq": 1, "ok": True}
        await trio.sleep(1000)
        assert (await known.ask(command="members"))["ok"]


async def test_strangers_have_no_room_for_more_than_a_key() -> None:
    long = "x" * 20_000
    async with serving(auth="sesame") as world:
        wire = world.wire()
        reply = await wire.ask(command="auth", key=long)
        assert reply["error"]["code"] == "line_too_long"
        assert await wire.receive() is None
        rpc = await world.rpc()
        await rpc.send(
            {"Command": "auth", "Seq": 1}, b"\x81\xa7AuthKey\xda\xff\xff" + b"x" * 20_000
        )
        assert await rpc.receive() is None
        known = world.wire()
        assert (await known.ask(command="auth", key="sesame"))["ok"]
        reply = await known.ask(command="event", name=long)
        assert reply["error"]["code"] == "too_large"
        known_rpc = await world.rpc()
        assert (await known_rpc.ask("auth", 1, {"AuthKey": "sesame"}))["Error"] == ""
        reply = await known_rpc.ask("event", 2, {"Name": long})
        assert "exceeds" in reply["Error"]


async def test_strangers_do_not_keep_others_out(autojump_clock: object) -> None:
    limits = Limits(connections=10, unauthenticated=3)
    async with serving("sesame", limits) as world:
        known = []
        for _ in range(5):
            known.append(world.wire())
            assert (await known[-1].ask(command="auth", key="sesame"))["ok"]
        strangers = [world.wire() for _ in range(3)]
        await trio.testing.wait_all_tasks_blocked()
        assert await ends_at(world.wire()) == 0
        assert world.server.refused == 1
        for wire in known:
            assert (await wire.ask(command="members"))["ok"]
        assert await ends_at(strangers[0]) == 20
        again = world.wire()
        assert (await again.ask(command="auth", key="sesame"))["ok"]


async def test_connections_are_limited() -> None:
    async with serving(limits=Limits(connections=2)) as world:
        wires = [world.wire(), world.wire()]
        for wire in wires:
            assert (await wire.ask(command="handshake"))["ok"]
        assert await world.wire().receive() is None
        await wires[0].stream.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert (await world.wire().ask(command="handshake"))["ok"]


async def test_a_client_that_never_reads_is_cut_off(autojump_clock: object) -> None:
    async with serving() as world:
        deaf, other = JsonClient(world.narrow_pipe()), world.wire()
        await deaf.send({"command": "stream"})
        await trio.testing.wait_all_tasks_blocked()
        for number in range(5000):
            reply = await other.ask(command="event", name="x", seq=number)
            assert reply["ltime"] == number + 1
        assert trio.current_time() == 0
        await trio.sleep(31)
        assert world.server.connections == 1
        assert world.agent.node.subscriptions == 0


async def test_a_client_that_reads_late_is_told_what_it_missed(autojump_clock: object) -> None:
    async with serving() as world:
        wire = JsonClient(world.narrow_pipe())
        await wire.send({"command": "stream", "seq": 1})
        assert (await wire.receive())["ok"]
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(3000):
            await world.agent.node.user_event("x")
        await trio.sleep(10)
        records: list[dict[str, Any]] = []
        while len(records) == 0 or records[-1]["event"] != "dropped":
            records.append(await wire.receive())
        assert records[-1] == {"seq": 1, "event": "dropped", "count": 3000 - len(records) + 1}
        assert 1024 <= len(records) <= 1027
        await world.agent.node.user_event("y")
        assert (await wire.receive())["name"] == "y"


async def test_replies_nobody_reads_hold_back_their_own_requests_only(
    autojump_clock: object,
) -> None:
    async with serving() as world:
        deaf, other = JsonClient(world.narrow_pipe()), world.wire()
        await deaf.send({"command": "info"})
        with trio.move_on_after(5) as late:
            while True:
                await deaf.send({"command": "info"})
        assert late.cancelled_caught
        assert (await other.ask(command="info"))["ok"]
        await trio.sleep(31)
        assert world.server.connections == 1


async def test_many_requests_wait_their_turn(autojump_clock: object) -> None:
    async with serving() as world:
        world.agent.node.wait = 1
        world.agent.node.reachable = {"x"}
        wire = world.wire()
        for number in range(MAX_IN_FLIGHT + 10):
            await wire.send({"command": "join", "addresses": ["x"], "seq": number})
        heard = [(await wire.receive())["seq"] for _ in range(MAX_IN_FLIGHT + 10)]
        assert sorted(heard) == list(range(MAX_IN_FLIGHT + 10))
        assert trio.current_time() == 2


async def test_streams_of_a_connection_are_limited() -> None:
    async with serving() as world:
        wire = world.wire()
        replies = [await wire.ask(command="stream", seq=number) for number in range(200)]
        assert sum(reply["ok"] for reply in replies) == 128
        assert replies[-1]["error"]["code"] == "bad_request"


async def test_a_thousand_visits_leave_nothing_behind() -> None:
    async with serving() as world:
        for number in range(1000):
            if number % 2:
                wire = world.wire()
                await wire.send({"command": "stream"}, {"command": "monitor"})
                await wire.receive()
                await wire.stream.aclose()
            else:
                rpc = await world.rpc()
                await rpc.ask("stream", 1, {"Type": "*"})
                await rpc.ask("monitor", 2, {"LogLevel": "INFO"})
                await rpc.stream.aclose()
        assert await world.empty()


async def test_an_agent_that_ends_ends_its_streams() -> None:
    async with serving() as world:
        wire = world.wire()
        await wire.ask(command="stream")
        world.agent.node.close()
        await trio.testing.wait_all_tasks_blocked()
        assert world.agent.node.subscriptions == 0
        assert (await wire.ask(command="handshake"))["ok"]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=200), min_size=1, max_size=5))
def test_garbage_leaves_nothing_behind(chunks: list[bytes]) -> None:
    async def main() -> None:
        async with serving() as world:
            pipe = world.pipe()
            for chunk in chunks:
                await pipe.send_all(chunk)
                await trio.testing.wait_all_tasks_blocked()
            await pipe.send_eof()
            with trio.fail_after(5):
                while await pipe.receive_some(65536):
                    pass
            assert await world.empty()

    trio.run(main)


async def fuzzed(world: ServerUnderTest, head: dict[str, Any], body: Any) -> None:
    wire: RpcClient = await world.rpc()
    await wire.send(head, body)
    await wire.stream.send_eof()
    with trio.fail_after(5):
        while await wire.receive() is not None:
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
def test_any_body_is_answered_or_ends_the_connection(command: str, body: Any) -> None:
    async def main() -> None:
        async with serving() as world:
            await fuzzed(world, {"Command": command, "Seq": 1}, body)
            assert await world.empty()

    trio.run(main)


@pytest.mark.parametrize(
    ("auth", "sent", "reason"),
    [
        ("", b'{"comm', "does not complete its request"),
        ("sesame", b'{"command": "handshake"}\n', "sends no valid key"),
        ("", b'{"command": "members"}\n' * 9999, "does not read"),
    ],
)
async def test_the_log_tells_who_was_cut_off(
    auth: str, sent: bytes, reason: str, autojump_clock: object, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(auth) as world:
        pipe = world.narrow_pipe()
        with trio.move_on_after(100), suppress(trio.BrokenResourceError):
            await pipe.send_all(sent)  # and no reply is read
            await trio.sleep_forever()
    assert f"Disconnected a client that {reason}" in caplog.text
