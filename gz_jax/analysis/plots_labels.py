"""Figures of the labels and of the images that go with them. Arrays in, `Figure` out."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from gz_jax.analysis.plots import GREY, RED, WIDTH, answer_panels, outer_ticks, show, styled
from gz_jax.labels import ANSWERS, NUM_ANSWERS, QUESTIONS


@styled
def label_histograms(train: np.ndarray, validation: np.ndarray | None = None) -> Figure:
    """Distribution of each label, training filled and validation outlined, on a log scale (figure 2).

    Args:
      train, validation: share of the galaxies per bin of 0..1, [37, bins].
    """
    figure, axes = answer_panels()
    edges, floor = np.linspace(0, 1, train.shape[1] + 1), 3e-5
    for j, ax in enumerate(axes):
        ax.stairs(np.maximum(train[j], floor), edges, fill=True, color="#9ecae1", baseline=floor)
        if validation is not None:
            ax.stairs(np.maximum(validation[j], floor), edges, color=RED, linewidth=0.9, baseline=floor)
        ax.set(yscale="log", ylim=(floor, 1.6), xlim=(0, 1))
    share = f"share of the galaxies in a bin of width {edges[1]:.2g}"
    outer_ticks(axes, "vote fraction", share, (1e-4, 1e-2, 1), ("10⁻⁴", "10⁻²", "1"))
    if validation is not None:
        figure.text(0.68, 0.02, "filled: training", color="#2f6f97", fontsize=7.5, weight="bold")
        figure.text(0.835, 0.02, "line: validation", color=RED, fontsize=7.5, weight="bold")
    return figure


@styled
def answer_images(images: np.ndarray, values: np.ndarray) -> Figure:
    """One galaxy for each answer: prototypes by label (figure 3), or the surest predictions (figure 11).

    Args:
      images: uint8 [37, S, S, 3].
      values: [37] vote fractions, written into the pictures.
    """
    figure, axes = answer_panels(bottom=0.0, left=0.08)
    for ax, image, value in zip(axes, images, values, strict=True):
        show(ax, image)
        ax.text(
            0.04, 0.04, f"{value:.2f}", transform=ax.transAxes, color="white", fontsize=6.5, weight="bold",
            bbox={"facecolor": "black", "alpha": 0.6, "edgecolor": "none", "pad": 1},
        )  # fmt: skip
    return figure


@styled
def correlation_matrix(correlation: np.ndarray) -> Figure:
    """The labels' correlations (equation 1), grouped by question (figure 4): [37, 37], NaN drawn grey."""
    height = 6.5
    figure = Figure(figsize=(WIDTH, height))
    ax = figure.add_axes((0.34, 0.085, 0.645, 0.645 * WIDTH / height))
    bar = figure.add_axes((0.34, 0.065, 0.645, 0.01))
    ax.set_facecolor("#cccccc")
    mesh = ax.imshow(correlation, cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
    ax.set_xticks(range(NUM_ANSWERS), ANSWERS, rotation=90, fontsize=6.4)
    ax.set_yticks(range(NUM_ANSWERS), ANSWERS, fontsize=6.4)
    ax.xaxis.tick_top()
    ax.tick_params(length=0, pad=2)
    ax.spines[:].set_visible(False)
    for q in QUESTIONS:
        if q.start:
            ax.axhline(q.start - 0.5, color="white", linewidth=1.6)
            ax.axvline(q.start - 0.5, color="white", linewidth=1.6)
        low, high, middle = q.start - 0.35, q.stop - 0.65, (q.start + q.stop - 1) / 2
        ax.plot([-7.65, -7.65], [low, high], color=GREY, linewidth=1.2, clip_on=False)
        ax.text(-8.0, middle, f"{q.number} {q.text}", ha="right", va="center", fontsize=6.4, weight="bold")
        ax.plot([low, high], [-7.65, -7.65], color=GREY, linewidth=1.2, clip_on=False)
        ax.text(middle, -7.95, str(q.number), ha="center", va="bottom", fontsize=6.4, weight="bold")
    ax.set(xlim=(-0.5, NUM_ANSWERS - 0.5), ylim=(NUM_ANSWERS - 0.5, -0.5))
    figure.colorbar(mesh, cax=bar, orientation="horizontal", ticks=[-1, -0.5, 0, 0.5, 1])
    bar.set_xlabel("correlation of two vote fractions", fontsize=7.5, labelpad=1)
    bar.tick_params(labelsize=6.8, pad=1)
    return figure


@styled
def pipeline_examples(
    raw: np.ndarray, crop: np.ndarray, augmented: np.ndarray, names: Sequence[str] | None = None
) -> Figure:
    """What the network is shown: each row a galaxy as on disk, cropped, and in several training views.

    Args:
      raw: uint8 [n, R, R, 3]. crop: uint8 or floating 0..1 [n, S, S, 3]. augmented: [n, k, S, S, 3].
      names: [n] texts at the left of the rows.
    """
    n, k = augmented.shape[:2]
    side = (WIDTH - 0.35) / (k + 2)
    figure = Figure(figsize=(WIDTH, side * n + 0.42))
    axes = figure.subplots(n, k + 2, squeeze=False)
    figure.subplots_adjust(0.04, 0.005, 0.998, 1 - 0.32 / (side * n + 0.42), wspace=0.04, hspace=0.04)
    for i, row in enumerate(axes):
        for ax, image in zip(row, (raw[i], crop[i], *augmented[i]), strict=True):
            show(ax, image)
        row[0].set_ylabel("" if names is None else names[i], fontsize=6.6, labelpad=3)
    axes[0, 0].set_title(f"on disk\n{raw.shape[1]} px", fontsize=7.2)
    axes[0, 1].set_title(f"crop\n{crop.shape[1]} px", fontsize=7.2)
    for ax in axes[0, 2:]:
        ax.set_title(f"training view\n{augmented.shape[2]} px", fontsize=7.2)
    return figure
