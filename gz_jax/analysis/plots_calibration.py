"""Figures that test predicted intervals. From arrays to `Figure`."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gz_jax.analysis.calibration import Coverage, Judged
from gz_jax.analysis.plots import BLUE, GREY, INK, RED, WIDTH, fit, heading, styled
from gz_jax.labels import Tree

COLUMNS, BINS, GREEN = 4, 10, "#2c7f4f"


@styled
def coverage(judged: Judged, tree: Tree) -> Figure:
    """The share of votes inside the intervals of each level, question by question."""

    lines: list[tuple[str, Coverage, str, float, Any]] = [
        ("votes, calibrated intervals" if judged.alone else "votes", judged.coverage, BLUE, 1.5, "-")
    ]
    if judged.alone is not None:
        lines.append(("votes, the network's own intervals", judged.alone, RED, 0.9, (0, (3, 2))))
    if judged.true is not None:
        lines.append(("true fractions, calibrated intervals", judged.true, GREEN, 0.9, (0, (1, 1))))

    def draw(ax: Axes, question: int) -> None:
        found = judged.coverage
        ax.plot([0, 1], [0, 1], color=GREY, linewidth=0.8)
        ax.fill_between(found.level, found.low[question], found.high[question], color=BLUE, alpha=0.25, linewidth=0)
        for name, of, colour, width, style in reversed(lines):
            ax.plot(of.level, of.share[question], color=colour, linewidth=width, linestyle=style, label=name)
        ax.set(xlim=(0, 1), ylim=(0, 1), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
        ax.text(0.96, 0.06, f"{judged.asked[question]:,} asked", transform=ax.transAxes, fontsize=6.5, ha="right")

    figure = _panels(tree, draw, "level of the interval", "share of votes inside")
    if len(lines) > 1:
        handles, names = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles[::-1], names[::-1], loc="outside upper center", ncols=3, fontsize=7, frameon=False)
    return figure


@styled
def transforms(judged: Judged, tree: Tree) -> Figure:
    """Histograms of where the votes fell in their predicted distributions, question by question: flat if right."""
    assert judged.pit is not None
    pit = judged.pit

    def draw(ax: Axes, question: int) -> None:
        values = pit[:, tree.slices[question]]
        values = values[np.isfinite(values)]
        heights, edges = np.histogram(values, BINS, (0, 1))
        density = heights * BINS / max(len(values), 1)
        # Of a galaxy's answers to one question the number of galaxies, not of pairs, says how much chance allows.
        error = 2 * math.sqrt(BINS / max(int(judged.asked[question]), 1))
        ax.axhspan(1 - error, 1 + error, color=GREY, alpha=0.2, linewidth=0)
        ax.stairs(density, edges, color=BLUE, fill=True, alpha=0.7)
        ax.axhline(1, color=INK, linewidth=0.7)
        ax.set(xlim=(0, 1), ylim=(0, max(2.0, 1.1 * density.max(initial=0))), xticks=[0, 0.5, 1])
        if not len(values):
            ax.text(0.5, 0.5, "nobody asked", transform=ax.transAxes, color=RED, ha="center")

    return _panels(tree, draw, "probability integral transform of the votes", "density")


def _panels(tree: Tree, draw: Callable[[Axes, int], None], x: str, y: str) -> Figure:
    count = len(tree.questions)
    columns = min(COLUMNS, count)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(WIDTH * max(columns, 2) / COLUMNS, 1.75 * rows + 0.35), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for place, ax in enumerate(axes.ravel()):
        if place >= count:
            ax.set_visible(False)
            continue
        draw(ax, place)
        ax.set_title(fit(heading(tree, place), 1.45, 7.2, 2, "bold"), fontsize=7.2, weight="bold", loc="left")
    figure.supxlabel(x, fontsize=7.8)
    figure.supylabel(y, fontsize=7.8)
    return figure
