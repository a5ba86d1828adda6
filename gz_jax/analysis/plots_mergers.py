"""Figures of a merger fraction: its estimates beside published ones, its threshold, its reliability."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from gz_jax.analysis.plots import fit

BLUE, RED, GREEN, GREY = "#1f5a96", "#c8442d", "#2c7f4f", "#8a8a8a"
ESTIMATES = {
    "count": "(a) count above threshold",
    "sum": "(b) sum of vote fractions",
    "corrected": "(c) corrected count",
    "calibrated": "(d) calibrated probabilities",
    "posterior": "(e) the networks' own probabilities",
}


def _title(results: dict[str, Any], width: float) -> str:
    text = f"{results['answer']} ({results['meaning']}), {results['catalogue']['galaxies']:,} galaxies"
    return fit(text, width, 12, 3)


def comparison(results: dict[str, Any]) -> Figure:
    """Every estimate with its interval, the seeds' spread, the labels' own fraction and published values."""
    figure = Figure(figsize=(8.5, 5), layout="constrained")
    axes = figure.subplots()
    rows = [(ESTIMATES[k], e, BLUE) for k, e in results["estimates"].items()]
    rows += [(f"labels above {results['threshold']:g}, {k}", e, RED) for k, e in results["labels"].items()]
    rows += [(source, e, GREY) for source, e in results["published"].items()]
    top = max([e.high for _, e, _ in rows if np.isfinite(e.value) or e.high < 1], default=1)
    seeds_of = {ESTIMATES[k]: v for k, v in results["seeds"].items()}
    for place, (name, e, colour) in enumerate(rows):
        axes.hlines(place, e.low, e.high, color=colour, lw=2.5, alpha=0.8)
        if np.isfinite(e.value):
            axes.plot(e.value, place, "o", color=colour, ms=7)
        elif e.high > top:
            axes.text(top / 2, place - 0.12, "not measurable", ha="center", va="bottom", color=colour)
        seeds = seeds_of.get(name, [])
        axes.plot(seeds, np.full(len(seeds), place + 0.25), "|", color=colour, ms=9)
    axes.set_yticks(range(len(rows)), [name for name, *_ in rows])
    axes.invert_yaxis()
    ticks = "; ticks: single networks" if any(seeds_of.values()) else ""
    xlabel = f"fraction of galaxies, {100 * results['confidence']:g} % intervals{ticks}"
    axes.set(xlim=(0, top * 1.08), xlabel=xlabel, title=_title(results, 4.4))
    axes.grid(axis="x", alpha=0.3)
    return figure


def threshold_curve(results: dict[str, Any]) -> Figure:
    """The counted and the corrected fraction against the threshold, beside the labels' own share."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes, curve = figure.subplots(), results["curve"]
    x = np.array(curve["threshold"])
    for key, text, colour in (("count", "predictions above", BLUE), ("corrected", "corrected count", GREEN)):
        value, low, high = np.array(curve[key]).T
        axes.plot(x, np.where(value > 0, value, np.nan), "o-", color=colour, ms=4, label=text)
        axes.fill_between(x, np.maximum(low, 1e-9), high, where=value > 0, color=colour, alpha=0.2, lw=0)
    for source, line in zip(curve["labels"], ("--", ":"), strict=False):
        shares = np.array(curve["labels"][source])
        text = f"votes above, {source} labels"
        axes.plot(x, np.where(shares > 0, shares, np.nan), "s", ls=line, color=RED, ms=4, label=text)
    axes.axvline(results["threshold"], color=GREY, lw=1, ls=":")
    counts = [e.value for e in curve["count"]] + [v for part in curve["labels"].values() for v in part]
    positive = [v for v in counts if v > 0]
    axes.set(yscale="log", ylim=(min(positive, default=1e-3) / 2, min(1.0, 2 * max(positive, default=1))))
    axes.set(xlabel="threshold of the vote fraction", ylabel="fraction of galaxies above", title=_title(results, 6))
    axes.legend()
    axes.grid(alpha=0.3)
    return figure


def reliability(results: dict[str, Any]) -> Figure:
    """Predicted and volunteers' fractions; calibrated probability and the share above the threshold."""
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    texts = {
        "votes": ("predicted vote fraction", "mean vote fraction"),
        "calibrated": (
            f"calibrated probability of a vote fraction above {results['threshold']:g}",
            "share of galaxies above it",
        ),
    }
    panels = results["reliability"]
    for axes, (key, bins) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        axes.plot([0, 1], [0, 1], color=GREY, lw=1)
        axes.plot(bins["predicted"], bins["observed"], "o", color=BLUE)
        axes.vlines(bins["predicted"], bins["low"], bins["high"], color=BLUE)
        for x, y, n in zip(bins["predicted"], bins["observed"], bins["galaxies"], strict=True):
            place = {"xytext": (-5 if x > 0.9 else 5, 5 if y < 0.1 else -11), "ha": "right" if x > 0.9 else "left"}
            axes.annotate(f"{n:,}", (x, y), textcoords="offset points", fontsize=7, color=GREY, **place)
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel=texts[key][0], ylabel=texts[key][1])
        axes.set_aspect("equal")
        axes.grid(alpha=0.3)
    known, name = results["validation"]["galaxies"], f"{results['answer']} ({results['meaning']})"
    text = f"{name}: {known:,} validation galaxies, their number at each point"
    figure.suptitle(fit(text, 8.6, 10, 3), fontsize=10)
    return figure


FIGURES = {"estimates": comparison, "threshold": threshold_curve, "reliability": reliability}
