"""Extreme messages that Serf accepts do not separate trioserf's agents from the cluster."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.interop.agents import Cluster, following, joined, records, until
from trioserf.wire import serf_codec
from trioserf.wire.msgpack import pack
from trioserf.wire.serf_messages import UserEvent
from trioserf.wire.swim_codec import encode
from trioserf.wire.swim_messages import OUR_VERSIONS, Alive, Message, UserMessage

pytestmark = pytest.mark.serf


@pytest.fixture(scope="module")
def three() -> Iterator[Cluster]:
    with joined(70, "go-a", "py-a", "py-b") as mixed:
        yield mixed


def send(mixed: Cluster, to: str, data: bytes) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.sendto(data, (mixed.host(to), 7946))


def names(path: Path) -> set[str]:
    return {one["name"] for one in records(path)}


JUMPS = [("go-a", 2**63), ("py-a", 2**63 + 2**40), ("go-a", 2**64 - 5000), ("py-a", 2**64 - 1000)]


@pytest.mark.parametrize(("to", "ltime"), JUMPS)
def test_events_reach_all_members_after_a_jump_of_the_clock(
    three: Cluster, to: str, ltime: int
) -> None:
    with ExitStack() as stack:
        received = {
            name: stack.enter_context(following(agent, "--type=user"))
            for name, agent in three.running.items()
        }
        attempts = iter(range(100))

        def all_have_received() -> bool:
            """Send it again: a stream that has not started misses the first one."""
            number = next(attempts)
            jump = UserEvent(ltime + number, "jump", b"%d" % number)
            send(three, to, encode(UserMessage(serf_codec.encode(jump))))
            return all("jump" in names(path) for path in received.values())

        # Serf drops events of members that have not followed the jump, so send it to all.
        until(all_have_received)
        for round_ in range(3):
            for name, agent in three.running.items():
                code, text = agent.ask("event", "-coalesce=false", f"{round_}-{name}-{to}-{ltime}")
                assert code == 0, text
        expected = {f"{r}-{name}-{to}-{ltime}" for r in range(3) for name in three.running}

        def missing() -> dict[str, set[str]]:
            found = {name: names(path) for name, path in received.items()}
            return {name: expected - got for name, got in found.items() if expected - got}

        until(lambda: not missing(), what=lambda: str(missing()))


def invalid_member(name: str, **fields: object) -> bytes:
    """Encode an Alive message with invalid fields."""
    good = {
        "Addr": bytes((127, 9, 9, 9)), "Incarnation": 1, "Meta": None, "Node": name,
        "Port": 7946, "Vsn": bytes(OUR_VERSIONS),
    }  # fmt: skip
    return b"\x04" + pack(dict(sorted((good | fields).items())))


def test_members_that_only_serf_accepts_do_not_break_push_pulls(
    three: Cluster,
) -> None:
    for data in (
        invalid_member("no-address", Addr=b"abc"),
        invalid_member("x" * 1100),
        invalid_member("long-meta", Meta=bytes(513)),
    ):
        send(three, "go-a", data)
    valid: Message = Alive(1, "valid", bytes((127, 9, 9, 9)), 7946)
    send(three, "go-a", encode(valid))
    until(
        lambda: "no-address" in three.running["go-a"].members(),
        what=three.running["go-a"].log_text,
    )
    until(lambda: len(three.running["go-a"].members()) >= 6)
    # The push/pull of a join returns all members.
    code, text = three.running["py-b"].ask("join", three.host("go-a"))
    assert code == 0, text
    until(lambda: "valid" in three.running["py-b"].members())
    assert "no-address" not in three.running["py-b"].members()
    assert "push/pull" not in three.running["py-b"].log_text()
