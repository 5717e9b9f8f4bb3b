"""The tags file, in which tags that were changed at run time outlive the agent."""

import json
from collections.abc import Mapping
from pathlib import Path

from trioserf.agent.files import PRIVATE, read_file, replace_file
from trioserf.errors import ConfigError

_EXPECTED = 'expected a JSON object of strings, such as {"role": "web"}'


def load(path: Path) -> dict[str, str]:
    """Read the tags to start with; a file that does not exist yet holds none.

    Raises:
        ConfigError: the file cannot be read, or holds something else. The text names the file and
            the tag at fault.
    """
    try:
        data = read_file(path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(f"tags_file {path}: cannot be read: {reason}") from error
    return {} if data is None else _decoded(path, data)


def save(path: Path, tags: Mapping[str, str]) -> None:
    """Replace the file by these tags, as Serf writes them: indented, in order of their names.

    Blocks until it is on the disk.

    Raises:
        OSError: it cannot be written; the old file is still there then.
    """
    text = json.dumps(dict(tags), indent=2, sort_keys=True, ensure_ascii=False)
    # Bytes that are not UTF-8 come as lone surrogates; JSON can spell these with a backslash.
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
            raise ConfigError(f"tags_file {path}: the value of {name!r} is no string; {_EXPECTED}")
    return tags
