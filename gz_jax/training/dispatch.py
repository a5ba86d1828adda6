"""The data that a run sends from the host to the devices, and the compiled steps for streamed batches.

`resident.py` has the steps for galaxies that are kept in the devices' memory. A dispatch is one call of a compiled
function; it may carry out several steps.
"""

import collections
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from gz_jax.runtime.progress import Bar
from gz_jax.training import state, step
from gz_jax.training.state import PyTree, TrainState

AHEAD = 16  # dispatches that the host may run ahead of the device


class Data(NamedTuple):
    """Inputs of the steps, made on the host.

    `train(epoch, first_step)` gives pairs: the number of steps of a dispatch, and its input for `Steps.train`.
    `validation()` gives `validation_inputs` inputs for `Steps.evaluate`. Inputs are NumPy arrays; streamed ones
    have only this process's rows.
    `once` gives data and steps for frozen epochs in which features are computed once (see `features.once`); it is None
    if they cannot be.
    """

    train: Callable[[int, int], Iterable[tuple[int, Any]]]
    validation: Callable[[], Iterable[Any]]
    steps_per_epoch: int
    galaxy_ids: Callable[[int, int], np.ndarray]  # of (epoch, step): names or ids in the batch, for an error
    statistics: dict[str, Any]
    validation_inputs: int
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
    """The run's key for dropout, fold 1 of the seed's key; the initial weights are drawn with fold 0."""
    return jax.random.fold_in(jax.random.key(seed), 1)


def evaluate(
    steps: Steps, params: PyTree, batch_stats: PyTree, batches: Iterable[Any], bar: Bar | None = None
) -> dict[str, float]:
    """MSE and accuracy over every galaxy of a stream, each exactly once; `bar` counts the inputs that are done."""
    totals = None
    sent = collections.deque[tuple[int, Any]]()
    for batch in prefetch(steps.put, batches):
        sums = steps.evaluate(params, batch_stats, batch)
        totals = sums if totals is None else jax.tree.map(jax.numpy.add, totals, sums)
        sent.append((1, sums.count))
        for count, _ in finished(sent, AHEAD):
            if bar:
                bar.advance(count)
    for count, _ in finished(sent, 0):
        if bar:
            bar.advance(count)
    return step.metrics(state.zero_sums() if totals is None else totals)


def finished(sent: collections.deque[tuple[int, Any]], most: int) -> Iterator[tuple[int, Any]]:
    """Take from `sent`, oldest first, the finished dispatches; wait until at most `most` are unfinished.

    Args:
      sent: number of steps of each dispatch, and one of its results, a `jax.Array`.
    """
    while sent and (len(sent) > most or sent[0][1].is_ready()):
        count, result = sent.popleft()
        yield count, result.block_until_ready()


def prefetch(put: Callable[[Any], Any], batches: Iterable[Any]) -> Iterator[Any]:
    """Yield the inputs on the device; each is sent while the steps on the previous one are computed."""
    ahead = None
    for batch in batches:
        ready, ahead = ahead, put(batch)
        if ready is not None:
            yield ready
    if ahead is not None:
        yield ahead
