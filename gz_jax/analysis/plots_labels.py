"""Figures of the labels and of the images that belong to them. From arrays to `Figure`."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from gz_jax.analysis.plots import BELOW, GREY, RED, WIDTH, answer_panels, empty, fit, outer_ticks, show, styled
from gz_jax.labels import Tree


@styled
def label_histograms(train: np.ndarray, validation: np.ndarray | None, tree: Tree) -> Figure:
    """Distribution of each label, training filled and validation outlined, on a log scale (figure 2).

    Args:
      train, validation: share of the galaxies per bin of 0..1, [answers, bins]; NaN where an answer has no labels.
    """
    figure, axes = answer_panels(tree)
    edges, floor = np.linspace(0, 1, train.shape[1] + 1), 3e-5
    for j, ax in enumerate(axes):
        known = [side is not None and np.isfinite(side[j]).all() for side in (train, validation)]
        if not any(known):
            empty(ax)
        if known[0]:
            ax.stairs(np.maximum(train[j], floor), edges, fill=True, color="#9ecae1", baseline=floor)
        if validation is not None and known[1]:
            ax.stairs(np.maximum(validation[j], floor), edges, color=RED, linewidth=0.9, baseline=floor)
        ax.set(yscale="log", ylim=(floor, 1.6), xlim=(0, 1))
    share = f"share of galaxies per bin of {edges[1]:.2g}"
    outer_ticks(figure, axes, tree, "vote fraction", share, (1e-4, 1e-2, 1), ("10⁻⁴", "10⁻²", "1"))
    if validation is not None:
        width, height = figure.get_size_inches()
        for right, words, colour in ((2.304, "filled: training", "#2f6f97"), (1.188, "line: validation", RED)):
            figure.text(1 - right / width, BELOW / height, words, color=colour, fontsize=7.5, weight="bold")
    return figure


@styled
def answer_images(images: np.ndarray, values: np.ndarray, tree: Tree) -> Figure:
    """One galaxy for each answer: prototypes by label (figure 3), or the surest predictions (figure 11).

    Args:
      images: uint8 [answers, S, S, 3].
      values: [answers] vote fractions, written into the pictures; one that is not finite leaves its panel empty.
    """
    figure, axes = answer_panels(tree, bottom=0.0, left=0.08)
    for ax, image, value in zip(axes, images, values, strict=True):
        if not np.isfinite(value):
            show(ax, np.ones((1, 1, 3)))
            empty(ax)
            continue
        show(ax, image)
        ax.text(
            0.04, 0.04, f"{value:.2f}", transform=ax.transAxes, color="white", fontsize=6.5, weight="bold",
            bbox={"facecolor": "black", "alpha": 0.6, "edgecolor": "none", "pad": 1},
        )  # fmt: skip
    return figure


@styled
def correlation_matrix(correlation: np.ndarray, tree: Tree) -> Figure:
    """The labels' correlations (equation 1), grouped by question (figure 4): [answers, answers], NaN drawn grey."""
    n, alone = len(correlation), len(tree.questions) == 1
    room, above, below = 2.448 - 0.9 * alone, 1.303, 0.5532  # inches beside, above and below the matrix
    side = min(max(4.644, 0.1 * n), 0.9 * n, 16)
    width, height, cell = room + side + 0.108, above + side + below, side / n
    size = 6.4 * min(1, cell / 0.1)
    figure = Figure(figsize=(width, height))
    ax = figure.add_axes((room / width, below / height, side / width, side / height))
    bar = figure.add_axes((room / width, (below - 0.13) / height, side / width, 0.065 / height))
    ax.set_facecolor("#cccccc")
    mesh = ax.imshow(correlation, cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")

    def lines(inches: float) -> int:  # that fit into this height
        return max(int((inches - 0.089) / 0.107) + 1, 1)

    texts = [fit(text, 1.2 if alone else 0.88, size, lines(0.9 * cell)) for text in tree.texts]
    ax.set_xticks(range(n), texts, rotation=90, fontsize=size)
    ax.set_yticks(range(n), texts, fontsize=size)
    ax.xaxis.tick_top()
    ax.tick_params(length=0, pad=2)
    ax.spines[:].set_visible(False)
    edge = -0.5 - 0.897 / cell
    style: dict[str, Any] = {"fontsize": size, "weight": "bold"}
    for i, s in enumerate(() if alone else tree.slices):
        if s.start:
            ax.axhline(s.start - 0.5, color="white", linewidth=1.6)
            ax.axvline(s.start - 0.5, color="white", linewidth=1.6)
        low, high, middle = s.start - 0.35, s.stop - 0.65, (s.start + s.stop - 1) / 2
        text = fit(f"{i + 1} {tree.questions[i].text}", 1.42, size, lines((s.stop - s.start) * cell), "bold")
        ax.plot([edge, edge], [low, high], color=GREY, linewidth=1.2, clip_on=False)
        ax.text(edge - 0.044 / cell, middle, text, ha="right", va="center", **style)
        ax.plot([low, high], [edge, edge], color=GREY, linewidth=1.2, clip_on=False)
        ax.text(middle, edge - 0.038 / cell, str(i + 1), ha="center", va="bottom", **style)
    for (i, j), value in np.ndenumerate(correlation if cell > 0.4 else np.zeros((0, 0))):
        text = f"{value:.2f}" if np.isfinite(value) else "–"
        ax.text(j, i, text, ha="center", va="center", color="white" if abs(value) > 0.6 else "black")
    ax.set(xlim=(-0.5, n - 0.5), ylim=(n - 0.5, -0.5))
    figure.colorbar(mesh, cax=bar, orientation="horizontal", ticks=[-1, -0.5, 0, 0.5, 1])
    bar.set_xlabel("correlation of two vote fractions", fontsize=7.5, labelpad=1)
    bar.tick_params(labelsize=6.8, pad=1)
    return figure


@styled
def pipeline_examples(
    raw: np.ndarray, crop: np.ndarray, augmented: np.ndarray, names: Sequence[str] | None = None, first: str = ""
) -> Figure:
    """What the network sees: in each row a galaxy as on disk, cropped, and in several training views.

    Args:
      raw: uint8 [n, R, R, 3]. crop: uint8 or floating 0..1 [n, S, S, 3]. augmented: [n, k, S, S, 3].
      names: [n] texts at the left of the rows; first: title of the first column, instead of the size of `raw`.
    """
    n, k = augmented.shape[:2]
    side = (WIDTH - 0.35) / (k + 2)
    figure = Figure(figsize=(WIDTH, side * n + 0.42))
    axes = figure.subplots(n, k + 2, squeeze=False)
    figure.subplots_adjust(0.04, 0.005, 0.998, 1 - 0.32 / (side * n + 0.42), wspace=0.04, hspace=0.04)
    for i, row in enumerate(axes):
        for ax, image in zip(row, (raw[i], crop[i], *augmented[i]), strict=True):
            show(ax, image)
        row[0].set_ylabel("" if names is None else fit(names[i], side, 6.6), fontsize=6.6, labelpad=3)
    axes[0, 0].set_title(first or f"on disk\n{raw.shape[1]} px", fontsize=7.2)
    axes[0, 1].set_title(f"crop\n{crop.shape[1]} px", fontsize=7.2)
    for ax in axes[0, 2:]:
        ax.set_title(f"training view\n{augmented.shape[2]} px", fontsize=7.2)
    return figure
