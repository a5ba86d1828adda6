"""Frozen epochs: the head is trained as if the body's gradients were computed and thrown away."""

import functools
import signal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import default
from gz_jax import models, resolve
from gz_jax.labels import GALAXY_ZOO_2
from gz_jax.models.depth import depths
from gz_jax.models.layers import BatchNorm, Dropout
from gz_jax.modes import training
from gz_jax.training import checkpoint, dispatch, features, loop, state, step

RATE, DECAY = 1e-2, 0.5
EXIT_INTERRUPTED = 75


class Body(nn.Module):
    """Two layers that are named as ResNet50's, of depths 2 and 1."""

    @nn.compact
    def __call__(self, x, use_running_average):
        x = nn.Dense(8, name="stem_conv")(x)
        x = nn.relu(BatchNorm(0.9, 1e-3, name="stem_bn")(x, use_running_average))
        return nn.relu(nn.Dense(8, name="stage1_block1")(x))


class Small(nn.Module):
    """With everything that `ResNet50Classifier` has, and quick."""

    freeze_statistics: bool = False

    def setup(self):
        self.body, self.dense, self.drop, self.head = Body(), nn.Dense(16), Dropout(0.2), nn.Dense(37)

    def features(self, images, train=False):
        return self.body(images.astype(jnp.float32).mean(1).reshape(len(images), -1) / 255, self.frozen_if(train))

    def frozen_if(self, train):
        return not train or self.freeze_statistics

    def answers(self, x, train=False):
        return self.head(self.drop(nn.relu(self.dense(x)), train))

    def __call__(self, images, train=False):
        return self.answers(self.features(images, train), train)


def batches(count, size=8):
    rng = np.random.default_rng(0)
    for _ in range(count):
        fractions = rng.random((size, 37), np.float32)
        image = rng.integers(0, 256, (size, 6, 6, 3), np.uint8)
        yield {"image": image, "vote_fractions": fractions, "votes": fractions, "mask": np.ones(size, bool)}


def start(devices=1, module=None, size=6):
    """Steps, and a state with whose body a sum with 0 would change a bit: one of its weights is -0."""
    module = module or Small()
    mesh, optimizer = state.make_mesh(jax.devices()[:devices]), state.adam(0.01, DECAY)
    variables = state.initial_variables(module, size, jax.random.key(0))
    if "body" in variables["params"]:
        layer = variables["params"]["body"]["stem_conv"]
        layer["kernel"] = layer["kernel"].at[0, 0].set(-0.0)
    recipe = step.Recipe(module.apply, optimizer, "divisive", GALAXY_ZOO_2, rate=lambda at: 1 / (1 + at))
    steps = dispatch.compile_steps(recipe, 0, mesh)
    return steps, state.with_rate(state.start(variables, optimizer, mesh), RATE)


def arrays(tree):
    return jax.tree.map(np.array, tree)


def bits(tree):
    return [np.asarray(x).tobytes() for x in jax.tree.leaves(tree)]


def run(step_of, train_state, count, put):
    for batch in batches(count):
        train_state, _ = step_of(train_state, put(batch))
    return train_state


def moments(train_state, part):
    """State of Adam of a part of the network: its leaves, the count first."""
    return train_state.opt_state.inner_state[0].inner_states[part]


def test_the_body_stays_to_the_last_bit_and_the_head_is_trained_as_before():
    """Before: the whole gradient is computed, and the body put back. Adam and statistics included."""
    steps, frozen = start()
    _, before = start()
    initial = arrays(frozen)
    assert np.signbit(initial.params["body"]["stem_conv"]["kernel"][0, 0])
    for batch in batches(4):
        frozen, loss = steps.train_head(frozen, steps.put(batch))
        body = arrays(before.params["body"])
        before, old_loss = steps.train(before, steps.put(batch))
        before = before.replace(params={**before.params, "body": body})
        assert float(loss) == float(old_loss)
    assert bits(frozen.params["body"]) == bits(initial.params["body"])
    for name in ("dense", "head"):
        assert bits(frozen.params[name]) == bits(before.params[name]) != bits(initial.params[name])
    assert bits(frozen.batch_stats) == bits(before.batch_stats) != bits(initial.batch_stats)
    assert bits(moments(frozen, "head")) == bits(moments(before, "head"))
    assert bits(moments(frozen, "body")) == bits(moments(initial, "body"))


def test_after_frozen_epochs_adam_starts_for_the_body_and_goes_on_for_the_head():
    """Its first step is the rate in every coordinate that has a gradient, lower by the layers' depths."""
    steps, train_state = start()
    train_state = run(steps.train_head, train_state, 3, steps.put)
    before, (batch,) = arrays(train_state.params), batches(1)
    train_state, _ = steps.train(train_state, steps.put(batch))
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), before, arrays(train_state.params))
    rate = RATE / 4  # of the schedule, at step 3
    assert moved["body"]["stage1_block1"]["bias"] == pytest.approx(rate / 2, rel=1e-2)
    assert moved["body"]["stem_bn"]["bias"] == pytest.approx(rate / 4, rel=1e-2)
    counts = [int(jax.tree.leaves(moments(train_state, part))[0]) for part in ("head", "body")]
    assert counts == [4, 1]


def test_one_device_and_four_train_the_same_head():
    one, four = (
        run(steps.train_head, train_state, 4, steps.put)
        for steps, train_state in (start(devices) for devices in (1, 4))
    )
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), arrays(one), arrays(four))


@pytest.mark.parametrize(
    ("name", "options", "size"),
    [
        ("cnn", {}, 36),
        pytest.param("resnet50", {"hidden": (), "pooling": "average"}, 64, marks=pytest.mark.slow),
    ],
)
def test_a_frozen_step_is_less_than_half_the_work(name, options, size):
    module = models.create(name, num_outputs=37, **options)
    steps, train_state = start(module=module, size=size)
    batch = steps.put({**next(batches(1)), "image": np.zeros((8, size, size, 3), np.uint8)})
    whole, head = (
        f.lower(train_state, batch).compile().cost_analysis()["flops"] for f in (steps.train, steps.train_head)
    )
    assert head < 0.45 * whole
    assert {bool(d) for d in jax.tree.leaves(depths(train_state.params))} == {True, False}


@pytest.fixture
def small(monkeypatch):
    def create(name, *, freeze_statistics=False, **options):
        return Small(freeze_statistics)

    monkeypatch.setattr(models, "create", create)
    monkeypatch.setattr(training, "_report", lambda *_: None)  # a page of figures for each run


def config(**fields) -> ConfigDict:
    """Three epochs of 5 steps, two of them frozen, with everything that a step may have."""
    found = default.get_config()
    found.data.source, found.data.num_galaxies, found.data.size = "synthetic", 80, 30
    found.batch_size, found.num_epochs, found.model.name, found.model.frozen_epochs = 16, 3, "resnet50", 2
    found.schedule, found.weight_decay, found.model.layer_decay = "cosine", 0.01, DECAY
    found.learning_rate = RATE
    found.update_from_flattened_dict(fields)
    return found


def latest(workdir):
    return checkpoint.load(checkpoint.open_manager(workdir / "checkpoints" / "latest", 2, read_only=True), None)[1]


def log_of(workdir):
    """The log without its times."""
    return [row.rsplit(",", 2)[0] for row in (workdir / "log.csv").read_text().splitlines()]


FIXED = {"model.frozen_statistics": True}


@pytest.mark.parametrize(
    "fields",
    [
        {},
        pytest.param(
            {"data.pipeline": "device", "data.steps_per_dispatch": 2, "augment.flip": True}, marks=pytest.mark.slow
        ),
        pytest.param(FIXED, marks=pytest.mark.slow),
        pytest.param(FIXED | {"data.pipeline": "device", "data.steps_per_dispatch": 2}, marks=pytest.mark.slow),
    ],
    ids=["stream", "device", "features", "features-device"],
)
def test_a_run_that_is_stopped_around_the_border_goes_on_bit_for_bit(fields, small, tmp_path, monkeypatch):
    assert training.train(config(**fields), str(tmp_path / "one")) == 0
    plain, left = loop.Run.stop_or_save, [4, 10, 12]  # of 15 steps, 10 of them frozen

    def stopping(self, train_state, before, after, *, now=False):
        if left and after >= left[0]:
            left.pop(0)
            self.signal, now = signal.SIGTERM, True
        return plain(self, train_state, before, after, now=now)

    monkeypatch.setattr(loop.Run, "stop_or_save", stopping)
    exits = [training.train(config(**fields), str(tmp_path / "two")) for _ in range(4)]
    assert (exits, left) == ([EXIT_INTERRUPTED] * 3 + [0], [])
    assert bits(latest(tmp_path / "one")) == bits(latest(tmp_path / "two"))
    assert log_of(tmp_path / "one") == log_of(tmp_path / "two")


@pytest.mark.slow
def test_features_that_are_computed_once_train_the_same_head(small, tmp_path, monkeypatch, capsys):
    """Not where images or statistics change from epoch to epoch, nor where the features would take too much memory."""

    def trained(name, **fields):
        assert training.train(config(num_epochs=2, **{"model.frozen_epochs": 1}, **fields), str(tmp_path / name)) == 0
        return latest(tmp_path / name), "computed once" in capsys.readouterr().out

    found, once = trained("once", **FIXED)
    assert once
    other, once = trained("device", **FIXED, **{"data.pipeline": "device"})
    assert once
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-6), found, other)
    assert not trained("flips", **FIXED, **{"augment.flip": True})[1]
    monkeypatch.setattr(features, "LIMIT", 1000)
    each, once = trained("each", **FIXED)
    assert not once
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-6), found, each)


def test_only_a_network_whose_features_stay_the_same_has_parts():
    def parts(**fields):
        built = config(**fields)
        return resolve.recipe(built, GALAXY_ZOO_2, resolve.parts(built, GALAXY_ZOO_2).module, 4).parts

    assert parts(**FIXED) is not None
    assert parts() is None
    assert parts(**FIXED, **{"model.frozen_epochs": 0}) is None
    assert parts(**{"model.name": "cnn", "model.variant": "keras"}) is None  # dropout within its body
