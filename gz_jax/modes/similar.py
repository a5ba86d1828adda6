"""`--mode=similar`: finds galaxies in a table of predictions that are most like given ones, and the most unusual."""

import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from gz_jax.analysis import plots
from gz_jax.analysis import similar as analysis
from gz_jax.analysis.page import Picture, Section, Table, publish
from gz_jax.data import images, inputs, sight
from gz_jax.inference import tables, trained
from gz_jax.inference.manifest import described, networks_of, same_networks
from gz_jax.inference.predict import predict_arrays
from gz_jax.modes.reports import versions
from gz_jax.runtime.errors import UserError

COLUMNS, QUERIES, SIDE = 7, 12, 160  # pictures in a row, galaxies asked for on the page, pixels of a picture
GREY = np.full((SIDE, SIDE, 3), 128, np.uint8)  # shown for an image that cannot be read any more
_ROWS = 4_096  # rows of a table in memory at a time


class _Asked(NamedTuple):
    """A galaxy asked for: its name, row (-1: an image file), embedding [width] and picture."""

    name: str
    row: int
    embedding: np.ndarray
    picture: np.ndarray | None = None


def similar(workdir: str | None, flags: Any) -> int:
    """Write the neighbours of `--like` among the predictions of `--input`, and the most unusual, into `--output`."""
    if not flags.input or not flags.output:
        raise UserError("--mode=similar needs --input (predictions with --embeddings) and --output (a folder).")
    if tables.EMBEDDING not in (there := tables.names(flags.input)):
        raise UserError(f"{flags.input} has no embeddings: predict these images with --embeddings, in another folder.")
    made, parts = tables.manifest(flags.input), tables.shards(flags.input)
    settings = made.get("settings", {})
    changes = {name: settings.get(name, "" if name in sight.FITS else None) for name in sight.SETTINGS}
    changes["pixel_scale"] = flags.pixel_scale or changes["pixel_scale"]
    look = sight.changed(sight.Sight(), **changes)
    asked = _asked(workdir, flags, made, changes, look)

    def blocks() -> Iterator[np.ndarray]:
        return (tables.vectors(batch[tables.EMBEDDING]) for batch in _batches(parts, [tables.EMBEDDING]))

    total = sum(parquet.read_metadata(part).num_rows for part in parts)
    sample = analysis.sample_rows(total)
    width = parquet.read_schema(parts[0]).field(tables.EMBEDDING).type.list_size
    queries = np.array([one.embedding for one in asked], np.float32).reshape(-1, width)
    found = analysis.search(blocks, queries, np.array([one.row for one in asked], np.int64), sample, flags.count)

    query, rank = np.nonzero(found.rows >= 0)
    columns = ["id", *(name for name in settings.get("keep", []) if name in there)]
    near, odd = (_take(flags.input, columns, rows) for rows in (found.rows[query, rank], found.unusual))
    results = {
        "neighbours": _table(near, found.distance[query, rank], query=[asked[i].name for i in query], rank=rank + 1),
        "unusual_galaxies": _table(odd, found.unusual_distance, rank=np.arange(len(odd)) + 1),
    }
    ids = dict(zip(found.rows[query, rank].tolist(), near["id"].cast(pa.string()).to_pylist(), strict=True))
    ids |= dict(zip(found.unusual.tolist(), odd["id"].cast(pa.string()).to_pylist(), strict=True))
    pictures = _pictures(made, flags.images, look, ids | {one.row: one.name for one in asked if one.row >= 0})

    def tile(row: int, far: float) -> tuple[np.ndarray, str]:
        return pictures.get(row, GREY), f"{ids[row]}\n{far:.3f}"

    tiles: list[tuple[np.ndarray, str]] = []
    for one, rows, far in list(zip(asked, found.rows.tolist(), found.distance, strict=True))[:QUERIES]:
        picture = pictures.get(one.row, GREY) if one.picture is None else one.picture
        tiles.append((_framed(picture), f"{one.name}\nasked for"))
        tiles += [tile(row, distance) for row, distance in zip(rows, far, strict=True) if row >= 0]
        tiles += [(np.full_like(GREY, 255), "")] * (-len(tiles) % COLUMNS)
    unusual = [tile(row, far) for row, far in zip(found.unusual.tolist(), found.unusual_distance, strict=True)]
    values = {"galaxies": total, "sample": len(sample), "near": analysis.NEAR}
    sections = [
        Section(key, [_mosaic(key, shown), Table(name, _rows(table))], values)
        for (name, table), key, shown in zip(results.items(), ("similar", "unusual"), (tiles, unusual), strict=True)
        if shown
    ]
    output = pathlib.Path(flags.output)
    output.mkdir(parents=True, exist_ok=True)
    for name, table in results.items():
        tables.write_shard(output / f"{name}.parquet", table)
    context = {"predictions": str(flags.input), "network": described(networks_of(made)), "versions": versions()}
    print(publish(output, "Similar galaxies", sections, values, context=context))
    return 0


def _rows(table: pa.Table) -> list[dict[str, Any]]:
    """Rows for the page. Ids become texts, so that no thousands separators are added."""
    return [row | {"id": str(row["id"])} for row in table.to_pylist()]


def _framed(picture: np.ndarray) -> np.ndarray:
    """The picture with a frame, which marks the first of each group."""
    framed, wide = np.empty_like(picture), 6
    framed[:] = (213, 94, 0)
    framed[wide:-wide, wide:-wide] = picture[wide:-wide, wide:-wide]
    return framed


def _mosaic(name: str, tiles: Sequence[tuple[np.ndarray, str]]) -> Picture:
    pictures, captions = zip(*tiles, strict=True)
    return Picture(name, lambda: plots.mosaic(np.stack(pictures), captions, COLUMNS))


def _table(rows: pa.Table, distance: np.ndarray, **first: Any) -> pa.Table:
    """The columns `first`, id, distance, and the kept columns (as kept_rank, for example, if the name is taken)."""
    columns = {**first, "id": rows["id"], "distance": pa.array(distance)}
    kept = {f"kept_{name}" if name in columns else name: rows[name] for name in rows.column_names if name != "id"}
    return pa.table(columns | kept)


def _batches(parts: Sequence[pathlib.Path], columns: list[str]) -> Iterator[pa.RecordBatch]:
    """The rows of Parquet files in batches of at most `_ROWS` rows. Raises UserError: a file cannot be read."""
    for part in parts:
        try:
            with parquet.ParquetFile(part, pre_buffer=False) as file:
                yield from file.iter_batches(_ROWS, columns=columns)
        except (OSError, pa.ArrowException) as error:
            raise UserError(f"cannot read {part}: {error}") from error


def _take(path: str, columns: list[str], rows: np.ndarray) -> pa.Table:
    """Some rows of a table, in the order of `rows`; files without any of these rows are not read."""
    order, found, first = np.argsort(rows, kind="stable"), list[pa.Table](), 0
    ordered = rows[order]
    for part in tables.shards(path):
        after = first + parquet.read_metadata(part).num_rows
        if np.searchsorted(ordered, first) == np.searchsorted(ordered, after) and found:
            first = after
            continue
        for batch in _batches([part], columns):
            here = ordered[slice(*np.searchsorted(ordered, (first, first + len(batch))))]
            found.append(pa.Table.from_batches([batch]).take(pa.array(here - first)))
            first += len(batch)
    return pa.concat_tables(found).take(pa.array(np.argsort(order)))


def _asked(
    workdir: str | None, flags: Any, made: dict[str, Any], changes: dict[str, Any], look: sight.Sight
) -> list[_Asked]:
    """The galaxies of `--like`, in its order.

    Raises:
      UserError: neither an id nor a file; a galaxy without embedding; see `_of_files`.
    """
    names = list(dict.fromkeys(name.strip() for name in flags.like if name.strip()))
    row_of, first = dict[str, int](), 0
    for batch in _batches(tables.shards(flags.input), ["id"]) if names else ():
        ids = batch["id"].cast(pa.string())
        for row in np.flatnonzero(pc.is_in(ids, pa.array(names)).to_numpy(zero_copy_only=False)).tolist():
            row_of[ids[row].as_py()] = first + row
        first += len(batch)
    files = [name for name in names if name not in row_of]
    if unknown := [name for name in files if not pathlib.Path(name).expanduser().is_file()]:
        raise UserError(f"--like={unknown[0]}: {flags.input} has no such id, and there is no such file.")
    taken = _take(flags.input, [tables.EMBEDDING, "reason"], np.array(list(row_of.values()), np.int64))
    embeddings, reasons = tables.vectors(taken[tables.EMBEDDING]), taken["reason"].to_pylist()
    if bad := [i for i in range(len(reasons)) if not np.isfinite(embeddings[i]).all()]:
        raise UserError(f"--like={list(row_of)[bad[0]]}: this galaxy has no embedding ({reasons[bad[0]]}).")
    found = {name: _Asked(name, row, e) for (name, row), e in zip(row_of.items(), embeddings, strict=True)}
    found |= {one.name: one for one in _of_files(files, workdir, flags.input, made, changes, look)} if files else {}
    return [found[name] for name in names]


def _of_files(
    names: list[str], workdir: str | None, path: str, made: dict[str, Any], changes: dict[str, Any], look: sight.Sight
) -> Iterator[_Asked]:
    """Embeddings of image files, by the network of the predictions, with the same square and settings.

    Raises:
      UserError: the network is not that of the predictions; an image cannot be used.
    """
    theirs = networks_of(made)
    if not workdir or not theirs:
        raise UserError(
            f"--like={names[0]} is an image file: add --workdir of the network that predicted, {described(theirs)}."
        )
    views = theirs[0]["views"]
    if not same_networks(theirs, ours := [trained.load(workdir, views=views).identity]):
        raise UserError(
            f"{path} was predicted by {described(theirs)}, and --workdir is {described(ours)}: embeddings of different "
            "networks cannot be compared."
        )
    paths = [pathlib.Path(name).expanduser() for name in names]
    _, predicted, _ = predict_arrays(paths, workdir, views=views, embeddings=True, **changes)
    for i, (name, file) in enumerate(zip(names, paths, strict=True)):
        if predicted.flag[i] == tables.BAD or predicted.embedding is None:
            raise UserError(f"--like={name}: this image cannot be used ({predicted.reason[i]}).")
        picture, _, _ = images.read_cutout(file, size=SIDE, **look.arguments())
        yield _Asked(name, -1, predicted.embedding[i], picture)


def _pictures(made: dict[str, Any], folder: str | None, look: sight.Sight, wanted: dict[int, str]) -> dict[int, Any]:
    """The squares that the network saw for these rows (given with their ids), if their images can still be read."""
    settings = made.get("settings", {})
    columns = {name: settings[name] for name in ("id_column", "file_column", "file_columns") if name in settings}
    try:
        where = made["catalogue"]["where"]
        catalogue = inputs.list_inputs(where, **columns, scale_column=look.scale_column, folder=folder)
    except (KeyError, UserError) as error:
        print(f"no pictures: {error}; if the table's image files have moved, add --images=FOLDER")
        return {}
    ids, found = catalogue.ids.astype(str), {}
    for row, name in wanted.items():
        if row >= len(ids) or ids[row] != name:
            continue
        picture, flag, _ = inputs.read_row(catalogue, row, size=SIDE, turned=False, sight=look)
        if flag != images.BAD:
            found[row] = picture
    return found
