"""Curves of what `scale` has measured; needs matplotlib (`pip install trioserf[plot]`)."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from trioserf.sim.scale import PARTED, Point, Spread, expected_detection, expected_event
from trioserf.swim.config import LAN

_SHARES = (("half", "50 %", "o-"), ("most", "99 %", "s-"), ("all", "100 %", "^-"))


def plot(points: list[Point], file: Path) -> None:
    """Draw the curves of clusters of several sizes.

    Args:
        points: what was measured; those of one size are joined to those of the next.
        file: where to; its ending says in which format, as `.png` or `.svg`.

    Raises:
        ValueError: a format that matplotlib does not know.
        OSError: the file cannot be written.
    """
    points = sorted(points, key=lambda point: point.members)
    sizes = [point.members for point in points]
    figure = Figure(figsize=(10, 7), layout="constrained")
    event, detection, whole, traffic = figure.subplots(2, 2).flat
    for one in (event, detection, whole, traffic):
        one.set_xscale("log", base=2)
        one.set_xticks(sizes, [str(size) for size in sizes])
        one.grid(alpha=0.3)

    _spreads(event, sizes, [point.event for point in points])
    event.plot(sizes, [expected_event(size) for size in sizes], "k--", label="99 %, formula")
    event.set_yscale("log")
    _finish(event, "A user event reaches members", "seconds")

    _spreads(detection, sizes, [point.detection for point in points])
    formula = [expected_detection(size) for size in sizes]
    detection.plot(sizes, formula, "k--", label="mean, formula")
    _finish(detection, "A crash is declared by members", "seconds")

    joins = [point.join.all for point in points]
    whole.plot(sizes, joins, "o-", label="newcomers (1 for 16) known to all")
    heals = [point.heal for point in points]
    whole.plot(sizes, heals, "s-", label=f"healed, two cut off for {PARTED:g} s")
    whole.set_yscale("log")
    _finish(whole, "All agree again", "seconds")

    traffic.plot(sizes, [point.bytes for point in points], "o-", label="bytes in packets")
    streamed = [point.streamed for point in points]
    traffic.plot(sizes, streamed, "s-", label="bytes on streams")
    packets = [100 * point.packets for point in points]
    traffic.plot(sizes, packets, "^-", label="packets, times 100")
    expected = 2 * 100 / LAN.probe_interval
    traffic.axhline(expected, color="k", ls="--", label="packets, formula: a ping and an ack")
    _finish(traffic, "A member sends while nothing happens", "per second")
    figure.savefig(file, dpi=100)


def _spreads(axes: Axes, sizes: list[int], spreads: list[Spread]) -> None:
    for name, label, style in _SHARES:
        axes.plot(sizes, [getattr(spread, name) for spread in spreads], style, label=label)


def _finish(axes: Axes, title: str, unit: str) -> None:
    axes.set_title(title)
    axes.set_xlabel("members")
    axes.set_ylabel(unit)
    axes.set_ylim(bottom=0 if axes.get_yscale() == "linear" else None)
    axes.legend(fontsize="small")
