"""The picture of a benchmark: how many times Serf's values those of trioserf are."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench_report import number
from bench_rows import OURS, SERF
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLOURS = {True: "tab:green", False: "tab:red", None: "tab:blue"}
"""Colours by whether the goal is met; None for rows without a goal."""


def plot(report: Mapping[str, Any], file: Path) -> None:
    """Draw the ratios of all rows that both programs have.

    Raises:
        ValueError: matplotlib does not support the format, or there is nothing to draw.
        OSError: the file cannot be written.
    """
    rows = [
        row
        for row in report["rows"]
        if {SERF, OURS} <= row["programs"].keys()
        and row["unit"] != "×"
        and row["programs"][SERF]["median"] > 0
    ]
    groups = [
        ("less is better", [row for row in rows if row["unit"] != "/s"]),
        ("more is better", [row for row in rows if row["unit"] == "/s"]),
    ]
    groups = [(title, group) for title, group in groups if group]
    if not groups:
        raise ValueError("no row was measured for both programs")
    figure = Figure(figsize=(10, 2 + 0.32 * len(rows)), layout="constrained")
    parts = figure.subplots(
        len(groups), 1, squeeze=False, height_ratios=[len(group) + 1 for _, group in groups]
    )
    for (title, group), axes in zip(groups, parts.flat, strict=True):
        _draw(axes, title, group)
    figure.savefig(file, dpi=100)


def _draw(axes: Axes, title: str, rows: list[Mapping[str, Any]]) -> None:
    labels = []
    for place, row in enumerate(rows):
        serf, ours = row["programs"][SERF], row["programs"][OURS]
        base, goal = serf["median"], row["goal"]
        colour = COLOURS[goal and goal["met"]]
        low, middle, high = (ours[key] / base for key in ("min", "median", "max"))
        axes.plot([max(low, middle / 1e3), high], [place, place], color=colour, lw=4, alpha=0.3)
        axes.plot(middle, place, "o", color=colour)
        for name, found in row["programs"].items():
            if name.startswith(f"{OURS}@"):  # an older commit
                axes.plot(found["median"] / base, place, "o", color="grey", fillstyle="none")
        if goal:
            limit = goal["limit"] / (1 if goal["of_serf"] else base)
            axes.plot(limit, place, "k|", markersize=11, markeredgewidth=2)
        size = f", {row['agents']} agents" if row["agents"] else ""
        values = f"{number(base)} → {number(ours['median'])} {row['unit']}"
        labels.append(f"{row['what'].replace('`', '')}{size}: {values}")
    axes.set_yticks(range(len(rows)), labels, fontsize="small")
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.axvline(1, color="k", lw=0.8)
    axes.grid(axis="x", alpha=0.3)
    axes.set_title(
        f"trioserf, times Serf: {title} (|: goal; green: met, red: not met)", fontsize=10
    )
