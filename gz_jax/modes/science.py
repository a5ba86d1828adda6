"""`--mode=predict` and `--mode=mergers`: a trained network's answers for any catalogue, and a fraction from them."""

import math
import pathlib
from collections.abc import Callable
from typing import Any

import jax

from gz_jax.data import images
from gz_jax.inference import predict as prediction
from gz_jax.inference import tables, trained
from gz_jax.inference.manifest import networks_of
from gz_jax.modes.reports import versions
from gz_jax.runtime import lock
from gz_jax.runtime.errors import UserError


def predict(workdir: str, flags: Any) -> int:
    """Images of `--input` into Parquet shards in `--output`; several workdirs, with commas between, are averaged."""
    if not flags.input or not flags.output:
        raise UserError(
            "--mode=predict needs --input (a folder, glob, zip or table of images) and --output (a folder)."
        )
    how = _shown_by(flags)
    networks = [trained.load(path, views=flags.views) for path in workdir.split(",")]
    with lock.held(pathlib.Path(flags.output, f".lock{jax.process_index()}"), f"output {flags.output}"):
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
            file_columns=flags.file_columns,
            formats=flags.formats,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            **how,
        )
        found = tables.tally(output) if jax.process_index() == 0 and tables.is_finished(output) else None
    if found is not None:
        print(found.text())
    print(output)
    return int(found is not None and found.unusable == found.images)


def _shown_by(flags: Any) -> dict[str, Any]:
    """What the flags say of FITS images: arguments of `images.read_cutout`."""
    how: dict[str, Any] = {}
    if flags.planes:
        how["planes"] = _three("planes", flags.planes, int)
    if flags.scales:
        how["stretch"] = images.Stretch(scales=_three("scales", flags.scales, float))
    if flags.extension is not None:
        how["extension"] = _name_or_number(flags.extension)
    if flags.extensions:
        how["extensions"] = tuple(map(_name_or_number, flags.extensions))
        if len(how["extensions"]) != 3 or flags.extension is not None:
            raise UserError("--extensions: three names or numbers (red,green,blue), without --extension beside them.")
    for name in ("sky", "noise"):
        if texts := getattr(flags, name):
            how[name] = _numbers(texts)
            if not how[name]:
                raise UserError(f"--{name}={','.join(texts)}: one number, or three with commas between.")
            images.check_level(name, how[name])
    return how


def _name_or_number(text: str) -> str | int:
    return int(text) if text.isdecimal() else text


def _numbers(texts: list[str], kind: Callable[[str], Any] = float) -> tuple[Any, ...]:
    """The numbers of a flag; () where one of them is none."""
    try:
        return tuple(map(kind, texts))
    except ValueError:
        return ()


def _three(name: str, texts: list[str], kind: Callable[[str], Any]) -> tuple[Any, ...]:
    values = _numbers(texts, kind)
    if len(values) != 3 or not all(0 <= value < math.inf for value in values):
        raise UserError(f"--{name}={','.join(texts)}: three numbers, none negative, with commas between.")
    return values


def mergers(workdir: str, flags: Any) -> int:
    """The fraction of `--answer` in the predictions of `--input`, judged by the workdir's validation galaxies."""
    from gz_jax.analysis import merger_mode

    if not flags.input:
        raise UserError(
            "--mode=mergers needs --input: a folder that --mode=predict wrote (several with commas: seeds)."
        )
    observability = _numbers(flags.observability)
    if flags.observability and len(observability) != 2:
        raise UserError(f"--observability={','.join(flags.observability)}: time and error in Gyr, e.g. 0.5,0.2")
    runs = [pathlib.Path(run) for run in workdir.split(",")]
    predictions = flags.input.split(",")
    labelled = flags.validation.split(",") if flags.validation else [_validation(run, predictions) for run in runs]
    tree = merger_mode.common_tree([*predictions, *labelled])
    place = merger_mode.place_of(flags.answer, tree)
    own = "mergers" if tree.keys[place] == tree.merger else f"mergers_{tree.columns[place].replace('/', '_')}"
    output = pathlib.Path(flags.output or runs[0] / own)  # one answer's report never replaces another's
    merger_mode.merger_mode(
        predictions,
        labelled,
        output,
        labels_csv=flags.labels,
        answer=flags.answer,
        threshold=flags.threshold,
        observability=observability or None,
        context={
            "versions": versions(),
            "inputs": {"predictions": flags.input, "validation": ", ".join(map(str, labelled))},
        },
    )
    print(output / "report.html")
    return 0


def _validation(run: pathlib.Path, predictions: list[str]) -> pathlib.Path:
    """A run's table of validation galaxies, over as many views as one of the predictions if there is one like that."""

    def views(path: str | pathlib.Path) -> set[Any]:
        return {network.get("views") for network in networks_of(tables.manifest(path))}

    wanted = set().union(*map(views, predictions))
    same = [path for path in sorted((run / "report").glob("validation*.parquet")) if views(path) == wanted]
    return same[0] if same else run / "report" / "validation.parquet"
