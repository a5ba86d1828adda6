"""Figures of a merger fraction: its estimates beside published ones, its threshold, its reliability."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from gz_jax.analysis.plots import BLUE, GREEN, GREY, RED, WIDTH, fit, styled

ESTIMATES = {
    "count": "(a) count above threshold",
    "sum": "(b) mean vote fraction",
    "corrected": "(c) corrected count",
    "calibrated": "(d) calibrated probabilities",
    "posterior": "(e) the networks' own probabilities",
}
GRID: dict[str, Any] = {"color": "#e6e6e6", "linewidth": 0.6}


def _title(ax: Axes, results: dict[str, Any], width: float) -> None:
    text = f"{results['meaning']} ({results['answer']}), {results['catalogue']['galaxies']:,} galaxies"
    ax.set_title(fit(text, width, 8.5, 3, "bold"), loc="left", weight="bold")


@styled
def comparison(results: dict[str, Any]) -> Figure:
    """Every estimate with its interval, the seeds' spread, the labels' own fraction and published values."""
    rows = [(ESTIMATES[k], e, BLUE) for k, e in results["estimates"].items()]
    rows += [(f"votes above {results['threshold']:g}, {k} galaxies", e, RED) for k, e in results["labels"].items()]
    rows += [(source, e, GREY) for source, e in results["published"].items()]
    figure = Figure(figsize=(WIDTH, 0.26 * len(rows) + 0.85), layout="constrained")
    axes = figure.subplots()
    top = max([e.high for _, e, _ in rows if np.isfinite(e.value) or e.high < 1], default=1)
    seeds_of = {ESTIMATES[k]: v for k, v in results["seeds"].items()}
    for place, (name, e, colour) in enumerate(rows):
        if not np.isfinite(e.value) and (e.low, e.high) == (0, 1):
            axes.text(top / 2, place, "cannot be measured", ha="center", va="center", color=colour, fontsize=7.5)
            continue
        axes.hlines(place, e.low, e.high, color=colour, lw=1.8)
        if np.isfinite(e.value):
            axes.plot(e.value, place, "o", color=colour, ms=4.5, clip_on=False)
        seeds = seeds_of.get(name, [])
        axes.plot(seeds, np.full(len(seeds), place + 0.3), "|", color=colour, ms=6)
    axes.set_yticks(range(len(rows)), [name for name, *_ in rows])
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    ticks = "; ticks: single networks" if any(seeds_of.values()) else ""
    axes.set(xlim=(0, top * 1.08), xlabel=f"fraction of galaxies, {100 * results['confidence']:g} % interval{ticks}")
    _title(axes, results, 4.4)
    axes.grid(axis="x", **GRID)
    axes.set_axisbelow(True)
    return figure


@styled
def threshold_curve(results: dict[str, Any]) -> Figure:
    """The counted and the corrected fraction against the threshold, beside the labels' own share."""
    figure = Figure(figsize=(5.9, 3.6), layout="constrained")
    axes, curve = figure.subplots(), results["curve"]
    x = np.array(curve["threshold"])
    for key, text, colour in (("count", "(a) predictions above", BLUE), ("corrected", "(c) corrected count", GREEN)):
        value, low, high = np.array(curve[key]).T
        if not (value > 0).any():
            continue
        axes.plot(x, np.where(value > 0, value, np.nan), "o-", color=colour, ms=3, label=text)
        axes.fill_between(x, np.maximum(low, 1e-9), high, where=value > 0, color=colour, alpha=0.2, lw=0)
    for source, line in zip(curve["labels"], ("--", ":"), strict=False):
        shares = np.array(curve["labels"][source])
        text = f"votes above, {source} galaxies"
        axes.plot(x, np.where(shares > 0, shares, np.nan), "s", ls=line, color=RED, ms=3, label=text)
    axes.axvline(results["threshold"], color=GREY, lw=0.8, ls=(0, (4, 2)), label=f"threshold {results['threshold']:g}")
    counts = [e.value for e in curve["count"]] + [v for part in curve["labels"].values() for v in part]
    positive = [v for v in counts if v > 0]
    axes.set(yscale="log", ylim=(min(positive, default=1e-3) / 2, min(1.0, 2 * max(positive, default=1))), xlim=(0, 1))
    axes.set(xlabel="threshold of the vote fraction", ylabel="fraction of galaxies above")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter() if np.ptp(np.log10(axes.get_ylim())) > 1 else "{x:g}")
    _title(axes, results, 5)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=7.5)  # curves may run anywhere
    axes.grid(**GRID)
    return figure


@styled
def reliability(results: dict[str, Any]) -> Figure:
    """Predicted and volunteers' fractions; calibrated probability and the share above the threshold."""
    panels = results["reliability"]
    figure = Figure(figsize=(WIDTH * len(panels) / 2, 3.9), layout="constrained")
    texts = {
        "votes": ("mean predicted vote fraction", "mean true vote fraction"),
        "calibrated": (
            f"calibrated probability of a vote fraction above {results['threshold']:g}",
            "share of galaxies above it",
        ),
    }
    for axes, (key, bins) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        axes.plot([0, 1], [0, 1], color=GREY, lw=0.8)
        axes.plot(bins["predicted"], bins["observed"], "o", color=BLUE, ms=4)
        axes.vlines(bins["predicted"], bins["low"], bins["high"], color=BLUE, lw=1.2)
        for x, y, n in zip(bins["predicted"], bins["observed"], bins["galaxies"], strict=True):
            place = {"xytext": (-5 if x > 0.9 else 5, 5 if y < 0.1 else -11), "ha": "right" if x > 0.9 else "left"}
            axes.annotate(f"{n:,}", (x, y), textcoords="offset points", fontsize=7, color=GREY, **place)
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel=texts[key][0], ylabel=texts[key][1])
        axes.set_aspect("equal")
    known, name = results["validation"]["galaxies"], f"{results['meaning']} ({results['answer']})"
    text = f"{name}: {known:,} labelled galaxies, their number at each point"
    figure.suptitle(fit(text, WIDTH * len(panels) / 2 - 0.2, 8.5, 3, "bold"), fontsize=8.5, weight="bold")
    return figure


FIGURES = {"estimates": comparison, "threshold": threshold_curve, "reliability": reliability}
