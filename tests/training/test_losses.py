import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gz_jax import labels
from gz_jax.labels import GALAXY_ZOO_2, Question, Tree
from gz_jax.training import losses

LOGITS = jnp.asarray(np.random.default_rng(0).normal(size=(5, 37)), jnp.float32)
FRACTIONS = labels.rescale(LOGITS[::-1], "softmax")
REFUSED = ("multinomial", "sigmoid")
NAMES = sorted(losses.LOSSES.keys() - {"dirichlet"})  # which has a file of its own
LETTERS = ("a", "b", "c")
SHAPES = Tree(
    "shapes",
    (
        Question("shape", "shape?", LETTERS, LETTERS, LETTERS),
        Question("arms", "arms?", ("one", "two"), ("1", "2"), ("one", "two"), ("shape_b",)),
    ),
)


def evaluate(name, logits, fractions, activation, tree=GALAXY_ZOO_2, votes=None):
    """A loss; the votes are the fractions if there are no others."""
    votes = jnp.nan_to_num(fractions) if votes is None else votes
    return losses.LOSSES[name](logits, fractions, votes, activation, tree)


def test_squared_error_is_the_mean_over_the_answers():
    p = labels.activate(LOGITS, "divisive")
    expected = ((np.asarray(p) - np.asarray(FRACTIONS)) ** 2).mean(1)
    np.testing.assert_allclose(evaluate("mse", LOGITS, FRACTIONS, "divisive"), expected, rtol=1e-6)


def test_binomial_is_optax_binary_cross_entropy():
    expected = optax.sigmoid_binary_cross_entropy(LOGITS, FRACTIONS).mean(-1)
    np.testing.assert_allclose(evaluate("binomial", LOGITS, FRACTIONS, "sigmoid"), expected, rtol=1e-5)


def test_multinomial_by_hand():
    """All smooth, all completely round, nothing odd: three questions are asked, and equal logits share equally."""
    fractions = np.zeros((1, 37), np.float32)
    fractions[0, [0, 14, 15]] = 1
    found = evaluate("multinomial", jnp.zeros((1, 37)), fractions, "softmax")
    np.testing.assert_allclose(found, np.log(3) + np.log(2) + np.log(3), rtol=1e-6)


def test_a_tree_of_one_question_has_optax_softmax_cross_entropy():
    tree = Tree("shapes", SHAPES.questions[:1])
    logits, fractions = LOGITS[:, :3], np.asarray(jax.nn.softmax(FRACTIONS[:, :3]))
    expected = optax.losses.softmax_cross_entropy(logits, fractions)
    np.testing.assert_allclose(evaluate("multinomial", logits, fractions, "softmax", tree), expected, rtol=1e-6)


def test_votes_and_unknown_answers_by_hand():
    """Networks without an opinion: shapes 1/3 each, arms 1/6 each (divisive), all 1/2 (sigmoid).

    Galaxy 0: 5 volunteers, of which 2 say b; galaxy 1: 50 volunteers in the same shares, 10 times the first; galaxy 2:
    the arms of the 4 who saw b are unknown; galaxy 3: nobody looked, and nothing is known.
    """
    votes = np.array([[3, 2, 0, 1, 1], [30, 20, 0, 10, 10], [6, 4, 0, 0, 0], [0] * 5], np.float32)
    fractions = np.array([[0.6, 0.4, 0, 0.2, 0.2]] * 4, np.float32)
    fractions[2, 3:], fractions[3] = np.nan, np.nan
    arguments = (jnp.zeros((4, 5)), fractions)

    shape = np.array([0.6 - 1 / 3, 0.4 - 1 / 3, -1 / 3])
    squares = [np.mean([*shape**2, *[(0.2 - 1 / 6) ** 2] * 2]), np.mean(shape**2)]
    found = evaluate("mse", *arguments, "softmax", SHAPES, votes)
    np.testing.assert_allclose(found, [squares[0], squares[0], squares[1], 0], rtol=1e-5)

    p = np.array([1 / 3] * 3 + [1 / 6] * 2)
    cross = -(fractions[0] * np.log(p) + (1 - fractions[0]) * np.log1p(-p))
    found = evaluate("binomial", *arguments, "softmax", SHAPES, votes)
    np.testing.assert_allclose(found, [5 * cross.mean(), 50 * cross.mean(), 10 * cross[:3].mean(), 0], rtol=1e-5)
    found = evaluate("binomial", *arguments, "sigmoid", SHAPES, votes)
    np.testing.assert_allclose(found, np.array([5, 50, 10, 0]) * np.log(2), rtol=1e-5)

    found = evaluate("multinomial", *arguments, "divisive", SHAPES, votes)
    each = 5 * np.log(3) + 2 * np.log(2)
    np.testing.assert_allclose(found, [each, 10 * each, 10 * np.log(3), 0], rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "activation"),
    [(n, a) for n in NAMES for a in ("sigmoid", "divisive", "softmax") if (n, a) != REFUSED],
)
def test_unknown_answers_are_as_if_they_had_no_column(name, activation):
    """Loss and gradient, of any subset of the answers; the reference never meets a NaN."""
    rng = np.random.default_rng(1)
    unknown = rng.random((5, 37)) < 0.4
    fractions = np.where(unknown, np.nan, np.asarray(FRACTIONS))
    votes = np.nan_to_num(fractions) * rng.integers(1, 50, (5, 1))

    def reference(logits):
        total = 0.0
        for i in range(5):
            known = np.flatnonzero(~unknown[i])
            p, f, v = labels.activate(logits[i], activation)[known], fractions[i, known], votes[i, known]
            if name == "mse":
                total += jnp.square(p - f).mean()
            elif name == "binomial":
                asked = max(votes[i, s].sum() for s in GALAXY_ZOO_2.slices)
                total -= asked * (f * jnp.log(p) + (1 - f) * jnp.log1p(-p)).mean()
            else:
                total -= (v * labels.log_conditional(logits[i], activation)[known]).sum()
        return total

    def loss(logits):
        return evaluate(name, logits, jnp.asarray(fractions, jnp.float32), activation, votes=jnp.asarray(votes)).sum()

    value, slope = jax.value_and_grad(loss)(LOGITS)
    expected, expected_slope = jax.value_and_grad(reference)(LOGITS)
    assert np.isfinite(slope).all()
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(slope, expected_slope, rtol=1e-4, atol=1e-5 * np.abs(expected_slope).max())


@pytest.mark.parametrize("name", ["multinomial", "mse"])
def test_the_least_loss_is_at_the_votes_themselves(name):
    def total(logits):
        return evaluate(name, logits, FRACTIONS, "softmax").sum()

    at_votes = LOGITS[::-1]
    np.testing.assert_allclose(jax.grad(total)(at_votes), 0, atol=1e-5)
    assert total(at_votes) < total(at_votes + 0.1 * LOGITS)


@pytest.mark.parametrize(
    ("name", "method"), [("dirichlet", "dirichlet"), *((n, m) for n in NAMES for m in ("divisive", "softmax"))]
)
@pytest.mark.parametrize("unknown", [False, True])
def test_finite_at_extreme_logits_and_hard_votes(name, method, unknown):
    fractions = jnp.eye(37, dtype=jnp.float32)
    logits = 80 * (1 - 2 * fractions)
    if unknown:
        fractions = fractions.at[:, ::2].set(np.nan)
    value, grad = jax.value_and_grad(lambda x: evaluate(name, x, fractions, method).sum())(logits)
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
    votes = np.asarray(FRACTIONS, np.float64)
    expected = -(votes * np.log(p) + (1 - votes) * np.log1p(-p)).mean(1)
    np.testing.assert_allclose(evaluate("binomial", LOGITS, FRACTIONS, activation), expected, rtol=1e-5)
    wrong = jnp.zeros((1, 37)).at[0, 0].set(-60.0)  # certain that it is not smooth, which all say it is
    slope = jax.grad(lambda x: evaluate("binomial", x, jnp.zeros((1, 37)).at[0, 0].set(1.0), activation).sum())(wrong)
    assert slope[0, 0] < -0.01
    assert np.isfinite(slope).all()
