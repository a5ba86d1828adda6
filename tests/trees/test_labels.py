import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from random_trees import question, trees

from gz_jax import labels

LOGITS = hnp.arrays(np.float32, (3, 37), elements=st.floats(-(2.0**99), 2.0**99, width=32))
METHODS = ("divisive", "softmax", "dirichlet")
DECALS = labels.load("galaxy_zoo_decals")
RING = labels.load("rings")
rescale = jax.jit(labels.rescale, static_argnums=(1, 2))
conditional_of = jax.jit(labels.conditional)
joint_of = jax.jit(labels.joint)


def plainly(logits, method, tree):
    """(conditional, joint) fractions, float64, by recursion over names; nothing of `gz_jax.labels` is used."""
    logits = np.asarray(logits, np.float64)
    values = {"divisive": scipy.special.log_expit(logits), "dirichlet": 9 * np.tanh(logits / 9)}.get(method, logits)
    start, conditional, asked = 0, {}, {}
    for q in tree.questions:
        share = scipy.special.softmax(values[..., start : start + len(q.answers)], -1)
        conditional |= {key: share[..., i] for i, key in enumerate(q.keys)}
        asked |= dict.fromkeys(q.keys, q.after)
        start += len(q.answers)

    def joint(key):
        return conditional[key] * (sum(map(joint, asked[key])) if asked[key] else 1.0)

    return np.stack(list(conditional.values()), -1), np.stack([joint(key) for key in conditional], -1)


def assert_fractions_of(tree, seed=0):
    """All that must hold of any tree, at logits of which some are large."""
    rng = np.random.default_rng(seed)
    logits = (rng.normal(0, 3, (4, len(tree.columns))) * rng.choice([1, 10], (4, 1))).astype(np.float32)

    @jax.jit
    def everything(x):
        found = {}
        for method in METHODS:
            joint = labels.rescale(x, method, tree)
            conditional = labels.conditional(joint, tree)
            logs = labels.log_conditional(x, method, tree), labels.log_joint(x, method, tree)
            found[method] = joint, conditional, labels.joint(conditional, tree), *logs
        return found

    for method, (joint, conditional, again, log_conditional, log_joint) in everything(logits).items():
        shares, expected = plainly(logits, method, tree)
        np.testing.assert_allclose(joint, expected, rtol=1e-4, atol=3e-6)
        np.testing.assert_allclose(again, joint, rtol=3e-5, atol=3e-7)
        np.testing.assert_allclose(np.exp(log_joint), expected, rtol=1e-3, atol=3e-6)
        np.testing.assert_allclose(np.exp(log_conditional), shares, rtol=1e-3, atol=3e-6)
        for q, own, parents in zip(tree.questions, tree.slices, tree.parents, strict=True):
            asked = joint[..., list(parents)].sum(-1) if q.after else np.ones(4)
            np.testing.assert_allclose(joint[..., own].sum(-1), asked, atol=3e-6)
            assert np.all(joint[..., own] <= asked[..., None] + 3e-6)
            reached = asked > 1e-6
            np.testing.assert_allclose(conditional[..., own][reached], shares[..., own][reached], rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(labels.tree_violation(joint, tree), 0, atol=3e-6)
        assert labels.tree_violation(joint, tree).shape == (4, len(tree.questions))


@given(tree=trees(), seed=st.integers(0, 999))
@settings(max_examples=3, deadline=None)
def test_fractions_of_random_trees(tree, seed):
    assert_fractions_of(tree, seed)


@pytest.mark.slow
@given(tree=trees(), seed=st.integers(0, 999))
@settings(max_examples=60, deadline=None)
def test_fractions_of_many_random_trees(tree, seed):
    assert_fractions_of(tree, seed)


FEW = ("galaxy_zoo_1", "galaxy_zoo_2", "galaxy_zoo_jwst_ceers")


@pytest.mark.parametrize("name", [n if n in FEW else pytest.param(n, marks=pytest.mark.slow) for n in labels.names()])
def test_fractions_of_every_survey(name):
    assert_fractions_of(labels.load(name))


@pytest.mark.parametrize("method", METHODS)
@given(logits=LOGITS)
@settings(max_examples=200, deadline=None)
def test_rescaled_fractions_obey_the_tree(method, logits):
    fractions = np.asarray(rescale(logits, method))
    assert np.isfinite(fractions).all()
    assert fractions.min() >= 0
    assert fractions.max() <= 1 + 1e-6
    assert labels.tree_violation(fractions).max() < 1e-6


@pytest.mark.parametrize("tree", [labels.GALAXY_ZOO_2, DECALS, RING], ids=lambda tree: tree.name)
@pytest.mark.parametrize("activation", ["sigmoid", *METHODS])
def test_gradients_are_finite_where_logits_are_huge_or_zero(activation, tree):
    def loss(x):
        found = jnp.square(labels.activate(x, activation, tree) - 0.3).sum()
        if activation != "sigmoid":
            found += 1e-30 * (labels.log_joint(x, activation, tree) + labels.log_conditional(x, activation, tree)).sum()
        return found

    gradient = jax.jit(jax.grad(loss))
    signs = np.random.default_rng(0).choice([-1.0, 0.0, 1.0], len(tree.columns)).astype(np.float32)
    for size in (0.0, 1e4, 1e29):
        for logits in (np.full(len(tree.columns), size, np.float32), size * signs, -size * np.abs(signs)):
            assert np.isfinite(gradient(logits.astype(np.float32))).all()


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


def test_two_parents_by_hand():
    # smooth : featured : artifact = 1 : 2 : 1, so 3/4 are asked whether it merges, and 1/4 of these see a merger.
    fractions = labels.rescale(jnp.zeros(34).at[1].set(jnp.log(2.0)), "softmax", DECALS)
    np.testing.assert_allclose(fractions[:3], [0.25, 0.5, 0.25], rtol=1e-6)
    np.testing.assert_allclose(fractions[30:34], [0.75 / 4] * 4, rtol=1e-6)
    # Half of the featured are not edge-on, half of these have spiral arms, a third of these have tight ones.
    np.testing.assert_allclose(fractions[DECALS.index("spiral-winding_tight")], 0.5 * 0.5 * 0.5 / 3, rtol=1e-6)
    logs = labels.log_joint(jnp.zeros(34).at[1].set(jnp.log(2.0)), "softmax", DECALS)
    np.testing.assert_allclose(logs[33], np.log(0.75 / 4), rtol=1e-6)


def test_shares_of_a_question_below_two_that_several_answers_lead_to():
    # a: 1/2, 1/4, 1/4. b is asked after a_x + a_y: 3/4, and answered 2 : 1. c is asked after a_z + b_x: 1/4 + 1/2.
    tree = labels.Tree(
        "t",
        (
            question("c", "xy", ["a_z", "b_x"]),
            question("b", "xy", ["a_x", "a_y"]),
            question("a", "xyz"),
        ),
    )
    assert tree.order == (2, 1, 0)
    conditional = jnp.array([0.2, 0.8, 2 / 3, 1 / 3, 0.5, 0.25, 0.25])
    expected = [0.75 * 0.2, 0.75 * 0.8, 0.5, 0.25, 0.5, 0.25, 0.25]
    np.testing.assert_allclose(labels.joint(conditional, tree), expected, rtol=1e-6)
    np.testing.assert_allclose(labels.conditional(jnp.array(expected), tree), conditional, rtol=1e-6)


def test_one_question_is_a_classification():
    tree = labels.Tree("classes", (question("class", "abcde"),))
    logits = jax.random.normal(jax.random.key(0), (6, 5)) * 5
    votes = jax.nn.softmax(jax.random.normal(jax.random.key(1), (6, 5)))
    loss = -(votes * labels.log_conditional(logits, "softmax", tree)).sum(-1)
    np.testing.assert_allclose(loss, optax.losses.softmax_cross_entropy(logits, votes), rtol=1e-6)
    np.testing.assert_allclose(labels.rescale(logits, "softmax", tree), jax.nn.softmax(logits), rtol=1e-6)


def test_sigmoid_leaves_the_answers_independent():
    np.testing.assert_allclose(labels.activate(jnp.zeros((1, 37)), "sigmoid"), 0.5)


@pytest.mark.parametrize("method", METHODS)
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
    for own in labels.GALAXY_ZOO_2.slices:
        np.testing.assert_allclose(conditional[..., own].sum(-1), 1, rtol=1e-5)
        np.testing.assert_allclose(
            conditional[..., own], scipy.special.softmax(logits[..., own], -1), rtol=1e-3, atol=1e-5
        )
    np.testing.assert_allclose(joint_of(conditional), joint, rtol=1e-4, atol=1e-6)


def test_conditional_of_a_question_nobody_reached():
    joint = jnp.zeros(37).at[jnp.array([0, 14, 15])].set(1.0)  # smooth, nothing odd, completely round
    conditional = labels.conditional(joint)
    np.testing.assert_allclose(conditional[3:5], [0.5, 0.5])
    np.testing.assert_array_equal(labels.joint(conditional), joint)
    assert jnp.isfinite(jax.grad(lambda x: labels.conditional(x).sum())(joint)).all()


def test_any_leading_shape_and_vmap():
    logits = jax.random.normal(jax.random.key(0), (2, 3, 34))
    whole = labels.rescale(logits, "divisive", DECALS)
    one = jax.vmap(jax.vmap(lambda x: labels.rescale(x, "divisive", DECALS)))
    np.testing.assert_allclose(one(logits), whole, rtol=1e-6)
    assert labels.tree_violation(np.asarray(whole), DECALS).shape == (2, 3, 10)


def test_a_row_of_300_questions():
    tree = labels.Tree("row", tuple(question(f"q{i}", "xyz", [f"q{i - 1}_x"] if i else ()) for i in range(300)))
    conditional = np.tile(np.float32([0.99, 0.005, 0.005]), 300)
    expected = (0.99 ** np.arange(300)[:, None] * [0.99, 0.005, 0.005]).reshape(-1)
    np.testing.assert_allclose(labels.joint(conditional, tree), expected, rtol=1e-4)


def test_fractions_of_another_tree_are_refused():
    with pytest.raises(ValueError, match=r"\(2, 37\) must have the 34 answers of Galaxy Zoo DECaLS 5"):
        labels.rescale(jnp.zeros((2, 37)), "softmax", DECALS)


def test_unknown_activation():
    with pytest.raises(ValueError, match="'relu' is not one of"):
        labels.activate(jnp.zeros(37), "relu")
