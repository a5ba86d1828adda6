"""The state of training: one pytree, how it is made, and how it is placed on the devices."""

from collections.abc import Collection
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gz_jax.models.depth import depths

PyTree = Any


class Sums(struct.PyTreeNode):
    """Metrics as sums and counts, divided once at the end (`step.metrics`); all float32 scalars."""

    squared_error: jax.Array  # summed over galaxies, averaged over the answers
    correct: jax.Array  # galaxies whose largest answer is predicted (Keras' categorical accuracy)
    count: jax.Array  # galaxies


class TrainState(struct.PyTreeNode):
    """Everything on the device that is needed to continue; modules, optimiser and configs stay outside."""

    step: jax.Array  # int32 scalar, updates made so far
    params: PyTree
    batch_stats: PyTree
    opt_state: optax.OptState
    sums: Sums  # of this epoch's training batches so far
    bad_step: jax.Array  # int32 scalar, the first step whose loss or update was not finite, else -1
    bad_loss: jax.Array  # float32 scalar, the loss of that step; 0 if it was the update


def zero_sums() -> Sums:
    """Sums before the first batch."""
    return Sums(*(jnp.zeros((), jnp.float32) for _ in range(3)))


def make_mesh(devices: list[jax.Device] | None = None) -> Mesh:
    """One axis, 'data', over all devices (of all processes)."""
    devices = jax.devices() if devices is None else devices
    # Linen's dropout fails under Explicit axes, make_mesh's default.
    return jax.make_mesh((len(devices),), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def by_galaxy(mesh: Mesh) -> NamedSharding:
    """The leading axis is split over the devices."""
    return NamedSharding(mesh, PartitionSpec("data"))


def put(value: np.ndarray, sharding: NamedSharding) -> jax.Array:
    """Replicate a value that all processes have (`jax.device_put` would first compare it over the network)."""
    return jax.make_array_from_process_local_data(sharding, value)


def scale_by_keras_adam(b1: float = 0.9, b2: float = 0.999, eps: float = 1e-7) -> optax.GradientTransformation:
    """Adam with Keras' (and TensorFlow's) epsilon: added to the root of the second moment before its bias is corrected.

    That is Kingma & Ba's "epsilon hat" (2014, end of section 2). `optax.scale_by_adam` adds epsilon after the
    correction. In the first hundreds of steps the same 1e-7 then has up to 30 times less effect, and small gradients,
    such as those deep in a pretrained network, lead to steps of full size.
    """
    plain = optax.scale_by_adam(b1, b2)

    def update(
        grads: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        del params
        mu = optax.tree.update_moment(grads, state.mu, b1, 1)
        nu = optax.tree.update_moment_per_elem_norm(grads, state.nu, b2, 2)
        count = optax.safe_increment(state.count)
        scale = jnp.sqrt(1 - b2**count) / (1 - b1**count)
        updates = jax.tree.map(lambda m, v: scale * m / (jnp.sqrt(v) + eps), mu, nu)
        return updates, optax.ScaleByAdamState(count, mu, nu)

    return optax.GradientTransformation(plain.init, update)


def adam(weight_decay: float = 0.0, layer_decay: float = 1.0) -> optax.GradientTransformationExtraArgs:
    """Adam as Keras sets it (beta 0.9 and 0.999, epsilon 1e-7), with its learning rate in the state.

    With `weight_decay` it is AdamW (Loshchilov & Hutter 2019): each step reduces kernels, but not biases and scales, by
    the fraction `weight_decay` times the rate. The rate of a layer of depth d (see `depths`) is `layer_decay`**d times
    that of the head.

    `update(..., frozen=True)` ignores the body's gradients: the body's updates are 0, and its moments and their count
    do not change, so that after frozen epochs Adam starts for the body as in a first epoch.
    """
    decay = [optax.add_decayed_weights(weight_decay, lambda p: jax.tree.map(lambda x: x.ndim > 1, p))]
    first = optax.chain(scale_by_keras_adam(), *(decay if weight_decay else []))
    scale = optax.stateless(lambda updates, _: jax.tree.map(lambda x, d: x * layer_decay**d, updates, depths(updates)))

    def update_body(
        updates: PyTree, state: PyTree, params: PyTree = None, *, frozen: bool = False, **_: Any
    ) -> tuple[PyTree, PyTree]:
        return (optax.tree.zeros_like(updates), state) if frozen else first.update(updates, state, params)

    parts = {"head": first, "body": optax.GradientTransformationExtraArgs(first.init, update_body)}

    def make(learning_rate: float) -> optax.GradientTransformation:
        each = optax.multi_transform(
            parts, lambda params: jax.tree.map(lambda d: "body" if d else "head", depths(params))
        )
        return optax.chain(each, *([scale] if layer_decay != 1 else []), optax.scale_by_learning_rate(learning_rate))

    return optax.inject_hyperparams(make)(learning_rate=0.0)


def with_rate(state: TrainState, rate: float) -> TrainState:
    """The state with another learning rate."""
    old = state.opt_state.hyperparams["learning_rate"]
    hyperparams = {**state.opt_state.hyperparams, "learning_rate": put(np.asarray(rate, old.dtype), old.sharding)}
    return state.replace(opt_state=state.opt_state._replace(hyperparams=hyperparams))


def variables_of(state: TrainState) -> dict[str, PyTree]:
    """Variables for prediction and the best checkpoint: {'params', 'batch_stats'}."""
    return {"params": state.params, "batch_stats": state.batch_stats}


def initial_variables(
    module: nn.Module, size: int, key: jax.Array, *, given: Collection[str] = ()
) -> dict[str, PyTree]:
    """Fresh variables {'params', 'batch_stats'} for images of `size` x `size` pixels.

    Parts whose top-level names are in `given` (the body of a pretrained network) are not drawn, which saves ten seconds
    of compiling; `jax.ShapeDtypeStruct`s take their place.
    """

    def init(key: jax.Array) -> Any:
        return module.init(key, jnp.zeros((1, size, size, 3), jnp.uint8), train=False)

    def draw(key: jax.Array) -> dict[str, PyTree]:
        return {kind: {k: v for k, v in parts.items() if k not in given} for kind, parts in init(key).items()}

    shapes, drawn = jax.eval_shape(init, key), jax.jit(draw)(key)
    return {kind: {**parts, **drawn[kind]} for kind, parts in shapes.items()}


def shapes(module: nn.Module, size: int) -> dict[str, PyTree]:
    """`jax.ShapeDtypeStruct`s of a module's variables for images of `size` x `size` pixels."""
    return jax.eval_shape(
        lambda key: module.init(key, jnp.zeros((1, size, size, 3), jnp.uint8), train=False), jax.random.key(0)
    )


def start(variables: dict[str, PyTree], optimizer: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """The state before the first step, replicated over the mesh."""

    def make(variables: dict[str, PyTree]) -> TrainState:
        variables = {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            **variables,
            opt_state=optimizer.init(variables["params"]),
            sums=zero_sums(),
            bad_step=jnp.full((), -1, jnp.int32),
            bad_loss=jnp.zeros((), jnp.float32),
        )

    return jax.jit(make, out_shardings=replicated(mesh))(variables)
