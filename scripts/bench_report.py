"""Results of a benchmark as JSON, as a table, and in README.md; used by `bench`."""

import json
import os
import platform
import statistics
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import own_python
from bench_agents import CORES, TRIO, Program
from bench_rows import ANY, MEASUREMENTS, OURS

BEGIN, END = "<!-- scripts/bench --readme writes this -->", "<!-- end of the results -->"
README = own_python.ROOT / "README.md"
RESULTS = own_python.ROOT / "scripts" / "bench.json"
PICTURE = own_python.ROOT / "scripts" / "bench.png"

Report = dict[str, Any]
"""The contents of the JSON file."""


class Results:
    """All values of a run, by measurement, row, number of agents and program."""

    def __init__(self) -> None:
        self.samples: dict[tuple[str, str, int], dict[str, list[float]]] = {}
        self.problems: list[str] = []

    def add(self, measurement: str, row: str, size: int, program: str, value: float) -> None:
        programs = self.samples.setdefault((measurement, row, size), {})
        programs.setdefault(program, []).append(value)

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the rows that have values, in the order of the table."""
        for measurement in MEASUREMENTS:
            sizes = sorted({size for name, _, size in self.samples if name == measurement.name})
            for size in sizes:
                for row in measurement.rows:
                    programs = self.samples.get((measurement.name, row.name, size))
                    if programs is None:
                        continue
                    goal = row.goals.get(size) or row.goals.get(ANY)
                    medians = {name: statistics.median(found) for name, found in programs.items()}
                    yield {
                        "name": f"{measurement.name}-{row.name}",
                        "what": row.what,
                        "unit": row.unit,
                        "agents": size or None,
                        "goal": goal and {
                            "text": str(goal), "limit": goal.limit, "of_serf": goal.of_serf,
                            "met": goal.is_met(medians),
                        },
                        "programs": {
                            name: {
                                "median": medians[name], "min": min(found), "max": max(found),
                                "samples": found,
                            }
                            for name, found in programs.items()
                        },
                    }  # fmt: skip


def make_report(
    results: Results, programs: Sequence[Program], options: Mapping[str, Any], start: Report
) -> Report:
    """Return what is written as JSON; `start` is the `machine()` at the beginning."""
    return {
        **start,
        "programs": {program.name: program.version for program in programs},
        "options": dict(options),
        "problems": results.problems,
        "rows": list(results.rows()),
    }


def machine() -> Report:
    """Return the date, and the machine with its load."""
    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "cores": CORES,
            "cpu": models[0] if models else platform.machine(),
            "kernel": platform.release(),
            "python": platform.python_version(),
            "load": round(os.getloadavg()[0], 2),
        },
    }


def number(value: float) -> str:
    """Format a number with three digits at least."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def spread(row: Mapping[str, Any], program: str) -> str:
    """Format the median of a program and its spread."""
    found = row["programs"].get(program)
    if found is None:
        return "–"
    text = number(found["median"])
    if len(found["samples"]) > 1:
        text += f" ({number(found['min'])}–{number(found['max'])})"
    return text


def ratio(row: Mapping[str, Any], program: str, to: str) -> str:
    values = row["programs"]
    if row["unit"] == "×":  # a ratio itself
        return ""
    if program not in values or to not in values or not values[to]["median"]:
        return "–"
    return number(values[program]["median"] / values[to]["median"])


def cells(report: Report, *, goals: bool) -> list[list[str]]:
    """Return the table: its head, then its rows."""
    programs = list(report["programs"])
    others = [name for name in programs if name != OURS] if OURS in programs else []
    ratios = [f"ratio to {name}" if len(others) > 1 else "ratio" for name in others]
    head = ["what", "unit", "agents", *programs, *ratios, *(["goal", "met"] if goals else [])]
    table = [head]
    for row in report["rows"]:
        what = row["what"]
        if TRIO in row["programs"]:
            what += f" (`{TRIO}`: {number(row['programs'][TRIO]['median'])})"
        line = [what, row["unit"], str(row["agents"] or "")]
        line += [spread(row, name) for name in programs]
        line += [ratio(row, OURS, name) for name in others]
        if goals:
            goal = row["goal"]
            met = goal and {True: "yes", False: "**no**", None: "–"}[goal["met"]]
            line += [goal["text"] if goal else "", met or ""]
        table.append(line)
    return table


def summary(report: Report) -> str:
    """Return when, where and how it was measured, in one sentence."""
    of = report["machine"]
    programs = ", ".join(f"{name} {version}" for name, version in report["programs"].items())
    busy = ", all cores kept busy" if report["options"].get("busy") else ""
    return (
        f"{report['date'][:10]}, {of['cores']} cores ({of['cpu']}), Python {of['python']},"
        f" {programs}, load average at the beginning {of['load']:g}{busy}"
    )


def as_text(report: Report, *, goals: bool) -> str:
    table = cells(report, goals=goals)
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [summary(report), ""]
    for line in table:
        texts = [line[0].ljust(widths[0]), line[1].ljust(widths[1])]
        texts += [text.rjust(width) for text, width in zip(line[2:], widths[2:], strict=True)]
        lines.append("  ".join(texts).rstrip().replace("**", ""))
    lines += [f"not measured: {problem}" for problem in report["problems"]]
    return "\n".join(lines)


def as_markdown(report: Report) -> str:
    """Return the part of README.md between the two marks."""
    head, *table = cells(report, goals=True)
    lines = [
        f"Measured on {summary(report)}.",
        "",
        f"| {' | '.join(head)} |",
        "|--" * len(head) + "|",
    ]
    lines += [f"| {' | '.join(line)} |" for line in table]
    lines += [line for problem in report["problems"] for line in ("", f"Not measured: {problem}.")]
    picture = PICTURE.relative_to(README.parent)
    return "\n".join([*lines, "", f"![Ratios to Serf]({picture})"])


def write_json(report: Report, file: Path) -> None:
    file.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", "utf-8")


def read_json(file: Path) -> Report:
    """Read a report.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not a report.
    """
    report = json.loads(file.read_text("utf-8"))
    expected = {"date", "machine", "programs", "options", "problems", "rows"}
    if not isinstance(report, dict) or not expected <= report.keys():
        raise ValueError(f"expected the keys {', '.join(sorted(expected))}")
    return report


def with_results(readme: str, report: Report) -> str:
    """Return the text of README.md with these results."""
    before, _, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise ValueError(f"README.md lacks the lines '{BEGIN}' and '{END}'")
    return f"{before}{BEGIN}\n{as_markdown(report)}\n{END}{after}"
