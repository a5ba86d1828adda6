"""Vote fractions for any catalogue of images: Parquet shards on disk, or a DataFrame in a notebook.

from gz_jax.inference.predict import predict
table = predict(["galaxy1.jpg", "galaxy2.fits"], "runs/resnet50")  # or uint8 [N, H, W, 3]
table[table["Class8.6"] > 0.3]
"""

import concurrent.futures
import importlib.metadata
import io
import itertools
import os
import pathlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from PIL import Image
from tqdm import tqdm

from gz_jax import fields, labels
from gz_jax.data import images, inputs
from gz_jax.data.inputs import Catalogue
from gz_jax.inference import tables, trained
from gz_jax.inference.manifest import Rows, claim
from gz_jax.inference.tables import Predicted
from gz_jax.inference.tables import read_validation as read_validation
from gz_jax.inference.tables import write_validation as write_validation
from gz_jax.inference.trained import Trained
from gz_jax.labels import Tree
from gz_jax.runtime import distributed
from gz_jax.runtime.errors import UserError

_conditional = jax.jit(labels.conditional, static_argnums=1)


def predict_catalogue(
    spec: str | os.PathLike[str] | Catalogue,
    output: str | os.PathLike[str],
    networks: Sequence[Trained],
    *,
    batch_size: int | None = None,
    shard_size: int = 10_000,
    crop: float | None = None,
    pixel_scale: float | None = None,
    field_arcsec: float | None = None,
    id_column: str = "id",
    file_column: str = "file",
    file_columns: Sequence[str] = (),
    formats: Sequence[str] = ("parquet",),
    process_index: int = 0,
    process_count: int = 1,
    workers: int | None = None,
    progress: bool = True,
    **how: Any,
) -> pathlib.Path:
    """Predict a catalogue into `output`/part-00000.parquet ..., which together are one table with a row per image.

    Killed and started again it goes on after the last whole shard; the shards' bytes are the same as if it had never
    stopped (on the same devices and versions). A shard with images that could not be read is predicted again once one
    of them can be. Memory does not grow with the catalogue but for its ids and names.

    Args:
      spec, id_column, file_column, file_columns: the images, see `inputs.list_inputs`.
      networks: averaged in one pass over the images, each over its own test-time views.
      batch_size: images on the devices at a time, rounded up to a multiple of this process's devices; None takes 128,
        or 32 on CPUs, whose caches like that better (a fifth faster with the paper's CNN).
      shard_size: rows of a shard, rounded up to a multiple of batch_size.
      crop: side of the central square to look at, in pixels of the image; None takes the part of it that training saw.
      pixel_scale, field_arcsec: arcsec per pixel and the square's side in arcsec, instead of `crop`.
      formats: of 'parquet' (always written), 'csv', 'fits': predictions.csv and .fits, once all shards are there.
      process_index, process_count: process p makes the shards p, p + process_count, ...; all share `output`.
      workers: threads that decode; how: further arguments of `images.read_cutout`.

    Returns:
      `output`.

    Raises:
      UserError: no such images; networks that see different parts of them; `output` was begun with other images,
        networks, versions or settings, or cannot be written.
    """
    output = pathlib.Path(output).expanduser()
    if unknown := set(formats) - set(tables.FORMATS):
        raise UserError(f"format {unknown.pop()!r} is not one of {', '.join(tables.FORMATS)}")
    batch_size = _batch_size() if batch_size is None else batch_size
    if min(batch_size, shard_size) < 1:
        raise UserError(f"batch size {batch_size} and shard size {shard_size} must be at least 1")
    shard_size = -(-shard_size // batch_size) * batch_size
    how["crop"] = crop = _crop(networks, crop, pixel_scale, field_arcsec)
    columns: dict[str, Any] = {"id_column": id_column, "file_column": file_column, "file_columns": list(file_columns)}
    catalogue = spec if isinstance(spec, Catalogue) else inputs.list_inputs(spec, **columns)
    if progress and process_index == 0 and (text := inputs.left_out_text(catalogue)):
        print(text)
    total = len(catalogue.ids)
    network, views = ensemble(networks, batch_size)
    settings = {"batch_size": batch_size, "shard_size": shard_size, "views": views, **how, **columns}
    manifest = _manifest(networks, catalogue, -(-total // shard_size), settings)
    rows = Rows(catalogue.ids, catalogue.files, catalogue.stamps)
    with distributed.lead_first():
        manifest = claim(output, manifest, rows)
    starts = range(process_index * shard_size, total, process_count * shard_size)
    spans = [(start, min(start + shard_size, total)) for start in starts]
    how |= {"size": networks[0].view.size, "turned": any(t.turned for t in networks)}
    shards = {span: tables.shard(output, span[0] // shard_size) for span in spans}
    todo = [span for span in spans if not _is_done(shards[span], catalogue, span[0], rows.part(*span), workers, how)]
    if progress and spans and not todo:
        print(f"{output} is complete: nothing is predicted again. For other images choose another folder.")
    batches = _predictions(network, catalogue, todo, batch_size, how | {"workers": workers})
    bar = tqdm(
        total=sum(b - a for a, b in spans),
        initial=sum(b - a for a, b in set(spans) - set(todo)),
        unit=" images",
        mininterval=0.5 if sys.stderr.isatty() else 30,
        disable=not progress or process_index > 0,
    )
    try:
        if todo:
            tables.remove_exports(output)
        for start, stop in todo:
            parts: list[Predicted] = []
            while sum(len(part.flag) for part in parts) < stop - start:
                parts.append(next(batches))
                bar.update(len(parts[-1].flag))
            part = rows.part(start, stop)
            about = manifest | {"rows": part.digest}
            table = tables.to_table(part.ids, _joined(parts), networks[0].tree, about, part.files)
            tables.write_shard(shards[start, stop], table)
        distributed.gather(0)
        # Of processes that do not know of one another the last to finish finds every shard there.
        if not jax.process_index() and tables.is_finished(output):
            tables.export(output, formats)
    except OSError as error:
        raise UserError(f"cannot write to {output} ({error}); the same command will go on from here.") from error
    finally:
        bar.close()
    return output


def predict_arrays(
    images_or_paths: np.ndarray | Sequence[str | os.PathLike[str]] | str | os.PathLike[str],
    workdirs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    views: int = 1,
    batch_size: int | None = None,
    crop: float | None = None,
    workers: int | None = None,
    **how: Any,
) -> tuple[np.ndarray, Predicted, Tree]:
    """Ids [n], predictions and the tree that they answer, of images in memory (uint8 [n, H, W, 3]) or in files.

    Args:
      images_or_paths: an array; or paths; or a folder, glob, zip or table (see `inputs.list_inputs`).
      workdirs: of one trained network, or of several to average; views: 1, 8 or 16 test-time views of each image.
      batch_size, crop, workers, how: see `predict_catalogue`.

    Raises:
      UserError: no trained network there; an array of another kind.
    """
    if isinstance(workdirs, str | os.PathLike):
        workdirs = [workdirs]
    networks = [trained.load(workdir, views=views) for workdir in workdirs]
    if isinstance(images_or_paths, str | os.PathLike):
        catalogue = inputs.list_inputs(images_or_paths)
    elif isinstance(images_or_paths, np.ndarray):
        array = images_or_paths
        if array.dtype != np.uint8 or array.ndim != 4 or array.shape[-1] != 3:
            raise UserError(f"images must be uint8 [n, height, width, 3], not {array.dtype} {list(array.shape)}")
        crop = crop or _field(networks) * min(array.shape[1:3])
        catalogue = Catalogue(np.arange(len(array)), lambda i: _png(array[i]), "an array")
    else:
        paths = [pathlib.Path(path).expanduser() for path in images_or_paths]
        catalogue = Catalogue(np.array([str(path) for path in paths]), paths.__getitem__, "a list of paths")
    batch_size = max(1, min(_batch_size() if batch_size is None else batch_size, len(catalogue.ids)))
    network, _ = ensemble(networks, batch_size)
    how |= {"size": networks[0].view.size, "turned": any(t.turned for t in networks)}
    how |= {"crop": _crop(networks, crop), "workers": workers}
    parts = list(_predictions(network, catalogue, [(0, len(catalogue.ids))], batch_size, how))
    if not parts:
        raise UserError("no images to predict")
    return catalogue.ids, _joined(parts), networks[0].tree


def predict(images_or_paths: Any, workdirs: Any, **options: Any) -> Any:
    """`predict_arrays` as a pandas DataFrame with a row per image, and the columns of `tables.to_table`."""
    return tables.to_table(*predict_arrays(images_or_paths, workdirs, **options)).to_pandas()


def ensemble(networks: Sequence[Trained], batch_size: int) -> tuple[Callable[[np.ndarray], Any], list[int]]:
    """The networks as one, compiled for batches of up to `batch_size` images; and how many views each has.

    Returns:
      A function of uint8 [b, S, S, 3], or [b, 2, S, S, 3] where a network is `turned`, to float32 [b, answers] x 3:
      the mean of the networks, its conditional fractions, and the spread over networks and views (or None).

    Raises:
      UserError: the networks answer different trees, see different parts of an image, or two are the same.
    """
    shown = {t.workdir: (t.view.size, t.view.crop, t.config.data.image_size) for t in networks}
    weights = [t.weights for t in networks]
    if twice := [t for t in networks if weights.count(t.weights) > 1]:
        folders = " and ".join(str(t.workdir) for t in twice)
        raise UserError(f"{folders} are the same network (weights {twice[0].weights[:8]}): name each network once")
    if len(set(shown.values())) != 1:
        texts = (f"{path}: {crop} of {side} px as {size} px" for path, (size, crop, side) in shown.items())
        raise UserError(f"one pass needs networks that look at the same part of an image: {'; '.join(texts) or 'none'}")
    for one in networks[1:]:
        if differences := labels.differences(networks[0].tree, one.tree):
            folders = f"{networks[0].workdir} and {one.workdir}"
            raise UserError(f"{folders} answer different decision trees: {'; '.join(differences)}")
    devices = jax.local_device_count()
    rows = -(-batch_size // devices) * devices
    views = [t.views for t in networks]

    def together(pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        n = len(pictures)
        full = np.concatenate([pictures, np.zeros((rows - n, *pictures.shape[1:]), np.uint8)])
        each = [t.predict(full[:, 0] if full.ndim == 5 and not t.turned else full) for t in networks]
        mean = np.mean([one.mean(0) for one in each], 0)
        spread = np.concatenate(each).std(0, ddof=1)[:n] if sum(views) > 1 else None
        return mean[:n], np.array(_conditional(mean, networks[0].tree))[:n], spread

    return together, views


def _predictions(
    network: Callable[[np.ndarray], Any],
    catalogue: Catalogue,
    spans: Sequence[tuple[int, int]],
    batch_size: int,
    how: dict[str, Any],
) -> Iterator[Predicted]:
    """Batch after batch of the rows in `spans`, the next one being read while one is predicted."""
    each = (inputs.read_batches(catalogue, batch_size, start=start, stop=stop, **how) for start, stop in spans)
    batches = itertools.chain.from_iterable(each)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(next, batches, None)
        while (batch := waiting.result()) is not None:
            waiting = pool.submit(next, batches, None)
            yield _predict_batch(network, batch)


def _predict_batch(network: Callable[[np.ndarray], Any], batch: dict[str, np.ndarray]) -> Predicted:
    fractions, conditional, spread = network(batch["image"])
    flag, reason = batch["flag"], batch["reason"]
    broken = (flag != images.BAD) & ~np.isfinite(fractions).all(1)
    flag = np.where(broken, images.BAD, flag).astype(np.uint8)
    reason = np.where(broken, tables.NO_PREDICTION, reason)
    for values in (fractions, conditional, spread):
        if values is not None:
            values[flag == images.BAD] = np.nan
    return Predicted(fractions, conditional, spread, flag, reason)


def _joined(parts: Sequence[Predicted]) -> Predicted:
    columns: list[Any] = [None if column[0] is None else np.concatenate(column) for column in zip(*parts, strict=True)]
    return Predicted(*columns)


def _batch_size() -> int:
    return 32 if jax.default_backend() == "cpu" else 128


def _field(networks: Sequence[Trained]) -> float:
    """The part of an image's side that the networks were trained on."""
    return networks[0].view.crop / networks[0].config.data.image_size


def _crop(
    networks: Sequence[Trained], crop: float | None, pixel_scale: float | None = None, field_arcsec: float | None = None
) -> float | None:
    """Pixels across the central square, None for `images.FIELD` of each image."""
    if pixel_scale is not None or field_arcsec is not None:
        if crop is not None or pixel_scale is None or field_arcsec is None:
            raise UserError("give a crop in pixels, or a pixel scale together with a field, both in arcsec")
        return images.crop_side(pixel_scale, field_arcsec)
    if crop is not None and not crop >= 1:
        raise UserError(f"a crop of {crop} pixels shows nothing; it must be at least 1")
    if crop is None and networks and abs(_field(networks) - images.FIELD) > 1e-6:
        seen = f"the central {networks[0].view.crop} of {networks[0].config.data.image_size} pixels"
        raise UserError(f"this network was trained on {seen}: give the crop, in pixels, that shows the same of yours")
    return crop


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=0)
    return buffer.getvalue()


def _is_done(
    path: pathlib.Path, catalogue: Catalogue, start: int, rows: Rows, workers: int | None, how: dict[str, Any]
) -> bool:
    """Whether a shard has these rows, and the images it could not read cannot be read now either."""
    if tables.digest(path, len(rows.ids)) != rows.digest or (unread := tables.unread(path)) is None:
        return False
    with concurrent.futures.ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        again = pool.map(lambda row: inputs.read_row(catalogue, start + row, **how)[1], unread)
        return all(flag == images.BAD for flag in again)


def _manifest(
    networks: Sequence[Trained], catalogue: Catalogue, shard_count: int, settings: dict[str, Any]
) -> dict[str, Any]:
    """What decides a table, in two levels of names, and the networks' configs for the reader."""
    packages = ("jax", "flax", "numpy", "pillow", "pyarrow")
    return {
        "models": {"networks": [network.identity for network in networks]},
        "configs": [fields.flatten(network.config) for network in networks],
        "tree": labels.as_dict(networks[0].tree),
        "catalogue": {"images": len(catalogue.ids), "shards": shard_count, "where": catalogue.where},
        "settings": settings,
        "versions": {name: importlib.metadata.version(name) for name in packages},
    }
