import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gz_jax.training.schedule import (
    EarlyStop,
    PlateauRule,
    start_plateau,
    update_early_stop,
    update_plateau,
)


def rates(losses, rule, rate=1e-3):
    """The rate that each epoch ran at."""
    state, used = start_plateau(rate), []
    for loss in losses:
        used.append(state.rate)
        state = update_plateau(state, loss, rule)
    return used


def stop_epoch(losses, patience):
    state = EarlyStop()
    for epoch, loss in enumerate(losses):
        state = update_early_stop(state, epoch, loss, patience)
        if state.stop:
            return epoch, state.best_epoch
    return None, state.best_epoch


def test_worked_run_of_keras():
    """Falling 1.5e-5 an epoch from 0.0106 with patience 6, Keras cuts at the ends of epochs 6, 13 and 20 (0-based)."""
    losses = [0.0106 - 1.5e-5 * e for e in range(24)]
    used = rates(losses, PlateauRule(6, 0.5))
    cuts = [e for e in range(23) if used[e + 1] < used[e]]
    assert cuts == [6, 13, 20]
    np.testing.assert_allclose(used[21], 1e-3 / 8, rtol=1e-6)


def test_improvement_is_absolute_and_strict():
    rule = PlateauRule(1, 0.5, min_delta=0.25)
    state = update_plateau(start_plateau(1.0), 1.0, rule)
    assert update_plateau(state, 0.75, rule).rate == 0.5  # 0.75 + 0.25 is not below 1
    assert update_plateau(state, 0.74, rule).rate == 1.0


def test_cooldown_and_lowest_rate():
    used = rates([1.0] * 12, PlateauRule(2, 0.1, cooldown=2, min_rate=0.005), rate=1.0)
    assert used == pytest.approx([1, 1, 1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.01, 0.005, 0.005, 0.005], rel=1e-6)


def test_early_stop_by_hand():
    assert stop_epoch([3.0, 2.0, 2.0, 2.5, 1.0], patience=2) == (3, 1)
    assert stop_epoch([3.0, 2.0, 2.0, 1.0, 1.0], patience=2) == (None, 3)
    assert stop_epoch([1.0, 1.0], patience=1) == (1, 0)
    assert stop_epoch([math.inf, 1.0], patience=0) == (None, 1)  # never in the first epoch


def curves(count):
    rng = np.random.default_rng(0)
    for _ in range(count):
        steps = rng.normal(-1e-4, 4e-4, 60) * rng.choice([0.1, 1, 3])
        yield np.round(0.02 + np.cumsum(steps), rng.integers(4, 9)).tolist(), rng


def test_plateau_is_optax_with_absolute_tolerance():
    """optax.contrib.reduce_on_plateau, once an epoch with rtol=0 and atol=1e-4, where no cooldown is asked for."""
    for losses, rng in curves(12):
        patience, factor = int(rng.integers(1, 8)), float(rng.choice([0.3, 0.5]))
        transform = optax.contrib.reduce_on_plateau(factor=factor, patience=patience, rtol=0.0, atol=1e-4)
        update = jax.jit(lambda state, loss, t=transform: t.update(jnp.zeros(()), state, value=loss)[1])
        state, scales = transform.init(jnp.zeros(())), []
        for loss in losses:
            scales.append(float(state.scale))
            state = update(state, loss)
        # optax compares in float32: leave out curves that stand within rounding of the threshold
        ours = rates(losses, PlateauRule(patience, factor), rate=1.0)
        if min(abs(abs(a - b) - 1e-4) for a in losses for b in losses) > 1e-8:
            np.testing.assert_allclose(ours, scales, rtol=1e-5)


@pytest.mark.peers
def test_callbacks_are_keras_on_200_random_curves():
    keras = pytest.importorskip("keras")
    cut = stopped = 0
    optimizer = keras.optimizers.Adam(1e-3)
    model = keras.Sequential([keras.layers.Input((1,)), keras.layers.Dense(1)])
    model.compile(optimizer=optimizer, loss="mse")
    for losses, rng in curves(200):
        rule = PlateauRule(
            patience=int(rng.integers(1, 8)),
            factor=float(rng.choice([0.3, 0.4, 0.5])),
            cooldown=int(rng.integers(0, 4)),
            min_rate=float(rng.choice([0.0, 1e-4])),
        )
        patience = int(rng.integers(1, 25))
        plateau = keras.callbacks.ReduceLROnPlateau(
            patience=rule.patience, factor=rule.factor, cooldown=rule.cooldown, min_lr=rule.min_rate, min_delta=1e-4,
            mode="min",
        )  # fmt: skip
        early = keras.callbacks.EarlyStopping(patience=patience, mode="min")
        optimizer.learning_rate = 1e-3
        theirs, their_stop = [], None
        for callback in (plateau, early):
            callback.set_model(model)
            callback.on_train_begin()
        model.stop_training = False
        for epoch, loss in enumerate(losses):
            logs = {"val_loss": loss}
            plateau.on_epoch_end(epoch, logs)
            early.on_epoch_end(epoch, logs)
            theirs.append(logs["learning_rate"])
            if model.stop_training:
                their_stop = epoch
                break
        ours, our_best = stop_epoch(losses, patience)
        assert ours == their_stop
        assert our_best == early.best_epoch
        assert rates(losses[: len(theirs)], rule) == theirs
        cut += theirs[-1] < theirs[0]
        stopped += their_stop is not None
    assert cut > 50  # the curves exercise the rules
    assert 50 < stopped < 200
