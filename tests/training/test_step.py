import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gz_jax import labels
from gz_jax.labels import GALAXY_ZOO_2
from gz_jax.training import dispatch, state, step


class Tiny(nn.Module):
    """A dense layer with dropout on mean colours: quick, and with everything a real model has."""

    @nn.compact
    def __call__(self, images, train=False):
        x = (images.astype(jnp.float32) / 255).reshape(images.shape[0], -1)
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)
        x = nn.Dropout(0.2, deterministic=not train)(nn.relu(nn.Dense(16)(x)))
        return nn.Dense(37)(x)


def batches(count, size=8, seed=0):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        votes = np.asarray(labels.rescale(rng.normal(size=(size, 37)).astype(np.float32), "softmax", GALAXY_ZOO_2))
        yield {
            "image": rng.integers(0, 256, (size, 6, 6, 3), np.uint8),
            "vote_fractions": votes,
            "votes": votes,
            "mask": np.ones(size, bool),
        }


def start(devices, module=None, rate=1e-3, size=6):
    module = module or Tiny()
    mesh, optimizer = state.make_mesh(jax.devices()[:devices]), state.adam()
    variables = state.initial_variables(module, size, jax.random.key(0))
    steps = dispatch.compile_steps(step.Recipe(module.apply, optimizer, "divisive", GALAXY_ZOO_2), 0, mesh)
    return steps, state.with_rate(state.start(variables, optimizer, mesh), rate)


def losses(devices, count=20):
    steps, train_state = start(devices)
    out = []
    for batch in batches(count):
        train_state, loss = steps.train(train_state, steps.put(batch))
        out.append(float(loss))
    return np.array(out), train_state


def test_one_device_and_four_give_the_same_losses():
    one, state_one = losses(1)
    four, state_four = losses(4)
    np.testing.assert_allclose(one, four, atol=1e-5)
    assert one[-5:].mean() < one[:5].mean()
    for a, b in zip(jax.tree.leaves(state_one), jax.tree.leaves(state_four), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_sums_by_hand_with_a_mask():
    true = np.zeros((3, 37), np.float32)
    true[0, 4], true[1, 5] = 1, 1
    true[2] = np.nan
    predicted = np.zeros((3, 37), np.float32)
    predicted[0, 4], predicted[1, 6] = 0.5, 1
    sums = step.batch_sums(predicted, true, np.array([True, True, False]))
    assert float(sums.squared_error) == pytest.approx((0.25 + 2) / 37)
    assert float(sums.correct) == 1
    assert float(sums.count) == 2
    assert step.metrics(sums) == pytest.approx({"loss": 2.25 / 74, "accuracy": 0.5})
    assert np.isnan(step.metrics(state.zero_sums())["loss"])


def test_unknown_answers_do_not_count_in_the_sums():
    """Of galaxy 0 two answers are known, of galaxy 1 all, of galaxy 2 none; galaxy 3 is masked."""
    true = np.full((4, 37), np.nan, np.float32)
    true[0, [2, 3]] = [0.75, 0.25]
    true[1], true[1, 5], true[3] = 0, 1, 1
    predicted = np.zeros((4, 37), np.float32)
    predicted[0, [0, 2, 3]] = [0.9, 0.5, 0.25]  # the largest of the known is right
    predicted[1, 6] = 1
    predicted[2], predicted[3] = 0.5, np.nan
    sums = step.batch_sums(predicted, true, np.array([True, True, True, False]))
    assert float(sums.squared_error) == pytest.approx(0.25**2 / 2 + 2 / 37)
    assert (float(sums.correct), float(sums.count)) == (1, 2)
    predicted[0, 3] = 0.6
    assert float(step.batch_sums(predicted, true, np.array([True, True, True, False])).correct) == 0
    predicted[0, 3] = np.nan  # not hidden by what is unknown
    assert np.isnan(float(step.batch_sums(predicted, true, np.ones(4, bool)).squared_error))


@pytest.mark.parametrize("unknown", [False, True])
def test_a_step_is_adam_on_the_mean_squared_error(unknown):
    """Of what is known: galaxy 0 has no label, galaxy 1 is masked, others lack some answers."""
    module, batch = Tiny(), next(batches(1))
    known = np.ones((8, 37), bool)
    if unknown:
        known = np.random.default_rng(0).random((8, 37)) < 0.6
        known[:2] = False
        batch["vote_fractions"] = np.where(known, batch["vote_fractions"], np.nan)
        batch["vote_fractions"][1], batch["mask"][1] = np.inf, False
    optimizer = state.adam()
    variables = state.initial_variables(module, 6, jax.random.key(0))
    before = state.with_rate(state.start(variables, optimizer, state.make_mesh(jax.devices()[:1])), 0.01)
    key = jax.random.key(5)
    after, loss = step.train_step(
        before, batch, key, recipe=step.Recipe(module.apply, optimizer, "softmax", GALAXY_ZOO_2)
    )

    def mse(params):
        logits, _ = module.apply(
            {"params": params, "batch_stats": variables["batch_stats"]}, batch["image"], train=True,
            rngs={"dropout": jax.random.fold_in(key, 0)}, mutable=["batch_stats"],
        )  # fmt: skip
        fractions = labels.rescale(logits, "softmax", GALAXY_ZOO_2)
        rows = [i for i in range(8) if known[i].any()]
        errors = [fractions[i][known[i]] - batch["vote_fractions"][i][known[i]] for i in rows]
        return sum(jnp.square(error).mean() for error in errors) / len(rows)

    expected, grads = jax.value_and_grad(mse)(variables["params"])
    adam = optax.chain(state.scale_by_keras_adam(), optax.scale(-0.01))
    updates, _ = adam.update(grads, adam.init(variables["params"]))
    assert float(loss) == pytest.approx(float(expected), rel=1e-6)
    expected_params = optax.apply_updates(variables["params"], updates)
    for a, b in zip(jax.tree.leaves(after.params), jax.tree.leaves(expected_params), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    assert (int(after.step), int(after.bad_step)) == (1, -1)
    assert float(after.sums.count) == known.any(1).sum()


def test_a_loss_that_is_not_finite_changes_nothing_and_is_remembered():
    steps, train_state = start(1)
    good, bad, later = batches(3)
    bad["vote_fractions"] = bad["vote_fractions"].copy()
    bad["vote_fractions"][3, 7] = np.inf
    train_state, _ = steps.train(train_state, steps.put(good))
    kept = jax.tree.map(np.array, (train_state.params, train_state.opt_state, train_state.sums))
    for batch in (bad, later):
        train_state, _ = steps.train(train_state, steps.put(batch))
    assert int(train_state.bad_step) == 1
    assert np.isinf(float(train_state.bad_loss))
    now = (train_state.params, train_state.opt_state, train_state.sums)
    jax.tree.map(np.testing.assert_array_equal, kept, jax.tree.map(np.array, now))


def test_an_update_that_is_not_finite_is_found_by_the_next_step_and_remembered():
    """Whatever the loss of such parameters is; a checkpoint tests the state by itself."""
    module, batch = Tiny(), next(batches(1))
    mesh, optimizer = state.make_mesh(jax.devices()[:1]), state.adam()
    variables = state.initial_variables(module, 6, jax.random.key(0))
    recipe = step.Recipe(module.apply, optimizer, "divisive", GALAXY_ZOO_2)
    for rate in (1e30, np.nan):
        before = state.with_rate(state.start(variables, optimizer, mesh), rate)
        spoilt, loss = step.train_step(before, batch, jax.random.key(5), recipe=recipe)
        assert np.isfinite(float(loss))
        assert not step.is_finite(spoilt.params)
        after, _ = step.train_step(spoilt, batch, jax.random.key(5), recipe=recipe)
        assert (int(spoilt.bad_step), int(after.bad_step), float(after.bad_loss), int(after.step)) == (-1, 0, 0, 2)
        jax.tree.map(np.testing.assert_array_equal, after.params, spoilt.params)
        again, _ = step.train_step(after, batch, jax.random.key(5), recipe=recipe)
        assert (int(again.bad_step), int(again.step)) == (0, 3)


@pytest.mark.parametrize(
    ("values", "finite"),
    [([1.0], True), ([1e15] * 9, True), ([1e30], False), ([np.inf], False), ([np.nan], False)],
)
def test_what_counts_as_finite(values, finite):
    tree = {"good": np.ones(3, np.float32), "counts": np.full(3, 2**30), "these": np.array(values, np.float32)}
    assert bool(step.is_finite(tree)) is finite


def test_rate_zero_keeps_the_parameters():
    steps, train_state = start(1, rate=0.0)
    before = jax.tree.map(np.array, train_state.params)
    train_state, _ = steps.train(train_state, steps.put(next(batches(1))))
    jax.tree.map(np.testing.assert_array_equal, before, jax.tree.map(np.array, train_state.params))


def test_evaluation_counts_each_galaxy_once_whatever_the_batch():
    steps, train_state = start(4)
    everything = next(batches(1, size=24))
    whole = dispatch.evaluate(steps, train_state.params, train_state.batch_stats, [everything])

    def padded():
        for first in range(0, 24, 16):
            part = {k: v[first : first + 16] for k, v in everything.items()}
            short = 16 - len(part["mask"])
            yield {k: np.concatenate([v, np.zeros((short, *v.shape[1:]), v.dtype)]) for k, v in part.items()}

    parts = dispatch.evaluate(steps, train_state.params, train_state.batch_stats, padded())
    assert parts == pytest.approx(whole, rel=1e-6)


def test_the_rate_follows_the_step():
    module, batch, key = Tiny(), next(batches(1)), jax.random.key(5)
    mesh, optimizer = state.make_mesh(jax.devices()[:1]), state.adam()
    variables = state.initial_variables(module, 6, jax.random.key(0))
    recipe = step.Recipe(module.apply, optimizer, "softmax", GALAXY_ZOO_2, rate=lambda at: jnp.where(at == 0, 0.5, 0.0))
    before = state.with_rate(state.start(variables, optimizer, mesh), 0.01)
    after, _ = step.train_step(before, batch, key, recipe=recipe)
    plain = state.with_rate(state.start(variables, optimizer, mesh), 0.005)
    half, _ = step.train_step(plain, batch, key, recipe=step.Recipe(module.apply, optimizer, "softmax", GALAXY_ZOO_2))
    third, _ = step.train_step(after, batch, key, recipe=recipe)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-7), after.params, half.params)
    jax.tree.map(np.testing.assert_array_equal, third.params, after.params)


def test_weight_decay_shrinks_kernels_alone():
    params = {"dense": {"kernel": jnp.full((2, 3), 2.0), "bias": jnp.full(3, 2.0)}}
    optimizer = state.adam(weight_decay=0.1)
    opt_state = optimizer.init(params)
    opt_state.hyperparams["learning_rate"] = jnp.float32(0.5)
    updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, params), opt_state, params)
    np.testing.assert_allclose(updates["dense"]["kernel"], -0.5 * 0.1 * 2, rtol=1e-6)
    np.testing.assert_array_equal(updates["dense"]["bias"], 0)


def test_prefetch_keeps_order_and_count():
    assert list(dispatch.prefetch(lambda x: x, iter(range(5)))) == list(range(5))
    assert list(dispatch.prefetch(functools.partial(int), iter([]))) == []


def steps_of(transform, gradients, rate):
    """Positions of one parameter array under a transformation that scales gradients, from 0."""
    params = jnp.zeros_like(gradients[0])
    opt_state, path = transform.init(params), []
    for gradient in gradients:
        updates, opt_state = transform.update(gradient, opt_state)
        params = params - rate * updates
        path.append(params)
    return np.array(path)


def some_gradients():
    """From where epsilon rules to where it does not matter."""
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.normal(size=(20, 6)) * 10.0 ** np.arange(-8, -2), jnp.float32)


def test_adam_is_optaxs_but_for_epsilon():
    gradients = some_gradients()
    ours = steps_of(state.scale_by_keras_adam(eps=0.0), gradients, 1e-2)
    np.testing.assert_allclose(ours, steps_of(optax.scale_by_adam(eps=0.0), gradients, 1e-2), rtol=1e-4, atol=1e-6)
    first = steps_of(state.scale_by_keras_adam(eps=1e-7), jnp.full((1, 1), 1e-7), 1.0)
    # m = 1e-8, sqrt(v) = sqrt(1e-3) * 1e-7, so the step is sqrt(1e-3) / (sqrt(1e-3) + 1) by hand.
    np.testing.assert_allclose(first, -(1e-3**0.5) / (1e-3**0.5 + 1), rtol=1e-4)


@pytest.mark.peers
def test_adam_is_keras():
    keras = pytest.importorskip("keras")
    gradients = some_gradients()
    variable = keras.Variable(np.zeros(6, np.float32))
    optimizer = keras.optimizers.Adam(1e-2)
    optimizer.build([variable])
    for gradient, ours in zip(gradients, steps_of(state.scale_by_keras_adam(), gradients, 1e-2), strict=True):
        optimizer.apply([keras.ops.convert_to_tensor(np.asarray(gradient))])
        np.testing.assert_allclose(ours, keras.ops.convert_to_numpy(variable), rtol=1e-4, atol=1e-9)


def test_what_is_given_elsewhere_is_not_drawn_and_changes_nothing_else():
    module, key = Tiny(), jax.random.key(0)
    whole = state.initial_variables(module, 6, key)
    plain = module.init(key, jnp.zeros((1, 6, 6, 3), jnp.uint8), train=False)
    jax.tree.map(np.testing.assert_array_equal, whole, plain)
    name = next(iter(whole["params"]))
    part = state.initial_variables(module, 6, key, given=(name,))
    assert {type(leaf) for leaf in jax.tree.leaves(part["params"].pop(name))} == {jax.ShapeDtypeStruct}
    del whole["params"][name]
    jax.tree.map(np.testing.assert_array_equal, whole["params"], part["params"])
