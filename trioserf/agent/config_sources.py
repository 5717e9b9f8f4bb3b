"""The sources of the agent's configuration (see agent/README.md, § Configuration).

Every source – a file, an environment variable, or the command line – is a JSON object. Each is
checked by itself, so that an error names its source; then later sources are merged over earlier
ones: lists grow, tags merge, and other values are replaced. What Serf checks after that, and what
depends on several keys, is checked in the merged values, each of which remembers its source.
"""

import errno
import json
import logging
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import attrs

from trioserf.agent.config import DEFAULT_PROFILE, SETUP_FAILED, AgentConfig
from trioserf.agent.config_converter import Structurer, kind_name
from trioserf.agent.config_environment import variables
from trioserf.agent.config_problems import Check, Checked, Finding, Place, Problem
from trioserf.agent.files import is_open_to_all, read_file
from trioserf.agent.log_lines import LEVELS
from trioserf.defaults import TLS
from trioserf.errors import ConfigError
from trioserf.settings import build, setting_of, settings_of
from trioserf.swim.config import PROFILES
from trioserf.value_objects import ValueObject

_log = logging.getLogger("trioserf.agent")

COMMAND_LINE: Final = "command line"
_DEFAULT: Final = "default"
_LEAST: Final = {"retry_interval": 1.0, "broadcast_timeout": 1.0}
"""Durations that Serf raises to a least value, with a warning."""
_KEY_FILES: Final = {"encrypt_key": "encrypt_key_file", "rpc_auth": "rpc_auth_file"}
"""Secret keys, and the keys that name a file with them."""
_MAX_KEY: Final = 4096
"""Bytes of such a file."""


@attrs.frozen(eq=False, repr=False)
class Sources(ValueObject):
    """Sources of a configuration; read again on SIGHUP.

    Attributes:
        paths: JSON files, and directories of `*.json` files, which are read in order of name.
        overrides: keys from the command line, which have precedence.
        environ: environment variables, among them those for keys.
        errors: errors of the command line by key, as Serf reports them.
    """

    paths: Sequence[str] = ()
    overrides: Mapping[str, Any] = attrs.field(factory=dict, repr=False)
    environ: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    errors: Sequence[tuple[str, str]] = ()

    def load(self, warn: Callable[[str], None] = _log.warning) -> AgentConfig:
        """Read all sources and check their values, but not what the values name.

        Args:
            warn: called with a text about each setting that works, but hardly as intended.

        Raises:
            ConfigError: a file cannot be read, or values are not valid: a line for each error.
        """
        return require_valid(self.check(), warn)

    def check(self, checks: Iterable[Check] = ()) -> Checked:
        """Read all sources and check them; return all errors.

        Args:
            checks: further checks, of the merged values.
        """
        reading = _Reading()
        reading.problems += (
            Problem(COMMAND_LINE, key, text, is_whole_line=True) for key, text in self.errors
        )
        for source, values in self._objects(reading):
            reading.add(source, values)
        return reading.finish(checks)

    def _objects(self, reading: "_Reading") -> Iterator[tuple[str, Mapping[str, Any]]]:
        for path in self._paths(reading):
            reading.sources.append(str(path))
            try:
                values, mode = _read_object(path)
            except ConfigError as error:
                reading.problems.append(Problem(str(path), "", str(error)))
                reading.is_complete = False
                continue
            reading.modes[str(path)] = mode
            yield str(path), values
        found, warnings = variables(self.environ, settings_of(AgentConfig))
        reading.warnings += warnings
        reading.sources += (name for name, _ in found)
        yield from found
        if self.overrides or self.errors:
            reading.sources.append(COMMAND_LINE)
            yield COMMAND_LINE, self.overrides

    def _paths(self, reading: "_Reading") -> Iterator[Path]:
        for path in map(Path, self.paths):
            if not _is_directory(path):
                yield path
                continue
            try:
                inside = sorted(path.iterdir())
            except OSError as error:
                text = f"cannot be read: {error.strerror}; expected a directory of *.json files"
                reading.sources.append(str(path))
                reading.problems.append(Problem(str(path), "", text))
                reading.is_complete = False
                continue
            yield from (
                file for file in inside if file.suffix == ".json" and not _is_directory(file)
            )


def _is_directory(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # reading it reports the error
        return False


def require_valid(checked: Checked, warn: Callable[[str], None]) -> AgentConfig:
    """Return a configuration without errors, and report its warnings.

    Raises:
        ConfigError: there are errors: a line for each, with source, key and what was expected.
    """
    if checked.problems:
        raise ConfigError("\n".join(map(str, checked.problems)))
    for text in checked.warnings:
        warn(text)
    return checked.config


def _read_object(path: Path) -> tuple[dict[str, Any], int]:
    """Return the object in a file, and the mode of the file (raises ConfigError)."""
    try:
        # A pipe such as `--config-file <(command)`.
        data = read_file(path, pipe=True)
        if data is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        values = json.loads(data)
        mode = path.stat().st_mode
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}") from error
    except json.JSONDecodeError as error:
        at = f"line {error.lineno} column {error.colno}"
        raise ConfigError(f"{at}: {error.msg}; expected a JSON object") from None
    except (UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"not JSON: {error}; expected a JSON object") from None
    except ValueError as error:  # a number of too many digits
        raise ConfigError(f"{error}; expected a JSON object") from None
    if not isinstance(values, dict):
        raise ConfigError(f"expected a JSON object, not {kind_name(values)}")
    return values, mode


class _Reading:
    """What was read so far.

    Attributes:
        problems: errors.
        warnings: texts of warnings.
        modes: the modes of files.
        sources: all sources, in order.
        is_complete: whether all files could be read.
    """

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.warnings: list[str] = []
        self.modes: dict[str, int] = {}
        self.sources: list[str] = []
        self.is_complete = True
        self._structure = Structurer(AgentConfig)
        self._settings: dict[str, Any] = {}
        self._origins: dict[str, list[str]] = {}
        """The sources of each value; of a list, one for each item."""

    def add(self, source: str, values: Mapping[str, Any]) -> None:
        """Check the values of a source, and merge them over those of earlier ones."""
        settings, problems = self._structure(values)
        self.problems += (Problem(source, *problem) for problem in problems)
        if handlers := settings.get("event_handlers"):
            settings["event_handlers"] = [text for text in handlers if text]  # as Serf does
        for key, value in settings.items():
            self._merge(key, value, source)
        mode = self.modes.get(source, 0)
        if is_open_to_all(mode) and any(_is_secret(key) for key in settings):
            self.warnings.append(
                f"{source}: every user can read or change it (mode {stat.S_IMODE(mode):04o}), and"
                " it has secrets; expected mode 0600"
            )

    def _merge(self, key: str, value: Any, source: str) -> None:
        earlier, sources = self._settings.get(key), self._origins.get(key, [])
        if isinstance(value, list | tuple):
            sources = [*(sources if key != "rpc_addr" else ()), *[source] * len(value)]
            if earlier is not None and key != "rpc_addr":
                value = earlier + value
        else:
            if isinstance(value, dict):
                self._origins |= {f"{key}.{inner}": [source] for inner in value}
                value = (earlier or {}) | value
            sources = [source]
        self._settings[key], self._origins[key] = value, sources

    def finish(self, checks: Iterable[Check]) -> Checked:
        """Check the merged values; return the configuration."""
        settings = self._settings
        self._take(_named_values(settings))
        self._take(_contradictions(settings))
        self._read_keys()
        if settings.get("rejoin_after_leave") and not settings.get("snapshot_path"):
            self.warnings.append("'RejoinAfterLeave' enabled without snapshot file")
        for key, least in _LEAST.items():
            if settings.get(key, least) < least:
                name = "".join(word.capitalize() for word in key.split("_"))
                self.warnings.append(f"'{name}' is too low. Setting to {least:g}s")
                settings[key] = least
        config = self._build()
        for check in checks:
            self._take(check(config))
        order = {source: number for number, source in enumerate(self.sources)}
        self.problems.sort(key=lambda problem: order.get(problem.source, len(order)))
        return Checked(config, self.problems, self.warnings, self.sources)

    def _build(self) -> AgentConfig:
        profile = attrs.asdict(PROFILES[self._settings.get("profile", DEFAULT_PROFILE)])
        try:
            return build(AgentConfig, profile | self._settings)
        except ConfigError as error:
            key, _, text = str(error).partition(": ")
            self._take([Finding(key, text, others=("validate_node_names",))])
            del self._settings["validate_node_names"]
            return build(AgentConfig, profile | self._settings)

    def _read_keys(self) -> None:
        """Take the keys that are in files of their own."""
        for key, file_key in _KEY_FILES.items():
            path = self._settings.get(file_key)
            if not path:
                continue
            if self._settings.get(key):
                text = f"not allowed together with {key}; expected only one of them"
                self._take([Finding(file_key, text, others=(key,))])
                continue
            try:
                self._settings[key] = _read_key(Path(path))
            except ConfigError as error:
                self._take([Finding(file_key, f"{path}: {error}")])
                continue
            self._origins[key] = [path]

    def _take(self, findings: Iterable[Finding]) -> None:
        invalid = {problem.key.partition(".")[0] for problem in self.problems}
        for found in findings:
            keys = {found.key, *found.others, *found.lacks}
            if (found.others or found.lacks) and not invalid.isdisjoint(keys):
                continue  # it may follow from the other error
            if found.lacks and not self.is_complete:
                continue
            problem = Problem(
                self._origin(found.key, found.item),
                found.key,
                found.message,
                self._value(found.key, found.item),
                tuple(Place(self._origin(key), key) for key in found.others),
                found.is_serfs,
            )
            if found.is_warning:
                self.warnings.append(str(problem))
            else:
                self.problems.append(problem)

    def _origin(self, key: str, item: int | None = None) -> str:
        sources = self._origins.get(key) or [_DEFAULT]
        return sources[-1 if item is None else item]

    def _value(self, key: str, item: int | None) -> Any:
        if _is_secret(key):
            return None
        key, _, inner = key.partition(".")
        value = self._settings.get(key)
        if inner:
            return value.get(inner) if isinstance(value, dict) else None
        return value[item] if item is not None and value is not None else value


def _is_secret(key: str) -> bool:
    field = settings_of(AgentConfig).get(key)
    declared = setting_of(field) if field is not None else None
    return declared is not None and declared.secret


def _read_key(path: Path) -> str:
    """Return the only line of a file.

    Raises:
        ConfigError: it cannot be read, or has another content. The text does not show it.
    """
    expected = "expected a file whose only line is the key"
    try:
        data = read_file(path, pipe=True)
        if data is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    except (OSError, ValueError) as error:  # a path with NUL is a ValueError
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"cannot be read: {reason}; {expected}") from error
    lines = data[: _MAX_KEY + 1].splitlines()
    if len(data) > _MAX_KEY or len(lines) != 1 or not lines[0].strip():
        raise ConfigError(f"{len(data)} bytes in {len(lines)} lines; {expected}")
    try:
        return lines[0].decode().strip()
    except UnicodeDecodeError:
        raise ConfigError(f"not UTF-8; {expected}") from None


def _named_values(settings: dict[str, Any]) -> Iterator[Finding]:
    """Check values that Serf checks by name; replace invalid ones by the default."""
    if "log_level" in settings:
        level = settings["log_level"] = settings["log_level"].upper()
        if level not in LEVELS:
            text = f"Invalid log level: {level}. Valid log levels are: [{' '.join(LEVELS)}]"
            yield Finding("log_level", text, is_serfs=True)
            del settings["log_level"]
    profile = settings.get("profile", DEFAULT_PROFILE)
    if profile not in PROFILES:
        text = f"Unknown profile: {profile}; expected {', '.join(PROFILES)}"
        yield Finding("profile", text, is_serfs=True)
        del settings["profile"]


def _contradictions(settings: Mapping[str, Any]) -> Iterator[Finding]:
    """Check the values that depend on each other."""
    if settings.get("tags_file"):
        given = tuple(key for key in ("tags", "role") if settings.get(key))
        if given:
            text = f"{SETUP_FAILED}: Tags config not allowed while using tag files"
            yield Finding("tags_file", text, others=given, is_serfs=True)
    if settings.get("mdns", {}).get("interface") and not settings.get("discover"):
        text = "mDNS interface specified without enabling mDNS discovery; expected discover"
        yield Finding("mdns.interface", text, lacks=("discover",), is_serfs=True)
    yield from _tls_contradictions(settings)
    key = "encrypt_key_file" if settings.get("encrypt_key_file") else "encrypt_key"
    if settings.get(key) and settings.get("keyring_file"):
        text = f"{SETUP_FAILED}: Encryption key not allowed while using a keyring"
        yield Finding(key, text, others=("keyring_file",), is_serfs=True)


def _tls_contradictions(settings: Mapping[str, Any]) -> Iterator[Finding]:
    """Check that there are certificates if, and only if, an address needs them."""
    given = [key for key in settings if key.startswith("rpc_tls_") and settings[key]]
    encrypted = [address for address in settings.get("rpc_addr", ()) if address.startswith(TLS)]
    if encrypted and "rpc_tls_cert" not in given:
        text = f"{encrypted[0]}: needs a certificate; expected rpc_tls_cert"
        yield Finding("rpc_addr", text, lacks=("rpc_tls_cert",))
    elif given and not encrypted:
        text = f"no address in rpc_addr begins with {TLS}; expected {TLS}host:port"
        yield Finding(given[0], text, lacks=("rpc_addr",))
