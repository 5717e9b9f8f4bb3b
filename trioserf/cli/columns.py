"""Text in columns, as Serf lines it up."""

from collections.abc import Iterable, Sequence


def columns(rows: Iterable[Sequence[str]], gap: str = "  ") -> str:
    """Line rows up, each column as wide as its widest cell, the last one as it is.

    Empty cells still take their width; white space around the whole text goes. Widths count
    characters, not bytes.
    """
    table = list(rows)
    widths: list[int] = []
    for row in table:
        for place, cell in enumerate(row):
            if place == len(widths):
                widths.append(0)
            widths[place] = max(widths[place], len(cell))
    lines = [
        gap.join([*(c.ljust(w) for c, w in zip(row[:-1], widths, strict=False)), *row[-1:]])
        for row in table
    ]
    return "\n".join(lines).strip()
