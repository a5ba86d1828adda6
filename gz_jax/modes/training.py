"""`--mode=train`: reads the config, builds the parts, trains, and reports."""

import functools
import pathlib
import sys

import jax
import numpy as np
from ml_collections import ConfigDict

from gz_jax import distributed, run, trained
from gz_jax.data import kaggle_check, packed, pipeline
from gz_jax.data.split import Dataset
from gz_jax.models import imagenet
from gz_jax.training import loop, state
from gz_jax.training.schedule import PlateauRule


def settings(config: ConfigDict) -> loop.Settings:
    """The training loop's numbers from a config."""
    p = config.plateau
    return loop.Settings(
        num_epochs=config.num_epochs,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        plateau=PlateauRule(p.patience, p.factor, p.cooldown, p.min_delta, p.min_rate),
        early_stop_patience=config.early_stop_patience,
        activation=config.model.activation,
        seed=config.seed,
        body_rate=config.model.body_rate,
        frozen_epochs=config.model.frozen_epochs,
        every_seconds=config.checkpoint.every_seconds,
        every_steps=config.checkpoint.every_steps,
        tensorboard=config.tensorboard,
    )


def stream(config: ConfigDict, dataset: Dataset, parts: run.Parts) -> loop.Data:
    """Training and validation batches of a data set."""
    train, validation = dataset.splits["train"], dataset.splits["validation"]
    plain = parts.augmentation.is_identity
    if config.data.cache:
        train = packed.pack(train, parts.view, final=plain)
        validation = packed.pack(validation, parts.view, final=True)
    share = {"process_index": jax.process_index(), "process_count": jax.process_count()}
    indices = functools.partial(pipeline.train_indices, train.size, config.batch_size, seed=config.seed)
    return loop.Data(
        train=lambda epoch, first: pipeline.train_batches(
            train,
            parts.view,
            parts.augmentation,
            batch_size=config.batch_size,
            seed=config.seed,
            epoch=epoch,
            first_step=first,
            **share,
        ),
        validation=lambda: pipeline.eval_batches(validation, parts.view, batch_size=config.batch_size, **share),
        steps_per_epoch=len(indices(epoch=0)),
        galaxy_ids=lambda epoch, at: train.read(indices(epoch=epoch)[at])["galaxy_id"],
        statistics=dataset.statistics,
    )


def train(config: ConfigDict, workdir: str) -> int:
    """`--mode=train`: returns the exit status."""
    run.check(config, jax.device_count(), jax.process_count())
    with distributed.lead_first(config.data.source != "synthetic"):  # downloads and prepares
        weights = run.load_weights(config)
        dataset = run.open_dataset(config)
    with distributed.lead_first():
        path = run.open_workdir(workdir, config, dataset.fingerprint, weights)
    if dataset.skipped and jax.process_index() == 0:
        kaggle_check.write_skipped_csv(path / "skipped.csv", dataset.skipped)
        print(f"{len(dataset.skipped)} galaxies left out, see {path / 'skipped.csv'}", flush=True)
    parts = run.parts(config)
    data = stream(config, dataset, parts)
    mesh, optimizer = state.make_mesh(), state.adam()
    variables = state.initial_variables(
        parts.module, config.data.size, jax.random.fold_in(jax.random.key(config.seed), 0)
    )
    if weights is not None:
        variables = imagenet.insert(variables, weights)
    print(_describe(config, dataset, variables, mesh.size), flush=True)
    steps = loop.compile_steps(parts.module.apply, optimizer, config.model.activation, config.seed, mesh)
    try:
        progress = loop.train(path, settings(config), data, steps, state.start(variables, optimizer, mesh))
    except loop.InterruptedRunError:
        print(f"interrupted and saved; the same command continues {path}", file=sys.stderr)
        return loop.EXIT_INTERRUPTED
    if jax.process_index() == 0 and progress.history:
        _report(path, dataset)
    return 0


def _report(path: pathlib.Path, dataset: Dataset) -> None:
    """The page of a finished run, unless it is there already for this checkpoint."""
    from gz_jax.modes import reports  # matplotlib takes a second to load

    page = path / "report" / "report.html"
    if page.exists() and page.stat().st_mtime > (path / "log.csv").stat().st_mtime:
        print(f"report: {page}")
        return
    reports.evaluate(trained.load(path), dataset)
    print(f"report: {page}")


def _describe(config: ConfigDict, dataset: Dataset, variables: dict, devices: int) -> str:
    count = sum(int(np.prod(x.shape)) for x in jax.tree.leaves(variables["params"]))
    sizes = ", ".join(f"{split.size} {name}" for name, split in dataset.splits.items())
    name = config.model.name + (f" from {config.model.pretrained}" if config.model.pretrained else "")
    return (
        f"{name}: {count:,} trainable parameters, {config.model.activation} outputs; "
        f"{sizes} galaxies ({dataset.fingerprint}); {devices} {jax.devices()[0].platform} device(s)"
    )
