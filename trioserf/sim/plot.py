"""Curves of the measurements of `scale`; needs matplotlib (`pip install '.[plot]'`)."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from trioserf.sim.scale import PARTITIONED, Point, Spread, expected_detection, expected_event
from trioserf.swim.config import LAN

_SHARES = (("half", "50 %", "o-"), ("most", "99 %", "s-"), ("all", "100 %", "^-"))


def plot(points: list[Point], file: Path) -> None:
    """Draw the measurements as curves over the cluster size.

    Args:
        points: the measurements, one for each size.
        file: the output file; its suffix selects the format, such as `.png` or `.svg`.

    Raises:
        ValueError: matplotlib does not support the format.
        OSError: the file cannot be written.
    """
    points = sorted(points, key=lambda point: point.members)
    sizes = [point.members for point in points]
    figure = Figure(figsize=(10, 7), layout="constrained")
    event, detection, agreement, traffic = figure.subplots(2, 2).flat
    for one in (event, detection, agreement, traffic):
        one.set_xscale("log", base=2)
        one.set_xticks(sizes, [str(size) for size in sizes])
        one.grid(alpha=0.3)

    _spreads(event, sizes, [point.event for point in points])
    event.plot(sizes, [expected_event(size) for size in sizes], "k--", label="99 %, formula")
    event.set_yscale("log")
    _finish(event, "User event received by members", "seconds")

    _spreads(detection, sizes, [point.detection for point in points])
    formula = [expected_detection(size) for size in sizes]
    detection.plot(sizes, formula, "k--", label="mean, formula")
    _finish(detection, "Crash declared by members", "seconds")

    joins = [point.join.all for point in points]
    agreement.plot(sizes, joins, "o-", label="joins (1 per 16 members), known to all")
    heals = [point.heal for point in points]
    agreement.plot(
        sizes, heals, "s-", label=f"partition of two members for {PARTITIONED:g} s healed"
    )
    agreement.set_yscale("log")
    _finish(agreement, "Until all members agree", "seconds")

    traffic.plot(sizes, [point.bytes for point in points], "o-", label="bytes in packets")
    streamed = [point.streamed for point in points]
    traffic.plot(sizes, streamed, "s-", label="bytes on streams")
    packets = [100 * point.packets for point in points]
    traffic.plot(sizes, packets, "^-", label="packets, times 100")
    expected = 2 * 100 / LAN.probe_interval
    traffic.axhline(expected, color="k", ls="--", label="packets, formula: a ping and an ack")
    _finish(traffic, "Traffic of an idle member", "per second")
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
