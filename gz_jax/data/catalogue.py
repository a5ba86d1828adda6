"""A person's own table of images and labels as a data set: read, checked as a whole, and split.

The table has an id, an image file and some columns of labels a row; a column `split` is obeyed, else galaxies are split
by a hash of their ids, as Kaggle's are. Rows without any label are a test set, for prediction alone.
"""

import collections
import functools
import hashlib
import json
import logging
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gz_jax.data import catalogue_columns, catalogue_labels, identifiers, images, inputs, places, tables
from gz_jax.data.catalogue_columns import Columns
from gz_jax.data.catalogue_labels import Fault, Kind, Labels
from gz_jax.data.galaxy_zoo import cache_dir, warn_of_differences
from gz_jax.data.image_file import ImageFile
from gz_jax.data.kaggle_split import compare_splits, side
from gz_jax.data.problems import MAX_PROBLEMS, Problem, in_threads, report
from gz_jax.data.sight import Sight
from gz_jax.data.split import Dataset, Records, Split, tree_mark
from gz_jax.labels import Tree
from gz_jax.runtime.errors import UserError
from gz_jax.runtime.files import write_json

_log = logging.getLogger(__name__)
SPLIT = "split"  # the column that says which side a galaxy is on, where the table has it
_SIDES = {
    "train": "train", "training": "train", "validation": "validation", "valid": "validation", "val": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip
_CHUNK = 1 << 16  # rows whose labels are converted at a time


class Table(NamedTuple):
    """A table's rows, checked one by one: those without a problem, sorted by id.

    ids: int64 or str [n]; files: str [n]; opened: row to what `images.read_cutout` reads; stamps: str [n], versions of
    the files; labels: of each row; split: object [n], 'train', 'validation', 'test' or None; scale: float64 [n], arcsec
    per pixel, or None.
    """

    ids: np.ndarray
    files: pa.Array
    opened: Callable[[int], Any]
    stamps: pa.Array
    labels: Labels
    split: np.ndarray
    scale: np.ndarray | None


def open_dataset(
    path: str | os.PathLike[str],
    *,
    tree: Tree,
    labels: Kind,
    sight: Sight,
    size: int,
    columns: str = "",
    suffix: str = "",
    nominal_votes: float = 40.0,
    id_column: str = "id",
    file_column: str = "file",
    file_columns: Sequence[str] = (),
    images: str | os.PathLike[str] | None = None,
    seed: int = 0,
    validation_fraction: float = 0.2,
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
      seed, validation_fraction: of the split, where the table has none.
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
    problems: list[Problem] = []
    plan = _plan(path, tree, labels, columns, suffix, id_column, files, sight)
    table = _read(path, plan, tree, labels, nominal_votes, (id_column, files, images), problems)
    sides = _sides(table, seed, validation_fraction)
    how = f"seed{seed}_val{float(validation_fraction)}_{on_bad}{tree_mark(tree)}"
    name, labelled = (f"{_fingerprint(table, rows)}_{how}" for rows in (sides != "", (sides != "") & (sides != "test")))
    seen = hashlib.sha256(repr(sight).encode()).hexdigest()[:8]
    kept = cache_dir(store, f"{name}_{seen}")
    picture = functools.partial(_image_file, table, sight)
    problems += _check_images(table, picture, kept, size, workers)
    if problems and on_bad == "fail":
        raise UserError(
            f"{report(problems, path, 'the catalogue')}\n"
            "Repair the table, or go on without these galaxies: --config.data.on_bad=skip"
        )
    bad = {problem.galaxy_id for problem in problems}
    good = np.array([str(i) not in bad for i in table.ids.tolist()], bool)
    splits = {}
    for name_of, rows in ((one, np.flatnonzero(good & (sides == one))) for one in ("train", "validation", "test")):
        if len(rows):
            splits[name_of] = _split(table, rows, picture)
        elif name_of != "test":
            raise UserError(
                f"of {int(good.sum())} usable galaxies in {path} none is left for {name_of}: it has "
                f"{int((good & (sides != 'test')).sum())} with labels that are not for testing."
            )
    train, validation = (table.labels.fractions[good & (sides == one)] for one in ("train", "validation"))
    statistics = compare_splits(train, validation, tree)
    warn_of_differences(statistics)
    galaxies = {one: split.size for one, split in splits.items()}
    return Dataset(
        splits,
        fingerprint=name,
        statistics={"galaxies": galaxies, **statistics},
        tree=tree,
        skipped=tuple((p.galaxy_id, p.file, p.reason) for p in problems),
        labelled=labelled,
        cache=kept.name,
    )


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
    """int64 [n] that stand for ids of any kind where a number is needed: themselves, or a hash of the text."""
    if ids.dtype.kind == "i":
        return ids.astype(np.int64)
    hashed = (hashlib.blake2b(str(i).encode(), digest_size=8).digest() for i in ids)
    return np.frombuffer(b"".join(hashed), "<i8").astype(np.int64)


def _plan(
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
        raise UserError(f"{path} is no table that is read: CSV (.csv), Parquet (.parquet) or FITS (.fits)")
    there = tables.names(path, [id_column, *files])
    chosen = catalogue_columns.choose(there, tree, kind, catalogue_columns.parse(columns, tree), suffix)
    list(catalogue_columns.rest_of(chosen, tree))
    needed = [id_column, *files, *chosen.names, *filter(None, [sight.scale_column])]
    if text := catalogue_columns.lacking(there, list(dict.fromkeys(needed))):
        raise UserError(
            f"{path} has {text}. Name them by --config.data.id_column, .file_column, .columns='answer=column, ...' or "
            f".suffix (what they have after the names in the tree, which is {tree.name}: --config.tree)."
        )
    return chosen, [name for name in (SPLIT, sight.scale_column) if name in there and name]


def _read(
    path: pathlib.Path,
    plan: tuple[Columns, list[str]],
    tree: Tree,
    kind: Kind,
    nominal: float,
    where: tuple[str, list[str], Any],
    problems: list[Problem],
) -> Table:
    """The rows without a problem, sorted by id; the problems of the others are added to `problems`."""
    (chosen, more), (id_column, file_columns, folder) = plan, where
    listed = tables.load(path, id_column, file_columns)
    if listed is None:
        raise UserError(f"{path} has no table with the columns {id_column} and {', '.join(file_columns)}")
    found = tables.columns(path, list(dict.fromkeys([*chosen.names, *more])))
    texts, files = listed.ids, places.joined_files(listed.files)
    bad = np.zeros(len(texts), bool)

    def fault(row: int, what: str, detail: str = "") -> None:
        name = texts[row].as_py()
        bad[row] = True
        note = f"row {row + 1}{detail and ', '}{detail[:100]}"
        problems.append(Problem(name or f"row {row + 1}", files[row].as_py() or "", what, note))
        if len(problems) > MAX_PROBLEMS:
            raise UserError(f"{report(problems, path, 'the catalogue')}\nand more: are these the right columns?")

    for row in np.flatnonzero(pc.is_null(texts).to_numpy(zero_copy_only=False)).tolist():
        fault(row, "no id")
    counts = collections.Counter(texts.to_pylist())
    for row, name in enumerate(texts.to_pylist() if max(counts.values()) > 1 else ()):
        if name is not None and counts[name] > 1:
            fault(row, "id used more than once")
    labels = _labels(found, chosen, tree, kind, nominal, fault)
    split = np.full(len(texts), None, object)
    for row, name in enumerate(identifiers.texts(found[SPLIT]).to_pylist() if SPLIT in found else ()):
        split[row] = _SIDES.get((name or "").strip().lower())
        if split[row] is None:
            fault(row, "unknown split", f"{name!r} is not train, validation or test" if name else "it is empty")
    scale = None

    def no_scale(name: str, row: int, text: str) -> None:
        fault(row, "text where a number belongs", f"{name} = {text!r}")

    for name in set(more) - {SPLIT}:
        scale = _numbers(found[name], functools.partial(no_scale, name))
        for row in np.flatnonzero(~(np.isfinite(scale) & (scale > 0)) & ~bad).tolist():
            fault(row, "pixel scale is missing or not positive", f"{name} = {scale[row]:g}")
    place = places.find_place(path, listed.files[0], folder)
    stamps: list[str] = []
    for row in range(len(texts)):
        try:
            keys = [place.find(name) for name in places.row_files(listed.files, file_columns, row)]
            stamps.append(" + ".join(map(place.stamp, keys)))
        except (UserError, ValueError, OSError) as error:
            stamps.append("")
            kind_of, _, detail = str(error).partition(": ")
            fault(row, kind_of, detail)
    kept = np.flatnonzero(~bad)
    if not len(kept):
        raise UserError(f"{report(problems, path, 'the catalogue')}\nNo row is usable: are these the right columns?")
    ids = identifiers.from_texts(texts.take(pa.array(kept)))
    order = np.argsort(ids, kind="stable")
    kept = kept[order]

    def opened(i: int) -> Any:
        sources = [place.read(place.find(name)) for name in places.row_files(listed.files, file_columns, int(kept[i]))]
        return sources[0] if len(sources) == 1 else tuple(sources)

    return Table(
        ids[order],
        files.take(pa.array(kept)),
        opened,
        pa.array(stamps).take(pa.array(kept)),
        Labels(labels.fractions[kept], labels.votes[kept], []),
        split[kept],
        None if scale is None else scale[kept],
    )


def _labels(
    found: dict[str, pa.ChunkedArray],
    chosen: Columns,
    tree: Tree,
    kind: Kind,
    nominal: float,
    fault: Callable[[int, str, str], None],
) -> Labels:
    """The labels of all rows, converted in chunks of rows, so that memory stays small."""
    total = len(next(iter(found.values())))
    fractions, votes = (np.empty((total, len(tree.columns)), np.float32) for _ in range(2))
    rest = list(catalogue_columns.rest_of(chosen, tree))
    for start in range(0, total, _CHUNK):
        part = {name: column.slice(start, _CHUNK) for name, column in found.items()}
        count = min(_CHUNK, total - start)
        wrong: list[Fault] = []

        def numbers(name: str | None, part=part, count=count, wrong=wrong) -> np.ndarray:
            if name is None or name == catalogue_columns.REST:
                return np.full(count, np.nan)

            def no_number(row: int, text: str) -> None:
                wrong.append(Fault(row, "text where a number belongs", f"{name} = {text[:40]!r}"))

            return _numbers(part[name], no_number)

        if kind == "class":
            names = [np.array(identifiers.texts(part[name]).to_pylist(), object) for name in chosen.classes]
            labels = catalogue_labels.of_class(np.stack(names, 1), tree, nominal)
        else:
            values = np.stack([numbers(name) for name in chosen.answers], 1)
            totals = np.stack([numbers(name) for name in chosen.totals], 1)
            unread = sorted({fault.row for fault in wrong})
            values[unread] = totals[unread] = np.nan
            for answer, others in rest:
                left = 1 - values[:, others].sum(1)
                values[:, answer] = np.where(np.abs(left) < catalogue_labels.ROUNDING, np.maximum(left, 0), left)
            if kind == "counts":
                labels = catalogue_labels.of_counts(values, tree, nominal)
            else:
                convert = catalogue_labels.of_joint if kind == "joint" else catalogue_labels.of_conditional
                labels = convert(values, totals, tree, nominal)
        for one in (*wrong, *labels.faults):
            fault(start + one.row, one.kind, one.detail)
        rows = slice(start, start + count)
        fractions[rows], votes[rows] = labels.fractions, labels.votes
    return Labels(fractions, votes, [])


def _numbers(column: pa.ChunkedArray, no_number: Callable[[int, str], object]) -> np.ndarray:
    """A column as float64 [n], NaN for what is missing; texts that are no numbers are told by row."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_boolean(kind) or not (
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
    ):
        try:
            values = column.cast(pa.float64(), safe=False)
        except pa.ArrowException as error:
            raise UserError(f"a label column holds {kind}, not numbers ({error})") from error
        return pc.fill_null(values, np.nan).to_numpy().astype(np.float64)
    texts = pc.utf8_trim_whitespace(identifiers.texts(column))
    texts = pc.if_else(pc.equal(texts, ""), pa.scalar(None, pa.string()), texts)
    try:
        return pc.fill_null(texts.cast(pa.float64()), np.nan).to_numpy(zero_copy_only=False).astype(np.float64)
    except pa.ArrowInvalid:
        pass
    values = np.full(len(texts), np.nan)
    for row, text in enumerate(texts.to_pylist()):
        if text is not None and text.lower() not in ("nan", "na", "n/a", "null", "none", "--"):
            try:
                values[row] = float(text)
            except ValueError:
                no_number(row, text)
    return values


def _sides(table: Table, seed: int, validation_fraction: float) -> np.ndarray:
    """Which side each galaxy is on, object [n]: the table's, else by a hash of its id; without labels, 'test'."""
    labelled = np.isfinite(table.labels.fractions).any(1)
    validates = side(_keys(table.ids), seed, validation_fraction)
    drawn = np.where(validates, "validation", "train").astype(object)
    given = np.array([one is not None for one in table.split])
    sides = np.where(given, table.split, drawn)
    training = sides == "train"
    if given.any() and not (labelled & (sides == "validation")).any():  # a table of train and test alone
        sides[training] = drawn[training]
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
    saved = kept / "checked.json"
    try:
        return [Problem(*problem) for problem in json.loads(saved.read_text())]
    except FileNotFoundError:
        pass
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{saved} cannot be read ({error}): remove it, and the images are checked again") from error
    problems: list[Problem] = []
    remarks: collections.Counter[str] = collections.Counter()

    def check(rows: Iterable[int]) -> list[tuple[int, int, str]]:
        return [(row, *picture(row).read(size=size)[1:]) for row in rows]

    count = len(table.ids)
    chunks = [range(start, min(start + 32, count)) for start in range(0, count, 32)]
    for found in in_threads(check, chunks, count, workers):
        for row, flag, reason in found:
            what, _, detail = reason.partition(": ")
            if flag == images.BAD:
                problems.append(Problem(str(table.ids[row]), table.files[row].as_py(), f"image: {what}", detail))
            elif flag == images.NOTED:
                remarks.update(re.sub(r"[0-9][0-9.]* ?%? ?|: .*", "", note).strip() for note in reason.split(", "))
    if remarks:
        text = ", ".join(f"{number} {what}" for what, number in remarks.most_common(6))
        _log.warning("remarks on the images as they are seen (they are used): %s", text)
    try:
        kept.mkdir(parents=True, exist_ok=True)
        write_json(saved, [list(problem) for problem in problems])
    except OSError as error:
        raise UserError(f"cannot write to {kept} ({error.strerror}): set --config.data.store") from error
    return problems
