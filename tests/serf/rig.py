"""A Serf layer to play with, and small clusters of them without a network."""

import pickle
import random
from collections.abc import Callable, Iterable, Mapping

from trioserf.address import Address
from trioserf.serf.config import SerfOptions
from trioserf.serf.events import Event, MemberEvent, QueryReceived
from trioserf.serf.internal_queries import KeyHandler, no_keyring
from trioserf.serf.outgoing_queries import QueryParams
from trioserf.serf.query_collector import QueryResult, RunningQuery
from trioserf.serf.serf import Serf
from trioserf.swim.config import SwimOptions
from trioserf.wire.serf_codec import Codec
from trioserf.wire.serf_messages import (
    ConflictResponse,
    Join,
    KeyRequest,
    KeyResponse,
    Leave,
    NodeFilter,
    Query,
    QueryResponse,
    Relay,
    SerfMessage,
    SerfPushPull,
    TagFilter,
    UserEvent,
)
from trioserf.wire.swim_messages import OUR_VERSIONS, Versions

TYPES: tuple[type[SerfMessage], ...] = (
    Leave,
    Join,
    SerfPushPull,
    UserEvent,
    Query,
    QueryResponse,
    ConflictResponse,
    KeyRequest,
    KeyResponse,
    Relay,
)


def encode(message: SerfMessage) -> bytes:
    """Spell a message with the wire's type byte and a body of Python's own."""
    return bytes([TYPES.index(type(message))]) + pickle.dumps(message)


def decode(data: bytes) -> SerfMessage:
    if not data or data[0] >= len(TYPES):
        raise ValueError("no such message")
    try:
        message = pickle.loads(data[1:])
    except (pickle.UnpicklingError, EOFError, AttributeError, IndexError) as error:
        raise ValueError("torn message") from error
    assert isinstance(message, TYPES[data[0]])
    return message


def decode_filter(data: bytes) -> NodeFilter | TagFilter:
    if data.startswith(b"?"):
        raise ValueError("unknown filter type")
    one = pickle.loads(data)
    assert isinstance(one, (NodeFilter, TagFilter))
    return one


def decode_tags(meta: bytes) -> Mapping[str, str]:
    """Read `role=web dc=east`."""
    return dict(pair.split("=") for pair in meta.decode().split())


CODEC = Codec(
    encode=encode,
    decode=decode,
    encode_filter=pickle.dumps,
    decode_filter=decode_filter,
    decode_tags=decode_tags,
)


def address_of(name: str) -> Address:
    """Give each one-letter name an address of its own."""
    return Address(f"10.0.0.{ord(name[0])}", 7946)


def serf(
    name: str = "a",
    *others: str,
    options: SerfOptions | None = None,
    has_answerer: Callable[[QueryReceived], bool] = lambda _: True,
    keys: KeyHandler = no_keyring,
) -> Serf:
    """Make the Serf layer of `name`, which already knows the others; no effects are left over."""
    state = Serf(
        name,
        address_of(name),
        codec=CODEC,
        rng=random.Random(1),
        options=options or SerfOptions(user_event_size_limit=1024, query_size_limit=2048),
        swim=SwimOptions(largest_broadcast=1400),
        has_responder=has_answerer,
        keys=keys,
    )
    for each in (name, *others):
        join(state, each)
    state.events.clear()
    return state


def join(
    state: Serf,
    name: str,
    meta: bytes = b"",
    *,
    now: float = 0.0,
    versions: Versions = OUR_VERSIONS,
) -> None:
    state.member_joined(name, address_of(name), meta, versions, now)


def kinds(events: Iterable[Event]) -> list[tuple[str, str]]:
    """Give kind and name of each event, and forget them."""
    seen: list[tuple[str, str]] = []
    for event in events:
        name = event.members[0].name if isinstance(event, MemberEvent) else event.name
        seen.append((event.kind, name))
    if isinstance(events, list):
        events.clear()
    return seen


def broadcasts(state: Serf) -> list[SerfMessage]:
    """Take out of the queues what would be gossiped now, each message once."""
    return [decode(data) for queue in state.queues.values() for data in drained(queue.fill_packet)]


def raw_broadcasts(state: Serf) -> list[bytes]:
    return [data for queue in state.queues.values() for data in drained(queue.fill_packet)]


def drained(take: Callable[[int, int], list[bytes]]) -> list[bytes]:
    seen: dict[bytes, None] = {}
    while data := take(0, 1_000_000):
        seen.update(dict.fromkeys(data))
    return list(seen)


def results(state: Serf) -> list[QueryResult]:
    found = [result for _, result in state.results]
    state.results.clear()
    return found


class Cluster:
    """Several Serf layers that know each other; `run` carries everything to its address."""

    def __init__(
        self,
        *names: str,
        has_answerer: Callable[[QueryReceived], bool] = lambda _: True,
        keys: KeyHandler = no_keyring,
    ) -> None:
        self.states = {name: serf(name, has_answerer=has_answerer, keys=keys) for name in names}
        for state in self.states.values():
            for other in names:
                if other != state.name:
                    join(state, other)
            state.events.clear()
        self.lost: set[str] = set()
        self.streams = 0

    def __getitem__(self, name: str) -> Serf:
        return self.states[name]

    def run(self, now: float) -> None:
        """Deliver until nothing is left to be said."""
        by_address = {address_of(name): state for name, state in self.states.items()}
        busy = True
        while busy:
            busy = False
            for sender in list(self.states.values()):
                for raw in raw_broadcasts(sender):
                    busy = True
                    for state in self.states.values():
                        if state is not sender and state.name not in self.lost:
                            state.handle(raw, now)
                sends = list(sender.direct_messages)
                sender.direct_messages.clear()
                for send in sends:
                    busy = True
                    self.streams += send.stream
                    if send.address in by_address and send.node not in self.lost:
                        by_address[send.address].handle(send.data, now)

    def ask(self, asker: str, question: QueryParams, now: float = 0.0) -> RunningQuery:
        asked = self[asker].ask(question, now)
        self.run(now)
        return asked

    def queries(self, name: str) -> list[QueryReceived]:
        return [event for event in self[name].events if isinstance(event, QueryReceived)]
