"""The functions of `import gz_jax`. Each imports what it needs when it is called."""

from __future__ import annotations

import json
import os
import pathlib
import types
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from gz_jax.runtime.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from ml_collections import ConfigDict

    from gz_jax.inference.predict import Network
    from gz_jax.inference.trained import Trained


class Run(NamedTuple):
    """A finished training: its folder, its report, and the content of metrics.json (`best_epoch`, `epochs`, `data`)."""

    workdir: pathlib.Path
    report: pathlib.Path
    metrics: dict[str, Any]


def train(config: str | os.PathLike[str] | ConfigDict, workdir: str | os.PathLike[str], /, **changes: Any) -> Run:
    """Train a network as the command `gz-jax` does. Must be called in the main thread.

    gz_jax.train("demo", "runs/demo", num_epochs=2, **{"data.num_galaxies": 400})

    Args:
      config: name of a config that comes with gz_jax, path of a file of your own, or a ConfigDict.
      workdir: folder of the run. A run that was started there with the same config is continued.
      changes: values of the config's fields by dotted name, as in `--config.any.field=value`.

    Raises:
      UserError: the config, the galaxies or the workdir cannot be used, or there is too little memory.
      KeyboardInterrupt: the training was interrupted, and its state is saved; the same call continues it.
    """
    from gz_jax.runtime import interrupts, memory

    memory.use_one_arena()  # as the command does
    from gz_jax import modes
    from gz_jax.modes import named

    folder = pathlib.Path(workdir).expanduser()
    alone = types.SimpleNamespace(distributed="off", coordinator=None, num_processes=None, process_id=None)
    if modes.run("train", named.load(config, changes), str(folder), [], alone) == interrupts.EXIT_INTERRUPTED:
        raise KeyboardInterrupt
    return Run(folder, folder / "report" / "report.html", json.loads((folder / "metrics.json").read_text()))


def load(folder: str | os.PathLike[str], *, views: int = 1) -> Trained:
    """A trained network, for `predict` or for your own code: its function, config, tree and scores.

    Args:
      folder: folder of a run or of a shared network (`--mode=export`), or 'hf-hub:owner/name@revision'.
      views: number of test-time views, turned and mirrored copies of an image whose predictions are averaged. 1: the
        image as it is; 8: quarter turns, each mirrored or not; 16: these 8, also of the image turned by 45 degrees.

    Raises:
      UserError: there is no trained network, or `views` is another number.
    """
    from gz_jax.inference import trained

    return trained.load(folder, views=views)


def predict(
    network: Network | Sequence[Network],
    images: np.ndarray | str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str] | None = None,
    *,
    views: int | None = None,
    crop: float | None = None,
    share: float | None = None,
    field: float | None = None,
    pixel_scale: float | str | None = None,
    interval: float | None = None,
    embeddings: bool = False,
    id_column: str | None = None,
    file_column: str | None = None,
    file_columns: Sequence[str] | None = None,
    folder: str | os.PathLike[str] | None = None,
    planes: Sequence[int] | None = None,
    scales: Sequence[float] | None = None,
    extension: int | str | None = None,
    extensions: Sequence[int | str] | None = None,
    sky: float | Sequence[float] | None = None,
    noise: float | Sequence[float] | None = None,
    q: float | None = None,
    softening: float | None = None,
    batch_size: int | None = None,
    workers: int | None = None,
    keep: Sequence[str] = (),
    formats: Sequence[str] = ("parquet",),
    shard_size: int = 10_000,
    progress: bool = True,
) -> Any:
    """Predicted vote fractions of images. By default the network looks at the same square as in its training.

    table = gz_jax.predict("runs/resnet50", ["galaxy1.jpg", "galaxy2.fits"])
    table[table["Class8.6"] > 0.3]

    Args:
      network: argument or result of `load`, or several of them, whose predictions are averaged.
      images: uint8 [n, height, width, 3], or files (JPEG, PNG, TIFF, FITS), or a folder, glob, zip, or table with
        columns `id` and `file`.
      output: folder for Parquet files as those of `--mode=predict`, for any number of images. Only for a folder, glob,
        zip or table; the same call continues after an interruption.
      views: test-time views (see `load`); None: 1, or those of a loaded network.
      crop, share, field: side of the square to look at, if your images have another scale than those of the training:
        in pixels, as a share of the image's shorter side, or in arcsec. Give one of them.
      pixel_scale: with `field`, arcsec per pixel: a number, or the name of a table's column.
      interval: a level such as 0.9: adds the ends of intervals of this level for each answer.
      embeddings: whether to add the network's features after pooling, float16.
      id_column, file_column: a table's columns of ids and files; None: those of the network's own training.
      file_columns: three columns instead of `file_column`: the files of the red, green and blue band.
      folder: where a table's files are; None: beside the table.
      planes, scales, extension, extensions, sky, noise, q, softening: how FITS images are shown, as the command's flags
        of these names (`q` is --stretch_q); None: as in training.
      batch_size: number of images on the devices at a time; None: 64 on CPUs, else 128.
      workers: number of threads that decode images; None: one for each core.
      keep, formats, shard_size: only with `output`: columns of the table of images to copy, formats to write
        ('parquet', 'csv', 'fits'), and rows of each Parquet file.
      progress: only with `output`: whether to show the progress.

    Returns:
      With `output`, its path. Otherwise a pandas DataFrame with a row per image, in order: `id` (index in the array, or
      file, or the table's id); each answer's fraction of all volunteers; `cond_`: its fraction of those who were asked;
      `spread_`: with several networks or views, their standard deviation; `flag` (0 used, 1 used with a remark,
      2 unusable, with NaN for fractions) and `reason`.

    Raises:
      UserError: no such network or image, networks that cannot be averaged, an option that is not allowed, or an
        `output` with other predictions.
    """
    from gz_jax.inference import predict as prediction
    from gz_jax.inference import tables
    from gz_jax.runtime import lock

    options: dict[str, Any] = {
        "crop": crop, "share": share, "field": field, "pixel_scale": pixel_scale, "interval": interval,
        "embeddings": embeddings, "id_column": id_column, "file_column": file_column, "file_columns": file_columns,
        "folder": folder, "planes": planes, "scales": scales, "extension": extension, "extensions": extensions,
        "sky": sky, "noise": noise, "q": q, "softening": softening, "batch_size": batch_size, "workers": workers,
    }  # fmt: skip
    if output is None:
        if keep or (*formats, shard_size) != ("parquet", 10_000):
            raise UserError("keep, formats and shard_size are about files: name a folder for these, output=FOLDER.")
        return tables.to_table(*prediction.predict_arrays(images, network, views=views, **options)).to_pandas()
    if not isinstance(images, str | os.PathLike):
        raise UserError("output is for images of a folder, glob, zip or table; without it a DataFrame is returned.")
    networks, place = prediction.load_all(network, views), pathlib.Path(output).expanduser()
    options |= {"keep": keep, "formats": formats, "shard_size": shard_size, "progress": progress}
    with lock.held(place / ".lock0", f"output {place}"):
        return prediction.predict_catalogue(images, place, networks, **options)


def describe(
    network: Network | Sequence[Network],
    images: np.ndarray | str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    views: int | None = None,
    crop: float | None = None,
    share: float | None = None,
    field: float | None = None,
    pixel_scale: float | str | None = None,
    **options: Any,
) -> str:
    """The answers that volunteers would give for a few galaxies, in words.

    print(gz_jax.describe("runs/resnet50", "galaxy.jpg"))

    Args:
      network, images, views, crop, share, field, pixel_scale: as in `predict`; at most 10 images.
      options: others of `predict`, from `id_column` to `workers`: a table's columns, and how FITS images are shown.

    Returns:
      For each image its id with the most likely answers, and a line for each question with the answers' shares among
      those who are asked it.

    Raises:
      UserError: more than 10 images; see `predict`.
    """
    from gz_jax.inference import predict as prediction
    from gz_jax.inference import tables, words

    options |= {"crop": crop, "share": share, "field": field, "pixel_scale": pixel_scale}
    ids, found, tree = prediction.predict_arrays(images, network, views=views, most=words.MOST, **options)
    return "\n".join(words.of_table(tables.to_table(ids, found, tree), tree))
