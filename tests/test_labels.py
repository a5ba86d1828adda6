import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gz_jax import labels

LOGITS = hnp.arrays(np.float32, (3, 37), elements=st.floats(-(2.0**99), 2.0**99, width=32))
TREES = ("divisive", "softmax")
rescale = jax.jit(labels.rescale, static_argnums=1)
conditional_of = jax.jit(labels.conditional)
joint_of = jax.jit(labels.joint)


def test_columns_are_kaggles():
    assert labels.COLUMNS[:3] == ("Class1.1", "Class1.2", "Class1.3")
    assert labels.COLUMNS[-1] == "Class11.6"
    assert len(set(labels.COLUMNS)) == len(labels.ANSWERS) == len(labels.QUESTION_OF) == labels.NUM_ANSWERS == 37
    assert labels.MERGER == 23
    assert labels.ANSWERS[23] == "merger"


def test_parents_are_the_answers_that_lead_there():
    parent = {q.number: None if q.parent is None else labels.COLUMNS[q.parent] for q in labels.QUESTIONS}
    assert parent == {
        1: None, 2: "Class1.2", 3: "Class2.2", 4: "Class2.2", 5: "Class2.2", 6: None, 7: "Class1.1",
        8: "Class6.1", 9: "Class2.1", 10: "Class4.1", 11: "Class4.1",
    }  # fmt: skip


@pytest.mark.parametrize("method", TREES)
@given(logits=LOGITS)
@settings(max_examples=200, deadline=None)
def test_rescaled_fractions_obey_the_tree(method, logits):
    fractions = np.asarray(rescale(logits, method))
    assert np.isfinite(fractions).all()
    assert fractions.min() >= 0
    assert fractions.max() <= 1 + 1e-6
    assert labels.tree_violation(fractions).max() < 1e-6


@pytest.mark.parametrize("activation", ["sigmoid", *TREES])
@pytest.mark.parametrize("value", [0.0, 1e4, -1e4, 1e30, -1e30])
def test_gradient_is_finite_where_logits_are_huge_or_zero(activation, value):
    def loss(x):
        return jnp.square(labels.activate(x, activation) - 0.3).sum()

    grad = jax.jit(jax.grad(loss))(jnp.full((2, 37), value))
    assert jnp.isfinite(grad).all()


def test_rescale_by_hand():
    # Question 1 gets odds 1 : 2 : 1, question 7 equal odds, so each answer of 7 is (1/4) / 3.
    softmax = labels.rescale(jnp.zeros(37).at[1].set(jnp.log(2.0)), "softmax")
    np.testing.assert_allclose(softmax[:3], [0.25, 0.5, 0.25], rtol=1e-6)
    np.testing.assert_allclose(softmax[15:18], [0.25 / 3] * 3, rtol=1e-6)
    # Not edge-on 0.5 * 0.5; spiral half of that; six counts of arms share it.
    np.testing.assert_allclose(softmax[31:37], [0.125 / 6] * 6, rtol=1e-6)
    # Sigmoids 0.5, 0.75, 0.5 over their sum 1.75.
    divisive = labels.rescale(jnp.zeros(37).at[1].set(jnp.log(3.0)), "divisive")
    np.testing.assert_allclose(divisive[:3], [0.5 / 1.75, 0.75 / 1.75, 0.5 / 1.75], rtol=1e-6)
    np.testing.assert_allclose(divisive[13:15], [0.5, 0.5], rtol=1e-6)
    np.testing.assert_allclose(divisive[18:25], [0.5 / 7] * 7, rtol=1e-6)


def test_sigmoid_leaves_the_answers_independent():
    np.testing.assert_allclose(labels.activate(jnp.zeros((1, 37)), "sigmoid"), 0.5)


@pytest.mark.parametrize("method", TREES)
def test_gradient_against_finite_differences(method):
    logits = jax.random.normal(jax.random.key(0), (37,))
    weights = jax.random.normal(jax.random.key(1), (37,))

    def loss(x):
        return jnp.dot(labels.rescale(x, method), weights)

    with jax.enable_x64(True):
        logits, weights = logits.astype(jnp.float64), weights.astype(jnp.float64)
        step = 1e-6 * np.eye(37)
        loss = jax.jit(loss)
        numeric = [(loss(logits + d) - loss(logits - d)) / 2e-6 for d in step]
        np.testing.assert_allclose(jax.grad(loss)(logits), numeric, atol=1e-8)


@given(logits=hnp.arrays(np.float32, (2, 2, 37), elements=st.floats(-5, 5, width=32)))
@settings(deadline=None)
def test_conditional_is_the_inverse_of_joint(logits):
    joint = rescale(logits, "softmax")
    conditional = conditional_of(joint)
    for q in labels.QUESTIONS:
        np.testing.assert_allclose(conditional[..., q.columns].sum(-1), 1, rtol=1e-5)
        np.testing.assert_allclose(
            conditional[..., q.columns], scipy.special.softmax(logits[..., q.columns], -1), rtol=1e-3, atol=1e-5
        )
    np.testing.assert_allclose(joint_of(conditional), joint, rtol=1e-4, atol=1e-6)


def test_conditional_of_a_question_nobody_reached():
    joint = jnp.zeros(37).at[jnp.array([0, 14, 15])].set(1.0)  # smooth, nothing odd, completely round
    conditional = labels.conditional(joint)
    np.testing.assert_allclose(conditional[3:5], [0.5, 0.5])
    np.testing.assert_array_equal(labels.joint(conditional), joint)
    assert jnp.isfinite(jax.grad(lambda x: labels.conditional(x).sum())(joint)).all()


def test_any_leading_shape_and_vmap():
    logits = jax.random.normal(jax.random.key(0), (2, 3, 37))
    whole = labels.rescale(logits, "divisive")
    np.testing.assert_allclose(jax.vmap(jax.vmap(lambda x: labels.rescale(x, "divisive")))(logits), whole, rtol=1e-6)
    assert labels.tree_violation(np.asarray(whole)).shape == (2, 3, 11)


def test_unknown_activation():
    with pytest.raises(ValueError, match="'relu' is not one of"):
        labels.activate(jnp.zeros(37), "relu")
