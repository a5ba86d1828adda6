"""Moments, intervals and draws of Dirichlet outputs: against scipy, draws, and by hand."""

import numpy as np
import pytest
from scipy import stats

from gz_jax import labels, posterior
from gz_jax.labels import GALAXY_ZOO_2, Question, Tree

DECALS = labels.load("galaxy_zoo_decals")
# Two answers of one question and one of another lead to the last.
CROSSED = Tree(
    "crossed",
    (
        Question("last", "?", ("x", "y"), ("x", "y"), ("x", "y"), ("first_a", "second_d")),
        Question("first", "?", ("a", "b", "c"), ("a", "b", "c"), ("a", "b", "c")),
        Question("second", "?", ("d", "e"), ("d", "e"), ("d", "e"), ("first_b", "first_c")),
    ),
)


def some(tree, shape=(3,), seed=0):
    return np.exp(np.random.default_rng(seed).normal(0.5, 1.5, (*shape, len(tree.columns))))


def test_conditional_moments_and_intervals_are_scipys():
    a = some(GALAXY_ZOO_2)
    moments = posterior.conditional_moments(a, GALAXY_ZOO_2)
    low, high = posterior.interval(moments, 0.9)
    for i in range(3):
        for s in GALAXY_ZOO_2.slices:
            one = stats.dirichlet(a[i, s])
            np.testing.assert_allclose(moments.mean[i, s], one.mean(), rtol=1e-12)
            np.testing.assert_allclose(moments.square[i, s] - moments.mean[i, s] ** 2, one.var(), rtol=1e-9)
            beta = stats.beta(a[i, s], a[i, s].sum() - a[i, s])
            np.testing.assert_allclose([low[i, s], high[i, s]], beta.interval(0.9), rtol=1e-6, atol=1e-12)


def test_joint_moments_by_hand():
    """Kind (1, 1), then arms (2, 1) after the second kind: 1/2 of 2/3, and squares 1/3 and 1/2, 1/6."""
    tree = Tree(
        "two",
        (
            Question("kind", "?", ("a", "b"), ("a", "b"), ("a", "b")),
            Question("arms", "?", ("c", "d"), ("c", "d"), ("c", "d"), ("kind_b",)),
        ),
    )
    found = posterior.joint_moments(np.array([1.0, 1, 2, 1]), tree)
    np.testing.assert_allclose(found.mean, [1 / 2, 1 / 2, 1 / 3, 1 / 6])
    np.testing.assert_allclose(found.square, [1 / 3, 1 / 3, 1 / 6, 1 / 18])


@pytest.mark.parametrize("tree", [GALAXY_ZOO_2, DECALS, CROSSED], ids=lambda tree: tree.name)
def test_joint_moments_are_those_of_draws(tree):
    """Within five standard errors, with several parents too."""
    a, count = some(tree), 40_000
    drawn = np.asarray(labels.joint(posterior.draws(a, tree, count, seed=1).astype(np.float32), tree), np.float64)
    assert labels.tree_violation(drawn[:10], tree).max() < 1e-5
    found = posterior.joint_moments(a, tree)
    for moment, power in zip(found, (1, 2), strict=True):
        values = drawn**power
        assert (np.abs(values.mean(0) - moment) < 5 * values.std(0) / count**0.5 + 1e-6).all()


def test_draws_of_tiny_concentrations_are_fractions():
    found = posterior.draws(np.full((1, 37), 1e-4), GALAXY_ZOO_2, 50)
    assert np.isfinite(found).all()
    for s in GALAXY_ZOO_2.slices:
        np.testing.assert_allclose(found[..., s].sum(-1), 1)


def test_an_even_mixture_has_the_moments_of_both_and_wider_intervals():
    a = np.stack([np.array([8.0, 2.0]), np.array([2.0, 8.0])])
    tree = Tree("pair", (Question("q", "?", ("a", "b"), ("a", "b"), ("a", "b")),))
    each = posterior.conditional_moments(a, tree)
    both = posterior.mixture(each)
    np.testing.assert_allclose(both.mean, 0.5)
    np.testing.assert_allclose(both.square, (8 * 9 + 2 * 3) / (10 * 11) / 2)
    one, two = (posterior.interval(m, 0.9) for m in (posterior.Moments(each.mean[0], each.square[0]), both))
    assert two[1][0] - two[0][0] > one[1][0] - one[0][0]


@pytest.mark.parametrize("level", [0.5, 0.9, 0.99])
def test_intervals_of_certain_and_of_undecided_galaxies_stay_in_order(level):
    a = np.exp(np.array([[9.0, -9, -9], [-9, -9, -9], [9, 9, 9], [0, 0, 0]]))
    tree = Tree("three", (Question("q", "?", ("a", "b", "c"), ("a", "b", "c"), ("a", "b", "c")),))
    for moments in (posterior.conditional_moments(a, tree), posterior.joint_moments(a, tree)):
        low, high = posterior.interval(moments, level)
        assert np.isfinite([low, high]).all()
        assert ((low >= 0) & (low <= high) & (high <= 1)).all()


def test_exceedance_is_scipys_tail_of_the_same_beta_and_counts_draws():
    a, b = np.array([0.05, 0.5, 2.0, 30.0]), np.array([9.0, 0.5, 5.0, 20.0])
    of = stats.beta(a, b)
    np.testing.assert_allclose(posterior.exceedance(of.mean(), of.std(), 0.3), of.sf(0.3), rtol=1e-9)
    stored = np.float32(of.mean()), np.float32(of.std())  # as a table has them
    np.testing.assert_allclose(posterior.exceedance(*stored, 0.3), of.sf(0.3), rtol=1e-4)
    assert np.isnan(posterior.exceedance(np.array([np.nan]), np.array([np.nan]), 0.3)).all()
    # A joint fraction is a product, not a Beta: the tail is near that of draws.
    concentrations = np.random.default_rng(3).uniform(0.3, 15, (6, 37))
    moments = posterior.joint_moments(concentrations, GALAXY_ZOO_2)
    deviation = np.sqrt(moments.square - moments.mean**2)
    drawn = labels.joint(posterior.draws(concentrations, GALAXY_ZOO_2, 4000).astype(np.float32), GALAXY_ZOO_2)
    found = posterior.exceedance(moments.mean, deviation, 0.3)
    np.testing.assert_allclose(found, (np.asarray(drawn) > 0.3).mean(0), atol=0.03)
