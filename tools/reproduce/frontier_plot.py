"""The frontier as a picture. Needs matplotlib (the extra `plot`)."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reproduce.frontier import SWEPT, UNIFORM, Frontier, Point

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SUFFIXES = (".svg", ".png")
# changes smaller than these are drawn to scale, larger ones by their logarithms
LINEAR = {"auc": 2e-4, "loss": 1e-4}
TITLES = {"auc": "change of test AUC", "loss": "change of log loss, nats"}
MARKERS = "os^Dv*"


def plot(found: Sequence[Frontier], path: Path) -> None:
    """Draw change of AUC and of log loss against size, a row of panels for each set.

    Args:
        path: its suffix is the format, `.svg` or `.png`.

    Raises:
        ImportError: no matplotlib.
        OSError: the file can't be written.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    # the same figures give the same bytes, and text stays text
    with mpl.rc_context({"svg.hashsalt": "frontier", "svg.fonttype": "none"}):
        figure = Figure(figsize=(14, 4.5 * len(found)), layout="constrained")
        panels = figure.subplots(len(found), 2, squeeze=False)
        for row, one in zip(panels, found, strict=True):
            for axes, quantity in zip(row, TITLES, strict=True):
                _draw(axes, one, quantity)
        figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside right upper")
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def _draw(axes: Axes, found: Frontier, quantity: str) -> None:
    for method in SWEPT:
        swept = [p for p in found.points if p.method == method and "%" in p.size]
        _points(axes, swept, quantity, label=method, marker=".", linestyle="-")
    for name, marker in zip(UNIFORM, MARKERS, strict=True):
        points = [p for p in found.points if p.method == name]
        _points(axes, points, quantity, label=name, marker=marker, linestyle="", color="black")
    axes.axhline(0, color="grey", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_yscale("symlog", linthresh=LINEAR[quantity])
    ticks = sorted({float(p.size[:-1]) for p in found.points if "%" in p.size})
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("bytes of the tables, % of float32")
    axes.set_ylabel(TITLES[quantity])
    axes.set_title(f"{found.name}, dim {found.dim}, {found.seeds} seeds (bars: all seeds)")


def _points(axes: Axes, points: Sequence[Point], quantity: str, **style: Any) -> None:
    """Means over seeds, and bars from the least to the greatest."""
    if not points:
        return
    changes = [getattr(point.change, quantity) for point in points]
    means = [statistics.fmean(one) for one in changes]
    below = [mean - min(one) for mean, one in zip(means, changes, strict=True)]
    above = [max(one) - mean for mean, one in zip(means, changes, strict=True)]
    sizes = [100 * statistics.fmean(point.ratios) for point in points]
    axes.errorbar(sizes, means, [below, above], markersize=4, linewidth=1, **style)
