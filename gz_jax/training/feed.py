"""From a data set to the compiled steps: one of the three pipelines ('stream', 'memory', 'device')."""

import functools
from typing import Literal, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from gz_jax.data import augment, galaxy_zoo, packed, pipeline
from gz_jax.data.augment import Augmentation, View
from gz_jax.data.split import Dataset
from gz_jax.runtime import distributed
from gz_jax.training import dispatch, features, resident, step

Pipeline = Literal["stream", "memory", "device"]


class How(NamedTuple):
    """How galaxies reach the steps.

    batch_size: over all devices; seed: of order and augmentation; steps_per_dispatch: for 'device', 0 for the
    default; store: the folder in which decoded galaxies are kept, None for TFDS' own folder.
    """

    pipeline: Pipeline
    batch_size: int
    seed: int
    steps_per_dispatch: int = 0
    store: str | None = None


def steps_per_epoch(dataset: Dataset, how: How) -> int:
    """How many batches an epoch has."""
    return len(pipeline.train_indices(dataset.splits["train"].size, how.batch_size, seed=how.seed, epoch=0))


def feed(
    dataset: Dataset, view: View, augmentation: Augmentation, recipe: step.Recipe, how: How, mesh: Mesh
) -> tuple[dispatch.Data, dispatch.Steps]:
    """The data of a pipeline, and the compiled steps that take them."""
    train, validation = dataset.splits["train"], dataset.splits["validation"]
    names = train.names
    packs = pack(dataset, view, augmentation, how.store) if how.pipeline != "stream" else []
    if not packed.is_encoded(train):
        view = View(view.size, view.size, view.size)  # synthetic galaxies are drawn as the network sees them
    options = {"batch_size": how.batch_size, "seed": how.seed}
    indices = functools.partial(pipeline.train_indices, train.size, **options)

    def ids(index: np.ndarray) -> np.ndarray:
        return train.read(index)["galaxy_id"] if names is None else names[index]

    once, plain = None, augment.unaugmented(view)
    steps = how.steps_per_dispatch or (1 if jax.default_backend() == "cpu" else 32)
    if recipe.parts is not None and augmentation.is_identity and jax.process_count() == 1:
        splits = [p.split() for p in packs] or [train, validation]
        once = functools.partial(features.once, splits, plain, recipe, recipe.parts, options, steps, mesh)
    data = functools.partial(
        dispatch.Data,
        once=once,
        steps_per_epoch=len(indices(epoch=0)),
        galaxy_ids=lambda epoch, at: ids(indices(epoch=epoch)[at]),
        statistics=dataset.statistics,
    )
    if how.pipeline == "device" and resident.fits(sum(p.image.nbytes for p in packs), mesh):
        galaxies = [resident.put(p, mesh) for p in packs]
        plans = functools.partial(resident.train_plans, packs[0].galaxy_id, augmentation, steps=steps, **options)
        return data(
            train=lambda epoch, first: plans(epoch=epoch, first_step=first),
            validation=lambda: resident.eval_plans(validation.size, how.batch_size, steps),
            validation_inputs=-(-validation.size // (how.batch_size * steps)),
        ), resident.compile_steps(galaxies[0], galaxies[1], view, recipe, how.seed, mesh)
    if packs:
        train, validation = (p.split() for p in packs)
    share = {"process_index": jax.process_index(), "process_count": jax.process_count()}
    batches = functools.partial(pipeline.train_batches, train, view, augmentation, **options, **share)
    return data(
        train=lambda epoch, first: ((1, batch) for batch in batches(epoch=epoch, first_step=first)),
        validation=lambda: pipeline.eval_batches(validation, plain, batch_size=how.batch_size, **share),
        validation_inputs=-(-validation.size // how.batch_size),
    ), dispatch.compile_steps(recipe, how.seed, mesh)


def pack(dataset: Dataset, view: View, augmentation: Augmentation, store: str | None) -> list[packed.Packed]:
    """The decoded training and validation galaxies; those read from files are kept on disk for the next run."""
    train, validation = dataset.splits["train"], dataset.splits["validation"]
    kept = galaxy_zoo.cache_dir(store, dataset.cache or dataset.fingerprint) if packed.is_encoded(train) else None
    packs = []
    with distributed.lead_first(kept is not None):
        for name, split, final in (("train", train, augmentation.is_identity), ("validation", validation, True)):
            path = kept and kept / packed.file_name(name, view, final)
            packs.append(packed.pack(split, view, final=final, path=path))
    return packs
