"""Figures of predictions against labels. Arrays in, `Figure` out."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import ListedColormap, LogNorm
from matplotlib.figure import Figure

from gz_jax.analysis.plots import BLUE, GREY, NARROW, RED, WIDTH, answer_panels, outer_ticks, show, styled
from gz_jax.labels import ANSWERS, QUESTIONS

INKS = ListedColormap(colormaps["viridis_r"](np.linspace(0.1, 1, 256)))  # few galaxies light, many dark
PLATE = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.8}


@styled
def predicted_vs_true(density: np.ndarray, rmse: np.ndarray) -> Figure:
    """Predicted against true vote fraction of every answer, as densities (figure 10).

    Args:
      density: galaxies per cell, [37, predicted bin, true bin], 0..1 both ways.
      rmse: [37], written into the panels.
    """
    figure, axes = answer_panels(bottom=0.95)
    norm = LogNorm(1, max(float(density.max()), 10.0))
    for ax, counts, error in zip(axes, density, rmse, strict=True):
        cells = np.ma.masked_equal(counts, 0)
        mesh = ax.imshow(cells, origin="lower", extent=(0, 1, 0, 1), norm=norm, cmap=INKS, interpolation="nearest")
        ax.plot([0, 1], [0, 1], color=RED, linewidth=0.8)
        ax.text(0.05, 0.95, f"{error:.3f}", transform=ax.transAxes, bbox=PLATE, fontsize=6.5, va="top", weight="bold")
        ax.set(xlim=(0, 1), ylim=(0, 1))
    outer_ticks(axes, "", "predicted vote fraction")
    height = figure.get_size_inches()[1]
    figure.text(0.5, 0.56 / height, "true vote fraction", ha="center", fontsize=8.5)
    bar = figure.add_axes((0.3, 0.34 / height, 0.4, 0.06 / height))
    figure.colorbar(mesh, cax=bar, orientation="horizontal")
    bar.set_xlabel("galaxies per cell (bold in the panels: RMSE; red: one to one)", fontsize=7, labelpad=1)
    bar.tick_params(labelsize=6.5)
    return figure


@styled
def reliability_diagrams(table: Mapping[str, np.ndarray]) -> Figure:
    """Mean true fraction in bins of the predicted one: on the line, predictions can be taken at their word.

    Args:
      table: `evaluate.reliability`'s count, predicted, true (each [37, bins]) and error [37].
    """
    figure, axes = answer_panels()
    for j, ax in enumerate(axes):
        count, p, t = table["count"][j], table["predicted"][j], table["true"][j]
        ax.plot([0, 1], [0, 1], color=GREY, linewidth=0.7)
        for chosen, face in ((count >= 10, BLUE), ((count > 0) & (count < 10), "white")):
            size = 4 + 5 * np.log10(np.maximum(count[chosen], 1))
            ax.scatter(p[chosen], t[chosen], s=size, facecolor=face, edgecolor=BLUE, linewidth=0.7, zorder=3)
        ax.text(
            0.05,
            0.95,
            f"{table['error'][j]:.3f}",
            transform=ax.transAxes,
            fontsize=6.5,
            va="top",
            weight="bold",
        )
        ax.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
    outer_ticks(axes, "predicted vote fraction (mean of the bin)", "true vote fraction (mean of the bin)")
    return figure


@styled
def answer_scores(rmse: np.ndarray, low: np.ndarray, high: np.ndarray, spread: np.ndarray) -> Figure:
    """RMSE of every answer with its interval; the grey tick is what guessing the mean gives.

    Args:
      rmse, low, high, spread: [37].
    """
    figure = Figure(figsize=(NARROW, 7.8))
    ax = figure.add_axes((0.39, 0.055, 0.58, 0.94))
    y = np.array([j + 1.05 * i for i, q in enumerate(QUESTIONS) for j in range(q.start, q.stop)])
    ax.hlines(y, 0, spread, color="#e3e3e3", linewidth=0.8, zorder=0)
    ax.plot(spread, y, "|", color=GREY, markersize=7, markeredgewidth=1.4)
    ax.hlines(y, low, high, color=BLUE, linewidth=1.2)
    ax.plot(np.r_[low, high], np.r_[y, y], "|", color=BLUE, markersize=5)
    ax.plot(rmse, y, "o", color=BLUE, markersize=3)
    ax.text(rmse[0], y[0] - 0.8, "this model", color=BLUE, fontsize=7, ha="center", weight="bold")
    for q in QUESTIONS:
        text = f"{q.number}  {q.text}"
        place = {"transform": ax.get_yaxis_transform(), "va": "center"}
        ax.text(-0.66, y[q.start] - 0.9, text, fontsize=7, weight="bold", **place)
    ax.set_yticks(y, ANSWERS, fontsize=7)
    ax.set(ylim=(y[-1] + 0.8, -1.5), xlim=(0, 1.08 * max(float(np.nanmax(spread)), float(np.nanmax(high)))))
    ax.text(ax.get_xlim()[1], y[0] - 0.8, "guessing the mean", color=GREY, fontsize=7, ha="right")
    ax.set_xlabel("RMSE of the vote fraction, 95 % interval")
    ax.spines["left"].set_visible(False)
    ax.tick_params(axis="y", length=0)
    return figure


@styled
def question_scores(
    accuracy: np.ndarray, low: np.ndarray, high: np.ndarray, majority: np.ndarray, asked: np.ndarray
) -> Figure:
    """Accuracy of each question where it applies; the grey tick is that of the commonest answer.

    Args:
      accuracy, low, high, majority, asked: [11]; NaN where a question applies to no galaxy.
    """
    figure = Figure(figsize=(NARROW, 3.7))
    ax = figure.add_axes((0.48, 0.13, 0.48, 0.8))
    y = np.arange(len(QUESTIONS))
    ax.hlines(y, 0, 1, color="#ececec", linewidth=0.7, zorder=0)
    ax.plot(majority, y, "|", color=GREY, markersize=9, markeredgewidth=1.6)
    ax.hlines(y, low, high, color=BLUE, linewidth=1.8)
    ax.plot(accuracy, y, "o", color=BLUE, markersize=4.5)
    names = [f"{q.text}  (n = {int(n):,})" for q, n in zip(QUESTIONS, asked, strict=True)]
    ax.set_yticks(y, names, fontsize=7)
    ax.set(
        ylim=(len(QUESTIONS) - 0.5, -0.9),
        xlim=(0, 1.01),
        xlabel="accuracy where it applies, 95 % interval",
    )
    ax.text(0.0, 1.0, "grey: commonest", color=GREY, fontsize=7, transform=ax.transAxes)
    ax.text(
        1.0,
        1.0,
        "blue: this model",
        color=BLUE,
        fontsize=7,
        weight="bold",
        ha="right",
        transform=ax.transAxes,
    )
    ax.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    ax.spines["left"].set_visible(False)
    ax.tick_params(axis="y", length=0)
    return figure


@styled
def purity_completeness(thresholds: np.ndarray, curve: np.ndarray, threshold: float) -> Figure:
    """Purity and completeness of mergers against the threshold of the predicted fraction: curve [2, n]."""
    figure = Figure(figsize=(NARROW, 2.9), layout="constrained")
    ax = figure.add_subplot()
    for values, name, colour in zip(curve, ("purity", "completeness"), (BLUE, RED), strict=True):
        known = np.isfinite(values)
        ax.plot(thresholds[known], values[known], color=colour, label=name)
        if (middle := known & (values < 0.55)).any():
            at = np.flatnonzero(middle)[-1 if name == "purity" else 0]
            side = {"xytext": (-8, 2), "ha": "right"} if name == "purity" else {"xytext": (8, 2), "ha": "left"}
            place = (thresholds[at], values[at])
            ax.annotate(name, place, textcoords="offset points", color=colour, weight="bold", **side)
    ax.axvline(threshold, color=GREY, linewidth=0.8, linestyle=(0, (4, 2)))
    ax.text(threshold, 1.06, f" threshold {threshold:g}", color=GREY, fontsize=7.5)
    ax.set(xlabel="predicted merger fraction (Class8.6) above", ylabel="share", ylim=(0, 1.12), xlim=(0, 1))
    return figure


@styled
def failures(
    images: np.ndarray, truth: np.ndarray, predicted: np.ndarray, titles: Sequence[str], top: int = 5
) -> Figure:
    """The worst failures: each galaxy beside the answers it was most wrong about, true and predicted.

    Args:
      images: uint8 [n, S, S, 3]. truth, predicted: [n, 37]. titles: n strings.
      top: how many answers to show.
    """
    rows, columns, pitch = -(-len(images) // 2), 2, 1.42
    height = rows * pitch + 0.25
    figure = Figure(figsize=(WIDTH, height))
    y = np.arange(top)
    for i, image in enumerate(images):
        left, base = (i % columns) * 0.5, (height + 0.1 - (i // columns + 1) * pitch) / height
        show(figure.add_axes((left + 0.005, base, 1.12 / WIDTH, 1.12 / height)), image)
        worst = np.argsort(-np.abs(predicted[i] - truth[i]), kind="stable")[:top]
        worst = worst[np.argsort(-truth[i][worst], kind="stable")]
        ax = figure.add_axes((left + 0.305, base + 0.02, 0.17, 1.06 / height))
        ax.hlines(
            y,
            *np.sort(np.stack([truth[i][worst], predicted[i][worst]]), axis=0),
            color="#cccccc",
            linewidth=1.2,
        )
        ax.plot(truth[i][worst], y, "o", color=BLUE, markersize=4.5, clip_on=False)
        ax.plot(predicted[i][worst], y, "D", color=RED, markersize=4, clip_on=False)
        ax.set_yticks(y, [ANSWERS[j] for j in worst], fontsize=6.6)
        ax.set(xlim=(0, 1), ylim=(top - 0.5, -0.5), xticks=[0, 0.5, 1])
        ax.tick_params(labelsize=6.4, axis="x", pad=1.5)
        ax.tick_params(axis="y", length=0)
        ax.spines["left"].set_visible(False)
        figure.text(left + 0.005, base + 1.14 / height, titles[i], fontsize=6.8, va="bottom")
    figure.text(0.38, 0.06 / height, "circle: volunteers", color=BLUE, fontsize=7.5, weight="bold", ha="center")
    figure.text(0.62, 0.06 / height, "diamond: predicted", color=RED, fontsize=7.5, weight="bold", ha="center")
    return figure
