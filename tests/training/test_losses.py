import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gz_jax import labels
from gz_jax.labels import GALAXY_ZOO_2, Question, Tree
from gz_jax.training import losses

LOGITS = jnp.asarray(np.random.default_rng(0).normal(size=(5, 37)), jnp.float32)
VOTES = labels.rescale(LOGITS[::-1], "softmax")


def test_squared_error_is_the_mean_over_the_answers():
    p = labels.activate(LOGITS, "divisive")
    expected = ((np.asarray(p) - np.asarray(VOTES)) ** 2).mean(1)
    np.testing.assert_allclose(losses.squared_error(LOGITS, VOTES, "divisive", GALAXY_ZOO_2), expected, rtol=1e-6)


def test_binomial_is_optax_binary_cross_entropy():
    expected = optax.sigmoid_binary_cross_entropy(LOGITS, VOTES).mean(-1)
    np.testing.assert_allclose(losses.binomial(LOGITS, VOTES, "sigmoid", GALAXY_ZOO_2), expected, rtol=1e-5)


def test_multinomial_by_hand():
    """All smooth, all completely round, nothing odd: three questions are asked, and equal logits share equally."""
    votes = np.zeros((1, 37), np.float32)
    votes[0, [0, 14, 15]] = 1
    found = losses.multinomial(jnp.zeros((1, 37)), votes, "softmax", GALAXY_ZOO_2)
    np.testing.assert_allclose(found, np.log(3) + np.log(2) + np.log(3), rtol=1e-6)


def test_a_tree_of_one_question_has_optax_softmax_cross_entropy():
    tree = Tree("shapes", (Question("shape", "shape?", ("a", "b", "c"), ("a", "b", "c"), ("a", "b", "c")),))
    logits, votes = LOGITS[:, :3], np.asarray(jax.nn.softmax(VOTES[:, :3]))
    expected = optax.losses.softmax_cross_entropy(logits, votes)
    np.testing.assert_allclose(losses.multinomial(logits, votes, "softmax", tree), expected, rtol=1e-6)


@pytest.mark.parametrize("name", ["multinomial", "mse"])
def test_the_least_loss_is_at_the_votes_themselves(name):
    def total(logits):
        return losses.LOSSES[name](logits, VOTES, "softmax", GALAXY_ZOO_2).sum()

    at_votes = LOGITS[::-1]
    np.testing.assert_allclose(jax.grad(total)(at_votes), 0, atol=1e-5)
    assert total(at_votes) < total(at_votes + 0.1 * LOGITS)


@pytest.mark.parametrize("name", sorted(losses.LOSSES))
@pytest.mark.parametrize("method", ["divisive", "softmax"])
def test_finite_at_extreme_logits_and_hard_votes(name, method):
    votes = jnp.eye(37, dtype=jnp.float32)
    logits = 80 * (1 - 2 * jnp.eye(37, dtype=jnp.float32))
    value, grad = jax.value_and_grad(lambda x: losses.LOSSES[name](x, votes, method, GALAXY_ZOO_2).sum())(logits)
    assert np.isfinite(value)
    assert np.isfinite(grad).all()


def test_log_conditional_is_the_logarithm():
    for method in ("divisive", "softmax"):
        expected = jnp.log(labels.conditional(labels.rescale(LOGITS, method)))
        np.testing.assert_allclose(labels.log_conditional(LOGITS, method), expected, atol=1e-5)


@pytest.mark.parametrize("activation", ["divisive", "softmax"])
def test_binomial_down_the_tree(activation):
    """As optax's where no fraction is tiny, with a gradient also where the network is certain and wrong."""
    p = np.asarray(labels.rescale(LOGITS, activation), np.float64)
    votes = np.asarray(VOTES, np.float64)
    expected = -(votes * np.log(p) + (1 - votes) * np.log1p(-p)).mean(1)
    np.testing.assert_allclose(losses.binomial(LOGITS, VOTES, activation, GALAXY_ZOO_2), expected, rtol=1e-5)
    wrong = jnp.zeros((1, 37)).at[0, 0].set(-60.0)  # certain that it is not smooth, which all say it is
    slope = jax.grad(
        lambda x: losses.binomial(x, jnp.zeros((1, 37)).at[0, 0].set(1.0), activation, GALAXY_ZOO_2).sum()
    )(wrong)
    assert slope[0, 0] < -0.01
    assert np.isfinite(slope).all()
