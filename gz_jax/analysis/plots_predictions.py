"""Figures that compare predictions with labels. From arrays to `Figure`."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import ListedColormap, LogNorm
from matplotlib.figure import Figure

from gz_jax.analysis import plots
from gz_jax.analysis.plots import BLUE, GREY, NARROW, RED, WIDTH, answer_panels, fit, heading, outer_ticks, show, styled
from gz_jax.labels import Tree

INKS = ListedColormap(colormaps["viridis_r"](np.linspace(0.1, 1, 256)))  # few galaxies light, many dark
PLATE = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.8}


@styled
def predicted_vs_true(density: np.ndarray, rmse: np.ndarray, tree: Tree) -> Figure:
    """Predicted against true vote fraction of every answer, as densities (figure 10).

    Args:
      density: galaxies per cell, [answers, predicted bin, true bin], 0..1 both ways.
      rmse: [answers], written into the panels.
    """
    figure, axes = answer_panels(tree, bottom=0.95)
    most = max(float(density.max()), 10.0)
    norm = LogNorm(1, most)
    for ax, counts, error in zip(axes, density, rmse, strict=True):
        cells = np.ma.masked_equal(counts, 0)
        mesh = ax.imshow(cells, origin="lower", extent=(0, 1, 0, 1), norm=norm, cmap=INKS, interpolation="nearest")
        ax.set(xlim=(0, 1), ylim=(0, 1))
        if not counts.any():
            plots.empty(ax)
            continue
        ax.plot([0, 1], [0, 1], color=RED, linewidth=0.8)
        ax.text(0.05, 0.95, f"{error:.3f}", transform=ax.transAxes, bbox=PLATE, fontsize=6.5, va="top", weight="bold")
    outer_ticks(figure, axes, tree, "", "predicted vote fraction")
    height = figure.get_size_inches()[1]
    figure.text(0.5, 0.56 / height, "true vote fraction", ha="center", fontsize=8.5)
    bar = figure.add_axes((0.3, 0.34 / height, 0.4, 0.06 / height))
    decades = [10**k for k in range(int(np.log10(most)) + 1)]
    figure.colorbar(mesh, cax=bar, orientation="horizontal", ticks=decades, format="%d").minorticks_off()
    bar.set_xlabel("galaxies per cell (bold in the panels: RMSE; line: one to one)", fontsize=7, labelpad=1)
    bar.tick_params(labelsize=6.5)
    return figure


@styled
def reliability_diagrams(table: Mapping[str, np.ndarray], tree: Tree) -> Figure:
    """Mean true fraction in bins of the predicted one: on the line, predictions are right on average.

    Args:
      table: `evaluate.reliability`'s count, predicted, true (each [answers, bins]) and error [answers].
    """
    figure, axes = answer_panels(tree)
    for j, ax in enumerate(axes):
        count, p, t = table["count"][j], table["predicted"][j], table["true"][j]
        ax.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
        if not count.any():
            plots.empty(ax)
            continue
        ax.plot([0, 1], [0, 1], color=GREY, linewidth=0.7)
        for chosen, face in ((count >= 10, BLUE), ((count > 0) & (count < 10), "white")):
            size = 4 + 5 * np.log10(np.maximum(count[chosen], 1))
            ax.scatter(p[chosen], t[chosen], s=size, facecolor=face, edgecolor=BLUE, linewidth=0.7, zorder=3)
        ax.text(0.05, 0.95, f"{table['error'][j]:.3f}", transform=ax.transAxes, fontsize=6.5, va="top", weight="bold")
    outer_ticks(figure, axes, tree, "predicted vote fraction (mean of the bin)", "true vote fraction (mean of the bin)")
    return figure


@styled
def answer_scores(rmse: np.ndarray, low: np.ndarray, high: np.ndarray, spread: np.ndarray, tree: Tree) -> Figure:
    """RMSE of every answer with its interval; the grey tick is what guessing the mean gives.

    Args:
      rmse, low, high, spread: [answers]; NaN for an answer without labels.
    """
    y = np.arange(len(rmse)) + 1.05 * np.array(tree.question_of)
    heads = [fit(heading(tree, i), 4.4, 7, 1, "bold") for i in range(len(tree.questions))]
    top = 0.8 if heads[0] == fit(heading(tree, 0), 1.75, 7, 1, "bold") else 1.7  # the colours' names, above a long one
    texts = [fit(text, 1.65, 7, 2 if len(y) <= 20 else 1) for text in tree.texts]
    unit = 0.25 if any("\n" in text for text in texts) else 0.15024
    height = unit * (y[-1] + 1.5 + top) + 0.4685
    figure = Figure(figsize=(NARROW, height))
    ax = figure.add_axes((0.39, 0.429 / height, 0.58, 1 - 0.468 / height))
    ax.hlines(y, 0, spread, color="#e3e3e3", linewidth=0.8, zorder=0)
    ax.plot(spread, y, "|", color=GREY, markersize=7, markeredgewidth=1.4)
    ax.hlines(y, low, high, color=BLUE, linewidth=1.2)
    ax.plot(np.r_[low, high], np.r_[y, y], "|", color=BLUE, markersize=5)
    ax.plot(rmse, y, "o", color=BLUE, markersize=3)
    place: dict[str, Any] = {"transform": ax.get_yaxis_transform(), "va": "center", "weight": "bold"}
    for s, text in zip(tree.slices, heads, strict=True):
        ax.text(-0.66, y[s.start] - 0.9, text, fontsize=7, **place)
    ax.set_yticks(y, texts, fontsize=7)
    ax.set(ylim=(y[-1] + 0.8, -top - 0.7), xlim=(0, 1.08 * max(float(np.nanmax(spread)), float(np.nanmax(high)))))
    end = ax.get_xlim()[1]
    for row in y[np.isnan(rmse)]:
        ax.text(0, row, "no labels", color=GREY, fontsize=6.8, va="center")
    ax.text(0.5 * end, -top, "dot: this model", color=BLUE, fontsize=7, ha="right", weight="bold")
    ax.text(end, -top, "tick: guessing the mean", color=GREY, fontsize=7, ha="right")
    ax.set_xlabel("RMSE of the vote fraction, 95 % interval")
    ax.spines["left"].set_visible(False)
    ax.tick_params(axis="y", length=0)
    return figure


@styled
def question_scores(
    accuracy: np.ndarray, low: np.ndarray, high: np.ndarray, majority: np.ndarray, asked: np.ndarray, tree: Tree
) -> Figure:
    """Accuracy of each question where it applies; the grey tick is that of the commonest answer.

    Args:
      accuracy, low, high, majority, asked: [questions]; NaN where a question applies to no galaxy.
    """
    y, names = np.arange(len(tree.questions)), []
    for q, n in zip(tree.questions, asked, strict=True):
        count = f"(n = {int(n):,})"
        whole = f"{q.text}  {count}"
        names.append(whole if fit(whole, 2.1, 7) == whole else f"{fit(q.text, 2.1, 7, 2)}\n{count}")
    height = (0.36 if any(name.count("\n") > 1 for name in names) else 0.2596) * (len(y) + 0.4) + 0.741
    figure = Figure(figsize=(NARROW, height))
    ax = figure.add_axes((0.48, 0.481 / height, 0.48, 1 - 0.74 / height))
    ax.hlines(y, 0, 1, color="#ececec", linewidth=0.7, zorder=0)
    ax.plot(majority, y, "|", color=GREY, markersize=9, markeredgewidth=1.6)
    ax.hlines(y, low, high, color=BLUE, linewidth=1.8)
    ax.plot(accuracy, y, "o", color=BLUE, markersize=4.5, clip_on=False)
    ax.set_yticks(y, names, fontsize=7)
    ax.set(ylim=(len(y) - 0.5, -0.9), xlim=(0, 1.01), xlabel="accuracy, 95 % interval")
    place: dict[str, Any] = {"transform": ax.transAxes, "ha": "right", "fontsize": 7}
    ax.text(0.34, 1.0, "dot: this model", color=BLUE, weight="bold", **place)
    ax.text(1.0, 1.0, "tick: always the commonest", color=GREY, **place)
    ax.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    ax.spines["left"].set_visible(False)
    ax.tick_params(axis="y", length=0)
    return figure


@styled
def purity_completeness(thresholds: np.ndarray, curve: np.ndarray, threshold: float, column: str) -> Figure:
    """Purity and completeness of mergers against the threshold of the predicted fraction `column`: curve [2, n]."""
    figure = Figure(figsize=(NARROW, 2.9), layout="constrained")
    ax = figure.add_subplot()
    # The names stand above the axes, where no curve can be, not at the curves, which may run anywhere.
    for values, name, colour, x, style in zip(
        curve, ("solid: purity", "dotted: completeness"), (BLUE, RED), (0.62, 1.0), ("-", (0, (1, 1))), strict=True
    ):
        known = np.isfinite(values)
        ax.plot(thresholds[known], values[known], color=colour, linestyle=style, linewidth=1.8, clip_on=False)
        ax.text(x, 1.04, name, color=colour, weight="bold", fontsize=7.5, ha="right", transform=ax.transAxes)
    ax.axvline(threshold, color=GREY, linewidth=0.8, linestyle=(0, (4, 2)))
    ax.text(0, 1.04, f"dashed: threshold {threshold:g}", color=GREY, fontsize=7.5, transform=ax.transAxes)
    xlabel = f"selected: galaxies with a predicted {fit(column, 1.2, 8.5)} above"
    ax.set(xlabel=xlabel, ylabel="share", ylim=(0, 1), xlim=(0, 1))
    return figure


@styled
def failures(
    images: np.ndarray, truth: np.ndarray, predicted: np.ndarray, titles: Sequence[str], tree: Tree, top: int = 5
) -> Figure:
    """The worst failures: each galaxy beside the answers it was most wrong about, true and predicted.

    Args:
      images: uint8 [n, S, S, 3]. truth, predicted: [n, answers], truth NaN where unknown. titles: n strings.
      top: how many answers to show, if there are as many.
    """
    rows, columns, pitch, top = -(-len(images) // 2), 2, 1.42, min(top, truth.shape[1])
    height = rows * pitch + 0.25
    figure = Figure(figsize=(WIDTH, height))
    for i, image in enumerate(images):
        left, base = (i % columns) * 0.5, (height + 0.1 - (i // columns + 1) * pitch) / height
        show(figure.add_axes((left + 0.005, base, 1.12 / WIDTH, 1.12 / height)), image)
        worst = np.argsort(-np.abs(predicted[i] - truth[i]), kind="stable")[:top]  # NaN come last
        worst = worst[np.isfinite(truth[i][worst])]
        worst = worst[np.argsort(-truth[i][worst], kind="stable")]
        ax = figure.add_axes((left + 0.305, base + 0.02, 0.17, 1.06 / height))
        low, high = np.sort(np.stack([truth[i][worst], predicted[i][worst]]), axis=0)
        y = np.arange(len(worst))
        ax.hlines(y, low, high, color="#cccccc", linewidth=1.2)
        ax.plot(truth[i][worst], y, "o", color=BLUE, markersize=4.5, clip_on=False)
        ax.plot(predicted[i][worst], y, "D", color=RED, markersize=4, clip_on=False)
        ax.set_yticks(y, [fit(tree.texts[j], 1.0, 6.6, 1 if top > 4 else 2) for j in worst], fontsize=6.6)
        ax.set(xlim=(0, 1), ylim=(top - 0.5, -0.5), xticks=[0, 0.5, 1])
        ax.tick_params(labelsize=6.4, axis="x", pad=1.5)
        ax.tick_params(axis="y", length=0)
        ax.spines["left"].set_visible(False)
        figure.text(left + 0.005, base + 1.14 / height, fit(titles[i], 3.5, 6.8), fontsize=6.8, va="bottom")
    figure.text(0.38, 0.06 / height, "circle: volunteers", color=BLUE, fontsize=7.5, weight="bold", ha="center")
    figure.text(0.62, 0.06 / height, "diamond: predicted", color=RED, fontsize=7.5, weight="bold", ha="center")
    return figure
