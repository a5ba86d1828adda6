"""Frozen epochs for which each galaxy's features are computed only once.

This is possible if the body, the statistics of its normalisation and the images do not change, so that an image always
gives the same features. These then replace the images in `resident.py`, and an epoch trains the head on them.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from gz_jax.data import pipeline
from gz_jax.data.augment import Augmentation, View
from gz_jax.data.packed import Packed
from gz_jax.data.split import Split
from gz_jax.runtime.progress import Bar
from gz_jax.training import resident, state, step
from gz_jax.training.dispatch import Data, Steps
from gz_jax.training.state import TrainState

LIMIT = 1 << 30  # bytes of features of all galaxies

Watch = Callable[[Iterable[Any]], Iterator[Any]]


def once(
    splits: Sequence[Split],
    view: View,
    recipe: step.Recipe,
    parts: tuple[step.Apply, step.Apply],
    how: dict[str, int],
    steps: int,
    mesh: Mesh,
    data: Data,
    train_state: TrainState,
    watch: Watch,
) -> tuple[Data, Steps] | None:
    """Data and compiled steps of frozen epochs; None if the features would take more than `LIMIT` bytes.

    Args:
      splits: of training and validation, seen through `view` without augmentation; how: 'batch_size' and 'seed'.
      parts: the network's body and head, see `step.Recipe`; steps: their number in a dispatch.
      data: those of the other epochs; watch: wraps the batches, and may raise an error to stop.
    """
    body, head = parts
    whole, split = state.replicated(mesh), state.by_galaxy(mesh)
    variables = {"params": train_state.params, "batch_stats": train_state.batch_stats}
    compute = jax.jit(body, in_shardings=(whole, split), out_shardings=split)
    image = jax.ShapeDtypeStruct((1, view.size, view.size, 3), np.uint8)
    sizes = [one.size for one in splits]
    if 4 * sum(sizes) * jax.eval_shape(body, variables, image).shape[1] > LIMIT:
        return None
    print(f"frozen epochs: features of {sum(sizes):,} galaxies, computed once", flush=True)

    def pack(one: Split, bar: Bar) -> Packed:
        rows = []
        for batch in watch(pipeline.eval_batches(one, view, batch_size=how["batch_size"])):
            image = jax.make_array_from_process_local_data(split, batch["image"])
            found = {**batch, "image": np.asarray(compute(variables, image))}
            rows.append([found[name][batch["mask"]] for name in Packed._fields])
            bar.advance(int(batch["mask"].sum()))
        return Packed(*map(np.concatenate, zip(*rows, strict=True)))

    with Bar("computing features", sum(sizes), "galaxies", waiting="compiling the network's body") as bar:
        packs = [pack(one, bar) for one in splits]
    galaxies = [resident.put(one, mesh) for one in packs]
    compiled = resident.compile_steps(galaxies[0], galaxies[1], view, recipe._replace(apply=head), how["seed"], mesh)

    plans = functools.partial(resident.train_plans, packs[0].galaxy_id, Augmentation(), steps=steps, **how)
    return data._replace(
        train=lambda epoch, first: plans(epoch=epoch, first_step=first),
        validation=lambda: resident.eval_plans(sizes[1], how["batch_size"], steps),
        validation_inputs=-(-sizes[1] // (how["batch_size"] * steps)),
    ), compiled._replace(train=compiled.train_head)
