"""Vote fractions for any catalogue of images: Parquet shards on disk, or arrays in memory (`gz_jax.predict`)."""

import concurrent.futures
import contextlib
import importlib.metadata
import io
import itertools
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image
from pyarrow import parquet

from gz_jax import fields, labels
from gz_jax.data import images, inputs
from gz_jax.data import tables as data_tables
from gz_jax.data.inputs import Catalogue
from gz_jax.data.sight import Sight, changed
from gz_jax.inference import conformal, intervals, tables, trained, words
from gz_jax.inference.manifest import Rows, claim
from gz_jax.inference.tables import Predicted
from gz_jax.inference.tables import read_validation as read_validation
from gz_jax.inference.tables import write_validation as write_validation
from gz_jax.inference.trained import Trained
from gz_jax.labels import Tree
from gz_jax.runtime import distributed
from gz_jax.runtime.errors import UserError
from gz_jax.runtime.progress import Bar

# A number in a column of text. Numbers with leading zeros are left out, since these would be lost.
_NUMBER = r"^([-+]?(0|[1-9][0-9]*)?(\.[0-9]*)?([eE][-+]?[0-9]{1,3})?|nan|NaN)$"
FEW = (1, 4, 16)  # sizes of the only batch of a short table; few sizes, because each is compiled once
_LARGEST = float(np.finfo(np.float16).max)
Network = str | os.PathLike[str] | Trained
_conditional = jax.jit(labels.conditional, static_argnums=1)


def predict_catalogue(
    spec: str | os.PathLike[str] | Catalogue,
    output: str | os.PathLike[str],
    networks: Sequence[Trained],
    *,
    batch_size: int | None = None,
    shard_size: int = 10_000,
    id_column: str | None = None,
    file_column: str | None = None,
    file_columns: Sequence[str] | None = None,
    folder: str | os.PathLike[str] | None = None,
    formats: Sequence[str] = ("parquet",),
    embeddings: bool = False,
    interval: float | None = None,
    keep: Sequence[str] = (),
    process_index: int = 0,
    process_count: int = 1,
    workers: int | None = None,
    progress: bool = True,
    **changes: Any,
) -> pathlib.Path:
    """Predict a catalogue into `output`/part-00000.parquet ..., which together are one table with a row per image.

    If it is killed and started again, it continues after the last complete shard; the shards' bytes are the same as
    without the interruption (on the same devices and versions). A shard with images that could not be read is predicted
    again if one of them can now be read. Memory does not grow with the catalogue, except for its ids, names, pixel
    scales and kept columns.

    Args:
      spec, id_column, file_column, file_columns, folder: the images, see `inputs.list_inputs`; None takes the columns
        of the catalogue that the networks were trained on, and files beside the table.
      networks: averaged in one pass over the images, each over its own test-time views.
      batch_size: images on the devices at a time, rounded up to a multiple of this process's devices; None takes 128,
        or 64 on CPUs, the fastest size measured there for both networks. At most 16 images in all are one batch of 1,
        4 or 16.
      shard_size: rows of a shard; the last one may have fewer.
      formats: some of 'parquet' (always written), 'csv', 'fits'; predictions.csv and .fits are written once all shards
        are there.
      embeddings: also write the features after pooling, only for a single network (see `tables.to_table`).
      interval: also write the ends of intervals of this level, such as 0.9, for each answer (see `intervals`).
      keep: columns of the table of images that are copied into the predictions.
      process_index, process_count: process p makes the shards p, p + process_count, ...; all share `output`.
      workers: threads that decode.
      changes: the settings of `sight.SETTINGS` that differ from those in training (see `sight.changed`).

    Returns:
      `output`.

    Raises:
      UserError: there are no such images, or their pixel scale is missing; the networks see different parts of them;
        `output` was begun with other images, networks, versions or settings, or cannot be written; columns to keep do
        not exist or would exist twice; embeddings of several networks; intervals that cannot be computed.
    """
    output = pathlib.Path(output).expanduser()
    if unknown := set(formats) - set(tables.FORMATS):
        raise UserError(f"format {unknown.pop()!r} is not one of {', '.join(tables.FORMATS)}")
    batch_size = _batch_size() if batch_size is None else batch_size
    if min(batch_size, shard_size) < 1:
        raise UserError(f"batch size {batch_size} and shard size {shard_size} must be at least 1")
    sight = seen_by(networks, changes)
    columns = _columns(networks[0], id_column, file_column, file_columns)
    loud = progress and process_index == 0
    if loud:
        print(f"looking at {sight.text}")
    catalogue = _catalogue(spec, sight, columns | {"folder": folder})
    if loud and (text := inputs.left_out_text(catalogue)):
        print(text)
    total = len(catalogue.ids)
    kept = kept_columns(spec, catalogue, keep, columns, networks[0].tree)
    level = None if interval is None else intervals.check(interval)
    network, views = ensemble(networks, batch_size, embeddings, level, total)
    if loud and level:
        print(f"intervals of {100 * level:g} %, {intervals.text(networks)}")
    settings = {"batch_size": batch_size, "shard_size": shard_size, "views": views, **sight.values, **columns}
    settings |= ({"embeddings": True} if embeddings else {}) | ({"keep": kept.column_names} if kept else {})
    settings |= {"interval": level, **intervals.identity(networks)} if level else {}
    manifest = _manifest(networks, catalogue, -(-total // shard_size), settings)
    manifest |= {"sight": sight.text, "as_trained": sight == networks[0].sight}
    rows = Rows(catalogue.ids, catalogue.files, catalogue.stamps, catalogue.scales, kept)
    with distributed.lead_first():
        manifest = claim(output, manifest, rows)
    starts = range(process_index * shard_size, total, process_count * shard_size)
    spans = [(start, min(start + shard_size, total)) for start in starts]
    how = {"size": networks[0].view.size, "turned": any(t.turned for t in networks), "sight": sight}
    shards = {span: tables.shard(output, span[0] // shard_size) for span in spans}
    todo = [span for span in spans if not _is_done(shards[span], catalogue, span[0], rows.part(*span), workers, how)]
    if progress and spans and not todo:
        print(f"{output} is complete: nothing is predicted again. For other images choose another folder.")
    batches = _predictions(network, catalogue, todo, batch_size, how | {"workers": workers})
    there, mine = (sum(b - a for a, b in some) for some in (set(spans) - set(todo), spans))
    bar = Bar("predicting", mine, "images", done=there, waiting="compiling and reading the first images", loud=loud)
    try:
        if todo:
            tables.remove_exports(output)
        for start, stop in todo:
            parts: list[Predicted] = []
            while sum(len(part.flag) for part in parts) < stop - start:
                parts.append(next(batches))
                bar.advance(len(parts[-1].flag))
            part = rows.part(start, stop)
            about = manifest | {"rows": part.digest}
            images_of = (part.files, part.scales, part.kept)
            table = tables.to_table(part.ids, _joined(parts), networks[0].tree, about, *images_of)
            tables.write_shard(shards[start, stop], table)
        bar.close()
        distributed.gather(0)
        # Processes may not know of one another: then the last one to finish finds all shards.
        if not jax.process_index() and tables.is_finished(output):
            with Bar("writing other formats", loud=loud):
                lines = tables.export(output, formats)
            for line in lines:
                print(line)
    except OSError as error:
        raise UserError(f"cannot write to {output} ({error}). Start the same command again to continue.") from error
    finally:
        bar.close(finished=False)
    return output


def predict_arrays(
    images_or_paths: np.ndarray | Sequence[str | os.PathLike[str]] | str | os.PathLike[str],
    workdirs: Network | Sequence[Network],
    *,
    views: int | None = None,
    batch_size: int | None = None,
    id_column: str | None = None,
    file_column: str | None = None,
    file_columns: Sequence[str] | None = None,
    workers: int | None = None,
    embeddings: bool = False,
    interval: float | None = None,
    folder: str | os.PathLike[str] | None = None,
    most: int | None = None,
    **changes: Any,
) -> tuple[np.ndarray, Predicted, Tree]:
    """Predict images in memory (uint8 [n, H, W, 3]) or in files. Returns ids [n], predictions and their decision tree.

    Args:
      images_or_paths: an array; or paths; or a folder, glob, zip or table (see `inputs.list_inputs`).
      workdirs: of one trained network, or of several to average, and views: 1, 8 or 16; see `load_all`.
      batch_size, id_column, file_column, file_columns, workers, embeddings, interval, folder, changes: see
        `predict_catalogue`.
      most: how many images there may be; None for any number.

    Raises:
      UserError: there is no trained network; the array is of another kind; too many images; see `predict_catalogue`.
    """
    networks = load_all(workdirs, views)
    sight = seen_by(networks, changes)
    spec: Any = images_or_paths
    if isinstance(images_or_paths, np.ndarray):
        array = images_or_paths
        if array.dtype != np.uint8 or array.ndim != 4 or array.shape[-1] != 3:
            raise UserError(f"images must be uint8 [n, height, width, 3], not {array.dtype} {list(array.shape)}")
        spec = Catalogue(np.arange(len(array)), lambda i: _png(array[i]), "an array")
    elif not isinstance(images_or_paths, str | os.PathLike):
        paths = [pathlib.Path(path).expanduser() for path in images_or_paths]
        spec = Catalogue(np.array([str(path) for path in paths]), paths.__getitem__, "a list of paths")
    columns = _columns(networks[0], id_column, file_column, file_columns)
    catalogue = _catalogue(spec, sight, columns | {"folder": folder})
    words.check(len(catalogue.ids), most, catalogue.where)
    batch_size = max(1, min(_batch_size() if batch_size is None else batch_size, len(catalogue.ids)))
    level = None if interval is None else intervals.check(interval)
    network, _ = ensemble(networks, batch_size, embeddings, level, len(catalogue.ids))
    how = {"size": networks[0].view.size, "turned": any(t.turned for t in networks), "sight": sight, "workers": workers}
    parts = list(_predictions(network, catalogue, [(0, len(catalogue.ids))], batch_size, how))
    if not parts:
        raise UserError("no images to predict")
    return catalogue.ids, _joined(parts), networks[0].tree


def load_all(workdirs: Network | Sequence[Network], views: int | None = None) -> list[Trained]:
    """Load the networks of one or several workdirs; networks that are loaded already are taken as they are.

    Args:
      views: number of test-time views; None takes 1, and any number for loaded networks.

    Raises:
      UserError: there is no trained network, or one was loaded with another number of views.
    """
    several: Any = [workdirs] if isinstance(workdirs, str | os.PathLike | Trained) else workdirs
    count = 1 if views is None else views
    networks = [one if isinstance(one, Trained) else trained.load(one, views=count) for one in several]
    if other := [one for one in networks if views not in (None, one.views)]:
        raise UserError(f"the network of {other[0].workdir} was loaded with views={other[0].views}, not {views}.")
    return networks


def ensemble(
    networks: Sequence[Trained],
    batch_size: int,
    embeddings: bool = False,
    level: float | None = None,
    total: int | None = None,
) -> tuple[Callable[[np.ndarray], Any], list[int]]:
    """The networks as one function for batches of up to `batch_size` images, and the number of views of each.

    If `total`, the number of all images, is at most 16, the batches are smaller (1, 4 or 16 images), so that not much
    is computed for nothing.

    The function takes uint8 [b, S, S, 3], or [b, 2, S, S, 3] if a network is `turned`. It returns the mean of the
    networks, its conditional fractions, and the spread over networks and views (or None), all float32 [b, answers]; the
    embedding, the mean over the views, float16 [b, width] (or None); and the ends of intervals of `level`, float32
    [b, 4 or 5, answers] (or None).

    Raises:
      UserError: the networks answer different trees, or two are the same; embeddings of several networks; see
        `intervals.kind_of` and `intervals.calibration_of`.
    """
    if embeddings and len(networks) > 1:
        runs = ", ".join(str(t.workdir) for t in networks)
        raise UserError(f"embeddings of different networks cannot be averaged: name one of {runs} in --workdir.")
    weights = [t.weights for t in networks]
    if twice := [t for t in networks if weights.count(t.weights) > 1]:
        folders = " and ".join(str(t.workdir) for t in twice)
        raise UserError(f"{folders} are the same network (weights {twice[0].weights[:8]}): name each network once")
    for one in networks[1:]:
        if differences := labels.differences(networks[0].tree, one.tree):
            folders = f"{networks[0].workdir} and {one.workdir}"
            raise UserError(f"{folders} answer different decision trees: {'; '.join(differences)}")
    devices = jax.local_device_count()
    few = next((size for size in FEW if total is not None and total <= size), None)
    how = {"once": True} if few else {}
    rows = -(-min(batch_size, few or batch_size) // devices) * devices
    views = [t.views for t in networks]

    tree, own = networks[0].tree, level is not None and intervals.kind_of(networks) == "dirichlet"
    calibration = intervals.calibration_of(networks) if level is not None and not own else None
    levels = intervals.levels_of(networks) if own else None

    def together(pictures: np.ndarray) -> tuple[np.ndarray | None, ...]:
        n, features, ends = len(pictures), None, None
        full = np.concatenate([pictures, np.zeros((rows - n, *pictures.shape[1:]), np.uint8)])
        shown = [full[:, 0] if full.ndim == 5 and not t.turned else full for t in networks]
        if embeddings or own:
            known = [t.embed(image, **how) for t, image in zip(networks, shown, strict=True)]
            each = [fractions for fractions, *_ in known]
            if embeddings:
                features = np.clip(known[0][1].mean(0), -_LARGEST, _LARGEST).astype(np.float16)[:n]
        else:
            each = [t.predict(image, **how) for t, image in zip(networks, shown, strict=True)]
        mean = np.mean([one.mean(0) for one in each], 0)[:n]
        spread = np.concatenate(each).std(0, ddof=1)[:n] if sum(views) > 1 else None
        conditional = np.array(_conditional(mean, tree))
        if level is not None:
            if calibration is None:
                ends = intervals.of_concentrations([one[2][:, :n] for one in known], tree, level, levels)
            else:
                ends = conformal.of_calibration(mean, conditional, calibration, level)
        return mean, conditional, spread, features, ends

    return together, views


def _predictions(
    network: Callable[[np.ndarray], Any],
    catalogue: Catalogue,
    spans: Sequence[tuple[int, int]],
    batch_size: int,
    how: dict[str, Any],
) -> Iterator[Predicted]:
    """Yield predictions of the rows in `spans` in batches; the next batch is read while one is predicted."""
    each = (inputs.read_batches(catalogue, batch_size, start=start, stop=stop, **how) for start, stop in spans)
    batches = itertools.chain.from_iterable(each)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(next, batches, None)
        while (batch := waiting.result()) is not None:
            waiting = pool.submit(next, batches, None)
            yield _predict_batch(network, batch)


def _predict_batch(network: Callable[[np.ndarray], Any], batch: dict[str, np.ndarray]) -> Predicted:
    fractions, conditional, spread, embedding, ends = network(batch["image"])
    flag, reason = batch["flag"], batch["reason"]
    broken = (flag != images.BAD) & ~np.isfinite(fractions).all(1)
    flag = np.where(broken, images.BAD, flag).astype(np.uint8)
    reason = np.where(broken, tables.NO_PREDICTION, reason)
    for values in (fractions, conditional, spread, embedding, ends):
        if values is not None:
            values[flag == images.BAD] = np.nan
    return Predicted(fractions, conditional, spread, flag, reason, embedding, ends)


def _joined(parts: Sequence[Predicted]) -> Predicted:
    columns: list[Any] = [None if column[0] is None else np.concatenate(column) for column in zip(*parts, strict=True)]
    return Predicted(*columns)


def _batch_size() -> int:
    return 64 if jax.default_backend() == "cpu" else 128


def seen_by(networks: Sequence[Trained], changes: Mapping[str, Any]) -> Sight:
    """What the networks saw in training, with `changes`.

    The square must be the same for all networks. Pixel scale and settings of FITS belong to the images: they may have
    been different in training if `changes` gives new ones.

    Raises:
      UserError: the networks differ; see `sight.changed`.
    """
    seen = [(t.view.size, t.sight[:3], changed(t.sight, **changes)) for t in networks]
    if len(set(seen)) != 1:
        texts = [f"{t.workdir}: {t.sight.text}, as {t.view.size} px" for t in networks]
        raise UserError(f"one pass needs networks that look at the same part of an image: {'; '.join(texts) or 'none'}")
    return seen[0][2]


def _columns(
    network: Trained, id_column: str | None, file_column: str | None, file_columns: Sequence[str] | None
) -> dict[str, Any]:
    """A table's columns of ids and files: as given, else those of the catalogue that the network was trained on."""
    own = network.config.data
    if file_columns is None:
        file_columns = fields.names(own.file_columns) if file_column is None else ()
    one = {"id_column": id_column or own.id_column, "file_column": file_column or own.file_column}
    return one | {"file_columns": list(file_columns)}


def _catalogue(spec: str | os.PathLike[str] | Catalogue, sight: Sight, columns: Mapping[str, Any]) -> Catalogue:
    """The images, with their pixel scales if the sight needs them. Raises UserError: see `predict_catalogue`."""
    found = spec
    if not isinstance(found, Catalogue):
        found = inputs.list_inputs(found, scale_column=sight.scale_column, **columns)
    if sight.scale_column and found.scales is None:
        wanted = f"{sight.text} need a table with that column; or say --pixel_scale=NUMBER (arcsec per pixel)"
        raise UserError(f"{found.where}: {wanted}.")
    return found


def kept_columns(
    spec: Any, catalogue: Catalogue, keep: Sequence[str], columns: Mapping[str, Any], tree: Tree
) -> pa.Table | None:
    """The columns `keep` of the table that lists the images, in the order of its rows; None if `keep` is empty.

    Columns of a CSV become int64 if all values are whole numbers without leading zeros or plus signs, else float64 if
    all are numbers, else text. Columns of Parquet and FITS keep their type, but text becomes UTF-8.

    Raises:
      UserError: there is no such table or column, or predictions have a column of that name.
    """
    keep = list(dict.fromkeys(name.strip() for name in keep if name.strip()))
    if not keep:
        return None
    own = ["id", "file", "pixel_scale", "flag", "reason", tables.EMBEDDING]
    own += [prefix + name for prefix in ("", "cond_", "spread_", *tables.ENDS) for name in tree.columns]
    if twice := sorted(set(keep) & set(own)):
        raise UserError(f"--keep={twice[0]}: predictions have a column {twice[0]!r} of their own; rename the table's.")
    path = pathlib.Path(catalogue.where)
    if isinstance(spec, Catalogue) or not path.is_file() or path.suffix.lower() == ".zip":
        raise UserError(f"--keep names columns of a table (CSV, Parquet or FITS), but {catalogue.where} is not one.")
    wanted = list(dict.fromkeys([columns["id_column"], *(columns["file_columns"] or [columns["file_column"]]), *keep]))
    if text := data_tables.lacking(data_tables.names(path, wanted), keep):
        raise UserError(f"--keep={','.join(keep)}: {path} has {text}.")
    if path.suffix.lower() == ".parquet":
        found = dict(zip(keep, parquet.read_table(path, columns=keep).select(keep).columns, strict=True))
    else:
        found = {name: column for name, column in data_tables.columns(path, wanted).items() if name in keep}
    arrays = {name: _typed(path, name, found[name]) for name in keep}
    if any(len(array) != len(catalogue.ids) for array in arrays.values()):
        raise UserError(f"{path} has changed while it was read: start again.")
    return pa.table(arrays)


def _typed(path: pathlib.Path, name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
    """See `kept_columns`."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if column.type not in (pa.string(), pa.large_string(), pa.binary(), pa.large_binary()):
        return column
    column = data_tables.texts(path, name, column)
    if path.suffix.lower() != ".csv":
        return column
    for pattern, kind in ((r"^(0|-?[1-9][0-9]{0,18})$", pa.int64()), (_NUMBER, pa.float64())):
        if pc.all(pc.match_substring_regex(column, pattern)).as_py():
            with contextlib.suppress(pa.ArrowInvalid):  # beyond 64 bits
                return column.cast(kind)
    return column


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=0)
    return buffer.getvalue()


def _is_done(
    path: pathlib.Path, catalogue: Catalogue, start: int, rows: Rows, workers: int | None, how: dict[str, Any]
) -> bool:
    """Whether a shard has these rows, and its images that could not be read still cannot be read."""
    if tables.digest(path, len(rows.ids)) != rows.digest or (unread := tables.unread(path)) is None:
        return False
    with concurrent.futures.ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        again = pool.map(lambda row: inputs.read_row(catalogue, start + row, **how)[1], unread)
        return all(flag == images.BAD for flag in again)


def _manifest(
    networks: Sequence[Trained], catalogue: Catalogue, shard_count: int, settings: dict[str, Any]
) -> dict[str, Any]:
    """All that determines a table, in two levels of names, and the networks' configs for information."""
    packages = ("jax", "flax", "numpy", "pillow", "pyarrow")
    return {
        "models": {"networks": [network.identity for network in networks]},
        "configs": [fields.flatten(network.config) for network in networks],
        "tree": labels.as_dict(networks[0].tree),
        "catalogue": {"images": len(catalogue.ids), "shards": shard_count, "where": catalogue.where},
        "settings": settings,
        "versions": {name: importlib.metadata.version(name) for name in packages},
    }
