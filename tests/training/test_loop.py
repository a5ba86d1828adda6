"""The training loop's promises about what lies on disk."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import default
from gz_jax import models, resolve
from gz_jax.labels import GALAXY_ZOO_2
from gz_jax.modes import training
from gz_jax.runtime.errors import UserError
from gz_jax.training import checkpoint, dispatch, step, workdir
from gz_jax.training.state import TrainState


class Deep(nn.Module):
    """Quick to compile, and deep enough that parameters of 1e6 overflow in it, as in the CNN."""

    @nn.compact
    def __call__(self, images, train=False):
        x = images.astype(jnp.float32).mean((1, 2)) / 255
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)
        for _ in range(7):
            x = nn.relu(nn.Dense(8)(x))
        return nn.Dense(37)(x)


@pytest.fixture
def deep(monkeypatch):
    monkeypatch.setattr(models, "create", lambda name, **options: Deep())


def small(**fields):
    config = default.get_config()
    config.data.source, config.data.num_galaxies, config.data.size = "synthetic", 80, 30
    config.batch_size, config.num_epochs, config.checkpoint.every_steps = 16, 2, 1
    config.update_from_flattened_dict(fields)
    return config


def steps_in(workdir, which):
    return sorted(int(path.name) for path in (workdir / "checkpoints" / which).iterdir() if path.name.isdecimal())


def refused(config, workdir):
    with pytest.raises(UserError) as error:
        training.train(config, str(workdir))
    assert "\n" not in str(error.value)
    return str(error.value)


def assert_good(config, workdir):
    """The checkpoint that is kept: finite, moderate, and with a finite loss on a batch."""
    tree = checkpoint.load(checkpoint.open_manager(workdir / "checkpoints" / "latest", 2, read_only=True), None)[1]
    values = np.concatenate([np.ravel(x) for x in jax.tree.leaves({k: tree[k] for k in ("params", "batch_stats")})])
    assert np.abs(values).max() < 1e12  # False for NaN, too
    module, batch = (
        resolve.parts(config, GALAXY_ZOO_2).module,
        resolve.dataset(config, GALAXY_ZOO_2).splits["train"].read(np.arange(16)),
    )
    variables = {"params": tree["params"], "batch_stats": tree["batch_stats"]}
    logits, _ = module.apply(
        variables, batch["image"], train=True, rngs={"dropout": jax.random.key(0)}, mutable=["batch_stats"]
    )
    each = resolve.recipe(config, GALAXY_ZOO_2, module, 5).loss(
        logits, batch["vote_fractions"], batch["votes"], config.model.activation, GALAXY_ZOO_2
    )
    assert np.isfinite(each).all()


@pytest.mark.parametrize(
    ("rate", "fields"),
    [
        (1e30, {}),
        (1e15, {}),
        (1e10, {"data.pipeline": "memory"}),
        (1e4, {}),
        (1e4, {"data.pipeline": "device", "data.steps_per_dispatch": 2}),
    ],
)
def test_a_run_that_diverges_keeps_a_good_checkpoint_or_none(tmp_path, deep, rate, fields):
    config = small(learning_rate=rate, **fields)
    message = refused(config, tmp_path / "run")
    assert "is not finite at step" in message
    bad, kept = int(message.split("at step ")[1].split()[0]), steps_in(tmp_path / "run", "latest")
    assert all(at < bad for at in kept)
    assert bool(kept) == (rate == 1e4)
    if kept:
        assert f"step {kept[-1]}, is kept: {tmp_path}/run/checkpoints/latest/{kept[-1]}." in message
        assert "in a new --workdir" in message
        assert_good(config, tmp_path / "run")
    else:
        assert "There is no checkpoint yet" in message
        assert "in the same --workdir" in message
        config.learning_rate = 1e-4
        workdir.claim(tmp_path / "run", workdir.Record(config, GALAXY_ZOO_2, "another", None))
        assert workdir.read(tmp_path / "run").config.learning_rate == 1e-4


@pytest.mark.slow
def test_the_cnn_that_diverges_keeps_a_good_checkpoint(tmp_path):
    config = small(learning_rate=1e6)
    assert "step 1, is kept" in refused(config, tmp_path)
    assert_good(config, tmp_path)


def test_a_bad_step_within_a_dispatch_is_named_and_what_came_before_is_kept(tmp_path, monkeypatch, deep):
    """Infinity in the labels of the 7th batch: of 5 steps in an epoch and 2 in a dispatch."""
    plain = step.train_step

    def poisoned(state, batch, key, *, recipe):
        votes = jnp.where(state.step == 6, np.inf, batch["vote_fractions"])
        return plain(state, batch | {"vote_fractions": votes}, key, recipe=recipe)

    monkeypatch.setattr(step, "train_step", poisoned)
    config = small(**{"data.pipeline": "device", "data.steps_per_dispatch": 2})
    message = refused(config, tmp_path)
    assert "the loss is not finite at step 6 (epoch 2, batch 2)" in message
    assert steps_in(tmp_path, "latest") == [4, 5]
    assert f"step 5, is kept: {tmp_path}/checkpoints/latest/5." in message
    assert "Galaxies of the batch: 100" in message


def test_a_checkpoint_whose_loss_is_not_finite_is_not_kept(tmp_path, monkeypatch, deep):
    plain = step.train_step

    def poisoned(state, batch, key, *, recipe):
        votes = jnp.where(state.step == 3, np.inf, batch["vote_fractions"])
        return plain(state, batch | {"vote_fractions": votes}, key, recipe=recipe)

    monkeypatch.setattr(step, "train_step", poisoned)
    message = refused(small(), tmp_path)
    assert "at step 3" in message
    assert steps_in(tmp_path, "latest") == [2]
    again = refused(small(), tmp_path)  # goes on from step 2, and finds the same
    assert (steps_in(tmp_path, "latest"), again) == ([2], message)


def test_a_validation_loss_that_is_not_finite_is_never_a_best_epoch(tmp_path, monkeypatch, deep):
    plain, calls = dispatch.evaluate, []

    def evaluate(*arguments):
        calls.append(1)
        return {"loss": np.nan, "accuracy": 0.0} if len(calls) == 2 else plain(*arguments)

    monkeypatch.setattr(dispatch, "evaluate", evaluate)
    message = refused(small(**{"checkpoint.every_steps": 4}), tmp_path)
    assert message.startswith("the validation loss is not finite after epoch 2 (step 10). The last good checkpoint")
    assert steps_in(tmp_path, "best") == [5]
    assert steps_in(tmp_path, "latest") == [5, 8]
    assert "latest/8." in message
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 2


@pytest.mark.slow
def test_the_latest_state_is_never_older_than_the_best(tmp_path, monkeypatch):
    """Else a killed run, which goes on from the latest, would have to throw away its best epoch."""
    saved, save = {"latest": set(), "best": set()}, checkpoint.save

    def note(manager, step, tree, info):
        saved["latest" if isinstance(tree, TrainState) else "best"].add(step)
        save(manager, step, tree, info)

    monkeypatch.setattr(checkpoint, "save", note)
    config = default.get_config()
    config.data.source, config.data.num_galaxies, config.data.size = "synthetic", 60, 30
    config.batch_size, config.num_epochs, config.model.momentum = 16, 4, 0.9
    config.schedule, config.checkpoint.every_seconds = "cosine", 1e9
    assert training.train(config, str(tmp_path / "run")) == 0
    assert saved["best"] <= saved["latest"]
    assert saved["best"] - {max(saved["latest"])}, "only the last epoch was a best one: nothing was tested"
    rows = (tmp_path / "run" / "log.csv").read_text().splitlines()
    column = rows[0].split(",").index("learning_rate")
    rates = [float(row.split(",")[column]) for row in rows[1:]]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 0.2 * rates[0]
