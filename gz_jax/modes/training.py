"""`--mode=train`: reads the config, builds the parts, trains, and reports."""

import contextlib
import functools
import pathlib
import sys

import flax.linen as nn
import jax
import numpy as np
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from gz_jax import run
from gz_jax.data import augment, galaxy_zoo, kaggle_check, packed, pipeline
from gz_jax.data.augment import View
from gz_jax.data.split import Dataset
from gz_jax.inference import trained
from gz_jax.models import imagenet
from gz_jax.runtime import distributed, interrupts, lock, memory
from gz_jax.training import dispatch, loop, losses, resident, state, step
from gz_jax.training.schedule import PlateauRule


def settings(config: ConfigDict) -> loop.Settings:
    """The training loop's numbers from a config."""
    p = config.plateau
    plateau = config.schedule == "plateau"  # 'cosine' runs to its end, without cuts
    patience, stop = (p.patience, config.early_stop_patience) if plateau else (config.num_epochs, config.num_epochs)
    return loop.Settings(
        num_epochs=config.num_epochs,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        plateau=PlateauRule(patience, p.factor, p.cooldown, p.min_delta, p.min_rate),
        early_stop_patience=stop,
        seed=config.seed,
        body_rate=config.model.body_rate,
        frozen_epochs=config.model.frozen_epochs,
        every_seconds=config.checkpoint.every_seconds,
        every_steps=config.checkpoint.every_steps,
        tensorboard=config.tensorboard,
    )


def recipe(config: ConfigDict, module: nn.Module, steps_per_epoch: int) -> step.Recipe:
    """The compiled step's parts from a config."""
    rate = None
    if config.schedule == "cosine":
        warm_up = round(config.warmup_epochs * steps_per_epoch)
        total = max(config.num_epochs * steps_per_epoch, warm_up + 1)
        rate = optax.warmup_cosine_decay_schedule(0.0 if warm_up else 1.0, 1.0, warm_up, total)
    return step.Recipe(
        apply=module.apply,
        optimizer=state.adam(config.weight_decay),
        activation=config.model.activation,
        loss=losses.LOSSES[config.loss],
        rate=rate,
        average=config.average,
    )


def feed(config: ConfigDict, dataset: Dataset, parts: run.Parts, mesh: Mesh) -> tuple[dispatch.Data, dispatch.Steps]:
    """What the config's pipeline feeds the steps with, and the steps that take it."""
    train, validation = dataset.splits["train"], dataset.splits["validation"]
    size, view = config.data.size, parts.view
    if config.data.source == "synthetic":
        view = View(size, size, size)  # drawn as the network sees them
    options = {"batch_size": config.batch_size, "seed": config.seed}
    indices = functools.partial(pipeline.train_indices, train.size, **options)
    data = functools.partial(
        dispatch.Data,
        steps_per_epoch=len(indices(epoch=0)),
        galaxy_ids=lambda epoch, at: train.read(indices(epoch=epoch)[at])["galaxy_id"],
        statistics=dataset.statistics,
    )
    how = (recipe(config, parts.module, len(indices(epoch=0))), config.seed, mesh)
    if config.data.pipeline != "stream":
        packs = pack(config, dataset, parts)
        if config.data.pipeline == "device" and resident.fits(sum(p.image.nbytes for p in packs), mesh):
            steps = config.data.steps_per_dispatch or (1 if jax.default_backend() == "cpu" else 32)
            plans = functools.partial(
                resident.train_plans, packs[0].galaxy_id, parts.augmentation, steps=steps, **options
            )
            return data(
                train=lambda epoch, first: plans(epoch=epoch, first_step=first),
                validation=lambda: resident.eval_plans(validation.size, config.batch_size, steps),
            ), resident.compile_steps(*(resident.put(p, mesh) for p in packs), view, *how)
        train, validation = (p.split() for p in packs)
    share = {"process_index": jax.process_index(), "process_count": jax.process_count()}
    plain = augment.unaugmented(view)
    batches = functools.partial(pipeline.train_batches, train, view, parts.augmentation, **options, **share)
    return data(
        train=lambda epoch, first: ((1, batch) for batch in batches(epoch=epoch, first_step=first)),
        validation=lambda: pipeline.eval_batches(validation, plain, batch_size=config.batch_size, **share),
    ), dispatch.compile_steps(*how)


def pack(config: ConfigDict, dataset: Dataset, parts: run.Parts) -> list[packed.Packed]:
    """The training and the validation galaxies, decoded; what Kaggle's files hold is kept for the next time."""
    train, validation = dataset.splits["train"], dataset.splits["validation"]
    kept = galaxy_zoo.cache_dir(config.data.store, dataset.fingerprint) if packed.is_encoded(train) else None
    packs = []
    with distributed.lead_first(kept is not None):
        for name, split, final in (
            ("train", train, parts.augmentation.is_identity),
            ("validation", validation, True),
        ):
            path = kept and kept / packed.file_name(name, parts.view, final)
            packs.append(packed.pack(split, parts.view, final=final, path=path))
    return packs


def train(config: ConfigDict, workdir: str) -> int:
    """`--mode=train`: returns the exit status."""
    run.check(config, jax.device_count(), workdir)
    alone = lock.held(pathlib.Path(workdir, ".lock"), f"workdir {workdir}")
    with alone if jax.process_index() == 0 else contextlib.nullcontext():
        return _train(config, workdir)


def _train(config: ConfigDict, workdir: str) -> int:
    with distributed.lead_first(config.data.source != "synthetic"):  # downloads and prepares
        weights = run.load_weights(config)
        dataset = run.open_dataset(config)
    with distributed.lead_first():
        path = run.open_workdir(workdir, config, dataset.identity, weights)
    if dataset.skipped and jax.process_index() == 0:
        kaggle_check.write_skipped_csv(path / "skipped.csv", dataset.skipped)
        print(f"{len(dataset.skipped)} galaxies left out, see {path / 'skipped.csv'}", flush=True)
    parts = run.parts(config)
    mesh = state.make_mesh()
    data, steps = feed(config, dataset, parts, mesh)
    variables = state.initial_variables(
        parts.module,
        config.data.size,
        jax.random.fold_in(jax.random.key(config.seed), 0),
        given=() if weights is None else ("body",),
    )
    if weights is not None:
        variables = imagenet.insert(variables, weights)
    fresh = state.start(variables, state.adam(config.weight_decay), mesh, average=config.average > 0)
    print(_describe(config, dataset, variables, mesh.size), flush=True)
    del weights, variables  # `fresh` has them
    memory.keep_freed_memory()
    try:
        rate = recipe(config, parts.module, data.steps_per_epoch).rate
        progress = loop.train(path, settings(config)._replace(rate_factor=rate), data, steps, fresh)
    except loop.InterruptedRunError:
        if jax.process_index() == 0:
            print(f"interrupted and saved; the same command continues {path}", file=sys.stderr)
        return interrupts.EXIT_INTERRUPTED
    if jax.process_index() == 0 and progress.history:
        _report(path, dataset)
    return 0


def _report(path: pathlib.Path, dataset: Dataset) -> None:
    """The page of a finished run, unless it is there already for this checkpoint."""
    from gz_jax.modes import reports  # matplotlib takes a second to load

    page, model = path / "report" / "report.html", trained.load(path)
    if not page.exists() or reports.state_of(model) not in page.read_text():
        reports.evaluate(model, dataset)
    print(f"report: {page}")


def _describe(config: ConfigDict, dataset: Dataset, variables: dict, devices: int) -> str:
    count = sum(int(np.prod(x.shape)) for x in jax.tree.leaves(variables["params"]))
    sizes = ", ".join(f"{split.size} {name}" for name, split in dataset.splits.items())
    name = config.model.name + (f" from {config.model.pretrained}" if config.model.pretrained else "")
    return (
        f"{name}: {count:,} trainable parameters, {config.model.activation} outputs; "
        f"{sizes} galaxies ({dataset.identity}); {devices} {jax.devices()[0].platform} device(s)"
    )
