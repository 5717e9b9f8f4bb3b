"""The tags file, which keeps tags that were changed at run time for the next start."""

import json
from collections.abc import Mapping
from pathlib import Path

from trioserf.agent.files import PRIVATE, read_file, replace_file
from trioserf.errors import ConfigError

_EXPECTED = 'expected a JSON object of strings, such as {"role": "web"}'


def load(path: Path) -> dict[str, str]:
    """Load the tags at start; no tags if the file does not exist.

    Raises:
        ConfigError: the file cannot be read, or is not an object of strings. The text names the
            file and the tag.
    """
    try:
        data = read_file(path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(f"tags_file {path}: cannot be read: {reason}") from error
    return {} if data is None else _decoded(path, data)


def save(path: Path, tags: Mapping[str, str]) -> None:
    """Replace the file; the format is Serf's: indented, in order of name.

    Block until the file is on the disk.

    Raises:
        OSError: the file cannot be written; the old one is unchanged.
    """
    text = json.dumps(dict(tags), indent=2, sort_keys=True, ensure_ascii=False)
    # Bytes that are not UTF-8 come as lone surrogates; JSON can encode these with a backslash.
    replace_file(path, text.encode("utf-8", "backslashreplace"), mode=PRIVATE)


def _decoded(path: Path, data: bytes) -> dict[str, str]:
    try:
        tags = json.loads(data)
    except json.JSONDecodeError as error:
        at = f"line {error.lineno} column {error.colno}"
        raise ConfigError(f"tags_file {path}: {at}: {error.msg}; {_EXPECTED}") from None
    except (UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"tags_file {path}: not JSON: {error}; {_EXPECTED}") from None
    if not isinstance(tags, dict):
        raise ConfigError(f"tags_file {path}: {_EXPECTED}")
    for name, value in tags.items():
        if not isinstance(value, str):
            raise ConfigError(
                f"tags_file {path}: the value of {name!r} is not a string; {_EXPECTED}"
            )
    return tags
