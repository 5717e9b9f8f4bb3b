"""Three agents of each program: events, relayed and large responses, replay for new members."""

import json
import re
import socket
import subprocess
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

import trioserf
from tests.interop.agents import (
    CONVERGED_WITHIN,
    NET,
    ROOT,
    SERF,
    TRIOSERF,
    Cluster,
    cluster,
    following,
    records,
    streams_have_begun,
    until,
)
from tests.interop.helpers import Recorder, run_trioserf
from trioserf.control.client.async_client import Records
from trioserf.control.client.records import AgentEvent, QueryEventRecord
from trioserf.control.client.rpc_session import RpcSession
from trioserf.control.client.trio_client import AgentClient
from trioserf.wire import serf_codec, swim_codec
from trioserf.wire.packet import PacketCodec
from trioserf.wire.serf_messages import Query, QueryFlag, QueryResponse, Relay, ResponseFlag
from trioserf.wire.swim_messages import Alive, Dead, Message, UserMessage

pytestmark = pytest.mark.serf

NAMES = ("go-0", "py-0", "go-1", "py-1", "go-2", "py-2")
EACH = 100
"""Events of one sender."""
REQUESTER = f"{NET}.160"
CODEC = PacketCodec(keyring=None)


@pytest.fixture(scope="module")
def six() -> Iterator[Cluster]:
    with cluster(141) as mixed:
        for number, name in enumerate(NAMES):
            seed = [f"-join={mixed.host(NAMES[number - 1])}"] if number else []
            if name.startswith("py"):
                seed.append("--set=push_pull_interval=1s")
            mixed.start(name, f"-event-handler=query:who=echo {name}", *seed)
        mixed.all_see("alive", *NAMES)
        yield mixed


# --- events ---


def send(agent: str, by: str) -> None:
    """Send many events over one connection of Serf's RPC."""
    with RpcSession.connect(agent) as session:
        for number in range(EACH):
            session.event(f"burst-{number}", by.encode())


def test_burst_of_events_arrives_once_at_every_agent(six: Cluster) -> None:
    senders = ("go-1", "py-2")
    wanted = {(f"burst-{n}", by) for n in range(EACH) for by in senders}
    with ExitStack() as stack:
        paths = {
            name: stack.enter_context(following(six.running[name], "--type=user"))
            for name in NAMES
        }
        streams_have_begun(six.running["go-1"], paths.values())
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda by: send(six.running[by].rpc, by), senders))

        def received(name: str) -> Counter[tuple[str, str]]:
            pairs = [(one["name"], one["payload"]) for one in records(paths[name])]
            return Counter(one for one in pairs if one[0].startswith("burst-"))

        def missing() -> dict[str, set[tuple[str, str]]]:
            return {name: wanted - set(received(name)) for name in NAMES}

        def is_incomplete() -> bool:
            return any(missing().values())

        # Gossip misses one delivery in a hundred; the next push/pull brings it.
        until(
            lambda: not is_incomplete(), CONVERGED_WITHIN, lambda: f"never received: {missing()}"
        )
        # After one more event, no duplicate of the burst is in flight.
        six.running["py-0"].ask("event", "-coalesce=false", "end")
        until(lambda: all(records(path)[-1]["name"] == "end" for path in paths.values()))
        for name in NAMES:
            assert received(name) == dict.fromkeys(wanted, 1), name


# --- queries ---


class Requester:
    """A socket that sends a query and receives every packet of the responses."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((REQUESTER, 0))
        self.socket.settimeout(10)
        self.port: int = self.socket.getsockname()[1]

    def send(self, host: str, message: Query | Relay) -> None:
        self._send(host, UserMessage(serf_codec.encode(message)))

    def _send(self, host: str, message: Message) -> None:
        self.socket.sendto(swim_codec.encode(message), (host, 7946))

    def join_and_end(self, host: str) -> None:
        """Make a failed member known: responses are relayed to members only."""
        self._send(host, Alive(1, "requester", socket.inet_aton(REQUESTER), self.port))
        self._send(host, Dead(1, "requester", "requester"))

    def receive(self) -> tuple[QueryResponse, str]:
        """Wait for a response; return it and its source address."""
        while True:
            data, (host, _) = self.socket.recvfrom(65_536)
            messages, error = CODEC.decode(data)
            assert error is None
            for message in messages:
                if isinstance(message, UserMessage):
                    inner = serf_codec.decode(message.payload)
                    if isinstance(inner, QueryResponse):
                        return inner, host


@pytest.fixture
def requester() -> Iterator[Requester]:
    one = Requester()
    with one.socket:
        yield one


def test_responses_arrive_through_the_requested_number_of_relays(
    six: Cluster, requester: Requester
) -> None:
    """Each of six members sends its ack and response directly and through two others."""
    with RpcSession.connect(six.running["go-0"].rpc) as session:
        ltime = int(str(session.info()["serf"]["query_time"]))
    query = Query(
        ltime, 77, socket.inet_aton(REQUESTER), requester.port, "requester", (), QueryFlag.ACK, 2,
        10_000_000_000, "who",
    )  # fmt: skip
    for name in NAMES:
        requester.join_and_end(six.host(name))
    # Without a leave of Serf, a dead member counts as failed.
    until(lambda: all(one.statuses().get("requester") == "failed" for one in six.running.values()))
    for name in NAMES:  # gossip may miss one, and push/pulls bring no queries
        requester.send(six.host(name), query)
    counts = Counter[tuple[str, bool]]()
    relays = dict[tuple[str, bool], set[str]]()
    kinds = {six.host(name): name[:2] for name in NAMES}
    for _ in range(2 * 3 * len(NAMES)):
        response, host = requester.receive()
        assert (response.ltime, response.id) == (ltime, 77)
        key = (response.source, bool(response.flags & ResponseFlag.ACK))
        assert key[1] or response.payload == f"{response.source}\n".encode()
        counts[key] += 1
        relays.setdefault(key, set()).add(host)
    assert counts == {(name, ack): 3 for name in NAMES for ack in (True, False)}
    assert all(six.host(name) in relays[name, ack] for name in NAMES for ack in (True, False))
    # Relays are random, and hardly ever all 24 of one program.
    assert {kinds[host] for hosts in relays.values() for host in hosts} == {"go", "py"}


def test_relayed_response_is_forwarded_unchanged(six: Cluster, requester: Requester) -> None:
    inner = QueryResponse(5, 6, "responder", 256, b"\x00\xffpayload" * 50)
    relay = Relay(
        socket.inet_aton(REQUESTER), requester.port, "requester", serf_codec.encode(inner)
    )
    for name in ("go-0", "py-0"):
        requester.send(six.host(name), relay)
        assert requester.receive() == (inner, six.host(name))


async def answer_once(client: AgentClient, stream: Records[AgentEvent], payload: bytes) -> None:
    with trio.fail_after(60):
        async for record in stream:
            assert isinstance(record, QueryEventRecord)
            await client.respond(record.id, payload)
            return


@pytest.mark.parametrize("requester", ["go-2", "py-2"])
def test_large_response_reaches_both_programs(six: Cluster, requester: str) -> None:
    """A client's response exceeds Serf's limit for packets; both programs request it."""
    assert SERF is not None
    answer = "".join(f"{number:07d}\n" for number in range(2560))
    assert len(answer) == 20 * 1024
    program = [SERF] if requester == "go-2" else list(TRIOSERF)
    command = [*program, "query", f"-rpc-addr={six.running[requester].rpc}"]
    command += ["-format=json", "-timeout=2s", "-node=py-1", "big"]

    async def ask() -> Any:
        async with (
            trioserf.connect(six.running["py-1"].rpc) as client,
            client.stream("query:big") as stream,
        ):
            answering = partial(answer_once, client, stream, answer.encode())
            async with trio.open_nursery() as nursery:
                nursery.start_soon(answering)
                return await trio.to_thread.run_sync(run)

    def run() -> Any:
        for _ in range(5):  # gossip may miss a member
            output = subprocess.run(command, stdout=subprocess.PIPE, cwd=ROOT, check=True).stdout
            shown = json.loads(output)
            if shown["Acks"]:
                break
        return shown

    shown = trio.run(ask)
    assert shown["Responses"]["py-1"].strip() == answer.strip()
    assert shown["Acks"] == ["py-1"]


# --- coordinates, reachability ---


def test_estimates_of_round_trip_times_are_equal(six: Cluster) -> None:
    for by, others in (("go-0", ("py-0", "go-1")), ("py-0", ("go-0", "py-1"))):
        agent = six.running[by]
        for other in others:
            # Coordinates arrive with acks, of one member a second.
            until(lambda: agent.ask("rtt", other)[0] == 0, 30, lambda: agent.ask("rtt", other)[1])  # noqa: B023

            def estimates(*names: str) -> tuple[tuple[int, str], tuple[int, str]]:
                ours = run_trioserf("rtt", f"--rpc-addr={agent.rpc}", *names)  # noqa: B023
                return agent.ask("rtt", *names), ours  # noqa: B023

            def are_equal(*names: str) -> bool:
                theirs, ours = estimates(*names)  # estimates change with every ack
                return theirs == ours

            for names in ((other,), (by, other), (other, by)):
                until(lambda: are_equal(*names), 20, lambda: str(estimates(*names)))  # noqa: B023
                _, text = agent.ask("rtt", *names)
                between = " <-> ".join(names if len(names) == 2 else (other, by))
                match = re.fullmatch(rf"Estimated {between} rtt: ([0-9.]+) ms\n", text)
                assert match, text
                assert 0 < float(match[1]) < 500
    for by in ("go-0", "py-0"):
        code, text = six.running[by].ask("rtt", "no-such-node")
        ours = run_trioserf("rtt", f"--rpc-addr={six.running[by].rpc}", "no-such-node")
        assert code == 1
        assert ours == (code, f"{text}trioserf: no member has the name 'no-such-node'\n")


def test_all_members_are_reachable_from_both_agents_with_both_programs(six: Cluster) -> None:
    def reach(by: str, program: str) -> tuple[int, str]:
        agent = six.running[by]
        if program == "serf":
            return agent.ask("reachability", "-verbose")
        return run_trioserf("reachability", "--verbose", f"--rpc-addr={agent.rpc}")

    def reach_all(by: str, program: str) -> str:
        """Retry until it succeeds: gossip of the query may miss a member."""
        for _ in range(5):
            code, text = reach(by, program)
            if code == 0:
                break
        assert code == 0, text
        return text

    ways = [(by, program) for by in ("go-1", "py-1") for program in ("serf", "trioserf")]
    with ThreadPoolExecutor(len(ways)) as pool:
        for text in pool.map(lambda way: reach_all(*way), ways):
            assert set(re.findall(r"Ack from '(.*)'", text)) == set(NAMES)
            assert "Successfully contacted all live nodes" in text


# --- replay; these tests are last because they add members ---


def queues_are_empty(mixed: Cluster) -> None:
    """Wait until no agent has an event to send."""

    def lengths() -> dict[str, str]:
        found = {}
        for name, agent in mixed.running.items():
            with RpcSession.connect(agent.rpc) as session:
                found[name] = str(session.info()["serf"]["event_queue"])
        return found

    until(lambda: set(lengths().values()) == {"0"}, what=lambda: str(lengths()))


def test_events_are_replayed_only_on_request(six: Cluster, tmp_path: Path) -> None:
    """New members of each program join through an agent of the other."""
    old = {(f"old-{number}", by) for number in range(8) for by in ("go-0", "py-0")}
    for by in ("go-0", "py-0"):
        with RpcSession.connect(six.running[by].rpc) as session:
            for name, sender in old:
                if sender == by:
                    session.event(name, by.encode())
    queues_are_empty(six)
    recorders = {}
    for kind, through in (("go", "py-0"), ("py", "go-0")):
        seed = six.host(through)
        late = {"plain": [f"-join={seed}"], "replaying": [f"-join={seed}", "-replay"]}
        for how, options in (*late.items(), ("joining", [])):
            name = f"{kind}-{how}"
            recorders[name] = Recorder(tmp_path / name, "user")
            six.start(name, recorders[name].option, *options)
        assert six.running[f"{kind}-joining"].ask("join", "-replay", seed)[0] == 0
    assert six.running["py-1"].ask("event", "-coalesce=false", "mark")[0] == 0
    for name, recorder in recorders.items():
        recorder.wait("user", "mark")
        calls = recorder.calls()
        received = [(call.env["SERF_USER_EVENT"], call.stdin.decode().strip()) for call in calls]
        ltimes = [int(call.env["SERF_USER_LTIME"]) for call in calls]
        assert ltimes == sorted(ltimes)
        replayed = [one for one in received if one in old]
        assert len(replayed) == len(set(replayed))
        # A seed has certainly received the events that it sent itself.
        seed = "py-0" if name.startswith("go") else "go-0"
        expected = set() if "plain" in name else {one for one in old if one[1] == seed}
        assert expected <= set(replayed) <= (old if expected else set()), name


def test_handler_runs_for_every_replayed_event(tmp_path: Path) -> None:
    """The join delivers as many events at once as Serf remembers."""
    with cluster(221) as mixed:
        with RpcSession.connect(mixed.start("go-a").rpc) as session:
            for number in range(500):
                session.event(f"old-{number}")
        output = tmp_path / "output"
        handler = f"-event-handler=user=echo $SERF_USER_EVENT >>{output}"
        mixed.start("py-a", f"-join={mixed.host('go-a')}", "-replay", handler)
        last = "old-499\n"
        until(lambda: output.exists() and output.read_text().endswith(last), CONVERGED_WITHIN)
        assert output.read_text().splitlines() == [f"old-{number}" for number in range(500)]
