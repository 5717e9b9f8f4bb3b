"""Wrong arguments raise in the call that gets them, and the node goes on."""

import inspect
import math
import random
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any, Final

import attrs
import pytest
import trio
from trio.testing import MockClock

from tests.arguments import WRONG, public_calls, wrong_calls
from tests.node.helpers import OURS, node_under_test
from trioserf.address import Address
from trioserf.errors import AddressError, ConfigError, InvalidFilter, InvalidQuery
from trioserf.event_filter import EventFilter
from trioserf.node import Node, NodeConfig, open_node
from trioserf.serf.config import SerfOptions
from trioserf.serf.events import UserEventReceived
from trioserf.serf.keyring import Keyring
from trioserf.serf.snapshot import LamportTimes
from trioserf.sim.network import Network
from trioserf.swim.config import SwimOptions, Timing

QUIET: Final[dict[str, Any]] = {"timing": Timing(probe_interval=1e6, push_pull_interval=1e6)}
REJECTED: Final = (TypeError, ValueError, InvalidFilter, InvalidQuery)

KINDS: Final[dict[str, dict[str, str]]] = {
    "member": {"name": "text"},
    "coordinate": {"name": "text or None"},
    "query_name": {"id": "id"},
    "subscribe": {
        "*filters": "filter", "answers": "flag or Responder", "buffer": "count from 1",
    },
    "watch": {"watcher": "function"},
    "join": {"addresses": "texts", "replay": "flag", "on_joined": "function"},
    "add_seeds": {"addresses": "texts"},
    "force_leave": {"name": "text", "prune": "flag"},
    "set_tags": {"set": "mapping", "delete": "texts"},
    "user_event": {"name": "text", "payload": "payload", "coalesce": "flag"},
    "submit_user_event": {"name": "text", "payload": "payload", "coalesce": "flag"},
    "query": {
        "name": "text", "payload": "payload", "nodes": "texts", "tags": "mapping",
        "timeout": "seconds or None", "ack": "flag", "relay_factor": "relay factor",
        "first": "count from 1 or None",
    },
    "respond": {"id": "id", "payload": "payload", "by": "responder or None"},
    "decline": {"id": "id", "by": "responder or None"},
    "keys": {"action": "action", "key": "key"},
    "configure_encryption": {
        "keyring": "keyring or None", "verify_incoming": "flag", "verify_outgoing": "flag",
    },
}  # fmt: skip
"""The kind of each parameter (`WRONG`)."""
VALID: Final[dict[str, dict[str, object]]] = {
    "join": {"addresses": ["10.0.0.9"]},
    "force_leave": {"name": "x"},
    "user_event": {"name": "x"},
    "submit_user_event": {"name": "x"},
    "query": {"name": "x"},
    "respond": {"id": 1, "payload": b"x"},
    "decline": {"id": 1},
    "keys": {"action": "install", "key": b"x" * 16},
}


def test_table_has_every_parameter_of_every_public_method() -> None:
    assert {name: set(kinds) for name, kinds in KINDS.items()} == public_calls(Node)
    assert {kind for kinds in KINDS.values() for kind in kinds.values()} <= set(WRONG)


async def call(node: Node, method: str, args: tuple[object, ...], kwargs: dict[str, Any]) -> None:
    """Call a method; enter what it returns if that is a context."""
    result = getattr(node, method)(*args, **kwargs)
    if inspect.isawaitable(result):
        await result
    elif isinstance(result, AbstractAsyncContextManager):
        async with result:
            pass
    elif isinstance(result, AbstractContextManager):
        with result:
            await node.user_event("delivered to the new subscription")


async def check_alive(node: Node) -> None:
    """Check that the node answers, and delivers an event."""
    with node.subscribe("user:alive") as events:
        await node.user_event("alive")
        event = await events.receive()
        assert isinstance(event, UserEventReceived)
    assert [member.status for member in node.members()] == ["alive"]


@pytest.mark.parametrize("method", KINDS)
async def test_wrong_argument_raises_in_the_call_and_changes_nothing(
    method: str, autojump_clock: MockClock
) -> None:
    async with node_under_test(**QUIET, tags={"a": "b"}) as s:
        for name, args, kwargs in wrong_calls(KINDS[method], VALID.get(method, {})):
            before = (s.node.clocks(), s.node.tags, s.node.keyring, len(s.node._joiner.seeds))
            parameter = name.partition("=")[0].lstrip("*").rstrip("s")
            # Serf's words for numbers of a query name no parameter.
            words = f"{parameter}|Relay factor|one response|cannot be negative|event filter"
            with trio.fail_after(1e5), pytest.raises(REJECTED, match=words):
                await call(s.node, method, args, kwargs)
            assert before == (
                s.node.clocks(), s.node.tags, s.node.keyring, len(s.node._joiner.seeds),
            ), name  # fmt: skip
        await check_alive(s.node)


async def test_subscription_takes_texts_and_filters_alike(autojump_clock: MockClock) -> None:
    async with node_under_test(**QUIET) as s:
        with (
            s.node.subscribe("user:deploy", "query") as by_text,
            s.node.subscribe(EventFilter("user", "deploy"), EventFilter("query")) as by_filter,
            s.node.subscribe("member-failed,user:deploy") as by_list,
        ):
            for name in ("other", "deploy"):
                await s.node.user_event(name)
            for events in (by_text, by_filter, by_list):
                event = await events.receive()
                assert isinstance(event, UserEventReceived)
                assert event.name == "deploy"
            with pytest.raises(InvalidFilter, match="'nonsense' is not a valid event filter"):
                by_text.change("nonsense")
            with pytest.raises(TypeError, match="filters"):
                by_text.change(EventFilter.parse("user"))  # type: ignore[arg-type]
            by_text.change("user:other")
            await s.node.user_event("other")
            event = await by_text.receive()
            assert isinstance(event, UserEventReceived)
            assert event.name == "other"


async def test_join_takes_addresses_as_texts_and_objects(autojump_clock: MockClock) -> None:
    async with node_under_test(**QUIET) as s:
        for address in (str(s.node.address), s.node.address):
            assert await s.node.join([address]) == 0  # our own, which is skipped
        with pytest.raises(AddressError, match="expected a host name"):
            s.node.add_seeds(["10.0.0.9", ""])
        assert not s.node._joiner.seeds


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.61:7000", Address("127.0.0.61", 7000)),
        ("127.0.0.61", Address("127.0.0.61", 7946)),
        (":7000", Address("0.0.0.0", 7000)),
        ("[::1]:7000", Address("::1", 7000)),
    ],
)
def test_configuration_takes_addresses_as_texts(text: str, expected: Address) -> None:
    assert NodeConfig(name="us", bind=text).bind == expected
    assert NodeConfig(name="us", bind=expected).bind == expected
    assert NodeConfig(name="us", advertise="10.0.0.1").advertise == Address("10.0.0.1", 0)


@pytest.mark.parametrize("key", ["bind", "advertise"])
@pytest.mark.parametrize("text", ["host.example:1", "10.0.0.1:x", "10.0.0.1:70000", "[::1"])
def test_malformed_address_of_the_configuration_names_its_key(key: str, text: str) -> None:
    with pytest.raises(ConfigError, match=key):
        NodeConfig(name="us", **{key: text})  # type: ignore[arg-type]


def wrong_values(kind: object) -> tuple[object, ...]:
    """Return values that a field of this type must reject, whatever its bounds."""
    if kind is bool:
        return (1, "yes", None)
    if kind is str:
        return (5, b"x", None)
    return (True, "5", [5], object(), math.nan, math.inf, *((None, 1.5) if kind is int else ()))


@pytest.mark.parametrize("kind", [NodeConfig, Timing, SwimOptions, SerfOptions])
def test_each_field_of_a_configuration_checks_its_type(kind: type) -> None:
    for field in attrs.fields(kind):
        for value in wrong_values(field.type):
            with pytest.raises((TypeError, ValueError, ConfigError)):
                kind(**{field.name: value})


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"reconnect_interval": "5s"}, "reconnect_interval: expected a number, not '5s' (str)"),
        ({"compression": "no"}, "enable_compression: expected True or False, not 'no' (str)"),
        ({"name": None}, "node_name: expected a str, not None"),
        ({"allowed_networks": "10.0.0.0/8"}, "allowed_networks: expected a list, not str"),
        ({"allowed_networks": [5]}, "allowed_networks[0]: expected a str, not 5 (int)"),
        ({"tags": {"role": 5}}, "tags['role']: expected a str, not 5 (int)"),
        ({"bind": 7946}, "bind: expected an address such as '10.0.0.1:7946', not 7946 (int)"),
        ({"keyring": "c2VjcmV0"}, "keyring: expected a Keyring or None, not str"),
        ({"timing": "lan"}, "timing: expected a Timing, not str"),
    ],
)  # fmt: skip
def test_wrong_type_in_the_configuration_names_key_and_expectation(
    options: dict[str, Any], text: str
) -> None:
    with pytest.raises(TypeError) as caught:
        NodeConfig(**{"name": "us", **options})
    assert str(caught.value) == text


@pytest.mark.parametrize("time", [-1, 2**64, 1.5, "1", None, True])
def test_lamport_times_are_checked(time: Any) -> None:
    for name in ("member", "event", "query"):
        with pytest.raises((TypeError, ValueError), match=f"{name}: expected"):
            LamportTimes(**{name: time})


def test_wrong_keys_are_rejected_without_showing_them() -> None:
    for keys in ("c2VjcmV0c2VjcmV0c2Vj", b"secretsecretsecr", ["c2VjcmV0c2VjcmV0c2Vj"], [5]):
        with pytest.raises(TypeError, match="expected") as caught:
            Keyring(keys)  # type: ignore[arg-type]
        assert "c2V" not in str(caught.value)
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "arguments",
    [
        {"config": {"name": "x"}},
        {"config": "x"},
        {"transport": object()},
        {"resolver": object()},
        {"rng": 5},
        {"restore": (1, 2, 3)},
        {"save_keyring": "keyring.json"},
        {"nonce": b"x"},
    ],
    ids=lambda one: next(iter(one)),
)
async def test_open_node_checks_its_arguments(arguments: dict[str, Any]) -> None:
    valid = {
        "config": NodeConfig(name="us", bind=OURS),
        "transport": Network(random.Random(1)).open(OURS),
    }
    with pytest.raises(TypeError, match=f"{next(iter(arguments))}: expected"):
        open_node(**{**valid, **arguments})
