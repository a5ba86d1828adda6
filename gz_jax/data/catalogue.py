"""A user's own table of images and labels as a data set: read, checked as a whole, and split.

Each row is a galaxy: an id, an image file and columns of labels. If there is a column `split`, it decides the split.
Otherwise a hash of the id decides, as for Kaggle's galaxies. Rows without any label are a test set, which is only
predicted.
"""

import collections
import functools
import hashlib
import logging
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import numpy as np
import pyarrow as pa

from gz_jax.data import catalogue_table, images, inputs, problems
from gz_jax.data.catalogue_labels import Kind
from gz_jax.data.catalogue_table import Table
from gz_jax.data.galaxy_zoo import cache_dir, warn_of_differences
from gz_jax.data.image_file import ImageFile
from gz_jax.data.kaggle_split import Fold, compare_splits, mark, side
from gz_jax.data.problems import Problem, in_threads, report
from gz_jax.data.sight import Sight
from gz_jax.data.split import Dataset, Records, Split, tree_mark
from gz_jax.labels import Tree
from gz_jax.runtime.errors import UserError

_log = logging.getLogger(__name__)


def open_dataset(
    path: str | os.PathLike[str],
    *,
    tree: Tree,
    labels: Kind,
    sight: Sight,
    size: int,
    columns: str = "",
    suffix: str = "",
    nominal_votes: float = 44.0,
    id_column: str = "id",
    file_column: str = "file",
    file_columns: Sequence[str] = (),
    images: str | os.PathLike[str] | None = None,
    seed: int = 0,
    validation_fraction: float = 0.2,
    fold: Fold | None = None,
    on_bad: Literal["fail", "skip"] = "fail",
    store: str | os.PathLike[str] | None = None,
    workers: int | None = None,
) -> Dataset:
    """The galaxies of a table, with random access; every image is decoded once to check it, the first time.

    Args:
      path: the table: CSV, Parquet or FITS.
      tree: whose answers the labels are.
      labels: what the label columns hold, see `catalogue_labels`; columns, suffix: which they are, see
        `catalogue_columns`; nominal_votes: what fractions count for where no number of votes is known.
      sight: which square of an image is seen, and how; size: pixels across what the network gets.
      id_column, file_column, file_columns: as in `inputs.list_inputs`; images: the folder or zip of the files; None:
        beside the table.
      seed, validation_fraction, fold: of the split, where the table has none; see `kaggle_split.side`.
      on_bad: 'fail' refuses a table with faulty rows, 'skip' leaves these out (`Dataset.skipped`).
      store: where the result of the check and decoded cutouts are kept; None: TFDS' own folder.
      workers: threads that check images; None: one per core.

    Returns:
      Dataset with splits 'train', 'validation' and, where there are galaxies for it, 'test', ordered by id.

    Raises:
      UserError: with all that is wrong.
    """
    path = pathlib.Path(path).expanduser()
    files = list(file_columns or [file_column])
    plan = catalogue_table.plan(path, tree, labels, columns, suffix, id_column, files, sight)
    table, found = catalogue_table.read(path, plan, tree, labels, nominal_votes, id_column, files, images)
    sides = _sides(table, functools.partial(side, seed=seed, validation_fraction=validation_fraction, fold=fold))
    how = f"{mark(seed, validation_fraction, fold)}_{on_bad}{tree_mark(tree)}"
    everything = np.ones(len(sides), bool)
    name, labelled = (f"{_fingerprint(table, rows)}_{how}" for rows in (everything, sides != "test"))
    seen = hashlib.sha256(repr(sight).encode()).hexdigest()[:8]
    times = hashlib.sha256(np.ascontiguousarray(table.times).data).hexdigest()[:8]
    kept = cache_dir(store, f"{name}_{seen}_{times}")
    picture = functools.partial(_image_file, table, sight)
    unusable = _check_images(table, picture, kept, size, workers)
    found += unusable
    if found and on_bad == "fail":
        raise UserError(
            f"{report(found, path, 'the catalogue')}\n"
            "Repair the table, or go on without these galaxies: --config.data.on_bad=skip"
        )
    good = ~np.isin(table.ids.astype(str), [problem.galaxy_id for problem in unusable])
    rows = {one: np.flatnonzero(good & (sides == one)) for one in ("train", "validation", "test")}
    for one in ("train", "validation"):
        if not len(rows[one]):
            raise UserError(
                f"no galaxy in {path} is left for {one}: of {int(good.sum())} usable galaxies, "
                f"{int((good & (sides != 'test')).sum())} have labels and do not belong to the test set."
            )
    splits = {one: _split(table, some, picture) for one, some in rows.items() if len(some)}
    train, validation = (table.labels.fractions[rows[one]] for one in ("train", "validation"))
    statistics = compare_splits(train, validation, tree)
    warn_of_differences(statistics)
    galaxies = {one: split.size for one, split in splits.items()}
    return Dataset(
        splits,
        fingerprint=name,
        statistics={"galaxies": galaxies, **statistics},
        tree=tree,
        skipped=_skipped(found),
        labelled=labelled,
        cache=kept.name,
    )


def _skipped(found: Iterable[Problem]) -> tuple[tuple[str, str, str], ...]:
    """(id, file, all its reasons) of each row that has problems. Rows of one id differ in the details' first words."""
    rows: dict[tuple[str, str, str], list[str]] = {}
    for one in found:
        rows.setdefault((one.galaxy_id, one.file, one.detail.partition(",")[0]), []).append(one.reason)
    return tuple((galaxy_id, file, "; ".join(reasons)) for (galaxy_id, file, _), reasons in rows.items())


def _split(table: Table, rows: np.ndarray, picture: Callable[[int], ImageFile]) -> Split:
    """Some rows of a table, in their order."""
    ids, keys = table.ids[rows], _keys(table.ids[rows])

    def read(index: np.ndarray) -> Records:
        some = rows[index]
        image = np.empty(len(some), object)
        image[:] = [picture(row) for row in some.tolist()]
        labels = {"vote_fractions": table.labels.fractions[some], "votes": table.labels.votes[some]}
        return {"galaxy_id": keys[index], **labels, "image": image}

    return Split(len(rows), read, None if ids.dtype.kind == "i" else ids)


def _image_file(table: Table, sight: Sight, row: int) -> ImageFile:
    scale = None if table.scale is None else float(table.scale[row])
    name = f"{table.ids[row]} ({table.files[row].as_py()})"
    return ImageFile(name, functools.partial(table.opened, row), sight.arguments(scale))


def _keys(ids: np.ndarray) -> np.ndarray:
    """Numbers int64 [n] in place of ids, where numbers are needed: the ids themselves, or a hash of their text."""
    if ids.dtype.kind == "i":
        return ids.astype(np.int64)
    hashed = (hashlib.blake2b(str(i).encode(), digest_size=8).digest() for i in ids)
    return np.frombuffer(b"".join(hashed), "<i8").astype(np.int64)


def _sides(table: Table, validating: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Which side each galaxy is on, object [n]: the table's, else by a hash of its id; without labels, 'test'."""
    labelled = np.isfinite(table.labels.fractions).any(1)
    validates = validating(_keys(table.ids))
    drawn = np.where(validates, "validation", "train").astype(object)
    given = np.array([one is not None for one in table.split])
    sides = np.where(given, table.split, drawn)
    training = sides == "train"
    if given.any() and not (labelled & (sides == "validation")).any():  # a table of train and test alone
        sides[training] = drawn[training]
    if bare := int((~labelled & (sides != "test")).sum()):
        _log.warning("%d galaxies have no labels: they are predicted, but not used for training or validation", bare)
    sides[~labelled] = "test"
    return sides


def _fingerprint(table: Table, rows: np.ndarray) -> str:
    """16 hex digits of ids, files, their versions, labels and pixel scales of some rows, and of the split."""
    where = pa.array(np.flatnonzero(rows))
    texts = [pa.array(table.ids).cast(pa.string()), table.files, table.stamps, pa.array(table.split, pa.string())]
    digest = hashlib.sha256(inputs.digest(column.take(where) for column in texts).encode())
    for values in (table.labels.fractions, table.labels.votes, table.scale):
        if values is not None:
            digest.update(np.ascontiguousarray(values[rows]).data)
    return digest.hexdigest()[:16]


def _check_images(
    table: Table, picture: Callable[[int], ImageFile], kept: pathlib.Path, size: int, workers: int | None
) -> list[Problem]:
    """Problems of the images, each decoded once as the network sees it; what is found is kept in `kept`."""
    if (known := problems.kept(kept)) is not None:
        return known
    unusable: list[Problem] = []
    remarks: collections.Counter[str] = collections.Counter()

    def check(rows: Iterable[int]) -> list[tuple[int, int, str]]:
        return [(row, *picture(row).read(size=size)[1:]) for row in rows]

    count = len(table.ids)
    chunks = [range(start, min(start + 32, count)) for start in range(0, count, 32)]
    for found in in_threads(check, chunks, count, workers):
        for row, flag, reason in found:
            what, _, detail = reason.partition(": ")
            if flag == images.BAD:
                unusable.append(Problem(str(table.ids[row]), table.files[row].as_py(), f"image: {what}", detail))
            elif flag == images.NOTED:
                remarks.update(re.sub(r"[0-9][0-9.]* ?%? ?|: .*", "", note).strip() for note in reason.split("; "))
    if remarks:
        text = ", ".join(f"{number} {what}" for what, number in remarks.most_common(6))
        _log.warning("remarks on the images, all of which are used: %s", text)
    problems.keep(kept, unusable)
    return unusable
