"""A config turned into plain arguments of training and prediction. No module below this one reads a config."""

import contextlib
import functools
import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import flax.linen as nn
import numpy as np
import optax
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict

from gz_jax import fields, labels, models
from gz_jax.data import augment, sight
from gz_jax.data.augment import Augmentation, View
from gz_jax.data.kaggle_split import compare_splits
from gz_jax.data.sight import Sight
from gz_jax.data.split import Dataset
from gz_jax.labels import Tree
from gz_jax.models import imagenet, pretrained
from gz_jax.models.layers import preprocess_of
from gz_jax.runtime.errors import UserError
from gz_jax.training import losses, state, step, workdir
from gz_jax.training.schedule import PlateauRule

if TYPE_CHECKING:  # prediction does not need these modules, and starts faster without them
    from gz_jax.training import feed, loop

_NO_EDGE = 10**6  # pixels beyond the square: a catalogue's images have any size, and their edge pixels are repeated


class Parts(NamedTuple):
    """What is built from a config: the network, the part of an image that it sees, and the augmentation."""

    module: nn.Module
    view: View
    augmentation: Augmentation


def check(config: ConfigDict, device_count: int, folder: pathlib.Path | None = None) -> None:
    """Check that a config can work, before anything is read or written.

    Args:
      folder: workdir of the run that is to be trained, if any; its config decides which advice is of use.

    Raises:
      UserError: names the field, its value and what it may be.
    """
    fields.check(config)
    seen(config)
    if config.batch_size % device_count:
        text = f"--config.batch_size={config.batch_size} does not divide over {device_count} devices"
        raise UserError(f"{text}: {_batch_advice(config.batch_size, device_count, folder)}")


def _batch_advice(batch_size: int, device_count: int, folder: pathlib.Path | None) -> str:
    """Advice for a batch that does not divide over the devices. A run in the workdir keeps its batch size."""
    old = None
    if folder is not None and workdir.is_claimed(folder):
        with contextlib.suppress(UserError):
            old = workdir.read(folder).config.batch_size
    if old is None:
        below = batch_size // device_count * device_count
        return f"use {' or '.join(str(n) for n in (below, below + device_count) if n)}."
    if old % device_count == 0:
        return f"the run in {folder} has --config.batch_size={old}; continue it with that, or use another --workdir."
    numbers = [str(n) for n in range(1, device_count) if old % n == 0]
    return (
        f"the run in {folder} has --config.batch_size={old} and keeps it. Continue it on a number of devices that "
        f"divides {old} ({', '.join(numbers)}), or use another --workdir."
    )


def tree(config: ConfigDict, folder: pathlib.Path | None = None) -> Tree:
    """The decision tree that a config names. If its file is gone, the tree saved in the workdir `folder` is used.

    Raises:
      UserError: there is no such tree.
    """
    try:
        return labels.load(config.tree)
    except UserError:
        if folder is None or pathlib.Path(config.tree).expanduser().exists() or not workdir.is_claimed(folder):
            raise
        saved = workdir.read(folder)
        if saved.config.tree != config.tree:
            raise
        return saved.tree


def parts(config: ConfigDict, tree: Tree) -> Parts:
    """The network's module, and how images are cut out and augmented for it."""
    m = config.model
    options = {"dtype": m.dtype, "momentum": m.momentum, "preprocess": m.preprocess}
    if m.name == "resnet50":
        options |= {"variant": m.variant, "hidden": tuple(m.hidden), "dropout": m.dropout, "pooling": m.pooling}
        options["freeze_statistics"] = m.frozen_statistics
    augmentation = Augmentation(**config.augment)
    return Parts(
        models.create(m.name, num_outputs=len(tree.columns), **options), view(config, augmentation), augmentation
    )


def view(config: ConfigDict, augmentation: Augmentation) -> View:
    """The part of an image that training keeps, augments and shows to the network."""
    d = config.data
    if d.source != "catalogue":
        return augment.view(d.size, d.crop or fields.CROP, d.image_size, augmentation)
    # If the squares differ in pixels, cutouts have Kaggle's scale: three pixels for each pixel of the network.
    crop = d.crop or 3 * d.size
    return augment.view(d.size, crop, crop + 2 * _NO_EDGE, augmentation)


def seen(config: ConfigDict) -> Sight:
    """Which square of an image the network sees, and how FITS data are shown.

    Raises:
      UserError: the config does not say it, or says it in two different ways.
    """
    d = config.data
    if d.source != "catalogue":
        return Sight(share=(d.crop or fields.CROP) / d.image_size)
    square = {"crop": d.crop, "share": d.share, "field": d.field, "pixel_scale": d.pixel_scale}
    return sight.make(**square, fits=config.fits)


def weights(config: ConfigDict, tree: Tree, network_of: Callable[[pathlib.Path], Any]) -> pretrained.Start | None:
    """The pretrained weights that the config names, if any.

    The weights determine the ResNet50's variant, and together with the config the preprocessing. Both fields of the
    config are set accordingly.

    Args:
      network_of: reads a workdir or a shared network: `inference.trained.network_of`, which may not be imported here.

    Raises:
      UserError: it cannot be read, or is another network than the config's.
    """
    m = config.model
    if not m.pretrained:
        return None
    place = pretrained.locate(m.pretrained)
    if place.is_network:
        return _of_network(config, tree, network_of(place.path))
    if m.name != "resnet50":
        raise UserError(f"{m.pretrained} is a ResNet50's: add --config.model.name=resnet50.")
    found, how, text = pretrained.read(place, m.preprocess)
    m.variant, m.preprocess = found.variant, how
    variables = {kind: {"body": values} for kind, values in found.body.items()}
    return pretrained.Start(variables, found.fingerprint, f"starting from {m.pretrained}: the body alone; {text}")


def _of_network(config: ConfigDict, tree: Tree, network: Any) -> pretrained.Start:
    """As `weights`, for a run or a shared network: all its weights if tree, outputs and head are the same."""
    m, theirs = config.model, network.record.config.model
    if theirs.name != m.name:
        raise UserError(f"the network in {m.pretrained} is a {theirs.name}: add --config.model.name={theirs.name}.")
    m.variant = theirs.variant
    m.preprocess, text = pretrained.settle(m.pretrained, preprocess_of(theirs), "as the network's", m.preprocess)
    want = flatten_dict(state.shapes(parts(config, tree).module, config.data.size), sep="/")
    have = flatten_dict(dict(network.variables), sep="/")
    other = labels.differences(network.record.tree, tree)
    other += [f"outputs were {theirs.activation} and are now {m.activation}"] * (theirs.activation != m.activation)
    shapes = {k: v.shape for k, v in have.items()}, {k: v.shape for k, v in want.items()}
    other += ["the layers after the body differ"] * (shapes[0] != shapes[1])
    kept = {k: v for k, v in have.items() if not (other and k.split("/")[1].startswith(("dense", "head")))}
    variables = unflatten_dict(kept, sep="/")
    what = f"the body alone ({other[0]})" if other else "the whole network"
    text = f"starting from {m.pretrained}: {what}; {text}"
    return pretrained.Start(variables, imagenet.fingerprint(variables), text)


def dataset(config: ConfigDict, tree: Tree) -> Dataset:
    """The galaxies that the config asks for. For synthetic ones TensorFlow is not loaded."""
    d = config.data
    common: dict[str, Any] = {"tree": tree, "seed": d.seed, "validation_fraction": d.validation_fraction}
    common["fold"] = (d.fold, d.folds) if d.folds else None
    if d.source == "synthetic":
        from gz_jax.data import synthetic

        found = synthetic.make_dataset(d.num_galaxies, size=d.size, merger_fraction=d.merger_fraction, **common)
        train, validation = (
            split.read(np.arange(split.size))["vote_fractions"]
            for split in (found.splits["train"], found.splits["validation"])
        )
        return found._replace(statistics=compare_splits(train, validation, tree))
    if d.source == "catalogue":
        from gz_jax.data import catalogue

        return catalogue.open_dataset(
            d.catalogue,
            **common,
            labels=d.labels,
            sight=seen(config),
            size=d.size,
            columns=d.columns,
            suffix=d.suffix,
            nominal_votes=d.nominal_votes,
            id_column=d.id_column,
            file_column=d.file_column,
            file_columns=fields.names(d.file_columns),
            images=d.images,
            on_bad=d.on_bad,
            store=d.store,
        )
    from gz_jax.data import galaxy_zoo

    files = {"on_bad": d.on_bad, "image_size": d.image_size, "store": d.store, "prepared": d.pipeline == "stream"}
    return galaxy_zoo.open_dataset(d.dir, **common, **files)


def settings(config: ConfigDict) -> "loop.Settings":
    """The training loop's numbers."""
    from gz_jax.training import loop

    p = config.plateau
    plateau = config.schedule == "plateau"  # 'cosine' has no plateaus and no early stopping
    patience, stop = (p.patience, config.early_stop_patience) if plateau else (config.num_epochs, config.num_epochs)
    return loop.Settings(
        num_epochs=config.num_epochs,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        plateau=PlateauRule(patience, p.factor, p.cooldown, p.min_delta, p.min_rate),
        early_stop_patience=stop,
        seed=config.seed,
        frozen_epochs=config.model.frozen_epochs,
        every_seconds=config.checkpoint.every_seconds,
        every_steps=config.checkpoint.every_steps,
        tensorboard=config.tensorboard,
    )


def feeding(config: ConfigDict) -> "feed.How":
    """How galaxies are given to the train steps."""
    from gz_jax.training import feed

    d = config.data
    return feed.How(d.pipeline, config.batch_size, config.seed, d.steps_per_dispatch, d.store)


def recipe(config: ConfigDict, tree: Tree, module: nn.Module, steps_per_epoch: int) -> step.Recipe:
    """The compiled step's parts."""
    rate = None
    if config.schedule == "cosine":
        warm_up = round(config.warmup_epochs * steps_per_epoch)
        total = max(config.num_epochs * steps_per_epoch, warm_up + 1)
        rate = optax.warmup_cosine_decay_schedule(0.0 if warm_up else 1.0, 1.0, warm_up, total)
    parts, m = None, config.model
    if m.name == "resnet50" and m.frozen_epochs and m.frozen_statistics:  # features then depend on the image only
        parts = (functools.partial(module.apply, method="features"), functools.partial(module.apply, method="answers"))
    loss = losses.LOSSES[config.loss]
    if config.loss == "dirichlet":
        loss = functools.partial(losses.dirichlet, nominal=config.data.nominal_votes)
    return step.Recipe(
        apply=module.apply,
        optimizer=state.adam(config.weight_decay, config.model.layer_decay),
        activation=config.model.activation,
        tree=tree,
        loss=loss,
        rate=rate,
        parts=parts,
    )
