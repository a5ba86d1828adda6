"""Small tables of galaxies with image files, for test_catalogue.py."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from astropy.io import fits
from kaggle_like import jpeg
from pyarrow import csv, parquet

from gz_jax import labels
from gz_jax.data import catalogue
from gz_jax.data.sight import Sight
from gz_jax.data.split import Dataset

RINGS = labels.load("rings")


def write_fits(table: pa.Table, path: pathlib.Path) -> None:
    columns = []
    for field in table.schema:
        values = table[field.name].to_pylist()
        if pa.types.is_integer(field.type) and None not in values:
            columns.append(fits.Column(field.name, "K", array=np.array(values, np.int64)))
        elif pa.types.is_string(field.type):
            columns.append(fits.Column(field.name, "60A", array=[value or "" for value in values]))
        else:
            numbers = [np.nan if value is None else float(value) for value in values]
            columns.append(fits.Column(field.name, "D", array=np.array(numbers)))
    fits.BinTableHDU.from_columns(columns).writeto(path, overwrite=True)


WRITE = {"csv": csv.write_csv, "parquet": parquet.write_table, "fits": write_fits}


def write(path: pathlib.Path, columns: Mapping[str, Any]) -> pathlib.Path:
    """A table of columns, in the format that the path's name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    WRITE[path.suffix[1:]](pa.table(dict(columns)), path)
    return path


def write_images(folder: pathlib.Path, names: Sequence[str], side: int = 40) -> None:
    """A distinct picture for each name, in the format that it says."""
    for seed, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".fits"):
            y, x = np.mgrid[:side, :side] - side / 2
            sky = np.random.default_rng(seed).normal(0, 1, (side, side))
            plane = (200 * np.exp(-(x**2 + y**2) / (10 + seed % 7)) + sky).astype(np.float32)
            fits.PrimaryHDU(plane).writeto(path, overwrite=True)
        else:
            path.write_bytes(jpeg(seed, (side, side), format="PNG" if name.endswith(".png") else "JPEG"))


def rings(n: int = 40, **more: Any) -> dict[str, Any]:
    """Columns of n galaxies with votes on rings."""
    rng = np.random.default_rng(1)
    columns = {
        "id": [1000 + i for i in range(n)],
        "file": [f"{i}.jpg" for i in range(n)],
        "ring_yes": rng.integers(0, 20, n).tolist(),
        "ring_no": rng.integers(1, 20, n).tolist(),
    }
    return columns | more


def opened(path: pathlib.Path, **how: Any) -> Dataset:
    """The data set of a table of rings, with its store beside the table unless `how` says otherwise."""
    usual = {"tree": RINGS, "labels": "counts", "sight": Sight(share=1.0), "size": 16, "workers": 1}
    return catalogue.open_dataset(path, **{**usual, "store": path.parent / "store", **how})


def everything(dataset: Dataset, size: int = 16) -> dict[str, dict[str, tuple]]:
    """{split: {id as text: (vote fractions, votes, pixels)}}, JSON-like so that two can be compared by ==."""
    found: dict[str, dict[str, tuple]] = {}
    for name, split in dataset.splits.items():
        records = split.read(np.arange(split.size))
        ids = records["galaxy_id"] if split.names is None else split.names
        rows = zip(ids, records["vote_fractions"], records["votes"], records["image"], strict=True)
        found[name] = {
            str(i): (repr(fractions.tolist()), votes.tolist(), image.see(size=size).tobytes())
            for i, fractions, votes, image in rows
        }
    return found
