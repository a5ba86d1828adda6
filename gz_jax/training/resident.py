"""Training with all cutouts in device memory, and with several steps for each dispatch.

The host sends only indices and affine maps; gathering, warping and the step are one compiled program. The images are
split over the devices by galaxy. XLA fetches the rows of a batch from the devices that hold them, so that the results
do not depend on the number of devices.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from gz_jax.data import augment, pipeline
from gz_jax.data.augment import Augmentation, View
from gz_jax.data.packed import Packed
from gz_jax.training import dispatch, state, step
from gz_jax.training.dispatch import Steps
from gz_jax.training.state import PyTree, Sums, TrainState

FULL = 0.7  # largest share of a device's memory that images may take


class Galaxies(NamedTuple):
    """On the devices: image uint8 [n, side, side, 3], split by galaxy.

    vote_fractions and votes: float32 [n, answers], on each device.
    """

    image: Any
    vote_fractions: Any
    votes: Any


class Plan(NamedTuple):
    """Input of a dispatch: `index` int32 [k, b], `mask` bool [k, b] and `affine` float32 [k, b, 2, 3] of k batches.

    `count` int32: only so many of the k batches are used. If `affine` is None, the images are not warped.
    """

    index: Any
    mask: Any
    affine: Any
    count: Any


def fits(nbytes: int, mesh: Mesh) -> bool:
    """Whether the devices can hold so many bytes of images; if not, print so. True if their memory is not known."""
    limits = [(device.memory_stats() or {}).get("bytes_limit") for device in mesh.local_devices]
    limit = mesh.size * FULL * min([limit for limit in limits if limit], default=float("inf"))
    if nbytes > limit:
        print(
            f"the cutouts need {nbytes / 1e9:.1f} GB, and {mesh.size} device(s) have only {limit / 1e9:.1f} GB for "
            "them: they stay in main memory",
            flush=True,
        )
    return nbytes <= limit


def put(galaxies: Packed, mesh: Mesh) -> Galaxies:
    """Send the galaxies to the devices, each process to its own. Copies of the last row make the shares equal."""
    size = -(-len(galaxies.galaxy_id) // mesh.size) * mesh.size

    def rows(where: tuple[slice, ...] | None) -> np.ndarray:
        start, stop, _ = (where[0] if where else slice(None)).indices(size)
        part = galaxies.image[start:stop]
        missing = stop - start - len(part)
        return np.concatenate([part, galaxies.image[-1:].repeat(missing, 0)]) if missing else np.asarray(part)

    shape = (size, *galaxies.image.shape[1:])
    image = jax.make_array_from_callback(shape, state.by_galaxy(mesh), rows)
    return Galaxies(image, *(state.put(x, state.replicated(mesh)) for x in (galaxies.vote_fractions, galaxies.votes)))


def train_plans(
    galaxy_id: np.ndarray,
    augmentation: Augmentation,
    *,
    batch_size: int,
    seed: int,
    epoch: int,
    first_step: int,
    steps: int,
) -> Iterator[tuple[int, Plan]]:
    """The dispatches of an epoch from `first_step` on, of up to `steps` batches each (see `pipeline.train_batches`)."""
    indices = pipeline.train_indices(len(galaxy_id), batch_size, seed=seed, epoch=epoch)
    for start in range(first_step, len(indices), steps):
        index = indices[start : start + steps]
        affine = None
        if not augmentation.is_identity:
            affine = augment.draw(augmentation, seed, epoch, galaxy_id[index.ravel()]).reshape(*index.shape, 2, 3)
        yield len(index), _plan(index, np.ones(index.shape, bool), affine, steps)


def eval_plans(size: int, batch_size: int, steps: int) -> Iterator[Plan]:
    """The dispatches of an evaluation, of up to `steps` batches each."""
    index, mask = pipeline.eval_indices(size, batch_size)
    for start in range(0, len(index), steps):
        part = slice(start, start + steps)
        yield _plan(index[part], mask[part], None, steps)


def _plan(index: np.ndarray, mask: np.ndarray, affine: np.ndarray | None, steps: int) -> Plan:
    """A plan filled up to `steps` batches, so that all plans have the same shape."""

    def fill(array: np.ndarray) -> np.ndarray:
        return np.concatenate([array, np.repeat(array[-1:], steps - len(array), 0)])

    return Plan(
        fill(index).astype(np.int32), fill(mask), None if affine is None else fill(affine), np.int32(len(index))
    )


def look(galaxies: Galaxies, plan: Plan, i: jax.Array | int, view: View) -> step.Batch:
    """Batch i of a plan, as the network sees it: image uint8 [b, size, size, 3], vote_fractions, votes, mask."""
    index = plan.index[i]
    image, fractions, votes = (array[index] for array in galaxies)
    if plan.affine is not None:
        image = augment.warp(image, plan.affine[i], view)
    return {"image": image, "vote_fractions": fractions, "votes": votes, "mask": plan.mask[i]}


def repeat(plan: Plan, body: Callable[[jax.Array | int, Any], Any], carry: Any) -> Any:
    """Run `body` on each batch of a plan. One batch needs no loop: XLA's convolutions on CPU are very slow in loops."""
    return body(0, carry) if len(plan.index) == 1 else jax.lax.fori_loop(0, plan.count, body, carry)


def compile_steps(
    training: Galaxies, validation: Galaxies, view: View, recipe: step.Recipe, seed: int, mesh: Mesh
) -> Steps:
    """Jit the dispatches: the steps take a `Plan`, and the galaxies' cutouts are seen through `view`."""
    whole, split = state.replicated(mesh), state.by_galaxy(mesh)
    key = dispatch.dropout_key(seed)
    eval_step = functools.partial(step.eval_step, recipe=recipe)

    def batch(galaxies: Galaxies, plan: Plan, i: jax.Array | int) -> step.Batch:
        return jax.lax.with_sharding_constraint(look(galaxies, plan, i, view), split)

    where = Galaxies(split, whole, whole)

    def jitted(frozen: bool) -> Callable[[TrainState, Plan], tuple[TrainState, jax.Array]]:
        train_step = functools.partial(step.train_step, recipe=recipe._replace(frozen=frozen))

        def train(train_state: TrainState, galaxies: Galaxies, plan: Plan) -> tuple[TrainState, jax.Array]:
            def body(i: jax.Array | int, carry: tuple[TrainState, jax.Array]) -> tuple[TrainState, jax.Array]:
                return train_step(carry[0], batch(galaxies, plan, i), key)

            return repeat(plan, body, (train_state, jnp.zeros((), jnp.float32)))

        step_ = jax.jit(train, in_shardings=(whole, where, whole), out_shardings=whole, donate_argnums=0)
        return lambda train_state, plan: step_(train_state, training, plan)

    def evaluate(params: PyTree, batch_stats: PyTree, galaxies: Galaxies, plan: Plan) -> Sums:
        def body(i: jax.Array | int, sums: Sums) -> Sums:
            return jax.tree.map(jnp.add, sums, eval_step(params, batch_stats, batch(galaxies, plan, i)))

        return repeat(plan, body, state.zero_sums())

    jitted_eval = jax.jit(evaluate, in_shardings=(whole, whole, where, whole), out_shardings=whole)
    return Steps(
        train=jitted(frozen=False),
        train_head=jitted(frozen=True),
        evaluate=lambda params, batch_stats, plan: jitted_eval(params, batch_stats, validation, plan),
        put=lambda plan: plan,  # a few kilobytes, the same on every process
    )
