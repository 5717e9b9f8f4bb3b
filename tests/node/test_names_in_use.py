"""Joins of a node whose name another member has."""

import logging
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

from tests.node.helpers import (
    OURS,
    NodeUnderTest,
    logged,
    node_under_test,
    push_pull,
    read_response,
)
from trioserf.address import Address, packed
from trioserf.errors import JoinFailed, NameInUse
from trioserf.sim.transport import SimTransport
from trioserf.wire.stream import StreamCodec
from trioserf.wire.swim_codec import encode
from trioserf.wire.swim_messages import (
    OUR_VERSIONS,
    Ack,
    ErrorMessage,
    NodeState,
    Ping,
    PushPull,
    State,
)

NEVER: dict[str, Any] = {"seed_interval": 1e6}
CODEC = StreamCodec(keyring=None)
ELSEWHERE = Address("10.0.7.7", 7946)


async def open_incumbent(
    s: NodeUnderTest, state: State, *, answers: bool
) -> tuple[list[NodeState], list[PushPull], Address]:
    """Add a member whose table has our name elsewhere.

    Returns:
        The rows of its table, which may change; what it received; its address.
    """
    peer, seen = s.peer("a", run=False), list[PushPull]()
    rows = [
        peer.node_state(),
        NodeState("us", packed(ELSEWHERE.host), ELSEWHERE.port, b"", 3, state, OUR_VERSIONS),
    ]
    incumbent = s.network.open((ELSEWHERE.host, ELSEWHERE.port)) if answers else None

    async def serve(transport: SimTransport) -> None:
        while True:
            stream, _ = await transport.accept()
            async with stream:
                message = await read_response(stream)
                if isinstance(message, PushPull):
                    seen.append(message)
                    await stream.send_all(push_pull(*rows))
                else:
                    assert message == Ping(0, "us", packed(OURS.host), OURS.port, "us")
                    await stream.send_all(CODEC.encode(encode(Ack(0))))

    for transport in (peer.transport, incumbent):
        if transport is not None:
            s.nursery.start_soon(serve, transport)
    return rows, seen, peer.address


@pytest.mark.parametrize("state", [State.ALIVE, State.SUSPECT])
async def test_join_with_a_name_in_use_fails_and_announces_nothing(
    autojump_clock: MockClock, state: State
) -> None:
    async with node_under_test(**NEVER) as s:
        _, seen, address = await open_incumbent(s, state, answers=True)
        with pytest.raises(NameInUse) as caught:
            await s.node.join([str(address)])
        [(_, reason)] = caught.value.causes
        assert reason == (
            f"the name 'us' is in use by the member at {ELSEWHERE}, and this one is at {OURS};"
            " choose another name with --node=NAME"
        )
        await trio.sleep(60)
        assert seen == [PushPull(False, (), b"")]
        assert s.network.counts["packets"] == 0
        assert s.statuses() == {"us": "alive"}


@pytest.mark.parametrize("state", [State.DEAD, State.LEFT])
async def test_name_of_a_failed_or_left_member_can_be_taken(
    autojump_clock: MockClock, state: State
) -> None:
    async with node_under_test(**NEVER) as s:
        _, seen, address = await open_incumbent(s, state, answers=True)
        began = trio.current_time()
        assert await s.node.join([str(address)]) == 1
        assert trio.current_time() - began < 0.1
        assert [one.join for one in seen] == [False, True]


async def test_moved_member_waits_until_its_predecessor_has_failed(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with node_under_test(**NEVER) as s:
        rows, seen, address = await open_incumbent(s, State.ALIVE, answers=False)
        began = trio.current_time()

        async def fail_later() -> None:
            await trio.sleep(7)
            rows[1] = attrs.evolve(rows[1], state=State.DEAD)

        s.nursery.start_soon(fail_later)
        assert await s.node.join([str(address)]) == 1
        assert trio.current_time() - began == pytest.approx(8, abs=1)
        assert [one.join for one in seen[-2:]] == [False, True]
        waits = (
            f"the name 'us' still belongs to the member at {ELSEWHERE}, which does not answer;"
            " waiting up to 15 s until that member is failed in the cluster"
        )
        assert logged(caplog, logging.INFO).count(waits) == 1


async def test_join_fails_if_the_predecessor_stays_alive(autojump_clock: MockClock) -> None:
    async with node_under_test(**NEVER) as s:
        _, seen, address = await open_incumbent(s, State.ALIVE, answers=False)
        with pytest.raises(JoinFailed) as caught:
            await s.node.join([str(address)])
        reason = (
            f"the name 'us' still belongs to the member at {ELSEWHERE}, which does not answer, and"
            f" this one is at {OURS}; join again when that member is failed in the cluster, or"
            " choose another name with --node=NAME"
        )
        assert caught.value.causes == [(str(address), reason)]
        assert {one.join for one in seen} == {False}


async def test_member_that_hides_its_table_is_joined_all_the_same(
    autojump_clock: MockClock,
) -> None:
    async with node_under_test(**NEVER) as s:
        peer = s.peer("a", run=False)
        no = CODEC.encode(encode(ErrorMessage("no")))
        s.nursery.start_soon(peer.answer_streams, no, push_pull(peer.node_state()))
        assert await s.node.join([str(peer.address)]) == 1
