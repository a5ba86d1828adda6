"""Synthetic galaxies whose true vote fractions are known: a data set in memory, or files like Kaggle's.

`python -m gz_jax.data.synthetic DIRECTORY --num_galaxies=1000` writes the files, to try everything that is done with
real data. The galaxies themselves: `synthetic_votes` (parameters, truth, votes) and `synthetic_render`.
"""

import argparse
import hashlib
import io
import json
import os
import pathlib
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Iterable
from typing import Any, Literal

import numpy as np

from gz_jax.data.kaggle import COMPETITION, SOLUTIONS, TEST, TRAIN
from gz_jax.data.kaggle_split import Fold, side
from gz_jax.data.packed import Packed
from gz_jax.data.split import Dataset, Split, fraction_records, tree_mark
from gz_jax.data.synthetic_render import CENTRE_FIELD, FULL_FIELD, render
from gz_jax.data.synthetic_votes import KINDS, Galaxies, draw_parameters, draw_votes, true_fractions
from gz_jax.labels import GALAXY_ZOO_2, Tree
from gz_jax.runtime.errors import UserError
from gz_jax.runtime.progress import Bar

RENDERER_VERSION = 1  # raise it when the same arguments would give other galaxies
_FIRST_ID = 100_001
_JPEG_QUALITY = 75  # the quantisation tables of Kaggle's files are Pillow's at 75, 4:2:0
_CHUNK = 64

Layout = Literal["zips", "folders", "one zip"]


def truth(
    galaxy_id: np.ndarray, *, tree: Tree = GALAXY_ZOO_2, seed: int, merger_fraction: float = 0.04
) -> tuple[Galaxies, np.ndarray]:
    """What was drawn, for the galaxies of `make_dataset` or `write_kaggle_files` of the same seed and fraction.

    Args:
      galaxy_id: int64 [n], any of a data set's GalaxyIDs in any order.
      tree: see `make_dataset`.

    Returns:
      the parameters (`is_merger`, `kind` and all others), and the noise-free vote fractions float32 [n, answers].
    """
    parameters = draw_parameters(galaxy_id, seed=seed, merger_fraction=merger_fraction)
    return parameters, true_fractions(parameters, tree)


def _check(num_galaxies: int, seed: int, size: int, merger_fraction: float) -> None:
    problems = [
        (num_galaxies < 1, f"the number of galaxies must be at least 1, not {num_galaxies}"),
        (not 0 <= seed < 2**32, f"the seed must be in 0..{2**32 - 1}, not {seed}"),
        (size < 8, f"the image size must be at least 8 px, not {size}"),
        (not 0 <= merger_fraction <= 1, f"the merger fraction must be in 0..1, not {merger_fraction}"),
    ]
    if wrong := [text for bad, text in problems if bad]:
        raise UserError("Synthetic galaxies: " + "; ".join(wrong) + ".")


def make_dataset(
    num_galaxies: int,
    *,
    tree: Tree = GALAXY_ZOO_2,
    seed: int,
    size: int,
    validation_fraction: float = 0.2,
    fold: Fold | None = None,
    merger_fraction: float = 0.04,
) -> Dataset:
    """Render a data set into memory: num_galaxies * size**2 * 3 bytes, a few ms of one core per 68 px galaxy.

    Args:
      num_galaxies: galaxies with votes, divided into 'train' and 'validation' by a hash of (seed, GalaxyID).
      tree: that of Galaxy Zoo 2 or Galaxy Zoo DECaLS 5, or another of some of their questions; of the same galaxies.
      seed: 0..2**32 - 1.
      size: pixels on a side; the field is the customary central crop (204 of Kaggle's 424 px).
      validation_fraction, fold: which galaxies validate, see `kaggle_split.side`.
      merger_fraction: expected share of mergers.

    Returns:
      Dataset with 'train', 'validation' and 'test' (num_galaxies // 10 more galaxies, at least one, without
      labels). The truth behind it: `truth(galaxy_id, tree=tree, seed=seed, merger_fraction=merger_fraction)`.

    Raises:
      UserError: an argument out of range, a question that cannot be answered, or one side of the split left empty.
    """
    _check(num_galaxies, seed, size, merger_fraction)
    ids = _FIRST_ID + np.arange(num_galaxies + max(num_galaxies // 10, 1))
    validation = side(ids[:num_galaxies], seed, validation_fraction, fold)
    if validation.all() or not validation.any():
        raise UserError(
            f"Synthetic galaxies: with {num_galaxies} galaxies, one side of the split is empty. Take more "
            "galaxies, another validation fraction, or fewer folds."
        )
    parameters, fractions = truth(ids, tree=tree, seed=seed, merger_fraction=merger_fraction)
    votes = draw_votes(fractions, ids, seed=seed, tree=tree)
    votes[num_galaxies:] = np.nan
    with Bar("Drawing galaxies", len(ids), "galaxies") as bar:
        images = render(parameters, size=size, field=CENTRE_FIELD, bar=bar)

    galaxies = Packed(image=images, galaxy_id=ids, **fraction_records(votes)).split()

    def split(rows: np.ndarray) -> Split:
        return Split(len(rows), lambda indices: galaxies.read(rows[indices]))

    sides = {"train": np.flatnonzero(~validation), "validation": np.flatnonzero(validation)}
    sides["test"] = np.arange(num_galaxies, len(ids))
    parts: list[Any] = [float(validation_fraction) if fold is None else fold, float(merger_fraction)]
    arguments = [RENDERER_VERSION, num_galaxies, seed, size, *parts]
    fingerprint = hashlib.sha256(json.dumps(["synthetic", *arguments]).encode()).hexdigest()[:16] + tree_mark(tree)
    return Dataset({name: split(rows) for name, rows in sides.items()}, fingerprint, {}, tree)


def _write_table(path: pathlib.Path, fractions: np.ndarray, **others: Iterable) -> None:
    """A CSV of other columns and of fractions [n, 37], whose float32 survives the round trip."""
    import pandas as pd

    table = pd.DataFrame(fractions, columns=list(GALAXY_ZOO_2.columns))
    table = pd.concat([pd.DataFrame(others), table], axis=1)
    table.to_csv(path, index=False, float_format="%.9g", lineterminator="\n")


def _write_images(path: pathlib.Path, ids: np.ndarray, size: int, seed: int, merger_fraction: float) -> None:
    """A zip of JPEGs named as Kaggle's: NAME.zip holds NAME/<GalaxyID>.jpg."""
    from PIL import Image

    bar = Bar(f"Writing {path.name}", len(ids), "galaxies")
    with bar, zipfile.ZipFile(path, "w") as file:
        for start in range(0, len(ids), _CHUNK):
            chunk = ids[start : start + _CHUNK]
            parameters = draw_parameters(chunk, seed=seed, merger_fraction=merger_fraction)
            for galaxy_id, image in zip(chunk, render(parameters, size=size, field=FULL_FIELD), strict=True):
                jpeg = io.BytesIO()
                Image.fromarray(image).save(jpeg, "JPEG", quality=_JPEG_QUALITY, subsampling="4:2:0")
                file.writestr(f"{path.stem}/{galaxy_id}.jpg", jpeg.getvalue())
                bar.advance()


def write_kaggle_files(
    directory: str | os.PathLike[str],
    num_galaxies: int,
    *,
    seed: int,
    num_test: int,
    size: int = FULL_FIELD,
    layout: Layout = "zips",
    merger_fraction: float = 0.04,
) -> None:
    """Write synthetic galaxies as Kaggle's competition files, and `synthetic_truth.csv` beside them.

    Args:
      directory: made if need be.
      num_galaxies: training galaxies.
      seed: 0..2**32 - 1.
      num_test: test galaxies.
      size: pixels on a side; always the whole field.
      layout: 'zips' (the three inner zips), 'folders' (those extracted) or 'one zip' (the competition's download).
      merger_fraction: expected share of mergers.

    Raises:
      UserError: an argument out of range, files of these names already there, or an unwritable directory.
    """
    _check(num_galaxies, seed, size, merger_fraction)
    if layout not in ("zips", "folders", "one zip"):
        raise UserError(f"Layout {layout!r} is not one of 'zips', 'folders', 'one zip'.")
    directory = pathlib.Path(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=directory, prefix=".writing-") as scratch:
            _write_all(pathlib.Path(scratch), num_galaxies, seed, num_test, size, layout, merger_fraction)
            made = sorted(pathlib.Path(scratch).iterdir())
            if there := [path.name for path in made if (directory / path.name).exists()]:
                raise UserError(f"{directory} already holds {', '.join(there)}: remove them, or name another.")
            for path in made:
                os.replace(path, directory / path.name)
    except OSError as error:
        raise UserError(f"Cannot write synthetic galaxies to {directory}: {error.strerror or error}.") from error


def _write_all(
    folder: pathlib.Path, num_galaxies: int, seed: int, num_test: int, size: int, layout: Layout, merger_fraction: float
) -> None:
    ids = _FIRST_ID + np.arange(num_galaxies + num_test)
    parameters, fractions = truth(ids, seed=seed, merger_fraction=merger_fraction)
    merger, kind = parameters.is_merger.astype(int), np.array(KINDS)[parameters.kind]
    _write_table(folder / "synthetic_truth.csv", fractions, GalaxyID=ids, is_merger=merger, kind=kind)
    training, test = ids[:num_galaxies], ids[num_galaxies:]
    votes = draw_votes(fractions[:num_galaxies], training, seed=seed)
    solutions = folder / f"{SOLUTIONS}.csv"
    _write_table(solutions, votes, GalaxyID=training)
    zips = [folder / f"{name}.zip" for name in (TEST, TRAIN)]
    for path, members in zip(zips, (test, training), strict=True):
        _write_images(path, members, size, seed, merger_fraction)
    if layout == "folders":
        for path in zips:
            (folder / path.stem).mkdir()
            shutil.unpack_archive(path, folder)
    else:
        zips.append(solutions.with_suffix(".zip"))
        with zipfile.ZipFile(zips[-1], "w", zipfile.ZIP_DEFLATED) as file:
            file.write(solutions, solutions.name)
        solutions.unlink()
    if layout == "one zip":
        with zipfile.ZipFile(folder / f"{COMPETITION}.zip", "w") as file:
            for path in zips:
                file.write(path, path.name)
    if layout != "zips":
        for path in zips:
            path.unlink()


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    about = str(write_kaggle_files.__doc__).split("\n")[0]
    parser = argparse.ArgumentParser("gz_jax.data.synthetic", description=about)
    parser.add_argument("directory")
    parser.add_argument("--num_galaxies", type=int, default=1000)
    parser.add_argument("--num_test", type=int, help="default: a tenth of --num_galaxies")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=FULL_FIELD, help="pixels on a side")
    parser.add_argument("--layout", choices=("zips", "folders", "one zip"), default="zips")
    parser.add_argument("--merger_fraction", type=float, default=0.04)
    options = vars(parser.parse_args(arguments))
    if options["num_test"] is None:
        options["num_test"] = max(options["num_galaxies"] // 10, 1)
    try:
        write_kaggle_files(options.pop("directory"), options.pop("num_galaxies"), **options)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
