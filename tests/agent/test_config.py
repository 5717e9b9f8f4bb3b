"""Configuration: every error with its source, key and expectation."""

import json
from pathlib import Path

import pytest

from trioserf.agent.config import AgentConfig
from trioserf.agent.config_sources import Sources
from trioserf.agent.node_config import node_config, split_bind
from trioserf.errors import ConfigError


def write(path: Path, values: object) -> str:
    path.write_text(json.dumps(values))
    return str(path)


def test_later_sources_override_lists_grow_and_tags_merge(tmp_path: Path) -> None:
    directory = tmp_path / "conf.d"
    directory.mkdir()
    first = write(
        tmp_path / "first", {"node_name": "a", "tags": {"x": "1", "y": "1"}, "retry_join": ["p"]}
    )
    write(directory / "2.json", {"node_name": "c", "tags": {"y": "3"}})
    write(directory / "1.json", {"node_name": "b", "retry_join": ["q"]})
    (directory / "notes.txt").write_text("no JSON")
    config = Sources([first, str(directory)], {"retry_join": ["r"], "log_level": "debug"}).load()
    assert config.node.name == "c"
    assert config.tags == {"x": "1", "y": "3"}
    assert config.retry_join == ["p", "q", "r"]
    assert config.log_level == "DEBUG"


def test_all_errors_are_reported_with_source_and_key(tmp_path: Path) -> None:
    path = write(
        tmp_path / "bad.json",
        {
            "nod_name": "x",
            "protocol": 3.5,
            "leave_on_terminate": "false",
            "retry_interval": "1x",
            "tags": {"a": 1},
            "mdns": {"disable_ipv4": 1, "zzz": 1},
            "max_members": 0,
            "packet_size": 511,
            "probe_interval": "0s",
            "zzz": 1,
            "start_join": "host",
        },
    )
    with pytest.raises(ConfigError) as raised:
        Sources([path]).load()
    assert sorted(str(raised.value).splitlines()) == sorted(
        f"{path}: {error}"
        for error in (
            "nod_name: unknown key; did you mean node_name?",
            "zzz: unknown key; no key has a similar name",
            "mdns.zzz: unknown key; expected interface, disable_ipv4, disable_ipv6",
            "protocol: expected a whole number, not 3.5",
            'leave_on_terminate: expected true or false, not "false"',
            'retry_interval: expected a duration such as "30s", not "1x"',
            "tags: expected text for 'a', not {\"a\": 1}",
            "mdns.disable_ipv4: expected true or false, not 1",
            'start_join: expected a list of texts, not "host"',
            "max_members: expected 1 to 1048576, not 0",
            "packet_size: expected 512 to 65507, not 511",
            "probe_interval: expected more than 0 s, not 0 s",
        )
    )


def load_both(tmp_path: Path, below: object, above: object) -> AgentConfig:
    """Load a file, and another one over it."""
    return Sources([write(tmp_path / "below", below), write(tmp_path / "above", above)]).load()


def test_key_with_null_is_ignored(tmp_path: Path) -> None:
    below = {
        "node_name": "a", "tags": {"x": "1"}, "protocol": 4, "retry_interval": "7s",
        "retry_join": ["p"], "discover": "d", "mdns": {"interface": "lo", "disable_ipv4": True},
        "leave_on_terminate": True, "rpc_addr": "127.0.0.1:1", "max_members": 9,
    }  # fmt: skip
    nulls = dict.fromkeys(below)
    expected = Sources(overrides=below).load()
    assert load_both(tmp_path, below, nulls) == expected
    assert load_both(tmp_path, below, {"mdns": {"interface": None}}) == expected
    assert Sources(overrides=nulls).load() == Sources().load()


def test_null_in_tags_and_lists_is_an_empty_text() -> None:
    values = {"tags": {"x": None}, "retry_join": [None, "p"], "event_handlers": [None, "true"]}
    config = Sources(overrides=values).load()
    assert (config.tags, config.retry_join) == ({"x": ""}, ["", "p"])
    assert config.event_handlers == ["true"]


def test_case_of_keys_does_not_matter(tmp_path: Path) -> None:
    below = {"NODE_NAME": "a", "Tags": {"Role": "web"}, "Discover": "d", "retry_Join": ["p"]}
    above = {"MDNS": {"Interface": "lo"}, "Retry_join": ["q"], "tags": {"x": "1"}}
    config = load_both(tmp_path, below, above)
    assert config.node.name == "a"
    assert config.tags == {"Role": "web", "x": "1"}  # keys of users stay as they are
    assert config.retry_join == ["p", "q"]
    assert config.mdns.interface == "lo"


def test_key_in_two_spellings_is_rejected() -> None:
    values: dict[str, object] = {
        "protocol": 4,
        "Protocol": 5,
        "mdns": {"interface": "a", "INTERFACE": "b"},
    }
    values["discover"] = "cluster"
    with pytest.raises(ConfigError) as raised:
        Sources(overrides=values).load()
    assert str(raised.value).splitlines() == [
        "command line: Protocol: this key is there twice; expected only protocol",
        "command line: mdns.INTERFACE: this key is there twice; expected only interface",
    ]


def test_number_without_fraction_is_a_whole_number() -> None:
    config = Sources(overrides={"protocol": 4.0, "max_members": 1e3}).load()
    assert (config.node.protocol, config.node.swim.max_members) == (4, 1000)
    assert type(config.node.swim.max_members) is int
    for number in (4.5, float("inf"), float("nan"), True):
        with pytest.raises(ConfigError, match="protocol: expected a whole number"):
            Sources(overrides={"protocol": number}).load()


def test_empty_event_handler_is_ignored() -> None:
    config = Sources(overrides={"event_handlers": ["", "user=true", ""]}).load()
    assert config.event_handlers == ["user=true"]


def test_key_about_times_in_msgpack_is_accepted() -> None:
    for key in ("MsgpackUseNewTimeFormat", "msgpackusenewtimeformat"):
        Sources(overrides={key: True}).load()
    with pytest.raises(ConfigError, match='expected true or false, not "yes"'):
        Sources(overrides={"MsgpackUseNewTimeFormat": "yes"}).load()


def test_interface_of_mdns_without_discovery_is_rejected() -> None:
    text = "mDNS interface specified without enabling mDNS discovery"
    with pytest.raises(ConfigError, match=text):
        Sources(overrides={"mdns": {"interface": "lo"}}).load()
    for values in ({"discover": "x", "mdns": {"interface": "lo"}}, {"mdns": {"interface": ""}}):
        Sources(overrides=values).load()


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("{", "line 1 column 2"),
        ("[]", "expected a JSON object, not a list"),
        ("\udcff", "not JSON"),
        (None, "No such file"),
    ],
)
def test_unusable_file_is_rejected(tmp_path: Path, content: str | None, text: str) -> None:
    path = tmp_path / "f.json"
    if content is not None:
        path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(ConfigError, match=text) as raised:
        Sources([str(path)]).load()
    assert str(path) in str(raised.value)


@pytest.mark.parametrize(
    "values",
    [
        {"log_level": "loud"},
        {"profile": "moon"},
        {"tags": {"a": "b"}, "tags_file": "x"},
        {"encrypt_key": "x", "keyring_file": "y"},
        {"retry_max_attempts": -1},
        {"handler_limit": 0},
    ],
)
def test_value_outside_its_set_or_in_conflict_is_rejected(values: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        Sources(overrides=values).load()


def test_node_keys_reach_node_config() -> None:
    values = {
        "node_name": "n", "bind": "127.0.0.1:1234", "profile": "local", "probe_interval": "2s",
        "user_event_size_limit": 9000, "allowed_networks": ["127.0.0.0/8"], "role": "web",
        "encrypt_key": "AAAAAAAAAAAAAAAAAAAAAA==", "label": "blue", "reconnect_interval": "1m",
    }  # fmt: skip
    node = node_config(Sources(overrides=values).load())
    assert (node.name, node.bind, node.label) == ("n", ("127.0.0.1", 1234), "blue")
    assert (node.timing.probe_interval, node.timing.tcp_timeout) == (2.0, 1.0)
    assert node.serf.user_event_size_limit == 9000
    assert node.tags == {"role": "web"}
    assert node.reconnect_interval == 60.0
    assert node.keyring is not None
    assert "AAAAAAAA" not in repr(Sources(overrides=values).load())


@pytest.mark.parametrize(
    "values",
    [
        {"encrypt_key": "not base64"},
        {"encrypt_key": "AAAA"},
        {"bind": "127.0.0.1:port"},
        {"bind": "127.0.0.1:70000"},
        {"node_name": "x" * 129},
        {"protocol": 9},
        {"user_event_size_limit": 10_000},
        {"allowed_networks": ["all"]},
        {"probe_interval": "0s"},
    ],
)
def test_value_not_valid_for_node_is_rejected(values: dict[str, object]) -> None:
    with pytest.raises(ConfigError) as raised:
        node_config(Sources(overrides=values).load())
    assert "AAAA" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("1.2.3.4", ("1.2.3.4", None)),
        ("1.2.3.4:5", ("1.2.3.4", 5)),
        (":5", ("", 5)),
        ("[::1]:5", ("::1", 5)),
        ("[::1]", ("::1", None)),
        ("::1", ("::1", None)),
    ],
)
def test_bind_address_is_split(text: str, parts: tuple[str, int | None]) -> None:
    assert split_bind(text, "bind") == parts
