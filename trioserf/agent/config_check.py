"""Checks of what a configuration names: addresses, keys, scripts, users, files and packages.

They open no socket, send nothing and write nothing, so names of hosts are not looked up. An agent
runs them at its start and on SIGHUP, `trioserf validate` runs them alone.
"""

import ipaddress
import os
import re
import socket
import stat
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Final

import attrs

from trioserf.agent.config import SETUP_FAILED, AgentConfig
from trioserf.agent.config_problems import Check, Finding
from trioserf.agent.files import is_open_to_all
from trioserf.agent.handlers import Handler
from trioserf.agent.node_config import bind_address, split_bind, start_keyring, start_tags
from trioserf.agent.optional_dependencies import require_extra
from trioserf.agent.script_rights import ScriptUser, limiting_command
from trioserf.errors import TrioserfError
from trioserf.net.own_address import interface_addresses
from trioserf.net.resolver import parse_server
from trioserf.node.config import DEFAULT_PORT
from trioserf.node.join_address import parse_join_address
from trioserf.node.state import check_tags


def errors_of(
    key: str,
    call: Callable[[], object],
    item: int | None = None,
    *,
    is_serfs: bool = False,
    expected: str = "another value",
) -> Iterator[Finding]:
    """Yield the errors that a function raises, one a line, without the key in front.

    Args:
        key: the key that they are about.
        call: the function.
        item: see `Finding`; as is `is_serfs`.
        is_serfs: see there.
        expected: what was expected, for errors that do not say it.
    """
    try:
        call()
        return
    except TrioserfError as error:
        lines = str(error).splitlines()
    except (OSError, ValueError) as error:
        lines = [_reason(error)]
    for line in lines:
        text = line if is_serfs else line.removeprefix(f"{key}: ").removeprefix(f"{key} ")
        if "expected" not in text:
            text = f"{text}; expected {expected}"
        yield Finding(key, text, item, is_serfs=is_serfs)


def _reason(error: OSError | ValueError) -> str:
    """Return the reason of a file's error; a path with NUL is a ValueError."""
    return (isinstance(error, OSError) and error.strerror) or str(error)


def _allows(path: Path, mode: int) -> bool:
    return os.access(path, mode, effective_ids=os.access in os.supports_effective_ids)


def may_write_in(directory: Path) -> bool:
    """Return whether this process may make files in a directory."""
    return _allows(directory, os.W_OK | os.X_OK)


def writable(key: str, path: str, *, replaced: bool = False) -> Iterator[Finding]:
    """Check that a regular file can be read and written, or made.

    Args:
        key: the key that names the file.
        path: the file.
        replaced: the file is replaced through another one in its directory.
    """
    expected = (
        "expected a file that can be read and written, or created in a directory that exists"
    )
    try:
        found = Path(path).resolve()
        directory = found.parent
        exists = found.exists()
        if exists and not stat.S_ISREG(found.stat().st_mode):
            reason = "Is a directory" if found.is_dir() else "not a regular file"
        elif not directory.is_dir():
            reason = "No such file or directory"
        elif (exists and not _allows(found, os.R_OK | os.W_OK)) or (
            (replaced or not exists) and not may_write_in(directory)
        ):
            reason = "Permission denied"
        else:
            return
    except (OSError, ValueError) as error:
        reason = _reason(error)
    yield Finding(key, f"{path}: {reason}; {expected}")


def private(key: str, path: str) -> Iterator[Finding]:
    """Warn of a file with secrets that other users can read or change."""
    try:
        mode = stat.S_IMODE(Path(path).stat().st_mode)
    except (OSError, ValueError):
        return  # another check reports it
    if is_open_to_all(mode):
        text = f"{path}: every user can read or change it (mode {mode:04o}); expected mode 0600"
        yield Finding(key, text, is_warning=True)


def _warnings(findings: Iterator[Finding], suffix: str) -> Iterator[Finding]:
    for found in findings:
        yield found._replace(message=f"{found.message}; {suffix}", is_warning=True)


# --- the checks ---


def _addresses(config: AgentConfig) -> Iterator[Finding]:
    is_name = False
    for key, text in (("bind", config.bind), ("advertise", config.advertise)):
        found = list(_host_errors(key, text))
        yield from found
        if key == "bind" and not found and text:
            is_name = not _is_ip(split_bind(text, key)[0])
        elif key == "bind":
            is_name = bool(found)
    if config.interface:
        name, another = config.interface, "an interface of this host with this address"
        if is_name:  # not looked up
            yield from errors_of(
                "interface", lambda: interface_addresses(name), is_serfs=True, expected=another
            )
        else:
            yield from errors_of(
                "interface", lambda: bind_address(config), is_serfs=True, expected=another
            )


def _host_errors(key: str, text: str) -> Iterator[Finding]:
    if not text:
        return
    try:
        host, _ = split_bind(text, key)
    except TrioserfError as error:
        yield Finding(key, str(error), is_serfs=True)
        return
    expected = "expected an IP address or the name of a host"
    if (not host and key == "advertise") or not may_be_host(host):
        yield Finding(key, f"Invalid {key} address: {text!r}: {expected}", is_serfs=True)


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return not host
    return True


def may_be_host(host: str) -> bool:
    """Return whether a text is an IP address, or may be the name of a host."""
    if _is_ip(host):
        return True
    if re.fullmatch(r"[0-9.]+", host):
        try:
            socket.inet_aton(host)  # short forms such as 127.1
        except OSError:
            return False
    return not re.search(r"[\s/:\0]", host)


def _tags(config: AgentConfig) -> Iterator[Finding]:
    key = "tags_file" if config.tags_file else "tags"
    tags = "at most 512 bytes encoded" if key == "tags" else "a file that can be read"
    yield from errors_of(key, lambda: check_tags(start_tags(config)), expected=tags)
    if config.tags_file:
        yield from _warnings(
            writable(key, config.tags_file, replaced=True), "tags set at run time will be lost"
        )


def _gossip_keys(config: AgentConfig) -> Iterator[Finding]:
    path, only_key = config.keyring_file, attrs.evolve(config, keyring_file="")
    yield from errors_of(
        "encrypt_key",
        lambda: start_keyring(only_key),
        is_serfs=True,
        expected="a key in base64 of 16, 24 or 32 bytes",
    )
    if not path:
        return
    keys = "a file that can be read, with a JSON list of keys"
    for found in errors_of(
        "keyring_file", lambda: start_keyring(config), is_serfs=True, expected=keys
    ):
        yield found._replace(message=f"{SETUP_FAILED}: {found.message}")
    if Path(path).is_file():
        yield from private("keyring_file", path)
        yield from _warnings(
            writable("keyring_file", path, replaced=True), "changed keys will be lost"
        )


def _key_files(config: AgentConfig) -> Iterator[Finding]:
    for key, path in (
        ("encrypt_key_file", config.encrypt_key_file),
        ("rpc_auth_file", config.rpc_auth_file),
    ):
        if path:
            yield from private(key, path)


def _handlers(config: AgentConfig) -> Iterator[Finding]:
    for item, text in enumerate(config.event_handlers):
        yield from errors_of("event_handlers", partial(Handler.parse, text), item, is_serfs=True)
    options = config.handlers
    user: list[ScriptUser] = []
    if options.user:
        yield from errors_of("handler_user", lambda: user.append(ScriptUser.find(options.user)))
    if user or not options.user:
        yield from errors_of(
            "handler_max_processes", lambda: limiting_command(options, user[0] if user else None)
        )


def _files(config: AgentConfig) -> Iterator[Finding]:
    if config.snapshot_path:
        yield from writable("snapshot_path", config.snapshot_path)


def _log(config: AgentConfig) -> Iterator[Finding]:
    if config.logs.file:
        yield from _warnings(writable("log_file", config.logs.file), "lines will be lost")
    if not config.enable_syslog:
        return
    from trioserf.agent.syslog import PATHS, facility_number, require_socket

    facility, path = config.syslog_facility, config.syslog_path
    yield from errors_of("syslog_facility", lambda: facility_number(facility), is_serfs=True)
    key = "syslog_path" if path else "enable_syslog"
    paths = [path] if path else PATHS
    yield from errors_of(key, lambda: require_socket(paths), is_serfs=True)


def _metrics(config: AgentConfig) -> Iterator[Finding]:
    addresses = {
        "statsd_addr": config.statsd_addr,
        "statsite_addr": config.statsite_addr,
    }
    for key, address in addresses.items():
        if address:
            from trioserf.agent.statsd import split_address

            yield from errors_of(key, partial(split_address, address, key))


def _discovery(config: AgentConfig) -> Iterator[Finding]:
    if not config.discover:
        return

    def find() -> None:
        with require_extra("discover", "mdns"):
            from trioserf.agent.mdns import service_name
        service_name(config.discover)

    yield from errors_of("discover", find)
    options = config.mdns
    if name := options.interface:
        from trioserf.net.multicast import interface_index

        for found in errors_of(
            "mdns.interface",
            lambda: interface_index(name),
            is_serfs=True,
            expected="an interface of this host",
        ):
            yield found._replace(message=f"Error starting mDNS listener: {found.message}")
    if options.disable_ipv4 and options.disable_ipv6:
        text = "both IPv4 and IPv6 are disabled; expected one of them"
        yield Finding("mdns.disable_ipv4", text, others=("mdns.disable_ipv6",))


def _other_hosts(config: AgentConfig) -> Iterator[Finding]:
    for item, text in enumerate(config.dns_servers):
        yield from errors_of("dns_servers", partial(parse_server, text), item)
    for key, texts in (("start_join", config.start_join), ("retry_join", config.retry_join)):
        for item, text in enumerate(texts):
            errors = errors_of(key, partial(parse_join_address, text, DEFAULT_PORT), item)
            yield from _warnings(errors, "this address cannot be joined")


AGENT_CHECKS: Final[tuple[Check, ...]] = (
    _addresses,
    _tags,
    _gossip_keys,
    _key_files,
    _handlers,
    _files,
    _log,
    _metrics,
    _discovery,
    _other_hosts,
)
"""All checks but those of the control port (`trioserf.control.server.config_check`)."""
