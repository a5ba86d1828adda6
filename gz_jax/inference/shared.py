"""A trained network as a folder for other people: its weights, its config, and a page about it.

`model.safetensors` holds the parameters and running statistics (for a ResNet50 v1.5 with timm's names). `config.json`
holds what a workdir's does, and also the format's version, the scores and a fingerprint. The same network always gives
the same bytes in both. The folder contains no code.
"""

import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from gz_jax import fields, labels
from gz_jax.inference import conformal
from gz_jax.inference.conformal import Calibration, Levels
from gz_jax.models import imagenet_tables
from gz_jax.models.hub import HUB
from gz_jax.runtime.errors import UserError
from gz_jax.runtime.files import atomic, write_json
from gz_jax.training.workdir import Record

FORMAT, VERSION = "gz_jax network", 1
WEIGHTS, CONFIG = "model.safetensors", "config.json"
# Fields with paths of the person who trained. The first are removed; of the others, the last part of the path is kept.
_PRIVATE = ("data.dir", "data.store", "data.images")
_SHORTENED = ("data.catalogue", "model.pretrained", "tree")
# Columns of the log that are kept: the epoch and its scores, but no rates and times.
_SCORES = ("epoch", "loss", "accuracy", "val_loss", "val_accuracy", "val_rmse")


class Network(NamedTuple):
    """A stored network: what it was trained with, its variables, and where they come from.

    Attributes:
      record: config, tree and data; variables: {'params', 'batch_stats'} of float32 arrays; step, info: the
        checkpoint's step and that epoch's row of the log; run: name of the workdir; scores: see `scores_of`;
        calibration: of its intervals, or None.
    """

    record: Record
    variables: Mapping[str, Any]
    step: int
    info: dict[str, Any]
    run: str
    scores: dict[str, Any]
    calibration: Calibration | Levels | None = None


def epoch_of(info: Mapping[str, Any]) -> int | None:
    """The epoch, from 1, of a row of the log; None if the row has no epoch."""
    return None if info.get("epoch") is None else int(info["epoch"])


def scores_of(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The number of validation 'galaxies' in a report's metrics.json, and its scores as {'value', 'low', 'high'}.

    All else (tables, the command) is left out. {} if the number of galaxies is missing.
    """
    ends = ("value", "low", "high")
    found = {
        name: {end: score[end] for end in ends}
        for name, score in metrics.items()
        if isinstance(score, Mapping) and all(type(score.get(end)) in (int, float) for end in ends)
    }
    return {"galaxies": metrics["galaxies"]} | found if type(metrics.get("galaxies")) is int else {}


def without_folders(path: str) -> str:
    """The last part of a path; the name of a network on the hub as it is."""
    return path if path.startswith(HUB) else pathlib.Path(path).name


def is_shared(folder: pathlib.Path) -> bool:
    """Whether a folder is a shared network (a workdir has no such file of weights)."""
    return (folder / WEIGHTS).is_file()


def write(folder: pathlib.Path, network: Network, fingerprint: str, preprocessing: Mapping[str, Any]) -> None:
    """Write the weights, then config.json.

    Raises:
      UserError: the folder cannot be written.
    """
    from safetensors.numpy import save

    record, config = network.record, network.record.config
    flat = fields.flatten(config) | dict.fromkeys(_PRIVATE)
    flat |= {name: without_folders(flat[name]) for name in _SHORTENED if flat[name]}
    names = _names(config.model)
    tensors = {}
    for path, value in flatten_dict(dict(network.variables), sep="/").items():
        name, axes = names.get(path, (path, None))
        array = np.asarray(value)
        tensors[name] = np.ascontiguousarray(array if axes is None else array.transpose(np.argsort(axes)))
    about = {
        "format": FORMAT,
        "version": VERSION,
        "architecture": config.model.name,
        "num_classes": len(record.tree.columns),
        "pretrained_cfg": dict(preprocessing),
        "run": network.run,
        "step": network.step,
        "log": {name: network.info[name] for name in _SCORES if name in network.info},
        "scores": network.scores,
        "interval_calibration": network.calibration and conformal.packed(network.calibration),
        "fingerprint": fingerprint,
        "tensors": {name: _digest(value) for name, value in sorted(tensors.items())},
        "config": flat,
        "tree": labels.as_dict(record.tree),
        "data_fingerprint": record.data,
        "weights_fingerprint": record.weights,
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with atomic(folder / WEIGHTS, "wb") as file:
            file.write(save(tensors, {"format": FORMAT}))
        write_json(folder / CONFIG, about)
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error}") from error


def read(folder: pathlib.Path, record: Record, shapes: Mapping[str, Any]) -> Network:
    """The network of a shared folder, whose config.json is `record` (see `workdir.read`).

    Args:
      shapes: {'params', 'batch_stats'} of `jax.ShapeDtypeStruct`, for the config's module.

    Raises:
      UserError: another format or version; tensors that are missing, left over, of another shape, or changed.
    """
    about = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    if about.get("format") != FORMAT or about.get("version") != VERSION:
        found = f"{str(about.get('format'))[:40]!r}, version {str(about.get('version'))[:20]}"
        raise UserError(f"{folder / CONFIG} is of format {found}; this gz_jax reads {FORMAT!r}, version {VERSION}.")
    names, expected, origin = _names(record.config.model), {}, {}
    for path, leaf in flatten_dict(dict(shapes), sep="/").items():
        name, axes = names.get(path, (path, None))
        shape = leaf.shape if axes is None else tuple(leaf.shape[i] for i in np.argsort(axes))
        expected[name], origin[name] = imagenet_tables.Entry(path, shape, axes), path
    flat, digests = {}, {}
    with imagenet_tables.open_tensors(folder / WEIGHTS) as (tensors, _):
        imagenet_tables.check(folder / WEIGHTS, tensors, expected)
        for name, entry in expected.items():
            value = np.asarray(tensors[name].read())
            if value.dtype != np.float32:
                raise UserError(f"{folder / WEIGHTS}: {name} is {value.dtype}, not float32.")
            digests[name] = _digest(value)
            flat[entry.path] = np.ascontiguousarray(value if entry.axes is None else value.transpose(entry.axes))
    if not isinstance(said := about.get("tensors"), dict):
        raise UserError(f"{folder / CONFIG} is incomplete: it lacks the tensors' digests.")
    if changed := [name for name, digest in digests.items() if said.get(name) != digest]:
        more = f" and {len(changed) - 10} more" if len(changed) > 10 else ""
        raise UserError(f"{folder / WEIGHTS} has been changed: {', '.join(changed[:10])}{more}.")
    info, scores = about.get("log"), about.get("scores")
    if not (isinstance(info, dict) and isinstance(scores, dict) and type(about.get("step")) is int):
        raise UserError(f"{folder / CONFIG} is incomplete: it lacks the log, the scores or the step.")
    if "val_loss" not in info or not all(type(value) in (int, float) for value in info.values()):
        raise UserError(f"{folder / CONFIG}: its log must be a row of numbers with val_loss.")
    variables = jax.tree.map(np.asarray, unflatten_dict(flat, sep="/"))
    calibration = conformal.unpacked(about.get("interval_calibration"), record.tree)
    return Network(
        record,
        {"batch_stats": {}} | variables,
        about["step"],
        info,
        str(about.get("run")),
        scores_of(scores),
        calibration,
    )


def fingerprint_of(folder: pathlib.Path) -> str:
    """The network's fingerprint, as config.json gives it."""
    return str(json.loads((folder / CONFIG).read_text(encoding="utf-8")).get("fingerprint"))


def _digest(tensor: np.ndarray) -> str:
    """16 hex digits of a tensor's values."""
    return hashlib.sha256(np.ascontiguousarray(tensor).tobytes()).hexdigest()[:16]


def _names(model: Any) -> dict[str, tuple[str, tuple[int, ...] | None]]:
    """timm's name and axes for each of our paths, in a ResNet50 v1.5; {} for other networks.

    The head has such names if it is one layer on averaged features.
    """
    if model.name != "resnet50" or model.variant != "torchvision":
        return {}
    plain = model.pooling == "average" and not tuple(model.hidden)
    table = imagenet_tables.TABLES[-1]
    found = imagenet_tables.entries(table).items()
    return {e.path: (key, e.axes) for key, e in found if plain or not e.path.startswith(imagenet_tables.HEAD)}
