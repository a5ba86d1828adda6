"""Figure of where the squared error is, and how much of it is the votes' noise. Arrays in, `Figure` out."""

import numpy as np
from matplotlib.figure import Figure

from gz_jax.analysis.noise import Budget
from gz_jax.analysis.plots import BLUE, GREY, WIDTH, fit, styled
from gz_jax.labels import Tree


@styled
def error_budget(found: Budget, tree: Tree) -> Figure:
    """Parts of the mean squared error by question (left), and the error by the entropy of the votes (right)."""
    y = np.arange(len(tree.questions))
    height = max(0.26 * len(y) + 0.9, 2.6)
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
    left.barh(y, found.error, 0.72, color=BLUE)
    left.barh(y, found.noise, 0.72, color=GREY)
    left.set_yticks(y, [fit(q.text, 2.1, 7) for q in tree.questions], fontsize=7)
    left.set(ylim=(len(y) - 0.4, -0.6), xlim=(0, 1.05 * max(found.error.max(), found.noise.max())))
    left.set_xlabel("part of the mean squared error")
    left.tick_params(axis="y", length=0)
    left.spines["left"].set_visible(False)
    right.plot(found.entropy, found.group_error, "o-", color=BLUE, markersize=4, label="this network")
    right.plot(found.entropy, found.group_noise, "o-", color=GREY, markersize=4, label="noise of the votes")
    right.legend(fontsize=7.5, frameon=False, loc="upper left", labelcolor="linecolor")
    right.set(xlabel="entropy of the votes (bits)", ylabel="mean squared error")
    right.set_ylim(0, 1.25 * max(found.group_error.max(), found.group_noise.max()))
    right.set_xlim(left=0)
    return figure
