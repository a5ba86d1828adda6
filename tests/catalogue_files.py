"""Tables of synthetic galaxies with images of any kind, for training: votes are drawn volunteer by volunteer."""

import csv
import io
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from astropy.io import fits
from ml_collections import ConfigDict
from PIL import Image
from pyarrow import parquet

from configs import default
from gz_jax import labels
from gz_jax.data import synthetic
from gz_jax.data.synthetic_render import render
from gz_jax.labels import Tree
from gz_jax.training import log

TIMES = ("epoch_seconds", "images_per_second")
DECALS = labels.load("galaxy_zoo_decals")


class Sample(NamedTuple):
    """Galaxies: ids int64 [n], images uint8 [n, S, S, 3], and whole votes for each answer, float64 [n, answers]."""

    ids: np.ndarray
    images: np.ndarray
    counts: np.ndarray
    tree: Tree


def sample(count: int, side: int, tree: Tree = DECALS, seed: int = 0) -> Sample:
    """Galaxies with the votes of 5 to 40 volunteers, so that many questions were asked of nobody."""
    ids = 100_001 + np.arange(count)
    parameters, fractions = synthetic.truth(ids, tree=tree, seed=seed, merger_fraction=0.1)
    rng, chances = np.random.default_rng(seed), np.nan_to_num(labels.conditional(fractions, tree)).astype(np.float64)
    counts = np.zeros(fractions.shape)
    volunteers = rng.integers(5, 41, count)
    for q in tree.order:
        answers, parents = tree.slices[q], list(tree.parents[q])
        asked = counts[:, parents].sum(1).astype(int) if parents else volunteers
        chance = chances[:, answers] + 1e-6
        counts[:, answers] = rng.multinomial(asked, chance / chance.sum(1, keepdims=True))
    return Sample(ids, render(parameters, size=side), counts, tree)


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def as_fits(data: np.ndarray) -> bytes:
    file = io.BytesIO()
    fits.PrimaryHDU(data).writeto(file)
    return file.getvalue()


def flux(pixels: np.ndarray) -> np.ndarray:
    """Bands of a picture as a telescope would have them, float32 [3, S, S]: rows run upwards, the sky is not black."""
    return np.ascontiguousarray(pixels[::-1].transpose(2, 0, 1), np.float32) + 12


def write(path: pathlib.Path, columns: dict[str, Any], images: dict[str, bytes]) -> pathlib.Path:
    """A table beside its files, as CSV or Parquet by its name's end; what is None or NaN is left empty."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for name, data in images.items():
        (path.parent / name).parent.mkdir(exist_ok=True)
        (path.parent / name).write_bytes(data)
    table = pa.table({name: pa.array(values, from_pandas=True) for name, values in columns.items()})
    if path.suffix == ".parquet":
        parquet.write_table(table, path)
        return path
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(table.column_names)
        rows = zip(*(column.to_pylist() for column in table.columns), strict=True)
        writer.writerows([["" if x is None else x for x in row] for row in rows])
    return path


def counted(galaxies: Sample, rows: Sequence[int] | np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Columns of votes for each answer."""
    counts = galaxies.counts if rows is None else galaxies.counts[rows]
    return dict(zip(galaxies.tree.columns, counts.T, strict=True))


def totals(galaxies: Sample) -> np.ndarray:
    """How many answered each question: float64 [n, questions]."""
    return np.stack([galaxies.counts[:, answers].sum(1) for answers in galaxies.tree.slices], 1)


def config_of(table: pathlib.Path, kind: str = "counts", tree: str = "galaxy_zoo_decals", **changed: Any) -> ConfigDict:
    """The CNN on a table, at 32 pixels; fields by dotted name, with `__` for the dot."""
    config = default.get_config()
    config.tree = tree
    config.data.source, config.data.catalogue, config.data.labels = "catalogue", str(table), kind
    config.data.store, config.data.size = str(table.parent.parent / "store"), 32
    config.batch_size, config.num_epochs, config.learning_rate = 16, 3, 1e-4
    config.update_from_flattened_dict({name.replace("__", "."): value for name, value in changed.items()})
    return config


def flags_of(config: ConfigDict) -> list[str]:
    """The same as flags of launch.py."""
    plain = default.get_config()
    found = ["--config=configs/default.py"]
    for group, fields in [("", config), *((f"{name}.", config[name]) for name in ("data", "augment", "model"))]:
        for name, value in fields.items():
            if not isinstance(value, ConfigDict) and value != (plain[group[:-1]] if group else plain)[name]:
                found.append(f"--config.{group}{name}={value}")
    return found


def log_of(workdir: pathlib.Path) -> np.ndarray:
    """A run's log without its times: float64 [epochs, columns]."""
    with open(workdir / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    return np.array([[float(row[name]) for name in log.COLUMNS if name not in TIMES] for row in rows])


def named(names: Iterable[Any], suffix: str) -> list[str]:
    return [f"images/{name}{suffix}" for name in names]
