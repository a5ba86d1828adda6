"""A config and a workdir, resolved into the plain things that training and prediction take."""

import contextlib
import functools
import json
import os
import pathlib
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from ml_collections import ConfigDict

from gz_jax import fields, models
from gz_jax.data import augment
from gz_jax.data.augment import Augmentation, View
from gz_jax.data.kaggle_split import compare_splits
from gz_jax.data.split import Dataset
from gz_jax.models import imagenet
from gz_jax.runtime.errors import UserError
from gz_jax.runtime.files import write_json
from gz_jax.training import checkpoint

# Fields that may change between the first start of a run and a later one.
FREE = (
    "num_epochs",
    "data.dir",
    "data.store",
    "data.pipeline",
    "data.steps_per_dispatch",
    "model.pretrained",  # the weights' fingerprint is compared instead
    "checkpoint.every_seconds",
    "checkpoint.every_steps",
    "tensorboard",
)

# Fields that younger workdirs have, with what older ones did.
ADDED = {
    "data.pipeline": "stream",
    "data.steps_per_dispatch": 0,
    "weight_decay": 0.0,
    "loss": "mse",
    "average": 0.0,
    "schedule": "plateau",
    "warmup_epochs": 0.0,
}
# Fields of the model that the CNN has no use for, with what they then must be.
OF_RESNET50 = {
    "hidden": (),
    "dropout": 0.1,
    "pooling": "flatten",
    "variant": "keras",
    "body_rate": 1.0,
    "frozen_epochs": 0,
    "frozen_statistics": False,
}
_LONGEST = 1 << 20  # characters of a config.json; ours have 2,000


def check(config: ConfigDict, device_count: int, workdir: str | os.PathLike[str] | None = None) -> None:
    """Refuse what cannot work, before anything is read or written.

    Args:
      workdir: of the run that is to be trained, if any; what it was trained with decides which advice is of use.

    Raises:
      UserError: names the field, its value and what it may be.
    """
    fields.check(flatten(config))
    if config.data.crop > config.data.image_size:
        raise UserError(
            f"--config.data.crop={config.data.crop} is more than the images' side, "
            f"--config.data.image_size={config.data.image_size}."
        )
    if config.model.name == "cnn":
        for name, value in OF_RESNET50.items():
            if (tuple(config.model[name]) if name == "hidden" else config.model[name]) != value:
                raise UserError(f"--config.model.{name} is for --config.model.name=resnet50 alone.")
        if config.data.size < 30:
            raise UserError(
                f"the CNN needs images of 30 x 30 pixels or more, not --config.data.size={config.data.size}."
            )
    if config.loss == "multinomial" and config.model.activation == "sigmoid":
        raise UserError(
            "--config.loss=multinomial needs outputs that obey the tree: --config.model.activation=softmax or divisive."
        )
    if config.batch_size % device_count:
        text = f"--config.batch_size={config.batch_size} does not divide over {device_count} devices"
        raise UserError(f"{text}: {_batch_advice(config.batch_size, device_count, workdir)}")


def _batch_advice(batch_size: int, device_count: int, workdir: str | os.PathLike[str] | None) -> str:
    """What to do where a batch does not divide over the devices: a run in the workdir keeps its batch size."""
    old = None
    if workdir is not None and is_claimed(pathlib.Path(workdir)):
        with contextlib.suppress(OSError, ValueError):
            old = _saved(pathlib.Path(workdir, "config.json"))["config"].get("batch_size")
    if not isinstance(old, int) or old < 1:
        below = batch_size // device_count * device_count
        return f"use {' or '.join(str(n) for n in (below, below + device_count) if n)}."
    if old % device_count == 0:
        return f"the run in {workdir} has --config.batch_size={old}; continue it with that, or use another --workdir."
    numbers = [str(n) for n in range(1, device_count) if old % n == 0]
    return (
        f"the run in {workdir} has --config.batch_size={old} and keeps it. Continue it on a number of devices that "
        f"divides {old} ({', '.join(numbers)}), or use another --workdir."
    )


def flatten(config: ConfigDict | dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Fields by dotted name, JSON-ready."""
    flat = {}
    for name, value in sorted(config.items(), key=str):  # a name from the command line may be a number
        if isinstance(value, ConfigDict | dict):
            flat.update(flatten(value, f"{prefix}{name}."))
        else:
            flat[f"{prefix}{name}"] = list(value) if isinstance(value, tuple) else value
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
            "freeze_statistics": m.frozen_statistics,
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
            seed=d.seed,
            size=d.size,
            validation_fraction=d.validation_fraction,
            merger_fraction=d.merger_fraction,
        )
        votes = [s.read(np.arange(s.size))["vote_fractions"] for s in map(dataset.splits.get, ("train", "validation"))]
        return dataset._replace(statistics=compare_splits(*votes))
    from gz_jax.data import galaxy_zoo

    return galaxy_zoo.open_dataset(
        d.dir,
        seed=d.seed,
        validation_fraction=d.validation_fraction,
        on_bad=d.on_bad,
        image_size=d.image_size,
        store=d.store,
        prepared=d.pipeline == "stream",
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
    """Make the workdir, or see that it belongs to the same run. Before its first checkpoint any run may take it over.

    Raises:
      UserError: it cannot be written, or it holds a run whose config differs in a field that matters.
    """
    path = pathlib.Path(os.path.expanduser(workdir))
    record = {
        "config": flatten(config),
        "data_fingerprint": fingerprint,
        "weights_fingerprint": weights and weights.fingerprint,
    }
    try:
        path.mkdir(parents=True, exist_ok=True)
        saved = path / "config.json"
        if not saved.exists() and jax.process_index():  # process 0 has been here
            raise UserError(f"workdir {path} must lie on a file system that all processes share.")
        old = _saved(saved) if saved.exists() else None
        if old is not None:
            old["config"] = _completed(old["config"])
        if not jax.process_index():  # only process 0 writes
            if old is None or not is_claimed(path):
                write_json(saved, record)
                for name in ("log.csv", "skipped.csv") if old not in (None, record) else ():
                    (path / name).unlink(missing_ok=True)  # of the run before, which had no checkpoint yet
                return path
            with open(path / ".writable", "w"):
                pass
            (path / ".writable").unlink()
    except (OSError, ValueError) as error:
        raise UserError(f"workdir {path} cannot be used ({error}): choose another with --workdir.") from error
    before, now = old["config"], record["config"]
    free = set(FREE) - ({"num_epochs"} if config.schedule == "cosine" else set())
    names = [n for n in sorted(before.keys() | now.keys()) if n not in free and before.get(n) != now.get(n)]
    differences = [f"{name} was {before.get(name)!r} and is now {now.get(name)!r}" for name in names]
    for name, what in (("data_fingerprint", "the data"), ("weights_fingerprint", "the pretrained weights")):
        if old.get(name) != record[name]:
            differences.append(f"{what} had fingerprint {old.get(name)} and now {record[name]}")
    if differences:
        raise UserError(
            f"workdir {path} holds a run with another config: {'; '.join(differences)}. "
            "Use another --workdir, or the first run's settings to continue it."
        )
    if not jax.process_index() and old != record:  # more epochs, say, or data that have moved
        write_json(saved, record)
    return path


def is_claimed(workdir: pathlib.Path) -> bool:
    """Whether a workdir holds what a run has trained: a checkpoint, or a finished run's metrics."""
    return checkpoint.newest(workdir) is not None or (workdir / "metrics.json").exists()


def read_config(workdir: str | os.PathLike[str]) -> ConfigDict:
    """The config that a workdir was trained with.

    Raises:
      UserError: it is no workdir.
    """
    path = pathlib.Path(os.path.expanduser(workdir)) / "config.json"
    try:
        flat = _completed(_saved(path)["config"])
    except (OSError, ValueError) as error:
        raise UserError(f"{workdir} is not a workdir of a training run: {path} cannot be read ({error}).") from error
    try:
        config: dict[str, Any] = {}
        for name, value in flat.items():
            *groups, last = name.split(".")
            functools.reduce(lambda node, group: node.setdefault(group, {}), groups, config)[last] = value
        found = ConfigDict(config)
        fields.check(flatten(found))
        if flatten(found) != flat:
            raise ValueError("a name is a field and a group of fields")
        return found
    except Exception as error:  # what a name may be ml_collections says in many ways
        raise UserError(f"{path} is not the config of a training run: {error}") from error


def fingerprints(workdir: str | os.PathLike[str]) -> tuple[str, str]:
    """Fingerprints of the galaxies that a workdir was trained on, and of its pretrained weights ('None': from none).

    Raises:
      UserError: it is no workdir.
    """
    try:
        record = _saved(pathlib.Path(workdir) / "config.json")
    except (OSError, ValueError) as error:
        raise UserError(f"{workdir} is not a workdir of a training run ({error}).") from error
    return str(record.get("data_fingerprint")), str(record.get("weights_fingerprint"))


def _completed(flat: dict[str, Any]) -> dict[str, Any]:
    """A workdir's config with the fields that came later."""
    return ADDED | {"data.seed": flat.get("seed")} | flat  # one seed decided the split, too


def _saved(path: pathlib.Path) -> dict[str, Any]:
    """A workdir's config.json. Raises OSError or ValueError: it cannot be read, or is something else."""
    with open(path, encoding="utf-8") as file:
        text = file.read(_LONGEST + 1)
    try:
        record = json.loads(text) if len(text) <= _LONGEST else None
    except RecursionError:
        record = None
    if not (isinstance(record, dict) and isinstance(record.get("config"), dict)):
        raise ValueError("it is no record of a config")
    return record
