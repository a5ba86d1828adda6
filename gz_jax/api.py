"""What `import gz_jax` offers: each function imports what it needs when it is called."""

from __future__ import annotations

import json
import os
import pathlib
import types
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from gz_jax.runtime.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from ml_collections import ConfigDict

    from gz_jax.inference.trained import Trained

    Network: TypeAlias = str | os.PathLike[str] | Trained
    Images: TypeAlias = np.ndarray | str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


class Run(NamedTuple):
    """A finished training.

    Attributes:
      workdir: its folder, for `load` and `predict`; report: the page on its validation galaxies.
      metrics: what metrics.json holds: `best_epoch` (a row of log.csv, with `val_loss` and others), how many `epochs`
        there were, and of the `data` what the metrics compare with.
    """

    workdir: pathlib.Path
    report: pathlib.Path
    metrics: dict[str, Any]


def train(config: str | os.PathLike[str] | ConfigDict, workdir: str | os.PathLike[str], /, **fields: Any) -> Run:
    """Train a network in this process, as the command `gz-jax` does, or go on with what is in the workdir.

    gz_jax.train("demo", "runs/demo", num_epochs=2, **{"data.num_galaxies": 400})

    Call it from the main thread: Ctrl-C ends the epoch's current step and saves. As the command does, it lets JAX keep
    compiled programs on disk, and this process the memory that it frees.

    Args:
      config: name of a config that comes with gz_jax, a file of your own, or a config.
      workdir: folder of the run. Where it holds an unfinished run of the same config, that run is continued.
      fields: other values of the config's fields by dotted name, as in `--config.any.field=value`.

    Raises:
      UserError: no such config or field, a value that is not allowed, galaxies that cannot be read, a workdir of
        another run, or too little memory.
      KeyboardInterrupt: it was interrupted, and the state is saved; the same call continues.
    """
    from gz_jax import modes
    from gz_jax.modes import named
    from gz_jax.runtime import interrupts

    folder = pathlib.Path(workdir).expanduser()
    alone = types.SimpleNamespace(distributed="off", coordinator=None, num_processes=None, process_id=None)
    if modes.run("train", named.load(config, fields), str(folder), [], alone) == interrupts.EXIT_INTERRUPTED:
        raise KeyboardInterrupt
    return Run(folder, folder / "report" / "report.html", json.loads((folder / "metrics.json").read_text()))


def load(folder: str | os.PathLike[str], *, views: int = 1) -> Trained:
    """A trained network, at its best epoch.

    Args:
      folder: workdir of a training.
      views: test-time views that predictions are averaged over: 1, the image as it is; 8, rotated by quarter turns and
        mirrored; 16, these of the image and of the image turned by 45 degrees.

    Returns:
      A `gz_jax.inference.trained.Trained`, for `predict` or for use by itself: its function `predict` of cutouts, its
      config, its decision tree, which square of an image it sees, and its scores.

    Raises:
      UserError: no trained network there, or another number of views.
    """
    from gz_jax.inference import trained

    return trained.load(folder, views=views)


def predict(
    network: Network | Sequence[Network],
    images: Images,
    output: str | os.PathLike[str] | None = None,
    *,
    views: int | None = None,
    **options: Any,
) -> Any:
    """Predicted vote fractions of images, with a flag for each that tells whether it could be used.

    table = gz_jax.predict("runs/resnet50", ["galaxy1.jpg", "galaxy2.fits"])  # or uint8 [n, height, width, 3]
    table[table["Class8.6"] > 0.3]

    Each image is seen as the network saw those of its training. Where yours show galaxies at another scale, say so
    with `crop`, `share`, or `field` and `pixel_scale` (gz_jax/data/README.md, "The crop").

    Args:
      network: folder of a trained network, or one that `load` returned; of several the predictions are averaged.
      images: pixels, uint8 [n, height, width, 3]; image files (JPEG, PNG, TIFF, FITS); or a folder, glob, zip, or
        table with columns `id` and `file` (CSV, Parquet, FITS).
      output: for more images than fit in memory, a new folder for Parquet files, as of `--mode=predict`; the same call
        continues after an interruption. The images must then be a folder, glob, zip or table.
      views: test-time views of networks that are given as folders, see `load`; None is 1.
      options: of `gz_jax.inference.predict.predict_arrays`, or with `output` of `predict_catalogue`, e.g. batch_size,
        id_column, file_column, crop.

    Returns:
      A pandas DataFrame with a row per image, in order: `id` (index in the array, file, or the table's id); for every
      answer of the network's tree its fraction of all volunteers, and under `cond_...` its fraction of those who were
      asked; `flag` (0 used, 1 used with a remark, 2 not usable: its fractions are NaN) and `reason`. With several
      networks or views also `spread_...`, their standard deviation. With `output`, that folder's path.

    Raises:
      UserError: no trained network, no such images, pixels of another kind, networks that do not fit together, or an
        output that holds other predictions. An image that cannot be used raises nothing: see `flag`.
    """
    from gz_jax.inference import predict as prediction
    from gz_jax.inference import tables
    from gz_jax.runtime import lock

    if output is None:
        return tables.to_table(*prediction.predict_arrays(images, network, views=views, **options)).to_pandas()
    if not isinstance(images, str | os.PathLike):
        raise UserError("output is for images of a folder, glob, zip or table; without it a DataFrame is returned.")
    networks = prediction.load_all(network, views)
    folder = pathlib.Path(output).expanduser()
    with lock.held(folder / ".lock0", f"output {folder}"):
        return prediction.predict_catalogue(images, folder, networks, **options)
