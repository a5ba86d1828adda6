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

from gz_jax import files
from gz_jax.errors import UserError
from gz_jax.labels import COLUMNS

FORMATS = ("parquet", "csv", "fits")
MANIFEST = "manifest.json"
BAD = 2  # the flag of an image that could not be used, as `data.images` has it


class Predicted(NamedTuple):
    """What a network says of n images.

    Attributes:
      fractions, conditional: float32 [n, 37], joint and within each question; NaN where flag is 2.
      spread: float32 [n, 37], standard deviation (n - 1) over networks and test-time views; None with only one.
      flag: uint8 [n], 0 good, 1 usable with a remark (pixels missing, padded), 2 not usable; reason: object [n], str.
    """

    fractions: np.ndarray
    conditional: np.ndarray
    spread: np.ndarray | None
    flag: np.ndarray
    reason: np.ndarray


def to_table(ids: np.ndarray, predicted: Predicted, metadata: dict[str, Any] | None = None) -> pa.Table:
    """Columns id, Class1.1 ..., cond_Class1.1 ..., spread_Class1.1 ... (if any), flag, reason; null where flag is 2."""
    bad = predicted.flag == BAD
    columns: dict[str, Any] = {"id": ids}
    for prefix, values in (
        ("", predicted.fractions),
        ("cond_", predicted.conditional),
        ("spread_", predicted.spread),
    ):
        if values is not None:
            columns |= {prefix + name: pa.array(values[:, j], mask=bad) for j, name in enumerate(COLUMNS)}
    texts = [text.encode("utf-8", "replace").decode() for text in predicted.reason]  # file names may be no Unicode
    table = pa.table(columns | {"flag": predicted.flag, "reason": pa.array(texts, pa.string())})
    return table.replace_schema_metadata({"gz_jax": json.dumps(metadata, sort_keys=True)} if metadata else None)


def claim(output: pathlib.Path, manifest: dict[str, Any]) -> dict[str, Any]:
    """Make the folder for this table, or see that it was begun with the same manifest; returns the manifest there.

    Raises:
      UserError: the folder cannot be written, or holds another table; the message names the differences.
    """
    path, manifest = output / MANIFEST, json.loads(json.dumps(manifest))
    try:
        output.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            if any(output.glob("part-*.parquet")):
                raise UserError(f"{output} holds part-*.parquet without a {MANIFEST}: choose another folder.")
            files.write_json(path, manifest)
        before = _record(path)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot use {output} for predictions ({error}): choose another folder.") from error
    differences = [
        f"{part} {name} was {before.get(part, {}).get(name)!r} and is now {manifest[part].get(name)!r}"
        for part in ("catalogue", "models", "settings", "versions")
        for name in sorted(before.get(part, {}).keys() | manifest[part].keys())
        if before.get(part, {}).get(name) != manifest[part].get(name)
    ]
    if differences:
        raise UserError(
            f"{output} was begun differently: {'; '.join(differences)}. "
            "Choose another folder, or the first settings to continue it."
        )
    return before


def shard(output: pathlib.Path, index: int) -> pathlib.Path:
    return output / f"part-{index:05d}.parquet"


def is_whole(path: pathlib.Path, rows: int) -> bool:
    """Whether a shard is there with all its rows (after a power cut a file may be there and empty)."""
    try:
        return parquet.read_metadata(path).num_rows == rows
    except (OSError, pa.ArrowException):
        return False


def write_shard(path: pathlib.Path, table: pa.Table) -> None:
    """Whole or not at all, and the same bytes for the same table. A killed run's temporary file is swept away."""
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
        count = _record(path / MANIFEST)["catalogue"]["shards"]
        if type(count) is not int:
            raise ValueError(f"shards is {count!r}")
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path} is neither a Parquet file nor a folder of predictions ({error}).") from error
    numbers = {int(p.stem[5:]) for p in path.glob("part-*.parquet") if p.stem[5:].isdecimal()}
    if missing := count - sum(number < count for number in numbers):  # not counted up: it may be any number
        raise UserError(
            f"the predictions in {path} are not finished: {missing} of {count} parts are missing. "
            "The command that began them continues them."
        )
    return [shard(path, i) for i in range(count)]


def _record(path: pathlib.Path) -> dict[str, Any]:
    """A manifest, its parts being dictionaries. Raises OSError or ValueError."""
    try:
        record = json.loads(path.read_text())
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    parts = ("catalogue", "models", "settings", "versions")
    if not (isinstance(record, dict) and all(isinstance(record.get(part, {}), dict) for part in parts)):
        raise ValueError("it is no manifest")
    return record


def names(path: str | os.PathLike[str]) -> list[str]:
    """The columns of a table of predictions. Raises UserError: see `read`."""
    try:
        return parquet.read_schema(first := shards(path)[0]).names
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"cannot read {first} as Parquet: {error}") from error


def read(path: str | os.PathLike[str], columns: Sequence[str] | None = None) -> pa.Table:
    """A table of predictions, or some of its columns; the schema's metadata has 'gz_jax', the manifest as JSON.

    Raises:
      UserError: see `shards`; a file that is no Parquet, or lacks a column.
    """
    if missing := sorted(set(columns or ()) - set(names(path))):
        raise UserError(f"{path} has no column {', '.join(missing[:5])}")
    try:
        return pa.concat_tables([parquet.read_table(part, columns=columns and list(columns)) for part in shards(path)])
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"cannot read {path} as Parquet: {error}") from error


def export(output: pathlib.Path, formats: Sequence[str]) -> None:
    """predictions.csv and predictions.fits of a finished folder, shard after shard, where they are not there yet."""
    for kind, write in (("csv", _write_csv), ("fits", _write_fits)):
        path = output / f"predictions.{kind}"
        if kind in formats and not path.exists():
            for left_over in output.glob(f".{path.name}.*"):
                left_over.unlink(missing_ok=True)
            with files.atomic(path, "wb") as file:
                write(file, shards(output))


def _write_csv(file: Any, parts: Sequence[pathlib.Path]) -> None:
    """Null is empty; text that a spreadsheet would take for a formula is written as `files.harmless` does."""
    with contextlib.ExitStack() as stack:
        writer = None
        for part in parts:
            table = parquet.read_table(part).replace_schema_metadata(None)
            for i, name in enumerate(table.column_names):
                column = table.column(i)
                if pa.types.is_string(column.type):
                    harmless = pc.binary_join_element_wise("'", column, "")
                    dangerous = pc.match_substring_regex(column, f"^[{re.escape(files.FORMULA)}]")
                    table = table.set_column(i, name, pc.if_else(dangerous, harmless, column))
            writer = writer or stack.enter_context(csv.CSVWriter(file, table.schema))
            writer.write_table(table)


def _write_fits(file: Any, parts: Sequence[pathlib.Path]) -> None:
    """A binary table; null is NaN; text is ASCII, other characters as in Python's escapes."""
    from astropy.io import fits

    schema, rows, widths = parquet.read_schema(parts[0]), 0, {}
    for part in parts:
        texts = parquet.read_table(part, columns=[f.name for f in schema if pa.types.is_string(f.type)])
        rows += texts.num_rows
        for name in texts.column_names:
            widths[name] = max([widths.get(name, 1), *(len(text) for text in _ascii(texts[name]))])
    kinds = {pa.int64(): ">i8", pa.float32(): ">f4", pa.uint8(): "u1"}
    dtype = np.dtype([(f.name, f"S{widths[f.name]}" if f.name in widths else kinds[f.type]) for f in schema])
    header = fits.BinTableHDU(np.zeros(0, dtype), name="PREDICTIONS").header
    header["NAXIS2"] = rows
    for text in json.dumps(json.loads((schema.metadata or {}).get(b"gz_jax", b"{}")), indent=1).splitlines():
        header.add_comment(text)
    file.write(fits.PrimaryHDU().header.tostring().encode("ascii"))
    file.write(header.tostring().encode("ascii"))
    for part in parts:
        table = parquet.read_table(part)
        block = np.zeros(table.num_rows, dtype)
        for name in table.column_names:
            column = table[name]
            block[name] = _ascii(column) if name in widths else column.to_numpy()
        file.write(block.tobytes())
    file.write(b"\0" * (-rows * dtype.itemsize % 2880))


def _ascii(texts: pa.ChunkedArray) -> list[bytes]:
    return [text.encode("ascii", "backslashreplace") for text in texts.to_pylist()]


def write_validation(
    path: str | os.PathLike[str],
    galaxy_id: np.ndarray,
    truth: np.ndarray,
    predicted: np.ndarray,
    models: Sequence[str] = (),
) -> None:
    """Labelled galaxies and what a network says of them: galaxy_id, true_Class1.1 ..., Class1.1 ....

    Args:
      galaxy_id: int64 [n]; truth, predicted: float32 [n, 37]; models: fingerprints of the networks.
    """
    columns = {"galaxy_id": galaxy_id}
    columns |= {f"true_{name}": truth[:, j] for j, name in enumerate(COLUMNS)}
    columns |= {name: predicted[:, j] for j, name in enumerate(COLUMNS)}
    metadata = {"gz_jax": json.dumps({"models": {"fingerprints": list(models)}})} if models else None
    write_shard(pathlib.Path(path), pa.table(columns).replace_schema_metadata(metadata))


def read_validation(path: str | os.PathLike[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(galaxy_id int64 [n], truth [n, 37], predicted [n, 37]) as `write_validation` wrote them.

    Raises:
      UserError: it is no such table.
    """
    names = ["galaxy_id", *(f"true_{name}" for name in COLUMNS), *COLUMNS]
    columns = [column.to_numpy() for column in read(path, names).columns]
    return columns[0], np.stack(columns[1:38], 1), np.stack(columns[38:], 1)


def models_of(table: pa.Table) -> list[str]:
    """Fingerprints of the networks behind a table, without the names of their folders; [] where it does not say."""
    manifest = json.loads((table.schema.metadata or {}).get(b"gz_jax", b"{}"))
    return sorted(name.rpartition("@")[2] for name in manifest.get("models", {}).get("fingerprints", []))


def read_labels(path: str | os.PathLike[str], columns: Sequence[str]) -> pa.Table:
    """GalaxyID and some columns of a CSV such as Kaggle's training_solutions_rev1.csv.

    Raises:
      UserError: it is no such file.
    """
    try:
        return csv.read_csv(path, convert_options=csv.ConvertOptions(include_columns=["GalaxyID", *columns]))
    except (OSError, KeyError, pa.ArrowException) as error:
        raise UserError(f"cannot read {path} as a table of GalaxyID and vote fractions: {error}") from error
