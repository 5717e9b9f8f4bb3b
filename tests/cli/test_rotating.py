"""Rotating the keys of a cluster whose members refuse, keep silent, come late and come back."""

import itertools
import json
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import suppress

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.cli.running import Page
from trioserf.cli.key_steps import carry_out, laggards, naming_laggards, report_record
from trioserf.cli.output import Failure
from trioserf.cli.rotating import rotate
from trioserf.control.client.connect import Action
from trioserf.control.client.records import KeyReport, MemberInfo, QueryAck, QueryDone, QueryRecord
from trioserf.control.errors import ControlError

Deaf = Callable[[str, Action], str | None]
"""Says why a member does not do as it is told: a text that it answers, or "" for silence."""


def obedient(name: str, action: Action) -> str | None:
    del name, action
    return None


@attrs.define
class Rings:
    """A cluster; each member has a ring of keys, the first of which seals."""

    rings: dict[str, list[str]]
    deaf: Deaf = obedient
    silent: set[str] = attrs.Factory(set)
    failed: set[str] = attrs.Factory(set)
    tells_primary: bool = True
    strict: bool = True

    def keys(self, action: Action, key: str | None = None) -> KeyReport:
        messages: dict[str, str] = {}
        responses = errors = 0
        keys: Counter[str] = Counter()
        primary: Counter[str] = Counter()
        for name, ring in list(self.rings.items()):
            why = "" if name in self.silent else self.deaf(name, action)
            if why is None:
                why = change(ring, action, key)
            if why == "":
                continue
            responses += 1
            if why is not None:
                messages[name] = why
                errors += 1
            elif action == "list":
                keys.update(ring)
                primary[ring[0]] += 1
        if self.strict:
            self.understand_each_other()
        nodes = len(self.rings)
        firsts = dict(primary) if self.tells_primary else {}
        report = KeyReport(messages, dict(keys), firsts, nodes, responses, errors)
        if errors or responses < nodes:
            text = f"{errors}/{nodes} nodes reported failure"
            raise ControlError("key_failed", text, report._asdict())
        return report

    def understand_each_other(self) -> None:
        for a, b in itertools.permutations(self.rings.values(), 2):
            assert a[0] in b

    def members(self) -> list[MemberInfo]:
        names = [(name, "alive") for name in self.rings] + [(one, "failed") for one in self.failed]
        return [MemberInfo(name, "127.0.0.1", 7946, {}, how, 2, 5, 5) for name, how in names]

    def query(self, name: str) -> Generator[QueryRecord, None, None]:
        assert name == "_serf_ping"
        silent = {one for one in self.rings if self.deaf(one, "list") == ""} | self.silent
        heard = [one for one in self.rings if one not in silent]
        yield from map(QueryAck, heard)
        yield QueryDone(len(heard), 0)


def change(ring: list[str], action: Action, key: str | None) -> str | None:
    """Change a ring as agents do; gives what they answer when they cannot."""
    if action == "list" or key is None:
        return None
    if action == "install":
        ring += [key] if key not in ring else []
    elif key not in ring:
        return None if action == "remove" else "Requested key is not in the keyring"
    elif action == "use":
        ring.sort(key=lambda one: one != key)
    elif ring[0] == key:
        return "Removing the primary key is not allowed"
    else:
        ring.remove(key)
    return None


@pytest.mark.parametrize("tells_primary", [True, False])
def test_one_new_key_is_left(tells_primary: bool) -> None:
    cluster = Rings({"a": ["x", "y"], "b": ["x"], "c": ["x", "z"]}, tells_primary=tells_primary)
    page = Page()
    assert rotate(page.out, cluster, "new") == 0
    assert cluster.rings == {"a": ["new"], "b": ["new"], "c": ["new"]}
    assert page.text.endswith("==> Keys gathered, listing cluster keys...\nnew\n")


def test_json_tells_what_was_done() -> None:
    page = Page(json=True)
    rotate(page.out, Rings({"a": ["x"], "b": ["x", "y"]}, failed={"d", "c"}), "new")
    record = json.loads(page.text)
    assert record == {"key": "new", "removed": ["x", "y"], "nodes": 2, "absent": ["c", "d"]}


def test_members_that_are_away_are_named() -> None:
    page = Page()
    rotate(page.out, Rings({"a": ["x"]}, failed={"gone"}), "new")
    assert "==> Failed, and without the new key when they return: gone\n" in page.text


def test_nothing_begins_while_a_member_is_silent() -> None:
    cluster, page = Rings({"a": ["x"], "b": ["x"]}, silent={"b"}), Page()
    with pytest.raises(Failure, match="Failed to gather member keys") as caught:
        rotate(page.out, cluster, "new")
    assert caught.value.details["laggards"] == {"b": "no answer"}
    assert cluster.rings == {"a": ["x"], "b": ["x"]}


@pytest.mark.parametrize("action", ["install", "use", "remove"])
def test_it_stops_at_a_step_that_a_member_refuses_and_can_be_taken_further(
    action: Action,
) -> None:
    def deaf(name: str, asked: Action) -> str | None:
        return "disk full" if (name, asked) == ("b", action) else None

    cluster, page = Rings({"a": ["old"], "b": ["old"], "c": ["old"]}, deaf), Page()
    with pytest.raises(
        Failure, match=r"1/3 nodes reported failure\nThe rotation stopped"
    ) as caught:
        rotate(page.out, cluster, "secret")
    assert caught.value.details["step"] == action
    assert caught.value.details["laggards"] == {"b": "disk full"}
    assert page.text.count("Trying again") == 2
    assert "lagging:  b  disk full\n" in page.text
    assert "old" in cluster.rings["b"]
    shown = page.text + json.dumps(caught.value.record)
    assert "secret" not in shown
    assert '"old"' not in shown
    cluster.deaf = obedient
    assert rotate(Page().out, cluster, "newest") == 0
    assert set(map(tuple, cluster.rings.values())) == {("newest",)}


@pytest.mark.parametrize("action", ["install", "use"])
def test_it_stops_when_a_member_fails_in_the_middle(action: Action) -> None:
    cluster = Rings({"a": ["old"], "b": ["old"], "c": ["old"]}, failed={"long gone"})

    def deaf(name: str, asked: Action) -> str | None:
        if (name, asked) == ("a", action) and "c" in cluster.rings:
            cluster.failed.add("c")
            gone.append(cluster.rings.pop("c"))
        return None

    gone: list[list[str]] = []
    cluster.deaf = deaf
    page = Page()
    with pytest.raises(Failure, match="failed since the rotation began: c\n") as caught:
        rotate(page.out, cluster, "new")
    assert caught.value.details == {"laggards": {"c": "failed"}, "step": action}
    assert "lagging:  c  failed\n" in page.text
    (ring,) = gone
    assert all(one[0] in ring and ring[0] in one for one in cluster.rings.values())
    cluster.deaf = obedient
    cluster.failed.discard("c")
    cluster.rings["c"] = ring
    assert rotate(Page().out, cluster, "newest") == 0
    assert set(map(tuple, cluster.rings.values())) == {("newest",)}


def test_who_came_without_the_new_key_is_heard_again() -> None:
    """It came after all had the key, and before they used it."""
    cluster = Rings({"a": ["old"], "b": ["old"]}, strict=False)

    def deaf(name: str, asked: Action) -> str | None:
        if (name, asked) == ("a", "use"):
            cluster.rings.setdefault("late", ["old"])
        in_use = cluster.rings["a"][0]
        return None if in_use in cluster.rings[name] else ""

    cluster.deaf = deaf
    page = Page()
    with pytest.raises(Failure, match="nodes reported") as caught:
        rotate(page.out, cluster, "new")
    assert caught.value.details["laggards"] == {"late": "no answer"}
    cluster.understand_each_other()
    assert {ring[0] for ring in cluster.rings.values()} == {"old"}
    cluster.strict = True
    assert rotate(Page().out, cluster, "newest") == 0
    assert set(map(tuple, cluster.rings.values())) == {("newest",)}


def test_an_answer_that_got_lost_is_asked_for_again() -> None:
    lost = iter(["", None, "", None])

    def deaf(name: str, action: Action) -> str | None:
        return next(lost, None) if name == "b" and action != "list" else None

    cluster, page = Rings({"a": ["x"], "b": ["x"]}, deaf), Page()
    assert rotate(page.out, cluster, "new") == 0
    assert page.text.count("Trying again (2 of 3)...") == 2


def test_a_member_that_joins_in_the_middle_gets_the_key_too() -> None:
    class Growing(Rings):
        def keys(self, action: Action, key: str | None = None) -> KeyReport:
            report = Rings.keys(self, action, key)
            if action == "install":
                self.rings.setdefault("late", ["x"])
            return report

    cluster, page = Growing({"a": ["x"]}), Page()
    assert rotate(page.out, cluster, "new") == 0
    assert cluster.rings == {"a": ["new"], "late": ["new"]}
    assert "1/2 nodes have taken the step 'install'" in page.text


@given(st.data())
def test_wherever_it_stops_the_next_one_finishes(data: st.DataObject) -> None:
    names = data.draw(st.sampled_from([["a"], ["a", "b"], ["a", "b", "c"]]))
    whims = st.sampled_from([None, None, None, None, "", "refused"])
    cluster = Rings({name: ["old"] for name in names})
    cluster.deaf = lambda _name, _action: data.draw(whims)
    for number in range(3):
        page, key = Page(), f"key{number}"
        with suppress(Failure):
            rotate(page.out, cluster, key)
        assert page.text.endswith(f"{key}\n") or key not in page.text
        cluster.understand_each_other()
    cluster.deaf = obedient
    assert rotate(Page().out, cluster, "last") == 0
    assert set(map(tuple, cluster.rings.values())) == {("last",)}


def test_a_lost_agent_ends_it_at_once() -> None:
    class Gone(Rings):
        def keys(self, action: Action, key: str | None = None) -> KeyReport:
            if action == "use":
                raise ControlError("disconnected", "the agent closed the connection")
            return Rings.keys(self, action, key)

    page = Page()
    with pytest.raises(Failure, match="client closed") as caught:
        rotate(page.out, Gone({"a": ["x"]}), "new")
    assert caught.value.details["step"] == "use"
    assert "Trying again" not in page.text


def test_a_refused_key_shows_what_members_said() -> None:
    said = {"db": "no", "web-1": "never"}
    page = Page()
    cluster = Rings({"db": ["x"], "web-1": ["x"], "z": ["x"]}, lambda name, _: said.get(name))
    with pytest.raises(Failure) as caught, naming_laggards(cluster):
        carry_out(page.out, cluster, "list")
    assert caught.value.text == "Failed to gather member keys: 2/3 nodes reported failure"
    assert page.text.splitlines()[1:] == ["failed:  db     no", "failed:  web-1  never", ""]
    assert caught.value.record["error"]["messages"] == said
    assert caught.value.record["error"]["laggards"] == said
    assert "keys" not in caught.value.record["error"]


def test_laggards_are_named() -> None:
    cluster = Rings({"a": ["x"], "b": ["x"], "c": ["x"]}, silent={"c"})
    assert laggards(cluster, {"messages": {"b": "no"}, "nodes": 3, "responses": 2}) == {
        "b": "no",
        "c": "no answer",
    }
    assert laggards(cluster, {"messages": {}, "nodes": 3, "responses": 3}) == {}


def test_the_primary_key_is_told_where_all_agree() -> None:
    record = report_record(KeyReport({}, {"x": 2, "y": 2}, {"y": 2}, 2, 2, 0))
    assert (record["primary"], record["primary_keys"]) == ("y", {"y": 2})
    split = report_record(KeyReport({}, {"x": 2, "y": 2}, {"y": 1, "x": 1}, 2, 2, 0))
    assert (split["primary"], split["primary_keys"]) == (None, {"y": 1, "x": 1})
    unknown = report_record(KeyReport({}, {"x": 2}, {}, 2, 2, 0))
    assert (unknown["primary"], unknown["primary_keys"]) == (None, None)
