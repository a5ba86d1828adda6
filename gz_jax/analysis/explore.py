"""Statistics of the labels from one pass over any number of galaxies, with constant memory.

A `LabelSummary` is updated block by block. Everything else here is a pure function of one or two summaries (of the
training and the validation set). Means and covariances are merged as in Chan, Golub & LeVeque
1983, in float64; quantiles and distributions come from counts of the labels rounded to 1/10,000.

Labels may be unknown (NaN) in part. Every number is over the galaxies whose label is known, that of two answers over
those where both are.
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

    `blocks()` starts a pass over (ids int64 or str [n], vote_fractions [n, answers]); `images(positions)` takes
    int64 [n] positions in that order and returns uint8 [n, S, S, 3] RGB.
    """

    blocks: Callable[[], Iterable[Block]]
    images: Callable[[np.ndarray], np.ndarray]


class LabelSummary(NamedTuple):
    """Sufficient statistics of the labels seen so far; galaxies without labels are counted in `seen` alone.

    Row i of `pairs`, `centre` and `square` is of answer i over the galaxies where answer j is known, too. The last
    column is over all galaxies with answer i, a galaxy weighing more the fewer of its answers are known.
    """

    seen: int
    count: int  # type: ignore[assignment]  # in place of tuple.count
    pairs: np.ndarray  # float64 [answers, answers + 1]: number of galaxies, or sum of their weights
    centre: np.ndarray  # float64 [answers, answers + 1]: mean
    square: np.ndarray  # float64 [answers, answers + 1]: sum of (x - mean)^2
    comoment: np.ndarray  # float64 [answers, answers]: sum of (x - mean)(y - mean)
    low: np.ndarray  # float64 [answers]
    high: np.ndarray  # float64 [answers]
    counts: np.ndarray  # int64 [answers, STEPS + 1]
    prototype: np.ndarray  # int64 [answers]: position of the galaxy with the highest label
    prototype_id: np.ndarray  # int64 or str [answers]: its id; the lowest one among equals

    @property
    def known(self) -> np.ndarray:
        """Galaxies with a label of each answer, int64 [answers]."""
        return np.diag(self.pairs).astype(np.int64)

    @property
    def mean(self) -> np.ndarray:
        """Of each label, float64 [answers]; NaN where it is known nowhere."""
        return np.where(self.known > 0, np.diag(self.centre), np.nan)


def empty_summary(tree: Tree) -> LabelSummary:
    """The summary of no galaxies."""
    k = len(tree.columns)
    unset, none = np.full(k, -1, np.int64), np.zeros((k, k + 1))
    return LabelSummary(
        0, 0, none, none, none, np.zeros((k, k)), np.full(k, np.inf), np.full(k, -np.inf),
        np.zeros((k, STEPS + 1), np.int64), unset, unset,
    )  # fmt: skip


def update(summary: LabelSummary, galaxy_id: np.ndarray, vote_fractions: np.ndarray) -> LabelSummary:
    """Fold a block of galaxies into a summary.

    Args:
      summary: so far.
      galaxy_id: int64 or str [n].
      vote_fractions: [n, answers]; NaN where unknown.
    """
    x, seen = np.asarray(vote_fractions, np.float64), summary.seen + len(vote_fractions)
    positions = summary.seen + np.flatnonzero(np.isfinite(x).any(1))
    x, ids = x[positions - summary.seen], np.asarray(galaxy_id)[positions - summary.seen]
    if not len(x):
        return summary._replace(seen=seen)
    k, known = x.shape[1], np.isfinite(x)
    # This block alone: x is centred on its mean, and the mean over pairs lies `shift` from that.
    weights = np.column_stack([known, k / known.sum(1)])
    own = np.where(known, x, 0).sum(0) / np.maximum(known.sum(0), 1)
    y, number = np.where(known, x - own, 0), known.T.astype(np.float64) @ weights
    whole = known.T.astype(np.float64) @ (weights != 1) == 0  # all of i's galaxies have j as well
    shift = np.where(whole, 0, y.T @ weights / np.maximum(number, 1))
    comoment = y.T @ y - number[:, :k] * shift[:, :k] * shift[:, :k].T
    square = np.where(whole, np.diag(comoment)[:, None], (y * y).T @ weights - number * shift**2)
    # With the blocks before.
    pairs, delta = summary.pairs + number, own[:, None] + shift - summary.centre
    some = np.maximum(pairs, 1)
    between = summary.pairs * number / some
    rounded = np.clip(np.rint(np.where(known, x, 0) * STEPS), 0, STEPS).astype(np.int64)
    fresh = np.stack([np.bincount(rounded[known[:, j], j], minlength=STEPS + 1) for j in range(k)])
    # The highest label of this block; among equals the lowest id, so the order of files does not matter.
    order, high = np.argsort(ids, kind="stable"), np.where(known, x, -np.inf)
    best = order[high[order].argmax(0)]
    high, before = high.max(0), summary.prototype_id if summary.count else ids[best]
    better = (high > summary.high) | ((high == summary.high) & (ids[best] < before))
    return LabelSummary(
        seen=seen,
        count=summary.count + len(x),
        pairs=pairs,
        centre=summary.centre + delta * number / some,
        square=summary.square + square + delta**2 * between,
        comoment=summary.comoment + comoment + delta[:, :k] * delta[:, :k].T * between[:, :k],
        low=np.minimum(summary.low, np.where(known, x, np.inf).min(0)),
        high=np.maximum(summary.high, high),
        counts=summary.counts + fresh,
        prototype=np.where(better, positions[best], summary.prototype),
        prototype_id=np.where(better, ids[best], before),
    )


def summarise(blocks: Iterable[Block], tree: Tree) -> LabelSummary:
    """One pass over (ids, vote_fractions) blocks.

    Raises:
      UserError: no galaxy has labels.
    """
    summary = reduce(lambda so_far, block: update(so_far, *block), blocks, empty_summary(tree))
    if not summary.count:
        raise UserError(f"none of the {summary.seen} galaxies has vote fractions: there is nothing to show")
    return summary


def std(summary: LabelSummary) -> np.ndarray:
    """Population standard deviation of each label, float64 [answers]."""
    return np.sqrt(np.diag(summary.comoment) / _some(summary))


def _some(summary: LabelSummary) -> np.ndarray:
    """Galaxies with a label of each answer, NaN where there is none: float64 [answers]."""
    return np.where(summary.known > 0, summary.known, np.nan)


def correlation(summary: LabelSummary) -> np.ndarray:
    """Pearson correlation of the labels, float64 [answers, answers] (equation 1); NaN where a label never varies."""
    square = summary.square[:, :-1]
    scale = np.sqrt(np.where(square > 1e-12 * summary.pairs[:, :-1], square, np.nan))
    return np.asarray(summary.comoment / (scale * scale.T))


def quantiles(summary: LabelSummary, q: Iterable[float]) -> np.ndarray:
    """Quantiles of each label to 1/20,000, float64 [len(q), answers] (NumPy's method 'inverted_cdf')."""
    ranks = np.clip(np.ceil(np.outer(summary.known, list(q))), 1, None)
    found = [np.searchsorted(cdf, rank) for cdf, rank in zip(summary.counts.cumsum(1), ranks, strict=True)]
    return np.where(summary.known > 0, np.stack(found, axis=1) / STEPS, np.nan)


def histograms(summary: LabelSummary, bins: int = 20) -> np.ndarray:
    """Share of the galaxies in `bins` equal bins of 0..1 (the last includes 1), float64 [answers, bins].

    NaN for an answer without labels.
    """
    which = np.minimum(np.arange(STEPS + 1) * bins // STEPS, bins - 1)
    starts = np.searchsorted(which, np.arange(bins))
    return np.add.reduceat(summary.counts, starts, axis=1) / _some(summary)[:, None]


def ks_distance(a: LabelSummary, b: LabelSummary) -> np.ndarray:
    """Two-sample Kolmogorov-Smirnov distance of each label, float64 [answers]."""
    first, second = (side.counts.cumsum(1) / _some(side)[:, None] for side in (a, b))
    return np.abs(first - second).max(1)


def guess_rmse(train: LabelSummary, validation: LabelSummary) -> float:
    """RMSE on `validation` of always answering with the means of `train` (paper, section 2.4).

    As in the scores, a galaxy's error is the mean over its known answers. Answers unknown on a side do not count.
    """
    n = np.where((train.known > 0) & (validation.known > 0), validation.pairs[:, -1], 0)
    if not n.any():
        return float("nan")
    some = np.where(n > 0, n, np.nan)
    off = np.sqrt(validation.square[:, -1] / some) ** 2 + (validation.centre[:, -1] - train.mean) ** 2
    return float(np.sqrt(np.average(off[n > 0], weights=n[n > 0] / validation.count)))


def label_table(train: LabelSummary, validation: LabelSummary | None, tree: Tree) -> list[dict[str, Any]]:
    """One row for each answer: statistics of the training labels, and their distance from the validation labels."""
    five, half, most = quantiles(train, (0.05, 0.5, 0.95))
    zeros, ones = train.counts[:, 0] / _some(train), train.counts[:, -1] / _some(train)
    rows = [
        {
            "column": column,
            "question": tree.questions[tree.question_of[j]].text,
            "answer": tree.texts[j],
            **({"galaxies": int(train.known[j])} if (train.known < train.count).any() else {}),
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
