"""Environment variables of the configuration."""

from pathlib import Path

import pytest

from trioserf.agent.config import AgentConfig
from trioserf.agent.config_environment import variable_of, variables
from trioserf.agent.config_sources import Sources
from trioserf.settings import settings_of

FIELDS = settings_of(AgentConfig)


def test_every_key_has_a_variable_of_its_own() -> None:
    names = {variable_of(key) for key in FIELDS}
    assert len(names) == len(FIELDS)
    found, _ = variables(dict.fromkeys(names, "x"), FIELDS)
    assert [name for name, _ in found] == [variable_of(key) for key in FIELDS]


def test_variable_replaces_files_and_options_replace_variables(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"node_name": "file", "profile": "wan", "log_level": "warn"}')
    environ = {"TRIOSERF_NODE_NAME": "variable", "TRIOSERF_PROFILE": "local"}
    config = Sources([str(path)], {"node_name": "option"}, environ).load()
    assert (config.node.name, config.profile, config.log_level) == ("option", "local", "WARN")


def test_lists_of_files_variables_and_options_are_appended(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"retry_join": ["file"], "tags": {"a": "1", "b": "1"}}')
    environ = {"TRIOSERF_RETRY_JOIN": "[::1]:7946", "TRIOSERF_TAGS": '{"b": "2"}'}
    config = Sources([str(path)], {"retry_join": ["option"]}, environ).load()
    assert config.retry_join == ["file", "[::1]:7946", "option"]
    assert config.tags == {"a": "1", "b": "2"}


def test_values_are_converted_by_their_declared_types() -> None:
    environ = {
        "TRIOSERF_NODE_NAME": "5",
        "TRIOSERF_MAX_MEMBERS": "9",
        "TRIOSERF_LEAVE_ON_TERMINATE": "true",
        "TRIOSERF_RETRY_INTERVAL": "7s",
        "TRIOSERF_RPC_ADDR": '["127.0.0.1:1", "unix:/a"]',
        "TRIOSERF_EVENT_HANDLERS": "user:a,query:b=run --all",
        "TRIOSERF_ALLOWED_NETWORKS": "10.0.0.0/8",
        "TRIOSERF_DISCOVER": "cluster",
        "TRIOSERF_MDNS": '{"disable_ipv4": true}',
        "TRIOSERF_MDNS_INTERFACE": "lo",
        "TRIOSERF_MSGPACKUSENEWTIMEFORMAT": "true",
        "TRIOSERF_ROLE": "",
    }
    config = Sources(environ=environ).load()
    assert (config.node.name, config.node.swim.max_members, config.role) == ("5", 9, "")
    assert (config.leave_on_terminate, config.retry_interval) == (True, 7.0)
    assert config.rpc_addr == ("127.0.0.1:1", "unix:/a")
    assert config.event_handlers == ["user:a,query:b=run --all"]
    assert config.node.allowed_networks == ("10.0.0.0/8",)
    assert (config.mdns.disable_ipv4, config.mdns.interface) == (True, "lo")


@pytest.mark.parametrize(
    ("variable", "value", "error"),
    [
        ("TRIOSERF_MAX_MEMBERS", "many", 'max_members: expected a whole number, not "many"'),
        ("TRIOSERF_MAX_MEMBERS", "0", "max_members: expected 1 to 1048576, not 0"),
        ("TRIOSERF_RETRY_INTERVAL", "7", 'retry_interval: expected a duration such as "30s", not'),
        ("TRIOSERF_MDNS_DISABLE_IPV4", "1", "mdns.disable_ipv4: expected true or false, not 1"),
    ],
)
def test_error_of_a_variable_names_it(variable: str, value: str, error: str) -> None:
    [problem] = Sources(environ={variable: value}).check().problems
    assert str(problem).startswith(f"{variable}: {error}")


def test_error_with_words_of_serf_names_the_variable() -> None:
    [problem] = Sources(environ={"TRIOSERF_LOG_LEVEL": "loud"}).check().problems
    assert str(problem).endswith("(log_level in TRIOSERF_LOG_LEVEL)")


def test_misspelt_variable_is_a_warning_and_one_of_kubernetes_is_not() -> None:
    environ = {
        "TRIOSERF_NODENAME": "a", "TRIOSERF_PORT": "tcp://10.0.0.1:7946",
        "TRIOSERF_SERVICE_HOST": "10.0.0.1", "TRIOSERF_PORT_7946_TCP_PROTO": "tcp",
    }  # fmt: skip
    checked = Sources(environ=environ).check()
    assert checked.problems == []
    assert checked.warnings == [
        "TRIOSERF_NODENAME: no key has this variable; did you mean TRIOSERF_NODE_NAME?"
    ]
