"""The cases of a report as bars: CPU per request beside requests per second, one row of bars for each case."""

from __future__ import annotations

import importlib.util
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.measuring import Measured

__all__ = ["available", "draw"]

WIDTH = 12.0
BAR = 0.3
"""Inches of a bar; a case has its title and axis besides."""
TITLE = 0.75
COLOURS = "tab10"
LINEAR = 100
"""Bars that differ by more than that are drawn on a logarithmic axis: a limit would hide all others."""


def available() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def draw(name: str, about: str, cases: Mapping[str, Mapping[str, Measured]], directory: Path) -> list[Path]:
    """Writes NAME.svg and NAME.png: medians as bars, with lines from the least to the greatest round."""
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    heights = [TITLE + BAR * len(subjects) for subjects in cases.values()]
    figure = Figure(figsize=(WIDTH, sum(heights) + TITLE), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"{name}: medians, and from the least to the greatest round\n{about}", fontsize=10)
    names = list(dict.fromkeys(subject for subjects in cases.values() for subject in subjects))
    colours = {subject: colormaps[COLOURS](number % 10) for number, subject in enumerate(names)}
    grid = figure.subplots(len(cases), 2, squeeze=False, height_ratios=heights)
    for (left, right), (case, subjects) in zip(grid, cases.items(), strict=True):
        left.set_title(case, loc="left", fontsize=10, fontweight="bold")
        _bars(left, "CPU µs each (less is better)", {n: found.cpu for n, found in subjects.items()}, colours)
        _bars(right, "per second (more is better)", {n: found.rate for n, found in subjects.items()}, colours)
        right.set_yticklabels([])
    files = [directory / f"{name}.{ending}" for ending in ("svg", "png")]
    for file in files:
        figure.savefig(file, dpi=110)
    return files


def _bars(axes: Any, label: str, values: Mapping[str, Sequence[float]], colours: Mapping[str, Any]) -> None:
    medians = [statistics.median(each) for each in values.values()]
    spread = [
        [m - min(each) for m, each in zip(medians, values.values(), strict=True)],
        [max(each) - m for m, each in zip(medians, values.values(), strict=True)],
    ]
    bars = axes.barh(
        list(values),
        medians,
        xerr=spread,
        color=[colours[name] for name in values],
        ecolor="0.25",
        capsize=2,
        height=0.7,
    )
    axes.bar_label(bars, labels=[_figure(median) for median in medians], padding=6, fontsize=8)
    axes.invert_yaxis()
    if logarithmic := max(medians) > LINEAR * min(medians):
        axes.set_xscale("log")
    axes.margins(x=0.15)
    axes.set_xlabel(f"{label}, logarithmic" if logarithmic else label, fontsize=8)
    axes.tick_params(labelsize=8)
    axes.xaxis.set_major_formatter(lambda value, _position: f"{value:,.0f}" if value >= 10 else f"{value:g}")
    axes.spines[["top", "right"]].set_visible(False)


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
