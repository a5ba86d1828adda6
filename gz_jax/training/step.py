"""The training and the evaluation step: pure functions of (state, batch). No I/O, no config, no TensorFlow."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from gz_jax import labels
from gz_jax.training.state import PyTree, Sums, TrainState

Batch = dict[str, jax.Array]
Apply = Callable[..., Any]


def batch_sums(predicted: jax.Array, true: jax.Array, mask: jax.Array) -> Sums:
    """Sums over the galaxies of a batch that the mask keeps.

    Args:
      predicted, true: float32 [B, 37]; mask: bool [B]. What is masked may hold anything, NaN included.
    """
    true = jnp.where(mask[:, None], true, 0)
    predicted = jnp.where(mask[:, None], predicted, 0)
    hit = jnp.argmax(predicted, -1) == jnp.argmax(true, -1)
    return Sums(
        squared_error=jnp.square(predicted - true).mean(-1).sum(),
        correct=jnp.sum(hit & mask).astype(jnp.float32),
        count=mask.sum().astype(jnp.float32),
    )


def metrics(sums: Sums) -> dict[str, float]:
    """{'loss': MSE, 'accuracy': Keras' categorical accuracy} of what was summed up; NaN of nothing."""
    count = float(sums.count)
    if not count:
        return {"loss": float("nan"), "accuracy": float("nan")}
    return {"loss": float(sums.squared_error) / count, "accuracy": float(sums.correct) / count}


def train_step(
    state: TrainState,
    batch: Batch,
    key: jax.Array,
    *,
    apply: Apply,
    optimizer: optax.GradientTransformation,
    activation: labels.Activation,
) -> tuple[TrainState, jax.Array]:
    """One update by the mean squared error over galaxies and answers (paper equation 2, squared).

    Args:
      batch: image uint8 [B, S, S, 3], vote_fractions float32 [B, 37], mask bool [B].
      key: the run's dropout key; folded with the step, so that no random state is kept.
      apply: a Linen module's `apply`.

    Returns:
      The next state and the batch's loss, float32 scalar. A loss that is not finite leaves the parameters as they were
      and is remembered in `bad_step`.
    """

    def loss_fn(params: PyTree) -> tuple[jax.Array, tuple[PyTree, Sums]]:
        logits, updates = apply(
            {"params": params, "batch_stats": state.batch_stats},
            batch["image"],
            train=True,
            rngs={"dropout": jax.random.fold_in(key, state.step)},
            mutable=["batch_stats"],
        )
        predicted = labels.activate(logits, activation)
        sums = batch_sums(predicted, batch["vote_fractions"], batch["mask"])
        return sums.squared_error / jnp.maximum(sums.count, 1), (updates.get("batch_stats", {}), sums)

    (loss, (batch_stats, sums)), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    good = jnp.isfinite(loss) & (state.bad_step < 0)
    old = (state.params, state.batch_stats, state.opt_state, state.sums)
    new = (
        optax.apply_updates(state.params, updates),
        batch_stats,
        opt_state,
        jax.tree.map(jnp.add, state.sums, sums),
    )
    params, batch_stats, opt_state, sums = jax.tree.map(lambda n, o: jnp.where(good, n, o), new, old)
    return TrainState(
        step=state.step + 1,
        params=params,
        batch_stats=batch_stats,
        opt_state=opt_state,
        sums=sums,
        bad_step=jnp.where(good | (state.bad_step >= 0), state.bad_step, state.step),
    ), loss


def predict_step(
    params: PyTree, batch_stats: PyTree, images: jax.Array, *, apply: Apply, activation: labels.Activation
) -> jax.Array:
    """Vote fractions float32 [B, 37] of images [B, S, S, 3]."""
    logits = apply({"params": params, "batch_stats": batch_stats}, images, train=False)
    return labels.activate(logits, activation)


def eval_step(
    params: PyTree, batch_stats: PyTree, batch: Batch, *, apply: Apply, activation: labels.Activation
) -> Sums:
    """A batch's sums; the batch as in `train_step`, its mask False on padding."""
    predicted = predict_step(params, batch_stats, batch["image"], apply=apply, activation=activation)
    return batch_sums(predicted, batch["vote_fractions"], batch["mask"])
