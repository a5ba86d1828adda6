"""What the labels look like: one pass over any number of galaxies, in memory that does not grow with them.

A `LabelSummary` is folded over blocks of labels; everything else here is a pure function of one or two
summaries (the training and the validation set). Means and covariances are merged as in Chan, Golub & LeVeque
1983, in float64; quantiles and distributions come from counts of the labels rounded to 1/10,000.
"""

from collections.abc import Callable, Iterable
from functools import reduce
from typing import Any, NamedTuple

import numpy as np

from gz_jax.labels import Tree
from gz_jax.runtime.errors import UserError

STEPS = 10_000  # labels are counted to the nearest 1/STEPS, so 0 and 1, which are common, are exact
Block = tuple[np.ndarray, np.ndarray]


class Side(NamedTuple):
    """One side of the data, as the figures need it.

    `blocks()` starts a pass over (galaxy_id int64 [n], vote_fractions [n, answers]); `images(positions)` takes
    int64 [n] positions in that order and returns uint8 [n, S, S, 3] RGB.
    """

    blocks: Callable[[], Iterable[Block]]
    images: Callable[[np.ndarray], np.ndarray]


class LabelSummary(NamedTuple):
    """Sufficient statistics of the labels seen so far; galaxies without labels are counted in `seen` alone."""

    seen: int
    count: int  # type: ignore[assignment]  # in place of tuple.count
    mean: np.ndarray  # float64 [answers]
    comoment: np.ndarray  # float64 [answers, answers]: sum of (x - mean)(y - mean)
    low: np.ndarray  # float64 [answers]
    high: np.ndarray  # float64 [answers]
    counts: np.ndarray  # int64 [answers, STEPS + 1]
    prototype: np.ndarray  # int64 [answers]: position of the galaxy with the highest label
    prototype_id: np.ndarray  # int64 [answers]: its galaxy_id; the lowest one among equals


def empty_summary(tree: Tree) -> LabelSummary:
    """The summary of no galaxies."""
    k = len(tree.columns)
    unset = np.full(k, -1, np.int64)
    return LabelSummary(
        0, 0, np.zeros(k), np.zeros((k, k)), np.full(k, np.inf), np.full(k, -np.inf),
        np.zeros((k, STEPS + 1), np.int64), unset, unset,
    )  # fmt: skip


def update(summary: LabelSummary, galaxy_id: np.ndarray, vote_fractions: np.ndarray) -> LabelSummary:
    """Fold a block of galaxies into a summary.

    Args:
      summary: so far.
      galaxy_id: int64 [n].
      vote_fractions: [n, answers]; a row with a NaN is a galaxy without labels.
    """
    x = np.asarray(vote_fractions, np.float64)
    known = np.asarray(np.isfinite(x).all(axis=1))
    positions = summary.seen + np.flatnonzero(known)
    x, ids, seen = x[known], np.asarray(galaxy_id)[known], summary.seen + len(vote_fractions)
    if not len(x):
        return summary._replace(seen=seen)
    n = summary.count + len(x)
    centred, delta = x - x.mean(0), x.mean(0) - summary.mean
    rounded = np.clip(np.rint(x * STEPS), 0, STEPS).astype(np.int64)
    fresh = np.stack([np.bincount(column, minlength=STEPS + 1) for column in rounded.T])
    # The highest label of this block; among equals the lowest galaxy_id, so the order of files does not matter.
    best = np.where(x == x.max(0), ids[:, None], np.iinfo(np.int64).max).argmin(0)
    better = (x.max(0) > summary.high) | ((x.max(0) == summary.high) & (ids[best] < summary.prototype_id))
    return LabelSummary(
        seen=seen,
        count=n,
        mean=summary.mean + delta * len(x) / n,
        comoment=summary.comoment + centred.T @ centred + np.outer(delta, delta) * (summary.count * len(x) / n),
        low=np.minimum(summary.low, x.min(0)),
        high=np.maximum(summary.high, x.max(0)),
        counts=summary.counts + fresh,
        prototype=np.where(better, positions[best], summary.prototype),
        prototype_id=np.where(better, ids[best], summary.prototype_id),
    )


def summarise(blocks: Iterable[Block], tree: Tree) -> LabelSummary:
    """One pass over (galaxy_id, vote_fractions) blocks.

    Raises:
      UserError: no galaxy has labels.
    """
    summary = reduce(lambda so_far, block: update(so_far, *block), blocks, empty_summary(tree))
    if not summary.count:
        raise UserError(f"none of the {summary.seen} galaxies has vote fractions: there is nothing to explore")
    return summary


def std(summary: LabelSummary) -> np.ndarray:
    """Population standard deviation of each label, float64 [answers]."""
    return np.sqrt(np.diag(summary.comoment) / summary.count)


def correlation(summary: LabelSummary) -> np.ndarray:
    """Pearson correlation of the labels, float64 [answers, answers] (equation 1); NaN where a label never varies."""
    scale = np.sqrt(np.diag(summary.comoment))
    with np.errstate(invalid="ignore", divide="ignore"):
        return summary.comoment / np.outer(scale, scale)


def quantiles(summary: LabelSummary, q: Iterable[float]) -> np.ndarray:
    """Quantiles of each label to 1/20,000, float64 [len(q), answers] (NumPy's method 'inverted_cdf')."""
    rank = np.clip(np.ceil(np.asarray(list(q)) * summary.count), 1, None)
    return np.stack([np.searchsorted(cdf, rank) for cdf in summary.counts.cumsum(1)], axis=1) / STEPS


def histograms(summary: LabelSummary, bins: int = 20) -> np.ndarray:
    """Share of the galaxies in `bins` equal bins of 0..1 (the last includes 1), float64 [answers, bins]."""
    which = np.minimum(np.arange(STEPS + 1) * bins // STEPS, bins - 1)
    starts = np.searchsorted(which, np.arange(bins))
    return np.add.reduceat(summary.counts, starts, axis=1) / summary.count


def ks_distance(a: LabelSummary, b: LabelSummary) -> np.ndarray:
    """Two-sample Kolmogorov-Smirnov distance of each label, float64 [answers]."""
    return np.abs(a.counts.cumsum(1) / a.count - b.counts.cumsum(1) / b.count).max(1)


def guess_rmse(train: LabelSummary, validation: LabelSummary) -> float:
    """RMSE on `validation` of always answering with the means of `train` (paper, section 2.4)."""
    return float(np.sqrt(np.mean(std(validation) ** 2 + (validation.mean - train.mean) ** 2)))


def label_table(train: LabelSummary, validation: LabelSummary | None, tree: Tree) -> list[dict[str, Any]]:
    """One row per answer: statistics of the training labels, and how far the validation labels stand off."""
    five, half, most = quantiles(train, (0.05, 0.5, 0.95))
    zeros, ones = train.counts[:, 0] / train.count, train.counts[:, -1] / train.count
    rows = [
        {
            "column": column,
            "question": tree.questions[tree.question_of[j]].text,
            "answer": tree.texts[j],
            "mean": train.mean[j],
            "std": std(train)[j],
            "min": train.low[j],
            "5 %": five[j],
            "median": half[j],
            "95 %": most[j],
            "max": train.high[j],
            "share at 0": zeros[j],
            "share at 1": ones[j],
        }
        for j, column in enumerate(tree.columns)
    ]
    if validation is not None:
        distance = ks_distance(train, validation)
        for j, row in enumerate(rows):
            row |= {"validation mean": validation.mean[j], "KS distance": distance[j]}
    return rows
