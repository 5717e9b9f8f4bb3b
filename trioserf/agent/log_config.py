"""The declarations of configuration keys about the log, in addition to Serf's `log_level`."""

from typing import Any, Final

import attrs

from trioserf.agent.config_converter import Tags
from trioserf.agent.log_lines import FORMATS, LEVELS
from trioserf.settings import key_of, one_of, setting, zero_or_at_least
from trioserf.value_objects import ValueObject

SOURCES: Final = ("agent", "memberlist", "serf")
"""The sources of lines; others are parts of them, such as `agent.ipc`."""
_LEAST_SIZE: Final = 64 * 1024


def _check_levels(_: object, field: "attrs.Attribute[Any]", value: dict[str, str]) -> None:
    for source, level in value.items():
        where = f"{key_of(field)}: {source}"
        if source.partition(".")[0] not in SOURCES:
            expected = ", ".join(SOURCES)
            raise ValueError(f"{where}: unknown source; expected {expected}, or a part of these")
        if level.upper() not in LEVELS:
            raise ValueError(f"{where}: expected one of {', '.join(LEVELS)}, not {level!r}")


@attrs.frozen(kw_only=True, eq=False, repr=False)
class LogOptions(ValueObject):
    """Format, levels and file of the log."""

    format: str = setting(
        "text",
        "`text`: Serf's lines; `json`: an [object](#lines-of-json) a line",
        key="log_format",
        reloads=True,
        check=one_of(FORMATS),
    )
    levels: Tags = setting(
        attrs.Factory(dict),
        'levels of some sources in place of `log_level`, as in `{"memberlist": "DEBUG"}`',
        key="log_levels",
        reloads=True,
        check=_check_levels,
    )
    fold: float = setting(
        0.0,
        "write equal lines within this time once, and how many followed; `0s`: write all, as Serf",
        key="log_fold",
        reloads=True,
    )
    file: str = setting(
        "",
        "write the log to [this file](#log-file); SIGHUP opens it again",
        key="log_file",
        shown="stderr",
    )
    max_size: int = setting(
        0,
        "bytes from which on the file is renamed to `PATH.1`, 64 KiB or more; 0: never",
        key="log_max_size",
        check=zero_or_at_least(_LEAST_SIZE),
    )
    max_files: int = setting(
        5,
        "renamed files that are kept, `PATH.1` the newest",
        key="log_max_files",
        least=1,
        most=1000,
    )
