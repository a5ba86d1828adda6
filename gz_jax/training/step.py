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
        Masked galaxies may have any values, even NaN.
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
    """{'loss': MSE, 'accuracy': Keras' categorical accuracy} from sums; NaN if no galaxy was counted."""
    count = float(sums.count)
    if not count:
        return {"loss": float("nan"), "accuracy": float("nan")}
    return {"loss": float(sums.squared_error) / count, "accuracy": float(sums.correct) / count}


class Recipe(NamedTuple):
    """How to train: the functions and numbers from which the step is compiled.

    apply: a Linen module's `apply`; optimizer: with its rate in its state; activation, tree: of the outputs;
    loss: what is minimised; rate: factor of the learning rate at a step, int32 -> float32;
    frozen: only the head is trained, and no gradients are computed for the body;
    parts: None unless the features of an image stay the same in frozen epochs; then two functions: the body computes
    features from (variables, images), and the head is `apply` of the rest, which takes features instead of images.
    """

    apply: Apply
    optimizer: optax.GradientTransformation
    activation: labels.Activation
    tree: Tree
    loss: losses.Loss = losses.squared_error
    rate: Callable[[jax.Array], jax.Array] | None = None
    frozen: bool = False
    parts: tuple[Apply, Apply] | None = None


def train_step(state: TrainState, batch: Batch, key: jax.Array, *, recipe: Recipe) -> tuple[TrainState, jax.Array]:
    """One update by the mean of the recipe's loss over the batch's galaxies that have a known answer.

    Args:
      batch: image uint8 [B, S, S, 3], vote_fractions float32 [B, answers] with NaN where unknown, votes float32
        [B, answers], mask bool [B].
      key: the run's dropout key; folded with the step, so that no random state is kept.

    Returns:
      The next state and the batch's loss, float32 scalar. If the loss, or the parameters before the step, are not
      finite (see `is_finite`), the parameters do not change. `bad_step` and `bad_loss` then record this step; if it is
      the parameters, they record the previous step, whose update made them.
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
    # The parameters before the step are tested, not those after it: that would need memory for both states.
    fine = state.bad_step < 0
    # Moments or statistics that are not finite show in the next parameters or the validation loss. On CPU the test has
    # its own branch: among the step's other operations XLA needs a minute to compile these sums (ResNet50). On GPUs a
    # branch would have to wait.
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
        sums=sums,
        bad_step=jnp.where(fine & ~good, jnp.where(sound, state.step, jnp.maximum(state.step - 1, 0)), state.bad_step),
        bad_loss=jnp.where(fine & ~good, jnp.where(sound, loss, 0), state.bad_loss),
    ), loss


def is_finite(tree: PyTree) -> jax.Array:
    """Whether the sum of squares of all floating-point values is finite in float32: bool scalar.

    The sum overflows for a single value above 1.8e19, and for a million values above 1.8e16. Such parameters are as
    useless as infinite ones, and become infinite within the next step.
    """
    values = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.inexact)]
    return jnp.isfinite(optax.tree.norm(values, squared=True))


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
