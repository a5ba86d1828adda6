"""The folder of a run, and its config.json: the config, the decision tree, and fingerprints of its data and weights."""

import json
import os
import pathlib
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from gz_jax import fields, labels
from gz_jax.labels import Tree
from gz_jax.runtime.errors import UserError
from gz_jax.runtime.files import write_json
from gz_jax.training import checkpoint

_LONGEST = 1 << 22  # characters of a config.json; ours have some 10,000


class Record(NamedTuple):
    """What a run started with: its config and decision tree, and fingerprints of its data and pretrained weights."""

    config: ConfigDict
    tree: Tree
    data: str
    weights: str | None


def claim(workdir: str | os.PathLike[str], record: Record) -> pathlib.Path:
    """Make the workdir, or check that it belongs to the same run. Until its first checkpoint, any run may use it.

    Raises:
      UserError: it cannot be written, or it holds a run with another config, decision tree, data or weights.
    """
    path = pathlib.Path(os.path.expanduser(workdir))
    new = {
        "config": fields.flatten(record.config),
        "tree": labels.as_dict(record.tree),
        "data_fingerprint": record.data,
        "weights_fingerprint": record.weights,
    }
    try:
        path.mkdir(parents=True, exist_ok=True)
        saved = path / "config.json"
        if not saved.exists() and jax.process_index():  # process 0 has written it
            raise UserError(f"workdir {path} must lie on a file system that all processes share.")
        old = _saved(saved) if saved.exists() else None
        if not jax.process_index():  # only process 0 writes
            if old is None or not is_claimed(path):
                write_json(saved, new)
                for name in ("log.csv", "skipped.csv") if old not in (None, new) else ():
                    (path / name).unlink(missing_ok=True)  # of the previous run, which had no checkpoint yet
                return path
            with open(path / ".writable", "w"):
                pass
            (path / ".writable").unlink()
    except (OSError, ValueError) as error:
        raise UserError(f"workdir {path} cannot be used ({error}): choose another with --workdir.") from error
    if old is None:
        return path
    if differences := _differences(old, new, path):
        raise UserError(
            f"workdir {path} holds a run with another config: {'; '.join(differences)}. "
            "Use another --workdir, or the first run's settings to continue it."
        )
    if not jax.process_index() and old != new:  # more epochs, say, or data that have moved
        write_json(saved, new)
    return path


def _differences(old: dict[str, Any], new: dict[str, Any], path: pathlib.Path) -> list[str]:
    """Differences between two runs in what may not change, in words."""
    before, now = old["config"], new["config"]
    free = {name for name, field in fields.FIELDS.items() if field.free}
    if now["schedule"] == "cosine":
        free.remove("num_epochs")
    names = [n for n in sorted(before.keys() | now.keys()) if n not in free and before.get(n) != now.get(n)]
    found = [f"{name} was {before.get(name)!r} and is now {now.get(name)!r}" for name in names]
    trees = [labels.from_dict(one.get("tree"), f"in {path / 'config.json'}") for one in (old, new)]
    if texts := labels.differences(*trees):
        found.append(f"the decision tree was {trees[0].name} and is now {trees[1].name} ({'; '.join(texts)})")
    for name, what in (("data_fingerprint", "the data"), ("weights_fingerprint", "the pretrained weights")):
        if old.get(name) != new[name]:
            found.append(f"{what} are not the same (fingerprint {old.get(name)}, now {new[name]})")
    return found


def is_claimed(workdir: pathlib.Path) -> bool:
    """Whether a workdir holds what a run has trained: a checkpoint, or a finished run's metrics."""
    return checkpoint.newest(workdir) is not None or (workdir / "metrics.json").exists()


def read(workdir: str | os.PathLike[str]) -> Record:
    """What a workdir's run started with.

    Raises:
      UserError: the folder is not a workdir of a run.
    """
    path = pathlib.Path(os.path.expanduser(workdir)) / "config.json"
    try:
        saved = _saved(path)
    except FileNotFoundError as error:
        what = "has no config.json" if path.parent.is_dir() else "does not exist"
        raise UserError(
            f"{workdir} is not a workdir of a training run: the folder {what}. Check the name, or train the run first: "
            f"--config=FILE --workdir={workdir}"
        ) from error
    except (OSError, ValueError) as error:
        raise UserError(f"{workdir} is not a workdir of a training run: {path} cannot be read ({error}).") from error
    tree = labels.from_dict(saved.get("tree"), f"in {path}")
    try:
        config = fields.nested(saved["config"])
        fields.check(config)
        if fields.flatten(config) != saved["config"]:
            raise ValueError("one name is used for a field and for a group of fields")
    except Exception as error:  # ml_collections raises many kinds of errors for names
        raise UserError(f"{path} is not the config of a training run: {error}") from error
    weights = saved.get("weights_fingerprint")
    return Record(config, tree, str(saved.get("data_fingerprint")), None if weights is None else str(weights))


def _saved(path: pathlib.Path) -> dict[str, Any]:
    """A workdir's config.json. Raises OSError or ValueError: it cannot be read, or holds something else."""
    with open(path, encoding="utf-8") as file:
        text = file.read(_LONGEST + 1)
    try:
        record = json.loads(text) if len(text) <= _LONGEST else None
    except RecursionError:
        record = None
    if not (isinstance(record, dict) and isinstance(record.get("config"), dict)):
        raise ValueError("it does not hold the config of a run")
    return record
