"""The Dirichlet-multinomial loss: hand-computed, and against scipy's distribution, in value and gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from gz_jax import labels
from gz_jax.labels import GALAXY_ZOO_2, Question, Tree
from gz_jax.training import losses

PAIR = Tree("pair", (Question("q", "?", ("a", "b"), ("a", "b"), ("a", "b")),))


def nats(logits, counts, tree=GALAXY_ZOO_2):
    """The loss, float32 [B], in nats."""
    counts = jnp.asarray(counts, jnp.float32)
    return 44 * losses.dirichlet(jnp.asarray(logits, jnp.float32), counts * jnp.nan, counts / 44, "dirichlet", tree)


def by_scipy(logits, counts, tree=GALAXY_ZOO_2):
    """Minus scipy's logarithm of the likelihood, without the multinomial coefficient, float64."""
    concentrations, total = np.exp(9 * np.tanh(np.asarray(logits, np.float64) / 9)), 0.0
    for s in tree.slices:
        n = np.asarray(counts[s], int)
        if n.sum():
            coefficient = special.gammaln(n.sum() + 1) - special.gammaln(n + 1).sum()
            total -= stats.dirichlet_multinomial.logpmf(n, concentrations[s], n.sum()) - coefficient
    return total


def test_by_hand():
    """Concentrations 1 and 1: three votes of two answers come up 0, 1, 2, 3 with 1/4 each, in 1, 3, 3, 1 orders."""
    found = nats(jnp.zeros((4, 2)), [[0, 3], [1, 2], [2, 1], [3, 0]], PAIR)
    np.testing.assert_allclose(found, np.log([4, 12, 12, 4]), rtol=1e-6)


@pytest.mark.parametrize("most", [1, 44, 10_000])
@pytest.mark.parametrize("spread", [1, 4, 20])
def test_value_and_gradient_are_scipys(most, spread):
    rng = np.random.default_rng(most + spread)
    logits, counts = rng.normal(0, spread, (4, 37)), rng.integers(0, most + 1, (4, 37))
    counts[0], counts[1, GALAXY_ZOO_2.slices[3]] = 0, 0
    expected = np.array([by_scipy(x, n) for x, n in zip(logits, counts, strict=True)])
    np.testing.assert_allclose(nats(logits, counts), expected, rtol=2e-5, atol=1e-4)
    slope = np.asarray(jax.grad(lambda x: nats(x, counts).sum())(jnp.asarray(logits, jnp.float32)))
    for i in range(4):  # central differences of scipy's, in float64
        steps = 1e-4 * np.eye(37)
        far = [(by_scipy(logits[i] + h, counts[i]) - by_scipy(logits[i] - h, counts[i])) / 2e-4 for h in steps]
        np.testing.assert_allclose(slope[i], far, rtol=1e-3, atol=2e-3 * max(1, np.abs(far).max() * 1e-2))


def test_the_difference_of_gammas_is_accurate_where_its_parts_are_large():
    x, n = np.meshgrid([1e-4, 0.01, 1, 50, 8100], [0, 0.5, 1, 44, 1e4])
    expected = special.gammaln(x + n) - special.gammaln(x)
    found = losses.log_rising(jnp.float32(x), jnp.float32(n))
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
    slope = jax.vmap(jax.vmap(jax.grad(losses.log_rising)))(jnp.float32(x), jnp.float32(n))
    np.testing.assert_allclose(slope, special.digamma(x + n) - special.digamma(x), rtol=1e-4)
    assert (slope[0] == 0).all()  # of 0 votes, exactly


def test_questions_that_nobody_was_asked_count_exactly_nothing():
    rng = np.random.default_rng(0)
    logits, counts = rng.normal(0, 3, (1, 37)), rng.integers(1, 9, (1, 37))
    counts[:, GALAXY_ZOO_2.slices[5]] = 0
    logits[:, GALAXY_ZOO_2.slices[5]] = [[80, -80]]
    whole, slope = jax.value_and_grad(lambda x: nats(x, counts)[0])(jnp.asarray(logits, jnp.float32))
    assert (np.asarray(slope)[:, GALAXY_ZOO_2.slices[5]] == 0).all()
    logits[:, GALAXY_ZOO_2.slices[5]] = 0
    assert nats(logits, counts)[0] == whole
    assert nats(logits, 0 * counts)[0] == 0


def test_with_large_concentrations_it_is_the_multinomial_loss():
    """Up to what 1/8,100 is of the votes; and the same expected fractions."""
    fractions = np.random.default_rng(1).dirichlet([1, 1, 1], 5)
    tree = Tree("three", (Question("q", "?", ("a", "b", "c"), ("a", "b", "c"), ("a", "b", "c")),))
    logits = 9 * np.arctanh(np.log(8000 * fractions) / 9)
    counts = np.array([[3, 1, 0], [1, 2, 3], [0, 0, 1], [4, 4, 4], [0, 0, 0]])
    np.testing.assert_allclose(labels.activate(logits.astype(np.float32), "dirichlet", tree), fractions, rtol=1e-3)
    np.testing.assert_allclose(nats(logits, counts, tree), -(counts * np.log(fractions)).sum(1), rtol=0.02, atol=1e-4)


def test_it_needs_the_outputs_that_belong_to_it():
    with pytest.raises(ValueError, match="dirichlet"):
        losses.dirichlet(jnp.zeros((1, 2)), jnp.zeros((1, 2)), jnp.zeros((1, 2)), "softmax", PAIR)
