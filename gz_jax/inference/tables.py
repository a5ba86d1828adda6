"""Tables of predicted vote fractions: Parquet shards that make one table, as CSV or FITS too; validation tables."""

import contextlib
import json
import os
import pathlib
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv, parquet

from gz_jax import labels
from gz_jax.inference import conformal
from gz_jax.labels import Tree
from gz_jax.runtime import files
from gz_jax.runtime.errors import UserError

FORMATS = ("parquet", "csv", "fits")
MANIFEST = "manifest.json"
EMBEDDING = "embedding"  # the column of a network's features
# Ends of intervals, joint and among those who were asked; and, only for networks with Dirichlet outputs, the standard
# deviation of the joint fraction.
ENDS = ("low_", "high_", "cond_low_", "cond_high_", "std_")
BAD = 2  # the flag of an image that could not be used, see `data.images`


class Predicted(NamedTuple):
    """A network's predictions for n images.

    Attributes:
      fractions, conditional: float32 [n, answers], joint and within each question; NaN where flag is 2.
      spread: float32 [n, answers], standard deviation (n - 1) over networks and test-time views; None with only one.
      flag: uint8 [n], 0 good, 1 usable with a remark (pixels missing, padded), 2 not usable; reason: object [n], str.
      embedding: float16 [n, width], features after pooling, the mean over views; interval: float32 [n, 4 or 5,
        answers], see `ENDS`. NaN where flag is 2; None if they were not asked for.
    """

    fractions: np.ndarray
    conditional: np.ndarray
    spread: np.ndarray | None
    flag: np.ndarray
    reason: np.ndarray
    embedding: np.ndarray | None = None
    interval: np.ndarray | None = None


def to_table(
    ids: np.ndarray,
    predicted: Predicted,
    tree: Tree,
    metadata: dict[str, Any] | None = None,
    files: pa.Array | None = None,
    scales: pa.Array | None = None,
    kept: pa.Table | None = None,
) -> pa.Table:
    """Columns id, file, each answer's by its name (joint), cond_..., spread_..., flag, reason; null where flag is 2.

    Where there are intervals, low_..., high_..., cond_low_..., cond_high_... and perhaps std_... follow spread_... .

    `file` is left out for images in memory, `spread_` for one network with one view. `pixel_scale`, after `file`, has
    the `scales` that were used for the images, if a column gave them; the columns of `kept` come next. `embedding` is
    last, a list of float16 of fixed length (NaN where flag is 2, and not null, which old readers refuse).
    """
    bad = predicted.flag == BAD
    given = {"id": ids, "file": files, "pixel_scale": scales}
    columns: dict[str, Any] = {name: column for name, column in given.items() if column is not None}
    columns |= {} if kept is None else dict(zip(kept.column_names, kept.columns, strict=True))
    for prefix, values in zip(("", "cond_", "spread_"), predicted[:3], strict=True):
        if values is not None:
            columns |= {prefix + name: pa.array(values[:, j], mask=bad) for j, name in enumerate(tree.columns)}
    if predicted.interval is not None:
        for prefix, values in zip(ENDS, predicted.interval.swapaxes(0, 1), strict=False):
            columns |= {prefix + name: pa.array(values[:, j], mask=bad) for j, name in enumerate(tree.columns)}
    texts = [text.encode("utf-8", "replace").decode() for text in predicted.reason]  # file names may be no Unicode
    columns |= {"flag": predicted.flag, "reason": pa.array(texts, pa.string())}
    if (features := predicted.embedding) is not None:
        columns[EMBEDDING] = pa.FixedSizeListArray.from_arrays(pa.array(features.ravel()), features.shape[1])
    table = pa.table(columns)
    return table.replace_schema_metadata({"gz_jax": json.dumps(metadata, sort_keys=True)} if metadata else None)


def _manifest_of(metadata: dict[bytes, bytes] | None) -> dict[str, Any]:
    """The manifest in the metadata of a Parquet file that this module wrote; {} for other files."""
    try:
        found = json.loads((metadata or {}).get(b"gz_jax", b"{}"))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def shard(output: pathlib.Path, index: int) -> pathlib.Path:
    return output / f"part-{index:05d}.parquet"


def digest(path: pathlib.Path, rows: int) -> str | None:
    """Digest of what a shard was predicted from ('' if it has none); None if the shard is missing or lacks rows.

    After a power cut a file may exist and be empty.
    """
    try:
        found = parquet.read_metadata(path)
    except (OSError, pa.ArrowException):
        return None
    return str(_manifest_of(found.metadata).get("rows", "")) if found.num_rows == rows else None


_MISSING = -(2**63)  # stands for a missing whole number in FITS
NO_PREDICTION = "no finite prediction"  # the reason of an image that was read, and for which the network gave NaN


def unread(path: pathlib.Path) -> list[int] | None:
    """Rows of a shard whose image could not be read; None if the shard itself cannot be read."""
    try:
        table = parquet.read_table(path, columns=["flag", "reason"])
    except (OSError, pa.ArrowException):
        return None
    reasons = table["reason"].to_pylist()
    return [i for i in np.flatnonzero(table["flag"].to_numpy() == BAD).tolist() if reasons[i] != NO_PREDICTION]


def write_shard(path: pathlib.Path, table: pa.Table) -> None:
    """Write a shard whole or not at all, with the same bytes for the same table; remove a killed run's file."""
    for left_over in path.parent.glob(f".{path.name}.*"):
        left_over.unlink(missing_ok=True)
    with files.atomic(path, "wb") as file:
        parquet.write_table(table, file, compression="zstd", use_dictionary=["reason"])


def shards(path: str | os.PathLike[str]) -> list[pathlib.Path]:
    """The Parquet files of a table in order: those of a folder of predictions, or the one file itself.

    Raises:
      UserError: nothing there, or the predictions are not finished.
    """
    path = pathlib.Path(path)
    if path.is_file():
        return [path]
    try:
        count = record(path / MANIFEST)["catalogue"]["shards"]
        if type(count) is not int:
            raise ValueError(f"shards is {count!r}")
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path} is neither a Parquet file nor a folder of predictions ({error}).") from error
    numbers = {int(p.stem[5:]) for p in path.glob("part-*.parquet") if p.stem[5:].isdecimal()}
    if missing := count - sum(number < count for number in numbers):  # no loop: `count` may be huge
        raise UserError(
            f"the predictions in {path} are not finished: {missing} of {count} parts are missing. "
            "Start the command that began them again: it continues them."
        )
    return [shard(path, i) for i in range(count)]


def is_finished(output: pathlib.Path) -> bool:
    """Whether every part of a folder of predictions is there (other processes may still be at work)."""
    count = record(output / MANIFEST)["catalogue"]["shards"]
    return all(shard(output, i).exists() for i in range(count))


def record(path: pathlib.Path) -> dict[str, Any]:
    """Read a manifest, whose parts are dictionaries. Raises OSError or ValueError: it cannot be read, or is none."""
    try:
        found = json.loads(path.read_text())
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    parts = ("catalogue", "models", "settings", "versions")
    if not (isinstance(found, dict) and all(isinstance(found.get(part, {}), dict) for part in parts)):
        raise ValueError("it is not a manifest of predictions")
    return found


def names(path: str | os.PathLike[str]) -> list[str]:
    """The columns of a table of predictions. Raises UserError: see `read`."""
    try:
        return parquet.read_schema(first := shards(path)[0]).names
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"cannot read {first} as Parquet: {error}") from error


def read(path: str | os.PathLike[str], columns: Sequence[str] | None = None) -> pa.Table:
    """A table of predictions, or some of its columns; the schema's metadata has 'gz_jax', the manifest as JSON.

    Raises:
      UserError: see `shards`; a file is not Parquet, or lacks a column.
    """
    if missing := sorted(set(columns or ()) - set(names(path))):
        raise UserError(f"{path} has no column {', '.join(missing[:5])}")
    try:
        return pa.concat_tables([parquet.read_table(part, columns=columns and list(columns)) for part in shards(path)])
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"cannot read {path} as Parquet: {error}") from error


def export(output: pathlib.Path, formats: Sequence[str]) -> list[str]:
    """Write predictions.csv and predictions.fits of a finished folder, shard after shard, if not up to date.

    Returns:
      A line for each of these formats that cannot hold some of the columns.
    """
    said, schema = [], parquet.read_schema(shards(output)[0])
    for kind, held in (("csv", set(_flat(schema))), ("fits", {*_flat(schema), *_vectors(schema)})):
        if kind in formats and (lost := [name for name in schema.names if name not in held]):
            said.append(f"predictions.{kind} is without {', '.join(lost)}, which only the Parquet files can hold")
    for kind, write in (("csv", _write_csv), ("fits", _write_fits)):
        path = output / f"predictions.{kind}"
        made = path.stat().st_mtime_ns if path.exists() else 0
        if kind in formats and not (made and all(part.stat().st_mtime_ns <= made for part in shards(output))):
            for left_over in output.glob(f".{path.name}.*"):
                left_over.unlink(missing_ok=True)
            with files.atomic(path, "wb") as file:
                write(file, shards(output))
    return said


def _flat(schema: pa.Schema) -> list[str]:
    """The columns with one value in each row that can be written as text."""

    def is_flat(kind: pa.DataType) -> bool:
        with contextlib.suppress(pa.ArrowException):
            return not pa.types.is_nested(kind) and pa.nulls(0, kind).cast(pa.string()) is not None
        return False

    return [field.name for field in schema if is_flat(field.type)]


def _plain(part: pathlib.Path) -> pa.Table:
    """The columns of `_flat`: the flag as it is, floating point numbers, whole numbers as int64, all else as text."""
    table = parquet.read_table(part, columns=_flat(parquet.read_schema(part))).replace_schema_metadata(None)
    for i, (name, kind) in enumerate(zip(table.column_names, table.schema.types, strict=True)):
        if name != "flag" and kind not in (pa.float32(), pa.float64()):
            small = pa.types.is_integer(kind) and kind != pa.uint64()
            other = pa.int64() if small else pa.float32() if kind == pa.float16() else pa.string()
            table = table.set_column(i, name, table.column(i).cast(other))
    return table


def _vectors(schema: pa.Schema) -> dict[str, tuple[str, tuple[int]]]:
    """The columns that hold several floating point numbers a row, and their types in FITS."""
    kinds = {pa.float16(): ">f4", pa.float32(): ">f4", pa.float64(): ">f8"}
    lists = (field for field in schema if pa.types.is_fixed_size_list(field.type) and field.type.value_type in kinds)
    return {field.name: (kinds[field.type.value_type], (field.type.list_size,)) for field in lists}


def vectors(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """A column of lists of one length as an array [n, length], NaN where a list is missing."""
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    width, found = column.type.list_size, []
    for chunk in chunks:
        values = chunk.values.slice(chunk.offset * width, len(chunk) * width).to_numpy(zero_copy_only=False)
        values = values.reshape(-1, width)
        missing = chunk.is_null().to_numpy(zero_copy_only=False)
        found.append(np.where(missing[:, None], np.nan, values).astype(values.dtype) if chunk.null_count else values)
    return np.concatenate(found)


def remove_exports(output: pathlib.Path) -> None:
    """Remove predictions.csv and .fits before a part is predicted (again), so that they never disagree with the parts.

    Comparing the times of the files is not enough: a clock may have been set back.
    """
    for kind in FORMATS[1:]:
        (output / f"predictions.{kind}").unlink(missing_ok=True)


class Kind(NamedTuple):
    """Images with one kind of reason: how many, and the first of them with its own reason."""

    images: int
    example: str


class Tally(NamedTuple):
    """Summary of a finished table.

    Attributes:
      images, unusable: number of all images, and of those not usable.
      bad, noted: the reasons of unusable images, and the remarks on usable ones, by kind.
    """

    images: int
    unusable: int
    bad: dict[str, Kind]
    noted: dict[str, Kind]

    def text(self) -> str:
        def most(kinds: dict[str, Kind]) -> list[str]:
            shown = sorted(kinds.items(), key=lambda pair: -pair[1].images)[:SHOWN]
            return [f"  {kind.images:,} x {name}; the first: {kind.example}" for name, kind in shown]

        lines = [f"{self.images - self.unusable:,} of {self.images:,} images predicted"]
        if self.unusable:
            lines.append(f"not used (flag 2, reasons in the table): {self.unusable:,}")
        lines += most(self.bad)
        if self.unusable > MANY * self.images:
            lines.append(
                "  That is more than a tenth. Correct the catalogue or the files: the same command tries these again."
            )
        if self.noted:
            lines.append("used with a remark (flag 1):")
        return "\n".join(lines + most(self.noted))


MANY = 0.1  # if a larger share of the images is unusable, the catalogue is probably wrong, not single files
SHOWN = 10  # kinds of reasons that are listed


def tally(output: pathlib.Path) -> Tally:
    """Count a finished table's flags and reasons. Raises UserError: see `read`."""
    name = "file" if "file" in names(output) else "id"
    count, unusable = 0, 0
    kinds: tuple[dict[str, Kind], dict[str, Kind]] = ({}, {})
    for part in shards(output):
        table = parquet.read_table(part, columns=[name, "flag", "reason"])
        flag = table["flag"].to_numpy()
        count, unusable = count + len(flag), unusable + int((flag == BAD).sum())
        for found, mask in zip(kinds, (flag == BAD, (flag != BAD) & (flag != 0)), strict=True):
            rows = table.filter(pa.array(mask))
            for value in pc.value_counts(rows["reason"]).to_pylist():
                row = pc.index(rows["reason"], value["values"]).as_py()
                for reason in value["values"].split("; "):
                    kind = re.sub(r"^[\d.e+-]+ % of ", "", reason).partition(":")[0]
                    example = f"{rows[name][row].as_py()}" + (f" ({reason})" if reason != kind else "")
                    before = found.get(kind, Kind(0, example))
                    found[kind] = before._replace(images=before.images + value["counts"])
    return Tally(count, unusable, *kinds)


def _write_csv(file: Any, parts: Sequence[pathlib.Path]) -> None:
    """Write a CSV. Null is empty; text that a spreadsheet would read as a formula is written as by `files.harmless`."""
    with contextlib.ExitStack() as stack:
        writer = None
        for part in parts:
            table = _plain(part)
            for i, name in enumerate(table.column_names):
                column = table.column(i)
                if pa.types.is_string(column.type):
                    harmless = pc.binary_join_element_wise("'", column, "")
                    dangerous = pc.match_substring_regex(column, f"^[{re.escape(files.FORMULA)}]")
                    table = table.set_column(i, name, pc.if_else(dangerous, harmless, column))
            writer = writer or stack.enter_context(csv.CSVWriter(file, table.schema))
            writer.write_table(table)


def _write_fits(file: Any, parts: Sequence[pathlib.Path]) -> None:
    """Write a binary table. Null is NaN, or TNULL for whole numbers; text is ASCII, with Python's escapes."""
    from astropy.io import fits

    schema, rows = parquet.read_schema(parts[0]), 0
    lists, widths, gaps = _vectors(schema), dict[str, int](), set[str]()
    kinds: dict[str, Any] = dict(lists)
    for part in parts:
        table = _plain(part)
        rows += table.num_rows
        for name, column in zip(table.column_names, table.columns, strict=True):
            if pa.types.is_string(column.type):
                widths[name] = max([widths.get(name, 1), *(len(text) for text in _ascii(column))])
            else:
                kinds[name] = (np.dtype(column.type.to_pandas_dtype()).newbyteorder(">"),)
                gaps |= {name} if column.null_count and pa.types.is_int64(column.type) else set()
    kinds |= {name: (f"S{width}",) for name, width in widths.items()}
    names = [name for name in schema.names if name in kinds]
    dtype = np.dtype([(name, *kinds[name]) for name in names])
    header = fits.BinTableHDU(np.zeros(0, dtype), name="PREDICTIONS").header
    header["NAXIS2"] = rows
    for name in sorted(gaps):
        header[f"TNULL{1 + names.index(name)}"] = _MISSING
    manifest = {name: value for name, value in _manifest_of(schema.metadata).items() if name != "rows"}
    for text in json.dumps(manifest, indent=1).splitlines():
        header.add_comment(text)
    file.write(fits.PrimaryHDU().header.tostring().encode("ascii"))
    file.write(header.tostring().encode("ascii"))
    for part in parts:
        table = _plain(part)
        block = np.zeros(table.num_rows, dtype)
        for name, column in zip(table.column_names, table.columns, strict=True):
            column = column.fill_null(_MISSING) if name in gaps else column
            block[name] = _ascii(column) if name in widths else column.to_numpy()
        listed = parquet.read_table(part, columns=list(lists))
        for name in lists:
            block[name] = vectors(listed[name])
        file.write(block.tobytes())
    file.write(b"\0" * (-rows * dtype.itemsize % 2880))


def _ascii(texts: pa.ChunkedArray) -> list[bytes]:
    return [(text or "").encode("ascii", "backslashreplace") for text in texts.to_pylist()]


def write_validation(
    path: str | os.PathLike[str],
    galaxy_id: np.ndarray,
    truth: np.ndarray,
    predicted: np.ndarray,
    tree: Tree,
    networks: Sequence[dict[str, Any]] = (),
    data: str | None = None,
    levels: conformal.Levels | None = None,
) -> None:
    """Write labelled galaxies and their predictions: columns galaxy_id, true_<answer> ..., <answer> ....

    Args:
      galaxy_id: int64 or str [n]; truth, predicted: float32 [n, answers]; unknown labels are NaN, in the file null.
      networks: identities of the networks; data: fingerprint of the data set; levels: only for Dirichlet outputs.
    """
    columns = ["galaxy_id", *(f"true_{name}" for name in tree.columns), *tree.columns]
    manifest: dict[str, Any] = {"models": {"networks": list(networks)}, "data": data, "tree": labels.as_dict(tree)}
    manifest |= {"interval_levels": conformal.packed(levels)} if levels else {}
    about = {"gz_jax": json.dumps(manifest)}
    labelled = [pa.array(column, from_pandas=True) for column in truth.T]
    arrays = [pa.array(galaxy_id), *labelled, *predicted.T]
    write_shard(pathlib.Path(path), pa.table(arrays, names=columns, metadata=about))


def read_validation(path: str | os.PathLike[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(galaxy_id int64 or str [n], truth [n, answers], predicted [n, answers]) as `write_validation` wrote them.

    Raises:
      UserError: it is not such a table.
    """
    answers = tree_of(manifest(path), path).columns
    table = read(path, ["galaxy_id", *(f"true_{name}" for name in answers), *answers])
    ids, *values = (column.to_numpy() for column in table.columns)
    ids = ids.astype(str) if ids.dtype == object else ids
    return ids, np.stack(values[: len(answers)], 1), np.stack(values[len(answers) :], 1)


def levels_of(path: str | os.PathLike[str]) -> conformal.Levels | None:
    """The calibration of Dirichlet intervals that `write_validation` put into a table; None where there is none."""
    made = manifest(path)
    found = conformal.unpacked(made.get("interval_levels"), tree_of(made, path))
    return found if isinstance(found, conformal.Levels) else None


def tree_of(manifest: dict[str, Any], path: str | os.PathLike[str]) -> Tree:
    """The decision tree of a table with this manifest. Raises UserError: there is none."""
    if "tree" not in manifest:
        raise UserError(f"{path} does not say which decision tree it answers: it is no table of gz_jax's predictions.")
    return labels.from_dict(manifest["tree"], f"in {os.fspath(path)}")


def manifest(path: str | os.PathLike[str]) -> dict[str, Any]:
    """How a table was made: its networks (`manifest.networks_of`), `settings`, `data`; {} if gz_jax did not write it.

    Raises:
      UserError: see `read`.
    """
    return _manifest_of(read(path, []).schema.metadata)


def read_labels(path: str | os.PathLike[str], columns: Sequence[str]) -> pa.Table:
    """GalaxyID and some columns of a CSV such as Kaggle's training_solutions_rev1.csv.

    Raises:
      UserError: it is not such a file.
    """
    try:
        return csv.read_csv(path, convert_options=csv.ConvertOptions(include_columns=["GalaxyID", *columns]))
    except (OSError, KeyError, pa.ArrowException) as error:
        raise UserError(f"cannot read {path} as a table of GalaxyID and vote fractions: {error}") from error
