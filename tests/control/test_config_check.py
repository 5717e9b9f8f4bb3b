"""The check of a whole configuration: start, SIGHUP and `validate` make it."""

import json
import os
import pwd
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from trioserf.agent.config import AgentConfig
from trioserf.agent.config_problems import Checked
from trioserf.agent.config_sources import Sources
from trioserf.control.server.config_check import check_configuration
from trioserf.settings import setting_of, settings_of

assert sys.platform != "win32"

KEY = "5K9OtfP7efFrNKe5WCQvXvnaXJ5cWP0SvXiwe0kkjM4="
SECRET = "c0ffee-c0ffee-c0ffee"
MISSING = "/nonexistent/file"
FIRST: dict[str, Any] = {
    "nod_name": "x",
    "protocol": 3.5,
    "leave_on_terminate": "false",
    "retry_interval": "1x",
    "tags": {"a": 1},
    "max_members": 0,
    "probe_interval": "0s",
    "start_join": "h",
    "mdns": {"disable_ipv4": 1, "zzz": 1},
    "log_level": "loud",
    "bind": "127.0.0.1:x",
    "advertise": "a b",
    "interface": "nosuch0",
    "encrypt_key": SECRET,
    "rpc_auth": 5,
    "allowed_networks": ["10.0.0.0/33", "all"],
    "event_handlers": ["foo=x", "user=true"],
    "handler_user": "nosuchuser",
    "enable_syslog": True,
    "syslog_facility": "LOCAL8",
    "syslog_path": MISSING,
    "snapshot_path": MISSING,
    "statsd_addr": "nowhere",
    "validate_node_names": True,
    "node_name": "not_valid",
}
SECOND: dict[str, Any] = {
    "profile": "moon",
    "rpc_addr": ["tls://127.0.0.1:1", f"unix:{MISSING}", "1:2:3:4", "127.0.0.1:99999"],
    "rpc_allow": ["uid:x", "what:y"],
    "rpc_tokens": MISSING,
    "rpc_socket_mode": "99",
    "rpc_socket_group": "nosuchgroup",
    "keyring_file": MISSING,
    "dns_servers": ["a b"],
    "event_handlers": ["bar=y"],
    "audit_log": MISSING,
    "metrics_addr": "nowhere",
    "handler_env": "none",
    "log_format": "xml",
    "log_levels": {"swim": "DEBUG"},
    "log_max_size": 1000,
    "log_max_files": 0,
}


@contextmanager
def without_root() -> Iterator[None]:
    """Give up root's rights, if any, while the block runs."""
    uid = os.geteuid()
    if uid == 0:
        os.seteuid(pwd.getpwnam("daemon").pw_uid)
    try:
        yield
    finally:
        os.seteuid(uid)


def write(path: Path, values: object) -> str:
    path.write_text(json.dumps(values))
    path.chmod(0o600)
    return str(path)


def check(values: Mapping[str, Any], **environ: str) -> Checked:
    return check_configuration(Sources(overrides=values, environ=environ))


def problems_of(values: Mapping[str, Any], **environ: str) -> list[tuple[str, str]]:
    return [(one.key, str(one)) for one in check(values, **environ).problems]


def test_all_errors_of_all_files_are_reported_at_once(tmp_path: Path) -> None:
    first, second = write(tmp_path / "1.json", FIRST), write(tmp_path / "2.json", SECOND)
    checked = check_configuration(Sources([str(tmp_path)]))
    found = {(one.source, one.key) for one in checked.problems}
    valid = {"enable_syslog", "mdns", "node_name", "validate_node_names"}
    assert {key for source, key in found if source == first} == {
        *("mdns.disable_ipv4", "mdns.zzz", "node_name"),
        *(key for key in FIRST if key not in valid),
    }
    assert {key for source, key in found if source == second} == set(SECOND)
    assert len(checked.problems) > len(found)  # several networks and addresses
    assert all(first in str(one) or second in str(one) for one in checked.problems)
    by_item = {one.value: one.source for one in checked.problems if one.key == "event_handlers"}
    assert by_item == {"foo=x": first, "bar=y": second}


def test_check_opens_no_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    values = {
        "bind": "host.example:7946", "advertise": "host.example", "rpc_addr": "host.example:7373",
        "retry_join": ["host.example"], "statsd_addr": "host.example:1", "discover": "cluster",
        "snapshot_path": str(tmp_path / "snapshot"), "metrics_addr": "host.example:2",
    }  # fmt: skip
    assert problems_of(values) == []
    assert list(tmp_path.iterdir()) == []


def test_file_that_cannot_be_read_does_not_hide_errors_of_others(tmp_path: Path) -> None:
    for name, text in (("1", "{"), ("2", '{"protocol": 9}'), ("3", "[]")):
        (tmp_path / f"{name}.json").write_text(text)
    sources = [str(tmp_path / "missing.json"), str(tmp_path)]
    problems = check_configuration(Sources(sources, {"max_members": 0})).problems
    assert [Path(one.source).name for one in problems] == [
        *("missing.json", "1.json", "2.json", "3.json", "command line")
    ]


def test_missing_value_is_no_error_if_a_file_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{")
    sources = Sources([str(tmp_path)], {"rpc_addr": "tls://127.0.0.1:1"})
    assert [one.key for one in check_configuration(sources).problems] == [""]


@pytest.mark.parametrize(
    ("values", "keys"),
    [
        ({"tags": {"a": "b"}, "tags_file": "x"}, {"tags_file", "tags"}),
        ({"encrypt_key": KEY, "keyring_file": "k"}, {"encrypt_key", "keyring_file"}),
        ({"encrypt_key": KEY, "encrypt_key_file": "k"}, {"encrypt_key", "encrypt_key_file"}),
        ({"rpc_auth": SECRET, "rpc_auth_file": "k"}, {"rpc_auth", "rpc_auth_file"}),
        ({"validate_node_names": True, "node_name": "a b"}, {"node_name", "validate_node_names"}),
        (
            {"discover": "x", "mdns": {"disable_ipv4": True, "disable_ipv6": True}},
            {"mdns.disable_ipv4", "mdns.disable_ipv6"},
        ),
    ],
)
def test_contradiction_names_all_keys_and_their_sources(
    values: dict[str, Any], keys: set[str], tmp_path: Path
) -> None:
    (tmp_path / "k").write_text(KEY)
    paths = [write(tmp_path / f"{key}.json", {key: value}) for key, value in values.items()]
    problems = check_configuration(Sources(paths)).problems
    [found] = [one for one in problems if one.others]
    assert {found.key, *(place.key for place in found.others)} == keys
    assert {found.source, *(place.source for place in found.others)} <= set(paths)


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"mdns": {"interface": "lo"}}, "mdns.interface"),
        ({"rpc_addr": "tls://127.0.0.1:1"}, "rpc_addr"),
        ({"rpc_tls_cert": MISSING}, "rpc_tls_cert"),
        ({"rpc_allow": ["uid:0"]}, "rpc_allow"),
        ({"rpc_socket_mode": "0660"}, "rpc_socket_mode"),
        ({"rpc_socket_group": str(os.getgid())}, "rpc_socket_group"),
    ],
)
def test_key_without_the_one_that_it_needs_is_an_error(values: dict[str, Any], key: str) -> None:
    assert key in [found for found, _ in problems_of(values)]


def test_errors_show_no_secret(tmp_path: Path) -> None:
    secret_keys = [
        key
        for key, field in settings_of(AgentConfig).items()
        if (declared := setting_of(field)) and declared.secret
    ]
    assert secret_keys == ["encrypt_key", "rpc_auth"]
    texts = []
    for key in secret_keys:
        for value in ([SECRET], {"a": SECRET}, SECRET, f"{SECRET}\n{SECRET}"):
            path = write(tmp_path / "a.json", {key: value, f"{key}x": value})
            path_of_key = tmp_path / "key"
            path_of_key.write_text(f"{value}\n")
            checked = check_configuration(
                Sources([path], {key.upper(): value, f"{key}_file": str(path_of_key)})
            )
            texts += [json.dumps(one.record) for one in checked.problems] + checked.warnings
    (tmp_path / "keys").write_text(json.dumps([SECRET]))
    texts += [text for _, text in problems_of({"keyring_file": str(tmp_path / "keys")})]
    assert len(texts) > 20
    assert not any(SECRET in text for text in texts)


def test_what_serf_accepts_has_no_error() -> None:
    assert problems_of(
        {
            "NODE_NAME": "a", "protocol": 5.0, "tags": {"a": None}, "role": None,
            "retry_join": [None, "[::1"], "event_handlers": [""], "syslog_facility": "LOCAL8",
            "retry_interval": "0s", "bind": "127.1",
        }
    ) == []  # fmt: skip


def test_value_that_a_later_source_replaces_is_not_checked_further(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", {"log_level": "loud", "bind": "127.0.0.1:x"})
    later = {"log_level": "warn", "bind": "127.0.0.1:0"}
    assert check_configuration(Sources([path], later)).problems == []


def test_address_that_cannot_be_joined_is_a_warning() -> None:
    checked = check({"retry_join": ["[::1", "127.0.0.1"]})
    assert checked.problems == []
    [text] = checked.warnings
    assert text.startswith("command line: retry_join: join address '[::1'")


# --- keys in files ---


def test_key_is_read_from_its_file(tmp_path: Path) -> None:
    for name, text in (("gossip", KEY), ("control", "k e y")):
        (tmp_path / name).write_text(f"{text}\n")
        (tmp_path / name).chmod(0o600)
    values = {
        "encrypt_key_file": str(tmp_path / "gossip"),
        "rpc_auth_file": str(tmp_path / "control"),
    }
    checked = check(values)
    assert (checked.problems, checked.warnings) == ([], [])
    assert (checked.config.encrypt_key, checked.config.rpc_auth) == (KEY, "k e y")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, "No such file or directory"),
        ("", "0 bytes in 0 lines"),
        (f"{SECRET}\n{SECRET}\n", "in 2 lines"),
        (SECRET * 1000, "20000 bytes"),
        ("\udcff", "not UTF-8"),
    ],
)
def test_file_without_a_key_is_an_error(tmp_path: Path, content: str | None, text: str) -> None:
    path = tmp_path / "key"
    if content is not None:
        path.write_bytes(content.encode("utf-8", "surrogateescape"))
    [(key, error)] = problems_of({"rpc_auth_file": str(path)})
    assert key == "rpc_auth_file"
    assert text in error
    assert error.endswith("expected a file whose only line is the key")
    assert SECRET not in error


def test_invalid_key_in_a_file_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("AAAA")
    [(_, error)] = problems_of({"encrypt_key_file": str(path)})
    assert error.startswith("Invalid encryption key: key size must be 16, 24 or 32 bytes")
    assert str(path) in error


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o604, 0o644, 0o602])
def test_files_with_secrets_that_all_users_can_read_are_warnings(
    tmp_path: Path, mode: int
) -> None:
    config, keyring, key = tmp_path / "a.json", tmp_path / "keys", tmp_path / "key"
    keyring.write_text(json.dumps([KEY]))
    key.write_text("key")
    config.write_text(json.dumps({"rpc_auth": SECRET, "keyring_file": str(keyring)}))
    other = tmp_path / "b.json"
    other.write_text(json.dumps({"node_name": "a"}))
    for path in (config, keyring, key):
        path.chmod(mode)
    warnings = check_configuration(Sources([str(config), str(other)])).warnings
    warnings += check({"rpc_auth_file": str(key)}).warnings
    if not mode & 0o006:
        assert warnings == []
        return
    assert [text.partition(": every user can read or change it")[0] for text in warnings] == [
        str(config),
        f"{config}: keyring_file: {keyring}",
        f"command line: rpc_auth_file: {key}",
    ]
    assert all(f"(mode {mode:04o})" in text for text in warnings)


@pytest.mark.parametrize(
    ("key", "value"),
    [("snapshot_path", "{}/file"), ("audit_log", "{}/file"), ("rpc_addr", "unix:{}/socket")],
)
def test_file_that_cannot_be_written_is_an_error(key: str, value: str) -> None:
    # pytest's own directories belong to root only.
    with TemporaryDirectory() as directory:
        Path(directory).chmod(0o555)
        with without_root():
            [(found, error)] = problems_of({key: value.format(directory)})
    assert (found, "Permission denied" in error) == (key, True)


@pytest.mark.parametrize("key", ["keyring_file", "tags_file"])
def test_file_that_cannot_be_replaced_is_a_warning(key: str) -> None:
    content = {"keyring_file": [KEY], "tags_file": {"a": "b"}}[key]
    with TemporaryDirectory() as directory:
        path = Path(directory) / "file"
        path.write_text(json.dumps(content))
        path.chmod(0o644)
        Path(directory).chmod(0o555)
        with without_root():
            checked = check({key: str(path)})
    assert checked.problems == []
    assert "Permission denied" in checked.warnings[-1]
    assert checked.warnings[-1].endswith("will be lost")


@pytest.mark.parametrize("key", ["snapshot_path", "audit_log"])
def test_directory_in_place_of_a_file_is_an_error(tmp_path: Path, key: str) -> None:
    [(found, error)] = problems_of({key: str(tmp_path)})
    assert (found, "Is a directory" in error) == (key, True)


@pytest.mark.parametrize(
    "key", ["keyring_file", "tags_file", "snapshot_path", "audit_log", "rpc_tokens", "rpc_addr"]
)
def test_path_with_nul_is_an_error(key: str) -> None:
    value = "unix:a\0b" if key == "rpc_addr" else "a\0b"
    assert {found for found, _ in problems_of({key: value})} == {key}


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"log_format": "xml"}, "log_format: expected text or json, not 'xml'"),
        (
            {"log_levels": {"swim": "DEBUG"}},
            "log_levels: swim: unknown source; expected agent, memberlist, serf, or a part of",
        ),
        (
            {"log_levels": {"agent.ipc": "loud"}},
            "log_levels: agent.ipc: expected one of TRACE, DEBUG, INFO, WARN, ERR, not 'loud'",
        ),
        ({"log_levels": {"agent": 1}}, "log_levels: expected text for 'agent'"),
        ({"log_max_size": 1000}, "log_max_size: expected 0 or 65536 bytes or more, not 1000"),
        ({"log_max_files": 0}, "log_max_files: expected 1 to 1000, not 0"),
        ({"log_fold": 10}, 'log_fold: expected a duration such as "30s"'),
        ({"ready_when_joined": "yes"}, "ready_when_joined: expected true or false"),
    ],
)
def test_invalid_key_of_log_and_service_is_an_error(values: dict[str, Any], text: str) -> None:
    [(key, error)] = problems_of(values)
    assert (key, text in error) == (next(iter(values)), True), error


def test_keys_of_the_log_are_accepted(tmp_path: Path) -> None:
    values = {
        "log_format": "json",
        "log_levels": {"memberlist": "debug", "agent.ipc": "WARN"},
        "log_file": str(tmp_path / "log"),
        "log_max_size": 1_000_000,
        "log_fold": "10s",
    }
    checked = check(values, TRIOSERF_LOG_LEVELS='{"serf": "TRACE"}')
    assert (checked.problems, checked.warnings) == ([], [])
    logs = checked.config.logs
    assert logs.levels == {"memberlist": "debug", "agent.ipc": "WARN", "serf": "TRACE"}
    assert (logs.fold, logs.max_files) == (10.0, 5)


def test_log_file_that_cannot_be_written_is_a_warning(tmp_path: Path) -> None:
    checked = check({"log_file": MISSING})
    assert checked.problems == []
    [warning] = checked.warnings
    assert "No such file or directory" in warning
    assert warning.endswith("; lines will be lost")


def test_passed_socket_needs_no_right_to_its_directory(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        values = {"rpc_addr": f"unix:{path}"}
        with without_root():
            assert problems_of(values)
            checked = check_configuration(Sources(overrides=values), [listener])
        assert checked.problems == []
        checked = check_configuration(Sources(overrides={"rpc_addr": "127.0.0.1:1"}), [listener])
        [problem] = checked.problems
        assert problem.key == "rpc_addr"
        assert f"unix:{path}, that is not in rpc_addr; expected one of 127.0.0.1:1" in str(problem)
