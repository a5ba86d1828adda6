"""Distributions of one galaxy's vote fractions, from a network with Dirichlet outputs: moments, intervals and draws.

For each question the fractions among those who are asked follow a Dirichlet distribution with the network's
concentrations. The questions are independent of one another, and joint fractions are products of these fractions. The
distributions of several networks or test-time views are mixed with equal weights. All functions are NumPy in float64
and take any leading shape.
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
    """Moments of the fractions among those who were asked; concentrations [..., answers] are positive."""
    a = np.asarray(concentrations, np.float64)
    total = _totals(a, tree)
    mean = a / total
    return Moments(mean, mean * (a + 1) / (total + 1))


def joint_moments(concentrations: np.ndarray, tree: Tree) -> Moments:
    """Moments of the fractions of all volunteers, exactly, for questions with any number of parents.

    The questions are treated one by one, each after those that lead to it. The shares of its answers are independent of
    all joint fractions before it. Therefore the expectation of a product of joint fractions is a product of two
    expectations: that of the shares, and that of the fractions of volunteers who were asked.
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
    """Moments of the mixture, with equal weights, of the distributions along an axis."""
    return Moments(moments.mean.mean(axis), moments.square.mean(axis))


def interval(moments: Moments, level: float | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the central interval that contains `level` of the Beta distribution with these moments, float64.

    For one network's conditional fractions this Beta distribution is exact; for joint fractions and mixtures it is an
    approximation with the right mean and variance. `level` is one number, or one for each answer.
    """
    a, b = _beta(moments)
    return special.betaincinv(a, b, (1 - level) / 2), special.betaincinv(a, b, (1 + level) / 2)


def cumulative(moments: Moments, fractions: np.ndarray) -> np.ndarray:
    """Probability of a fraction below `fractions`, float64, under the Beta distributions with these moments."""
    return special.betainc(*_beta(moments), np.clip(np.asarray(fractions, np.float64), 0, 1))


def exceedance(mean: np.ndarray, deviation: np.ndarray, threshold: float) -> np.ndarray:
    """Probability of a fraction above `threshold`, float64, under the Beta distributions of `interval`.

    Args:
      mean, deviation: mean and standard deviation of a fraction, in 0..1, of the same shape.
    """
    mean, deviation = np.asarray(mean, np.float64), np.asarray(deviation, np.float64)
    return 1 - cumulative(Moments(mean, mean * mean + deviation * deviation), np.asarray(threshold))


def draws(concentrations: np.ndarray, tree: Tree, count: int, seed: int = 0) -> np.ndarray:
    """`count` draws of the fractions among those who were asked: float64 [count, ..., answers]; see `labels.joint`."""
    a = np.asarray(concentrations, np.float64)
    # Logarithms of gamma variates, which may themselves be smaller than any float64: Gamma(a) is distributed like
    # Gamma(a + 1) U^(1/a) with U uniform in 0..1.
    rng = np.random.default_rng(seed)
    shape = (count, *a.shape)
    logs = np.log(rng.standard_gamma(a + 1, shape)) + np.log(1 - rng.random(shape)) / a
    out = np.empty(shape)
    for own in tree.slices:
        out[..., own] = special.softmax(logs[..., own], axis=-1)
    return out


def _totals(a: np.ndarray, tree: Tree) -> np.ndarray:
    """For each answer, the sum of `a` over all answers of its question."""
    sums = np.stack([a[..., own].sum(-1) for own in tree.slices], -1)
    return sums[..., list(tree.question_of)]


def _beta(moments: Moments) -> tuple[np.ndarray, np.ndarray]:
    """Parameters of the Beta distribution with these moments."""
    mean, square = moments
    spread = np.maximum(square - mean * mean, 1e-14)
    both = np.maximum(mean * (1 - mean) / spread - 1, 1e-6)
    return np.maximum(mean * both, 1e-9), np.maximum((1 - mean) * both, 1e-9)
