"""The rows of a user's table of galaxies, checked one by one."""

import functools
import os
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gz_jax.data import catalogue_columns, catalogue_labels, identifiers, inputs, places, tables
from gz_jax.data.catalogue_columns import Columns
from gz_jax.data.catalogue_labels import Kind, Labels
from gz_jax.data.problems import MAX_PROBLEMS, Problem, report
from gz_jax.data.sight import Sight
from gz_jax.labels import Tree
from gz_jax.runtime.errors import UserError

SPLIT = "split"  # the column that says which side a galaxy is on, where the table has it
_SIDES = {
    "train": "train", "training": "train", "validation": "validation", "valid": "validation", "val": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip
_CHUNK = 1 << 14  # rows whose labels are converted at a time


class Table(NamedTuple):
    """A table's rows, checked one by one: those without a problem, sorted by id.

    ids: int64 or str [n]; files: str [n]; opened: row to what `images.read_cutout` reads; stamps: str [n], versions of
    the files; times: int64 [n], when they were last changed (`places.Place.stamp`); labels: of each row; split: object
    [n], 'train', 'validation', 'test' or None; scale: float64 [n], arcsec per pixel, or None.
    """

    ids: np.ndarray
    files: pa.Array
    opened: Callable[[int], Any]
    stamps: pa.Array
    times: np.ndarray
    labels: Labels
    split: np.ndarray
    scale: np.ndarray | None


def plan(
    path: pathlib.Path,
    tree: Tree,
    kind: Kind,
    columns: str,
    suffix: str,
    id_column: str,
    files: list[str],
    sight: Sight,
) -> tuple[Columns, list[str]]:
    """The columns of the labels, and those beside them that are there or needed.

    Raises:
      UserError: columns are missing.
    """
    if not path.name.lower().endswith((".csv", ".parquet", *inputs.FITS_SUFFIXES)):
        raise UserError(f"{path} is not a table that can be read: use CSV (.csv), Parquet (.parquet) or FITS (.fits)")
    there = tables.names(path, [id_column, *files])
    chosen = catalogue_columns.choose(there, tree, kind, catalogue_columns.parse(columns, tree), suffix)
    list(catalogue_columns.rest_of(chosen, tree, kind))
    needed = [id_column, *files, *chosen.names, *filter(None, [sight.scale_column])]
    if text := tables.lacking(there, list(dict.fromkeys(needed))):
        if len(there) == 1 and (others := [mark for mark in ";\t|" if mark in there[0]]):
            raise UserError(f"{path} has {others[0]!r} between its columns; write it with commas.")
        raise UserError(
            f"{path} has {text}. Name the columns with --config.data.id_column, --config.data.file_column, "
            "--config.data.columns='answer=column, ...' or --config.data.suffix (an ending of all label columns). The "
            f"decision tree is {tree.name}; --config.tree names another."
        )
    return chosen, [name for name in (SPLIT, sight.scale_column) if name in there and name]


class _Faults:
    """Collects what is wrong with a table's rows."""

    def __init__(self, path: pathlib.Path, ids: pa.Array, files: pa.Array) -> None:
        self.path, self.ids, self.files = path, ids, files
        self.bad = np.zeros(len(ids), bool)
        self.problems: list[Problem] = []
        self._known: set[tuple[int, str]] = set()

    def add(self, row: int, kind: str, detail: str = "") -> None:
        """Add a fault, once for each row and kind."""
        if (row, kind) in self._known:
            return
        where = f"row {row + 1}"
        self.bad[row] = True
        self._known.add((row, kind))
        note = f"{where}{detail and ', '}{detail[:100]}"
        self.problems.append(Problem(self.ids[row].as_py() or where, self.files[row].as_py() or "", kind, note))
        if len(self.problems) > MAX_PROBLEMS:
            self.give_up("There are more. Are these the right columns?")

    def give_up(self, text: str) -> NoReturn:
        raise UserError(f"{report(self.problems, self.path, 'the catalogue')}\n{text}")


def read(
    path: pathlib.Path,
    columns: tuple[Columns, list[str]],
    tree: Tree,
    kind: Kind,
    nominal: float,
    id_column: str,
    file_columns: list[str],
    folder: str | os.PathLike[str] | None,
) -> tuple[Table, list[Problem]]:
    """The rows without a problem, sorted by id, and the problems of the others."""
    chosen, more = columns
    listed = tables.load(path, id_column, file_columns)
    if listed is None:
        raise UserError(f"{path} has no table with the columns {id_column} and {', '.join(file_columns)}")
    found = tables.columns(path, list(dict.fromkeys([*chosen.names, *more])))
    files = places.joined_files(listed.files)
    faults = _Faults(path, listed.ids, files)
    _check_ids(listed.ids, faults)
    labels = _labels(found, chosen, tree, kind, nominal, faults)
    split = (
        _given_split(tables.texts(path, SPLIT, found[SPLIT]), faults)
        if SPLIT in more
        else np.full(len(files), None, object)
    )
    scales = [_scale(name, found[name], faults) for name in more if name != SPLIT]
    place = places.find_place(path, listed.files[0], folder)
    rows = functools.partial(places.row_files, listed.files, file_columns)
    stamps, times = _stamps(place, rows, faults)
    kept = np.flatnonzero(~faults.bad)
    if not len(kept):
        faults.give_up("No row can be used. Are these the right columns?")
    ids = identifiers.from_texts(listed.ids.take(pa.array(kept)))
    order = np.argsort(ids, kind="stable")
    kept = kept[order]

    def opened(i: int) -> Any:
        sources = [place.read(place.find(name)) for name in rows(int(kept[i]))]
        return sources[0] if len(sources) == 1 else tuple(sources)

    table = Table(
        ids[order],
        files.take(pa.array(kept)),
        opened,
        stamps.take(pa.array(kept)),
        times[kept],
        labels._replace(fractions=labels.fractions[kept], votes=labels.votes[kept]),
        split[kept],
        scales[0][kept] if scales else None,
    )
    return table, faults.problems


def _check_ids(ids: pa.Array, faults: _Faults) -> None:
    for row in np.flatnonzero(pc.is_null(ids).to_numpy(zero_copy_only=False)).tolist():
        faults.add(row, "no id")
    for row in np.flatnonzero(pc.match_substring(ids.fill_null(""), "\0").to_numpy(zero_copy_only=False)).tolist():
        faults.add(row, "id with a NUL character")  # which NumPy drops at the end of a text
    counts = ids.drop_null().value_counts()
    twice = counts.filter(pc.greater(counts.field(1), 1)).field(0)
    for row in np.flatnonzero(pc.is_in(ids, twice).to_numpy(zero_copy_only=False)).tolist() if len(twice) else ():
        faults.add(row, "id used more than once")


def _given_split(column: pa.Array, faults: _Faults) -> np.ndarray:
    """The table's own split: object [n], '' where it says nothing that is known."""
    coded = pc.fill_null(column, "").dictionary_encode()
    names = coded.dictionary.to_pylist()
    sides = np.array([_SIDES.get(name.strip().lower(), "") for name in names], object)
    codes = coded.indices.to_numpy()
    for row in np.flatnonzero((sides == "")[codes]).tolist():
        name = names[codes[row]]
        faults.add(row, "unknown split", f"{name!r} is not train, validation or test" if name else "it is empty")
    return sides[codes]


def _scale(name: str, column: pa.ChunkedArray, faults: _Faults) -> np.ndarray:
    """Pixel scales, float64 [n]."""

    def no_number(row: int, text: str) -> None:
        faults.add(row, "text where a number belongs", f"{name} = {text[:40]!r}")

    scale = tables.numbers(faults.path, name, column, no_number)
    for row in np.flatnonzero(~(np.isfinite(scale) & (scale > 0)) & ~faults.bad).tolist():
        faults.add(row, "pixel scale is missing or not positive", f"{name} = {scale[row]:g}")
    return scale


def _stamps(place: places.Place, rows: Callable[[int], list[str]], faults: _Faults) -> tuple[pa.Array, np.ndarray]:
    """Versions of each row's files, string [n], and when the latest was changed, int64 [n]."""
    stamps, times = list[str](), np.zeros(len(faults.ids), np.int64)
    for row in range(len(faults.ids)):
        try:
            found = [place.stamp(place.find(name)) for name in rows(row)]
            stamps.append(" + ".join(stamp for stamp, _ in found))
            times[row] = max(time for _, time in found)
        except (UserError, ValueError, OSError) as error:
            stamps.append("")
            kind, _, detail = str(error).partition(": ")
            faults.add(row, kind, detail)
    return pa.array(stamps, pa.string()), times


def _labels(
    found: dict[str, pa.ChunkedArray],
    chosen: Columns,
    tree: Tree,
    kind: Kind,
    nominal: float,
    faults: _Faults,
) -> Labels:
    """The labels of all rows, converted in chunks of rows, so that memory stays small."""
    total = len(faults.ids)
    fractions, votes = (np.empty((total, len(tree.columns)), np.float32) for _ in range(2))
    rest = list(catalogue_columns.rest_of(chosen, tree, kind))
    for start in range(0, total, _CHUNK):
        part = {name: column.slice(start, _CHUNK) for name, column in found.items()}
        count = min(_CHUNK, total - start)
        unread: set[int] = set()

        def numbers(name: str | None, part=part, count=count, start=start, unread=unread) -> np.ndarray:
            if name is None or name == catalogue_columns.REST:
                return np.full(count, np.nan)

            def no_number(row: int, text: str) -> None:
                unread.add(row)
                faults.add(start + row, "text where a number belongs", f"{name} = {text[:40]!r}")

            return tables.numbers(faults.path, name, part[name], no_number)

        if kind == "class":
            names = [
                np.array(tables.texts(faults.path, name, part[name]).to_pylist(), object) for name in chosen.classes
            ]
            labels = catalogue_labels.of_class(np.stack(names, 1), tree, nominal)
        else:
            values = np.stack([numbers(name) for name in chosen.answers], 1)
            totals = np.stack([numbers(name) for name in chosen.totals], 1)
            values[sorted(unread)] = totals[sorted(unread)] = np.nan
            for answer, others in rest:
                left = 1 - values[:, others].sum(1)
                slack = catalogue_labels.rounding(len(others))
                values[:, answer] = np.where(np.abs(left) < slack, np.maximum(left, 0), left)
            if kind == "counts":
                labels = catalogue_labels.of_counts(values, tree, nominal)
            else:
                convert = catalogue_labels.of_joint if kind == "joint" else catalogue_labels.of_conditional
                labels = convert(values, totals, tree, nominal)
        for one in labels.faults:
            faults.add(start + one.row, one.kind, one.detail)
        rows = slice(start, start + count)
        fractions[rows], votes[rows] = labels.fractions, labels.votes
    return Labels(fractions, votes, [])
