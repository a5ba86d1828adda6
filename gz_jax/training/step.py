"""The training and the evaluation step: pure functions of (state, batch). No I/O, no config, no TensorFlow."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gz_jax import labels
from gz_jax.labels import Tree
from gz_jax.models.depth import hold_body
from gz_jax.training import losses
from gz_jax.training.state import PyTree, Sums, TrainState

Batch = dict[str, jax.Array]
Apply = Callable[..., Any]


def batch_sums(predicted: jax.Array, true: jax.Array, mask: jax.Array) -> Sums:
    """Sums over the galaxies of a batch that the mask keeps and that have a known answer.

    A galaxy's squared error is the mean over its known answers; it is correct if the largest of the known answers is
    the same in both.

    Args:
      predicted: float32 [B, answers]; true: the same, NaN where unknown; mask: bool [B].
        What is masked may hold anything, NaN included.
    """
    known = mask[:, None] & ~jnp.isnan(true)
    counted = known.any(-1)
    largest = [jnp.argmax(jnp.where(known, x, -jnp.inf), -1) for x in (predicted, true)]
    return Sums(
        squared_error=losses.mean_of_known(jnp.square(predicted - true), known).sum(),
        correct=jnp.sum((largest[0] == largest[1]) & counted).astype(jnp.float32),
        count=counted.sum().astype(jnp.float32),
    )


def metrics(sums: Sums) -> dict[str, float]:
    """{'loss': MSE, 'accuracy': Keras' categorical accuracy} of what was summed up; NaN of nothing."""
    count = float(sums.count)
    if not count:
        return {"loss": float("nan"), "accuracy": float("nan")}
    return {"loss": float(sums.squared_error) / count, "accuracy": float(sums.correct) / count}


class Recipe(NamedTuple):
    """How to train, in functions and numbers: what the compiled step is made of.

    apply: a Linen module's `apply`; optimizer: with its rate in its state; activation, tree: of the outputs;
    loss: what is minimised; rate: factor of the learning rate at a step, int32 -> float32;
    average: weight of the old value in the moving average of parameters and statistics; 0 keeps none;
    frozen: the head alone is trained, and nothing is computed backwards through the body;
    parts: of a network whose features of an image stay the same in frozen epochs, else None: features from (variables,
    images), and `apply` of the rest, which takes features in place of images.
    """

    apply: Apply
    optimizer: optax.GradientTransformation
    activation: labels.Activation
    tree: Tree
    loss: losses.Loss = losses.squared_error
    rate: Callable[[jax.Array], jax.Array] | None = None
    average: float = 0.0
    frozen: bool = False
    parts: tuple[Apply, Apply] | None = None


def train_step(state: TrainState, batch: Batch, key: jax.Array, *, recipe: Recipe) -> tuple[TrainState, jax.Array]:
    """One update by the mean of the recipe's loss over the batch's galaxies that have a known answer.

    Args:
      batch: image uint8 [B, S, S, 3], vote_fractions float32 [B, answers] with NaN where unknown, votes float32
        [B, answers], mask bool [B].
      key: the run's dropout key; folded with the step, so that no random state is kept.

    Returns:
      The next state and the batch's loss, float32 scalar. Where the loss, or the parameters that the step starts from,
      are not finite (see `is_finite`), the parameters stay as they were. `bad_step` and `bad_loss` then remember this
      step, or in the case of the parameters the step before, whose update made them.
    """

    def loss_fn(params: PyTree) -> tuple[jax.Array, tuple[PyTree, Sums]]:
        logits, updates = recipe.apply(
            {"params": hold_body(params) if recipe.frozen else params, "batch_stats": state.batch_stats},
            batch["image"],
            train=True,
            rngs={"dropout": jax.random.fold_in(key, state.step)},
            mutable=["batch_stats"],
        )
        predicted = labels.activate(logits, recipe.activation, recipe.tree)
        sums = batch_sums(predicted, batch["vote_fractions"], batch["mask"])
        fractions, votes = (jnp.where(batch["mask"][:, None], batch[name], 0) for name in ("vote_fractions", "votes"))
        each = recipe.loss(logits, fractions, votes, recipe.activation, recipe.tree)
        loss = jnp.where(batch["mask"], each, 0).sum() / jnp.maximum(sums.count, 1)
        return loss, (updates.get("batch_stats", {}), sums)

    (loss, (batch_stats, sums)), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    optimizer = optax.with_extra_args_support(recipe.optimizer)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params, frozen=recipe.frozen)
    if recipe.rate is not None:
        updates = optax.tree.scale(recipe.rate(state.step), updates)
    # What the step starts from is tested, not what it leaves: a test of its own results would have to hold both states.
    fine = state.bad_step < 0
    # Bad moments or statistics show in the next parameters or the validation loss. In a branch of its own on CPU: among
    # the step's other operations these sums take XLA a minute to compile (ResNet50). On GPUs a branch would wait.
    sound = jax.lax.platform_dependent(
        state.params,
        cpu=lambda params: jax.lax.cond(fine, is_finite, lambda _: jnp.array(False), params),
        default=is_finite,
    )
    good = fine & sound & jnp.isfinite(loss)
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
        average=averaged(state.average, {"params": params, "batch_stats": batch_stats}, state.step, recipe.average),
        sums=sums,
        bad_step=jnp.where(fine & ~good, jnp.where(sound, state.step, jnp.maximum(state.step - 1, 0)), state.bad_step),
        bad_loss=jnp.where(fine & ~good, jnp.where(sound, loss, 0), state.bad_loss),
    ), loss


def is_finite(tree: PyTree) -> jax.Array:
    """Whether the sum of squares of all floating-point values is finite in float32: bool scalar.

    It overflows for a single value above 1.8e19, and for a million values above 1.8e16: such parameters are as useless
    as infinite ones, and reach infinity within the next step.
    """
    values = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.inexact)]
    return jnp.isfinite(optax.tree.norm(values, squared=True))


def averaged(average: PyTree, new: PyTree, at: jax.Array, decay: float) -> PyTree:
    """The exponential moving average after step `at`; its memory is short at first, (1 + step) / (10 + step)."""
    if not decay:
        return None
    weight = jnp.minimum(decay, (1 + at) / (10 + at))
    return jax.tree.map(lambda old, x: weight * old + (1 - weight) * x, average, new)


def predict_step(
    params: PyTree, batch_stats: PyTree, images: jax.Array, *, apply: Apply, activation: labels.Activation, tree: Tree
) -> jax.Array:
    """Vote fractions float32 [B, answers] of images [B, S, S, 3]."""
    logits = apply({"params": params, "batch_stats": batch_stats}, images, train=False)
    return labels.activate(logits, activation, tree)


def eval_step(params: PyTree, batch_stats: PyTree, batch: Batch, *, recipe: Recipe) -> Sums:
    """A batch's sums; the batch as in `train_step`, its mask False on padding."""
    predicted = predict_step(
        params, batch_stats, batch["image"], apply=recipe.apply, activation=recipe.activation, tree=recipe.tree
    )
    return batch_sums(predicted, batch["vote_fractions"], batch["mask"])
