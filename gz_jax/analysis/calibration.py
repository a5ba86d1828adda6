"""Tests of predicted intervals: their coverage, and the place of observed votes in their predicted distributions.

Given Beta distributions of each answer's fraction, the votes for it among those who were asked follow a beta-binomial
distribution. Its cumulative probability at the observed votes, the probability integral transform (PIT), is uniform if
the predicted distributions are right (Dawid 1984; randomised between the votes' own steps as in Czado, Gneiting & Held
2009). The share of PIT values in the central 90 % is the coverage of 90 % intervals.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import special

from gz_jax import posterior
from gz_jax.inference import conformal
from gz_jax.inference.conformal import Levels
from gz_jax.labels import Tree

LEVELS = np.linspace(0.05, 0.95, 19)
_AT_ONCE = 1 << 22  # numbers in memory at a time


class Coverage(NamedTuple):
    """Of the pairs of a galaxy and an answer that are known.

    Attributes:
      level: float64 [levels]; share: float64 [..., levels], of values inside the central interval of that level;
      low, high: of its 95 % interval over galaxies (normal approximation of the binomial); galaxies: int64 [...].
    """

    level: np.ndarray
    share: np.ndarray
    low: np.ndarray
    high: np.ndarray
    galaxies: np.ndarray


def vote_cdf(votes: np.ndarray, asked: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """P(X <= votes) of beta-binomial X: float64 of the arguments' common shape [n]; 0 below 0 votes.

    As `scipy.stats.betabinom.cdf`, but for all galaxies at once.

    Args:
      votes, asked: whole numbers, at most `asked` votes; a, b: of the Beta distribution, positive.
    """
    votes, asked, a, b = np.broadcast_arrays(*(np.asarray(x, np.float64) for x in (votes, asked, a, b)))
    out = np.zeros(votes.shape)
    width = int(np.max(votes, initial=-1)) + 1
    rows = max(1, _AT_ONCE // max(width, 1))
    k = np.arange(width)
    for first in range(0, len(votes), rows):
        part = slice(first, first + rows)
        n, a_, b_ = asked[part, None], a[part, None], b[part, None]
        inside = k <= votes[part, None]
        kept = np.where(inside, k, 0)
        choose = special.gammaln(n + 1) - special.gammaln(kept + 1) - special.gammaln(n - kept + 1)
        logs = choose + special.betaln(kept + a_, n - kept + b_) - special.betaln(a_, b_)
        out[part] = np.where(inside, np.exp(logs), 0).sum(1)
    return np.minimum(out, 1)


def pit(votes: np.ndarray, asked: np.ndarray, a: np.ndarray, b: np.ndarray, seed: int = 0) -> np.ndarray:
    """Randomised probability integral transform of votes: float64 of their shape; NaN where nobody was asked.

    Args:
      votes, asked: [...] whole numbers, NaN or 0 asked where unknown; a, b: [components, ...] of the Beta
        distributions whose equal mixture is predicted.
    """
    votes, asked = np.asarray(votes, np.float64), np.asarray(asked, np.float64)
    known = np.isfinite(votes) & (np.nan_to_num(asked) > 0)
    n, total = votes[known], asked[known]
    at, below = (
        np.mean([vote_cdf(x, total, one[known], other[known]) for one, other in zip(a, b, strict=True)], 0)
        for x in (n, n - 1)
    )
    out = np.full(votes.shape, np.nan)
    out[known] = below + np.random.default_rng(seed).random(n.shape) * (at - below)
    return out


def coverage(values: np.ndarray, levels: np.ndarray = LEVELS) -> Coverage:
    """How often values that should be uniform in 0..1 lie in the central intervals: values [n, ...], NaN unknown."""
    known = np.isfinite(values)
    count = known.sum(0)
    off = np.where(known, np.abs(values - 0.5), np.inf)
    share = (off[..., None] <= levels / 2).sum(0) / np.maximum(count, 1)[..., None]
    error = 1.96 * np.sqrt(share * (1 - share) / np.maximum(count, 1)[..., None])
    return Coverage(levels, share, np.maximum(share - error, 0), np.minimum(share + error, 1), count)


class Judged(NamedTuple):
    """How well a network's intervals hold for each question, on labelled galaxies outside training.

    Attributes:
      kind: 'dirichlet' or 'conformal' (see `intervals`).
      coverage: of all pairs of a galaxy and an answer, [questions, levels], each half of the galaxies with intervals
        that the other half calibrates; asked: galaxies asked each question.
      width: median width of the 90 % interval of an answer's fraction among those who were asked, [questions].

    Of Dirichlet outputs alone, else None:
      pit: of votes, float64 [n, answers], NaN where unknown, in the distributions as the network has them.
      log_likelihood: of each galaxy's votes, nats, float64 [n].
      alone: coverage without calibration; levels: the calibration by all galaxies.
      true: coverage, as the first, of the fractions that the votes were drawn from, where these are known.
    """

    kind: str
    coverage: Coverage
    asked: np.ndarray
    width: np.ndarray
    pit: np.ndarray | None = None
    log_likelihood: np.ndarray | None = None
    alone: Coverage | None = None
    levels: Levels | None = None
    true: Coverage | None = None


def judge_dirichlet(
    counts: np.ndarray, concentrations: np.ndarray, tree: Tree, true: np.ndarray | None = None, seed: int = 0
) -> Judged:
    """Of votes [n, answers], whole numbers, and concentrations [components, n, answers], an equal mixture.

    `true`, of synthetic galaxies: the fractions [n, answers] that the votes among those who were asked were drawn from.
    """
    sums = np.stack([counts[:, own].sum(1) for own in tree.slices], 1)
    totals = np.stack([concentrations[..., own].sum(-1) for own in tree.slices], -1)
    of = list(tree.question_of)
    values = pit(counts, sums[:, of], concentrations, totals[..., of] - concentrations, seed)
    moments = posterior.mixture(posterior.conditional_moments(concentrations, tree))
    placed = [values]
    if true is not None:
        placed.append(np.where(np.isnan(values), np.nan, posterior.cumulative(moments, true)))
    reached = [np.full(values.shape, np.nan) for _ in placed]
    for fit, rest in _halves(len(values), seed):
        asked = conformal.central_levels(values[fit], tree).central[:, None, of]
        for level, place in zip(reached, placed, strict=True):
            level[rest] = _reached(np.abs(2 * place[rest] - 1), asked)
    covered = [_by_question(0.5 + level / 2, tree) for level in reached]
    levels = conformal.central_levels(values, tree)
    low, high = posterior.interval(moments, levels.central[89, of])
    width = np.where(sums[:, of] > 0, high - low, np.nan)
    return Judged(
        "dirichlet",
        covered[0],
        (sums > 0).sum(0),
        _median(width, tree),
        values,
        log_likelihood(counts, concentrations, tree),
        _by_question(values, tree),
        levels,
        covered[1] if true is not None else None,
    )


def _halves(count: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Twice a half of the galaxies and the others, bool [count]."""
    half = np.random.default_rng(seed).permutation(count) % 2 == 0
    return [(half, ~half), (~half, half)]


def _reached(off: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """The smallest level, 0..1, whose interval holds a value: off [n, answers], NaN unknown; ends [99, ...] rising."""
    return np.where(np.isnan(off), np.nan, ((ends < off).sum(0) + 0.5) / 100)


def judge_conformal(truth: np.ndarray, predicted: np.ndarray, tree: Tree, seed: int = 0) -> Judged:
    """Of joint fractions [n, answers], NaN where unknown: each half of the galaxies calibrates the other.

    Only galaxies of which a tenth of the volunteers were asked count, as in the calibration.
    """
    true, guess = conformal.conditional(truth, tree), conformal.conditional(predicted, tree, least=0)
    level = np.full(truth.shape, np.nan)
    width = np.full(truth.shape, np.nan)
    for fit, rest in _halves(len(truth), seed):
        found = conformal.calibrate(truth[fit], predicted[fit], tree).conditional
        error = np.abs(true[rest] - guess[rest]) / conformal.scale(guess[rest])
        level[rest] = _reached(error, found[:, None])
        width[rest] = np.where(np.isnan(error), np.nan, 2 * found[89] * conformal.scale(guess[rest]))
    asked = np.stack([np.isfinite(true[:, own]).any(1).sum() for own in tree.slices])
    return Judged("conformal", _by_question(0.5 + level / 2, tree), asked, _median(width, tree))


def log_likelihood(counts: np.ndarray, concentrations: np.ndarray, tree: Tree) -> np.ndarray:
    """Logarithm of the probability of each galaxy's votes, nats [n], under an equal mixture [components, n, answers].

    Question by question a Dirichlet-multinomial distribution (scipy.stats.dirichlet_multinomial); a question that
    nobody was asked counts 0.
    """
    a, lgamma = np.asarray(concentrations, np.float64), special.gammaln
    each = np.zeros(a.shape[:2])
    for own in tree.slices:
        k, c = counts[:, own], a[..., own]
        n, total = k.sum(-1), c.sum(-1)
        each += lgamma(n + 1) - lgamma(k + 1).sum(-1) + lgamma(total) - lgamma(n + total)
        each += (lgamma(k + c) - lgamma(c)).sum(-1)
    return special.logsumexp(each, axis=0) - np.log(len(a))


def multinomial_log_likelihood(counts: np.ndarray, conditional: np.ndarray, tree: Tree) -> np.ndarray:
    """The same for networks that predict fractions [n, answers] alone: of votes drawn from exactly these."""
    p, lgamma = np.clip(np.asarray(conditional, np.float64), 1e-6, 1), special.gammaln
    coefficient = np.stack([lgamma(counts[:, own].sum(1) + 1) for own in tree.slices], 1).sum(1)
    return coefficient + (counts * np.log(p) - lgamma(counts + 1)).sum(1)


def _by_question(values: np.ndarray, tree: Tree) -> Coverage:
    each = [coverage(values[:, own].reshape(-1, 1)) for own in tree.slices]
    rows: Sequence[np.ndarray] = [np.concatenate([getattr(c, name) for c in each]) for name in Coverage._fields[1:]]
    return Coverage(LEVELS, *rows)


def _median(width: np.ndarray, tree: Tree) -> np.ndarray:
    parts = [width[:, own][np.isfinite(width[:, own])] for own in tree.slices]
    medians = np.array([np.median(part) if len(part) else np.nan for part in parts])
    return np.where(np.isfinite(medians), medians, np.nan)
