"""The reference of settings in agent/README.md is generated from their declarations.

`python -m tests.agent.test_reference` writes its tables anew.
"""

import re
from pathlib import Path
from typing import Any

import attrs

import trioserf.agent
from trioserf.agent.config import AgentConfig
from trioserf.settings import setting_of, settings_of
from trioserf.swim.config import PROFILES, Timing

REFERENCE = Path(trioserf.agent.__file__).parent / "README.md"


def format_value(value: object) -> str:
    """Return a value as a configuration file has it, in the Markdown of a table's cell."""
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float():
            for unit, seconds in (("h", 3600), ("m", 60), ("s", 1)):
                if value >= seconds and value % seconds == 0:
                    return f"`{value / seconds:g}{unit}`"
            return f"`{value * 1000:g}ms`" if value else "`0s`"
        case tuple():
            return ", ".join(map(format_value, value))
        case dict() | list():
            return f"`{value}`"
        case _:
            return f"`{value}`" if value else ""


def default_of(field: "attrs.Attribute[Any]") -> str:
    declared = setting_of(field)
    if declared and declared.shown:
        return declared.shown
    factory = getattr(field.default, "factory", None)
    return format_value(factory() if factory else field.default)


def table(*columns: str) -> list[str]:
    return [f"| {' | '.join(columns)} |", "|--" * len(columns) + "|"]


def tables() -> dict[str, list[str]]:
    """Return the lines of each table by the heading of its section."""
    serf, own = table("key", "default", "meaning"), table("key", "default", "meaning")
    timings = table("key", *PROFILES, "meaning")
    for key, field in settings_of(AgentConfig).items():
        declared = setting_of(field)
        assert declared is not None
        if key in attrs.fields_dict(Timing):
            values = [format_value(getattr(profile, key)) for profile in PROFILES.values()]
            timings.append(f"| `{key}` | {' | '.join(values)} | {declared.help} |")
        else:
            rows = serf if declared.serf else own
            rows.append(f"| `{key}` | {default_of(field)} | {declared.help} |")
    return {"Keys of Serf": serf, "Keys on top": own, "Timings": timings}


def with_tables(text: str) -> str:
    """Replace the first table of each section of the reference by the generated one."""
    for heading, lines in tables().items():
        before, title, rest = text.partition(f"### {heading}\n")
        assert title, heading
        new = "".join(f"{line}\n" for line in lines).replace("\\", r"\\")
        text = before + title + re.sub(r"(^\|.*\n)+", new, rest, count=1, flags=re.MULTILINE)
    return text


def test_reference_is_generated_from_declarations() -> None:
    text = REFERENCE.read_text("utf-8")
    assert text == with_tables(text), "run: python -m tests.agent.test_reference"


if __name__ == "__main__":
    REFERENCE.write_text(with_tables(REFERENCE.read_text("utf-8")), "utf-8")
