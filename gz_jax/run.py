"""A config and a workdir, resolved into the plain things that training and prediction take."""

import functools
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from ml_collections import ConfigDict

from gz_jax import models
from gz_jax.data import augment, pipeline
from gz_jax.data.augment import Augmentation, View
from gz_jax.data.kaggle_split import compare_splits
from gz_jax.data.split import Dataset
from gz_jax.errors import UserError
from gz_jax.files import write_json
from gz_jax.models import imagenet

# Fields that may change between the first start of a run and a later one.
FREE = (
    "num_epochs",
    "data.dir",
    "data.store",
    "data.cache",
    "model.pretrained",  # the weights' fingerprint is compared instead
    "checkpoint.every_seconds",
    "checkpoint.every_steps",
    "tensorboard",
)


ONE_OF = {
    "data.source": ("galaxy_zoo", "synthetic"),
    "data.on_bad": ("fail", "skip"),
    "model.name": models.NAMES,
    "model.activation": ("sigmoid", "divisive", "softmax"),
    "model.dtype": ("float32", "bfloat16"),
    "model.variant": ("keras", "torchvision"),
    "model.pooling": ("flatten", "average"),
}
POSITIVE = (
    "num_epochs",
    "batch_size",
    "learning_rate",
    "data.crop",
    "data.size",
    "data.image_size",
    "data.num_galaxies",
    "plateau.patience",
    "early_stop_patience",
)


def check(config: ConfigDict, device_count: int, process_count: int = 1) -> None:
    """Refuse what cannot work, before anything is read or written.

    Raises:
      UserError: names the field, its value and what it may be.
    """
    for field, allowed in ONE_OF.items():
        if _get(config, field) not in allowed:
            raise UserError(f"--config.{field}={_get(config, field)!r} must be one of {', '.join(map(repr, allowed))}.")
    for field in POSITIVE:
        if not _get(config, field) > 0:
            raise UserError(f"--config.{field}={_get(config, field)} must be more than 0.")
    if config.data.crop > config.data.image_size:
        raise UserError(
            f"--config.data.crop={config.data.crop} is more than the images' side, "
            f"--config.data.image_size={config.data.image_size}."
        )
    if not 0 < config.data.validation_fraction < 1:
        raise UserError(
            f"--config.data.validation_fraction={config.data.validation_fraction} must lie between 0 and 1."
        )
    if not 0 < config.plateau.factor < 1:
        raise UserError(f"--config.plateau.factor={config.plateau.factor} must lie between 0 and 1.")
    if config.augment.zoom < 1 or config.augment.shift < 0:
        raise UserError("--config.augment.zoom must be at least 1 and --config.augment.shift at least 0.")
    if config.batch_size % device_count:
        below = config.batch_size // device_count * device_count
        nearest = " or ".join(str(n) for n in (below, below + device_count) if n)
        raise UserError(
            f"--config.batch_size={config.batch_size} does not divide over {device_count} devices: use {nearest}."
        )


def _get(config: ConfigDict, field: str) -> Any:
    for part in field.split("."):
        config = config[part]
    return config


def flatten(config: ConfigDict | dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Fields by dotted name, JSON-ready."""
    flat = {}
    for name, value in sorted(config.items()):
        if isinstance(value, ConfigDict | dict):
            flat.update(flatten(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = list(value) if isinstance(value, tuple) else value
    return flat


class Parts(NamedTuple):
    """What a config says, built: functions of arrays and the numbers they need."""

    module: nn.Module
    view: View
    augmentation: Augmentation


def parts(config: ConfigDict) -> Parts:
    """The module and the way images reach it."""
    m, a = config.model, config.augment
    options = {"dtype": m.dtype, "momentum": m.momentum}
    if m.name == "resnet50":
        options |= {
            "variant": m.variant,
            "hidden": tuple(m.hidden),
            "dropout": m.dropout,
            "pooling": m.pooling,
        }
    augmentation = Augmentation(a.rotate, a.flip, a.zoom, a.shift)
    view = augment.view(config.data.size, config.data.crop, config.data.image_size, augmentation)
    return Parts(models.create(m.name, **options), view, augmentation)


def open_dataset(config: ConfigDict) -> Dataset:
    """The galaxies the config asks for; nothing of TensorFlow is loaded for synthetic ones."""
    d = config.data
    if d.source == "synthetic":
        from gz_jax.data import synthetic

        dataset = synthetic.make_dataset(
            d.num_galaxies,
            seed=config.seed,
            size=d.size,
            validation_fraction=d.validation_fraction,
            merger_fraction=d.merger_fraction,
        )
        votes = [s.read(np.arange(s.size))["vote_fractions"] for s in map(dataset.splits.get, ("train", "validation"))]
        return dataset._replace(statistics=compare_splits(*votes))
    from gz_jax.data import galaxy_zoo

    return galaxy_zoo.open_dataset(
        d.dir,
        seed=config.seed,
        validation_fraction=d.validation_fraction,
        on_bad=d.on_bad,
        image_size=d.image_size,
        store=d.store,
    )


def load_weights(config: ConfigDict) -> imagenet.Weights | None:
    """The pretrained weights, if the config names any; they decide the ResNet50's variant, which is set in it."""
    if not config.model.pretrained:
        return None
    if config.model.name != "resnet50":
        raise UserError("--config.model.pretrained is for --config.model.name=resnet50 alone.")
    weights = imagenet.load(config.model.pretrained)
    config.model.variant = weights.variant
    return weights


def open_workdir(
    workdir: str | os.PathLike[str], config: ConfigDict, fingerprint: str, weights: imagenet.Weights | None
) -> pathlib.Path:
    """Make the workdir, or see that it belongs to the same run.

    Raises:
      UserError: it cannot be written, or it holds a run whose config differs in a field that matters.
    """
    path = pathlib.Path(workdir)
    record = {
        "config": flatten(config),
        "data_fingerprint": fingerprint,
        "weights_fingerprint": weights and weights.fingerprint,
    }
    try:
        path.mkdir(parents=True, exist_ok=True)
        saved = path / "config.json"
        if not saved.exists():
            if jax.process_index():  # process 0 has been here
                raise UserError(f"workdir {path} must lie on a file system that all processes share.")
            write_json(saved, record)
            return path
        old = json.loads(saved.read_text())
        if not jax.process_index():  # who alone writes
            with open(path / ".writable", "w"):
                pass
            (path / ".writable").unlink()
    except (OSError, ValueError) as error:
        raise UserError(f"workdir {path} cannot be used ({error}): choose another with --workdir.") from error
    before, now = old["config"], record["config"]
    names = [n for n in sorted(before.keys() | now.keys()) if n not in FREE and before.get(n) != now.get(n)]
    differences = [f"{name} was {before.get(name)!r} and is now {now.get(name)!r}" for name in names]
    for name, what in (("data_fingerprint", "the data"), ("weights_fingerprint", "the pretrained weights")):
        if old[name] != record[name]:
            differences.append(f"{what} had fingerprint {old[name]} and now {record[name]}")
    if differences:
        raise UserError(
            f"workdir {path} holds a run with another config: {'; '.join(differences)}. "
            "Use another --workdir, or the first run's settings to continue it."
        )
    return path


def read_config(workdir: str | os.PathLike[str]) -> ConfigDict:
    """The config that a workdir was trained with.

    Raises:
      UserError: it is no workdir.
    """
    path = pathlib.Path(workdir) / "config.json"
    try:
        flat = json.loads(path.read_text())["config"]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{workdir} is not a workdir of a training run: {path} cannot be read ({error}).") from error
    config: dict[str, Any] = {}
    for name, value in flat.items():
        *groups, last = name.split(".")
        functools.reduce(lambda node, group: node.setdefault(group, {}), groups, config)[last] = value
    return ConfigDict(config)


def eval_stream(split: Any, view: View, batch_size: int, affine: np.ndarray | None = None) -> Iterator[Any]:
    """This process's part of the evaluation batches of a split."""
    return pipeline.eval_batches(
        split,
        view,
        batch_size=batch_size,
        affine=affine,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
