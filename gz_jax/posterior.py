"""Distributions of one galaxy's vote fractions, as Dirichlet outputs give them: moments, intervals and draws.

For each question the fractions among those who are asked follow a Dirichlet distribution with the network's
concentrations, the questions independently of one another; joint fractions are products of these. Several networks or
test-time views are an equal mixture. All functions are NumPy in float64 and take any leading shape.
"""

from typing import NamedTuple

import numpy as np
from scipy import special

from gz_jax.labels import Tree


class Moments(NamedTuple):
    """Expectations of each answer's fraction and of its square, float64 [..., answers]."""

    mean: np.ndarray
    square: np.ndarray


def conditional_moments(concentrations: np.ndarray, tree: Tree) -> Moments:
    """Of the fractions among those who were asked; concentrations [..., answers] are positive."""
    a = np.asarray(concentrations, np.float64)
    total = _totals(a, tree)
    mean = a / total
    return Moments(mean, mean * (a + 1) / (total + 1))


def joint_moments(concentrations: np.ndarray, tree: Tree) -> Moments:
    """Of the fractions of all volunteers, exactly, for questions with any number of parents.

    Question by question, each after those that lead to it: its answers' shares are independent of all joint fractions
    known by then, so the expectation of a product of two joint fractions is that of the shares times that of who was
    asked.
    """
    a = np.asarray(concentrations, np.float64)
    mean, square = conditional_moments(a, tree)
    totals = _totals(a, tree)
    joint = np.ones_like(mean)
    products = np.zeros((*mean.shape, mean.shape[-1]))  # expectation of the product of two joint fractions
    done: list[int] = []
    for question in tree.order:
        own, parents = tree.slices[question], list(tree.parents[question])
        asked, asked_square, with_asked = np.ones(1), np.ones((1, 1)), joint
        if parents:
            asked = joint[..., parents].sum(-1)[..., None]
            asked_square = products[..., parents, :][..., parents].sum((-2, -1))[..., None, None]
            with_asked = products[..., parents].sum(-1)
        joint[..., own] = mean[..., own] * asked
        pairs = a[..., own, None] * a[..., None, own] / (totals * (totals + 1))[..., own, None]
        width = own.stop - own.start
        pairs[..., range(width), range(width)] = square[..., own]
        products[..., own, own] = pairs * asked_square
        products[..., done, own] = with_asked[..., done, None] * mean[..., None, own]
        products[..., own, done] = np.swapaxes(products[..., done, own], -1, -2)
        done += range(own.start, own.stop)
    return Moments(joint, np.diagonal(products, axis1=-2, axis2=-1).copy())


def mixture(moments: Moments, axis: int = 0) -> Moments:
    """Of an equal mixture of the distributions along an axis."""
    return Moments(moments.mean.mean(axis), moments.square.mean(axis))


def interval(moments: Moments, level: float | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the central interval that holds `level` of the Beta distribution with these moments, float64.

    For one network's conditional fractions that is the answer's own distribution; for joint fractions and mixtures it
    is an approximation with the right mean and variance. `level` is one number, or one for each answer.
    """
    a, b = _beta(moments)
    return special.betaincinv(a, b, (1 - level) / 2), special.betaincinv(a, b, (1 + level) / 2)


def cumulative(moments: Moments, fractions: np.ndarray) -> np.ndarray:
    """Probability of a fraction below `fractions`, float64, under the Beta distributions with these moments."""
    return special.betainc(*_beta(moments), np.clip(np.asarray(fractions, np.float64), 0, 1))


def exceedance(mean: np.ndarray, deviation: np.ndarray, threshold: float) -> np.ndarray:
    """Probability of a fraction above `threshold`, float64, under the Beta distributions of `interval`.

    Args:
      mean, deviation: of a fraction, in 0..1, of one shape; the standard deviation is the square root of the variance.
    """
    mean, deviation = np.asarray(mean, np.float64), np.asarray(deviation, np.float64)
    return 1 - cumulative(Moments(mean, mean * mean + deviation * deviation), np.asarray(threshold))


def draws(concentrations: np.ndarray, tree: Tree, count: int, seed: int = 0) -> np.ndarray:
    """`count` draws of the fractions among those who were asked: float64 [count, ..., answers]; see `labels.joint`."""
    a = np.asarray(concentrations, np.float64)
    # ln of a gamma variate, which may be smaller than any float64: that of one more, and a power of a uniform one.
    rng = np.random.default_rng(seed)
    shape = (count, *a.shape)
    logs = np.log(rng.standard_gamma(a + 1, shape)) + np.log(1 - rng.random(shape)) / a
    out = np.empty(shape)
    for own in tree.slices:
        out[..., own] = special.softmax(logs[..., own], axis=-1)
    return out


def _totals(a: np.ndarray, tree: Tree) -> np.ndarray:
    """Each answer's sum over the answers of its question."""
    sums = np.stack([a[..., own].sum(-1) for own in tree.slices], -1)
    return sums[..., list(tree.question_of)]


def _beta(moments: Moments) -> tuple[np.ndarray, np.ndarray]:
    """Parameters of the Beta distribution with these moments."""
    mean, square = moments
    spread = np.maximum(square - mean * mean, 1e-14)
    both = np.maximum(mean * (1 - mean) / spread - 1, 1e-6)
    return np.maximum(mean * both, 1e-9), np.maximum((1 - mean) * both, 1e-9)
