"""`--mode=predict` and `--mode=mergers`: a trained network's answers for any catalogue, and a fraction from them."""

import pathlib
from typing import Any

import jax

from gz_jax import predict as prediction
from gz_jax import trained
from gz_jax.errors import UserError


def predict(workdir: str, flags: Any) -> int:
    """Images of `--input` into Parquet shards in `--output`; several workdirs, with commas between, are averaged."""
    if not flags.input or not flags.output:
        raise UserError(
            "--mode=predict needs --input (a folder, glob, zip or table of images) and --output (a folder)."
        )
    networks = [trained.load(path, views=flags.views) for path in workdir.split(",")]
    output = prediction.predict_catalogue(
        flags.input,
        flags.output,
        networks,
        shard_size=flags.shard_size,
        crop=flags.crop,
        pixel_scale=flags.pixel_scale,
        field_arcsec=flags.field,
        id_column=flags.id_column,
        file_column=flags.file_column,
        formats=flags.formats,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    print(output)
    return 0


def mergers(workdir: str, flags: Any) -> int:
    """The fraction of `--answer` in the predictions of `--input`, judged by the workdir's validation galaxies."""
    from gz_jax.analysis import merger_mode

    if not flags.input:
        raise UserError(
            "--mode=mergers needs --input: a folder that --mode=predict wrote (several with commas: seeds)."
        )
    try:
        observability = tuple(map(float, flags.observability)) or None
    except ValueError as error:
        raise UserError(
            f"--observability={','.join(flags.observability)}: time and error in Gyr, e.g. 0.5,0.2"
        ) from error
    runs = [pathlib.Path(run) for run in workdir.split(",")]
    labelled = flags.validation.split(",") if flags.validation else [r / "report" / "validation.parquet" for r in runs]
    output = pathlib.Path(flags.output or runs[0] / "mergers")
    merger_mode.merger_mode(
        flags.input.split(","),
        labelled,
        output,
        labels_csv=flags.labels,
        answer=flags.answer,
        threshold=flags.threshold,
        observability=observability,
    )
    print(output / "report.html")
    return 0
