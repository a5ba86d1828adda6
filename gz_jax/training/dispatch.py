"""From the host to the devices: what a run is fed with, and its compiled steps for batches that are streamed.

`resident.py` has those for galaxies that lie in the devices' memory.
"""

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from gz_jax.training import state, step
from gz_jax.training.state import PyTree, TrainState


class Data(NamedTuple):
    """What the steps are fed with, from the host.

    `train(epoch, first_step)` gives pairs: the number of steps of a dispatch, and its input for `Steps.train`.
    `validation()` gives inputs for `Steps.evaluate`. Inputs are NumPy arrays, those of a stream this process's rows.
    `once` gives the same for frozen epochs in which features are computed once (see `features.once`), if they can be.
    """

    train: Callable[[int, int], Iterable[tuple[int, Any]]]
    validation: Callable[[], Iterable[Any]]
    steps_per_epoch: int
    galaxy_ids: Callable[[int, int], np.ndarray]  # names or ids of a batch of (epoch, step), for an error
    statistics: dict[str, Any]
    once: Callable[..., "tuple[Data, Steps] | None"] | None = None


class Steps(NamedTuple):
    """The jitted steps over a mesh; `put` sends an input to the devices.

    `train` also returns the last step's loss. `train_head` is the same for frozen epochs. Each is compiled when it is
    first used.
    """

    train: Callable[[TrainState, Any], tuple[TrainState, jax.Array]]
    train_head: Callable[[TrainState, Any], tuple[TrainState, jax.Array]]
    evaluate: Callable[[PyTree, PyTree, Any], state.Sums]
    put: Callable[[Any], Any]


def compile_steps(recipe: step.Recipe, seed: int, mesh: Mesh) -> Steps:
    """Jit the steps for streamed batches: state replicated and donated, batches split over the mesh by galaxy."""
    whole, split = state.replicated(mesh), state.by_galaxy(mesh)

    def jitted(frozen: bool) -> Any:
        def train(train_state: TrainState, batch: step.Batch) -> tuple[TrainState, jax.Array]:
            return step.train_step(train_state, batch, dropout_key(seed), recipe=recipe._replace(frozen=frozen))

        return jax.jit(train, in_shardings=(whole, split), out_shardings=(whole, whole), donate_argnums=0)

    evaluate = functools.partial(step.eval_step, recipe=recipe)
    jitted_eval = jax.jit(evaluate, in_shardings=(whole, whole, split), out_shardings=whole)

    def put(batch: step.Batch) -> step.Batch:
        arrays = {name: batch[name] for name in ("image", "vote_fractions", "votes", "mask")}
        return {name: jax.make_array_from_process_local_data(split, array) for name, array in arrays.items()}

    return Steps(jitted(frozen=False), jitted(frozen=True), jitted_eval, put)


def dropout_key(seed: int) -> jax.Array:
    """The run's key for dropout; fold 0 of the seed's key drew the initial weights."""
    return jax.random.fold_in(jax.random.key(seed), 1)


def evaluate(steps: Steps, params: PyTree, batch_stats: PyTree, batches: Iterable[Any]) -> dict[str, float]:
    """MSE and accuracy over every galaxy of a stream, each exactly once."""
    totals = None
    for batch in prefetch(steps.put, batches):
        sums = steps.evaluate(params, batch_stats, batch)
        totals = sums if totals is None else jax.tree.map(jax.numpy.add, totals, sums)
    return step.metrics(state.zero_sums() if totals is None else totals)


def prefetch(put: Callable[[Any], Any], batches: Iterable[Any]) -> Iterator[Any]:
    """Inputs on the device, each sent while the one before is computed."""
    ahead = None
    for batch in batches:
        ready, ahead = ahead, put(batch)
        if ready is not None:
            yield ready
    if ahead is not None:
        yield ahead
