"""Key rotation in a cluster whose members reject steps, are silent, join late and return."""

import itertools
import json
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import suppress

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.cli.helpers import OutputBuffer
from trioserf.cli.commands.keys_rotate import rotate
from trioserf.cli.key_operations import (
    missing_members,
    report_record,
    run_key_operation,
    with_missing_members,
)
from trioserf.cli.output import CommandError
from trioserf.control.client.connect import Action
from trioserf.control.client.records import KeyReport, MemberInfo
from trioserf.control.errors import ControlError
from trioserf.results import MemberStatus, QueryAck, QueryDone, QueryResult

FailureOf = Callable[[str, Action], str | None]
"""Returns why a member does not run an operation: its error message, or "" for silence."""


def nothing_fails(name: str, action: Action) -> str | None:
    del name, action
    return None


@attrs.define
class Cluster:
    """A cluster; each member has a keyring, whose first key is the primary key."""

    keyrings: dict[str, list[str]]
    failure_of: FailureOf = nothing_fails
    silent: set[str] = attrs.Factory(set)
    failed: set[str] = attrs.Factory(set)
    reports_primary: bool = True
    strict: bool = True

    def keys(self, action: Action, key: str | None = None) -> KeyReport:
        messages: dict[str, str] = {}
        responses = errors = 0
        keys: Counter[str] = Counter()
        primary: Counter[str] = Counter()
        for name, keyring in list(self.keyrings.items()):
            why = "" if name in self.silent else self.failure_of(name, action)
            if why is None:
                why = change(keyring, action, key)
            if why == "":
                continue
            responses += 1
            if why is not None:
                messages[name] = why
                errors += 1
            elif action == "list":
                keys.update(keyring)
                primary[keyring[0]] += 1
        if self.strict:
            self.check_decryption()
        nodes = len(self.keyrings)
        primary_keys = dict(primary) if self.reports_primary else {}
        report = KeyReport(messages, dict(keys), primary_keys, nodes, responses, errors)
        if errors or responses < nodes:
            text = f"{errors}/{nodes} nodes reported failure"
            raise ControlError("key_failed", text, report._asdict())
        return report

    def check_decryption(self) -> None:
        for a, b in itertools.permutations(self.keyrings.values(), 2):
            assert a[0] in b

    def members(self) -> list[MemberInfo]:
        names: list[tuple[str, MemberStatus]] = [(name, "alive") for name in self.keyrings]
        names += [(one, "failed") for one in self.failed]
        return [MemberInfo(name, "127.0.0.1", 7946, {}, how, 2, 5, 5) for name, how in names]

    def query(self, name: str) -> Generator[QueryResult, None, None]:
        assert name == "_serf_ping"
        silent = {one for one in self.keyrings if self.failure_of(one, "list") == ""} | self.silent
        responding = [one for one in self.keyrings if one not in silent]
        yield from map(QueryAck, responding)
        yield QueryDone(len(responding), 0)


def change(keyring: list[str], action: Action, key: str | None) -> str | None:
    """Change a keyring as agents do; return their error message, or None."""
    if action == "list" or key is None:
        return None
    if action == "install":
        keyring += [key] if key not in keyring else []
    elif key not in keyring:
        return None if action == "remove" else "requested key is not in the keyring"
    elif action == "use":
        keyring.sort(key=lambda one: one != key)
    elif keyring[0] == key:
        return "removing the primary key is not allowed"
    else:
        keyring.remove(key)
    return None


@pytest.mark.parametrize("reports_primary", [True, False])
def test_only_the_new_key_remains(reports_primary: bool) -> None:
    cluster = Cluster(
        {"a": ["x", "y"], "b": ["x"], "c": ["x", "z"]}, reports_primary=reports_primary
    )
    buffer = OutputBuffer()
    rotate(buffer.out, cluster, "new")
    assert cluster.keyrings == {"a": ["new"], "b": ["new"], "c": ["new"]}
    assert buffer.text.endswith("==> Keys gathered, listing cluster keys...\nnew\n")


def test_json_has_keys_and_members() -> None:
    buffer = OutputBuffer(json=True)
    rotate(buffer.out, Cluster({"a": ["x"], "b": ["x", "y"]}, failed={"d", "c"}), "new")
    record = json.loads(buffer.text)
    assert record == {"key": "new", "removed": ["x", "y"], "nodes": 2, "absent": ["c", "d"]}


def test_failed_members_are_named() -> None:
    buffer = OutputBuffer()
    rotate(buffer.out, Cluster({"a": ["x"]}, failed={"away"}), "new")
    assert "==> Failed, and without the new key when they return: away\n" in buffer.text


def test_rotation_does_not_begin_while_a_member_is_silent() -> None:
    cluster, buffer = Cluster({"a": ["x"], "b": ["x"]}, silent={"b"}), OutputBuffer()
    with pytest.raises(CommandError, match="Failed to gather member keys") as caught:
        rotate(buffer.out, cluster, "new")
    assert caught.value.details["laggards"] == {"b": "no answer"}
    assert cluster.keyrings == {"a": ["x"], "b": ["x"]}


@pytest.mark.parametrize("action", ["install", "use", "remove"])
def test_rotation_stops_at_a_rejected_step_and_can_be_completed(
    action: Action,
) -> None:
    def failure_of(name: str, asked: Action) -> str | None:
        return "disk full" if (name, asked) == ("b", action) else None

    cluster, buffer = (
        Cluster({"a": ["old"], "b": ["old"], "c": ["old"]}, failure_of),
        OutputBuffer(),
    )
    with pytest.raises(
        CommandError, match=r"1/3 nodes reported failure\nThe rotation stopped"
    ) as caught:
        rotate(buffer.out, cluster, "secret")
    assert caught.value.details["step"] == action
    assert caught.value.details["laggards"] == {"b": "disk full"}
    assert buffer.text.count("Trying again") == 2
    assert "lagging:  b  disk full\n" in buffer.text
    assert "old" in cluster.keyrings["b"]
    shown = buffer.text + json.dumps(caught.value.record)
    assert "secret" not in shown
    assert '"old"' not in shown
    cluster.failure_of = nothing_fails
    rotate(OutputBuffer().out, cluster, "newest")
    assert set(map(tuple, cluster.keyrings.values())) == {("newest",)}


@pytest.mark.parametrize("action", ["install", "use"])
def test_rotation_stops_when_a_member_fails_meanwhile(action: Action) -> None:
    cluster = Cluster({"a": ["old"], "b": ["old"], "c": ["old"]}, failed={"failed before"})

    def failure_of(name: str, asked: Action) -> str | None:
        if (name, asked) == ("a", action) and "c" in cluster.keyrings:
            cluster.failed.add("c")
            failed_keyrings.append(cluster.keyrings.pop("c"))
        return None

    failed_keyrings: list[list[str]] = []
    cluster.failure_of = failure_of
    buffer = OutputBuffer()
    with pytest.raises(CommandError, match="failed since the rotation began: c\n") as caught:
        rotate(buffer.out, cluster, "new")
    assert caught.value.details == {"laggards": {"c": "failed"}, "step": action}
    assert "lagging:  c  failed\n" in buffer.text
    (keyring,) = failed_keyrings
    assert all(one[0] in keyring and keyring[0] in one for one in cluster.keyrings.values())
    cluster.failure_of = nothing_fails
    cluster.failed.discard("c")
    cluster.keyrings["c"] = keyring
    rotate(OutputBuffer().out, cluster, "newest")
    assert set(map(tuple, cluster.keyrings.values())) == {("newest",)}


def test_member_that_joined_without_the_new_key_can_decrypt_again() -> None:
    """It joined after all members had the new key, and before they used it."""
    cluster = Cluster({"a": ["old"], "b": ["old"]}, strict=False)

    def failure_of(name: str, asked: Action) -> str | None:
        if (name, asked) == ("a", "use"):
            cluster.keyrings.setdefault("late", ["old"])
        in_use = cluster.keyrings["a"][0]
        return None if in_use in cluster.keyrings[name] else ""

    cluster.failure_of = failure_of
    buffer = OutputBuffer()
    with pytest.raises(CommandError, match="nodes reported") as caught:
        rotate(buffer.out, cluster, "new")
    assert caught.value.details["laggards"] == {"late": "no answer"}
    cluster.check_decryption()
    assert {keyring[0] for keyring in cluster.keyrings.values()} == {"old"}
    cluster.strict = True
    rotate(OutputBuffer().out, cluster, "newest")
    assert set(map(tuple, cluster.keyrings.values())) == {("newest",)}


def test_step_is_retried_after_a_lost_response() -> None:
    losses = iter(["", None, "", None])

    def failure_of(name: str, action: Action) -> str | None:
        return next(losses, None) if name == "b" and action != "list" else None

    cluster, buffer = Cluster({"a": ["x"], "b": ["x"]}, failure_of), OutputBuffer()
    rotate(buffer.out, cluster, "new")
    assert buffer.text.count("Trying again (2 of 3)...") == 2


def test_member_that_joins_meanwhile_gets_the_key() -> None:
    class Growing(Cluster):
        def keys(self, action: Action, key: str | None = None) -> KeyReport:
            report = Cluster.keys(self, action, key)
            if action == "install":
                self.keyrings.setdefault("late", ["x"])
            return report

    cluster, buffer = Growing({"a": ["x"]}), OutputBuffer()
    rotate(buffer.out, cluster, "new")
    assert cluster.keyrings == {"a": ["new"], "late": ["new"]}
    assert "1/2 nodes have taken the step 'install'" in buffer.text


@given(st.data())
def test_next_rotation_completes_one_that_stopped_anywhere(data: st.DataObject) -> None:
    names = data.draw(st.sampled_from([["a"], ["a", "b"], ["a", "b", "c"]]))
    failures = st.sampled_from([None, None, None, None, "", "refused"])
    cluster = Cluster({name: ["old"] for name in names})
    cluster.failure_of = lambda _name, _action: data.draw(failures)
    for number in range(3):
        buffer, key = OutputBuffer(), f"key{number}"
        with suppress(CommandError):
            rotate(buffer.out, cluster, key)
        assert buffer.text.endswith(f"{key}\n") or key not in buffer.text
        cluster.check_decryption()
    cluster.failure_of = nothing_fails
    rotate(OutputBuffer().out, cluster, "last")
    assert set(map(tuple, cluster.keyrings.values())) == {("last",)}


def test_lost_connection_ends_the_rotation() -> None:
    class Disconnecting(Cluster):
        def keys(self, action: Action, key: str | None = None) -> KeyReport:
            if action == "use":
                raise ControlError("disconnected", "the agent closed the connection")
            return Cluster.keys(self, action, key)

    buffer = OutputBuffer()
    with pytest.raises(CommandError, match="client closed") as caught:
        rotate(buffer.out, Disconnecting({"a": ["x"]}), "new")
    assert caught.value.details["step"] == "use"
    assert "Trying again" not in buffer.text


def test_failed_operation_shows_messages_of_members() -> None:
    messages = {"db": "no", "web-1": "never"}
    buffer = OutputBuffer()
    cluster = Cluster(
        {"db": ["x"], "web-1": ["x"], "z": ["x"]}, lambda name, _: messages.get(name)
    )
    with pytest.raises(CommandError) as caught, with_missing_members(cluster):
        run_key_operation(buffer.out, cluster, "list")
    assert caught.value.text == "Failed to gather member keys: 2/3 nodes reported failure"
    assert buffer.text.splitlines()[1:] == ["failed:  db     no", "failed:  web-1  never", ""]
    assert caught.value.record["error"]["messages"] == messages
    assert caught.value.record["error"]["laggards"] == messages
    assert "keys" not in caught.value.record["error"]


def test_missing_members_are_named() -> None:
    cluster = Cluster({"a": ["x"], "b": ["x"], "c": ["x"]}, silent={"c"})
    assert missing_members(cluster, {"messages": {"b": "no"}, "nodes": 3, "responses": 2}) == {
        "b": "no",
        "c": "no answer",
    }
    assert missing_members(cluster, {"messages": {}, "nodes": 3, "responses": 3}) == {}


def test_primary_key_is_reported_if_all_members_agree() -> None:
    record = report_record(KeyReport({}, {"x": 2, "y": 2}, {"y": 2}, 2, 2, 0))
    assert (record["primary"], record["primary_keys"]) == ("y", {"y": 2})
    split = report_record(KeyReport({}, {"x": 2, "y": 2}, {"y": 1, "x": 1}, 2, 2, 0))
    assert (split["primary"], split["primary_keys"]) == (None, {"y": 1, "x": 1})
    unknown = report_record(KeyReport({}, {"x": 2}, {}, 2, 2, 0))
    assert (unknown["primary"], unknown["primary_keys"]) == (None, None)
