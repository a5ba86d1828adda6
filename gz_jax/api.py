"""What `import gz_jax` offers: each function imports what it needs when it is called."""

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
    """A finished training: its folder, its page, and metrics.json (`best_epoch`, `epochs`, `data`)."""

    workdir: pathlib.Path
    report: pathlib.Path
    metrics: dict[str, Any]


def train(config: str | os.PathLike[str] | ConfigDict, workdir: str | os.PathLike[str], /, **changes: Any) -> Run:
    """Train a network in this process, the main thread's, as the command `gz-jax` does.

    gz_jax.train("demo", "runs/demo", num_epochs=2, **{"data.num_galaxies": 400})

    Args:
      config: name of a config that comes with gz_jax, a file of your own, or a config.
      workdir: folder of the run; one that was begun with the same config is continued.
      changes: values of the config's fields by dotted name, as in `--config.any.field=value`.

    Raises:
      UserError: a config, galaxies or a workdir that cannot be used, or too little memory.
      KeyboardInterrupt: it was interrupted, and saved; the same call continues.
    """
    from gz_jax import modes
    from gz_jax.modes import named
    from gz_jax.runtime import interrupts

    folder = pathlib.Path(workdir).expanduser()
    alone = types.SimpleNamespace(distributed="off", coordinator=None, num_processes=None, process_id=None)
    if modes.run("train", named.load(config, changes), str(folder), [], alone) == interrupts.EXIT_INTERRUPTED:
        raise KeyboardInterrupt
    return Run(folder, folder / "report" / "report.html", json.loads((folder / "metrics.json").read_text()))


def load(folder: str | os.PathLike[str], *, views: int = 1) -> Trained:
    """A trained network, for `predict`, or by itself: its function, config, tree and scores.

    Args:
      folder: of a run, or of a shared network (`--mode=export`); or 'hf-hub:owner/name@revision'.
      views: test-time views that are averaged: 1, the image as it is; 8, turned by quarters and mirrored; 16, these
        of the image and of the image turned by 45 degrees.

    Raises:
      UserError: no trained network there, or another number of views.
    """
    from gz_jax.inference import trained

    return trained.load(folder, views=views)


def predict(
    network: Network | Sequence[Network],
    images: np.ndarray | str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str] | None = None,
    *,
    views: int | None = None,
    **options: Any,
) -> Any:
    """Predicted vote fractions of images. Of each it looks at the square that the network saw in training.

    table = gz_jax.predict("runs/resnet50", ["galaxy1.jpg", "galaxy2.fits"])
    table[table["Class8.6"] > 0.3]

    Args:
      network: what `load` takes or has returned; of several the predictions are averaged.
      images: uint8 [n, height, width, 3], or files (JPEG, PNG, TIFF, FITS), or a folder, glob, zip, or table with
        columns `id` and `file`.
      output: folder for Parquet files as of `--mode=predict`, for folders, globs, zips and tables of any length; the
        same call continues after an interruption.
      views: test-time views (see `load`); None is 1, or what a loaded network has.
      options: see `gz_jax.inference.predict.predict_arrays`, or with `output` `predict_catalogue`. Where your images
        have another scale: `crop`, `share`, or `field` and `pixel_scale`.

    Returns:
      A pandas DataFrame with a row per image, in order: `id` (place in the array, or file, or the table's); each
      answer's fraction of all volunteers, and with `cond_` before its name of those who were asked; with several
      networks or views their standard deviation, `spread_`; `flag` (0 used, 1 used with a remark, 2 unusable, with
      NaN for fractions) and `reason`. With `output`, its path.

    Raises:
      UserError: no such network or images, networks that do not fit together, or an output of other predictions.
    """
    from gz_jax.inference import predict as prediction
    from gz_jax.inference import tables
    from gz_jax.runtime import lock

    if output is None:
        return tables.to_table(*prediction.predict_arrays(images, network, views=views, **options)).to_pandas()
    if not isinstance(images, str | os.PathLike):
        raise UserError("output is for images of a folder, glob, zip or table; without it a DataFrame is returned.")
    networks, folder = prediction.load_all(network, views), pathlib.Path(output).expanduser()
    with lock.held(folder / ".lock0", f"output {folder}"):
        return prediction.predict_catalogue(images, folder, networks, **options)
