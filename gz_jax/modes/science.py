"""`--mode=predict` and `--mode=mergers`: a trained network's answers for any catalogue, and a fraction from them."""

import pathlib
from typing import Any

import jax

from gz_jax.data import sight
from gz_jax.inference import predict as prediction
from gz_jax.inference import tables, trained
from gz_jax.inference.manifest import networks_of
from gz_jax.runtime import lock
from gz_jax.runtime.errors import UserError


def predict(workdir: str, flags: Any) -> int:
    """Images of `--input` into Parquet shards in `--output`; several workdirs, with commas between, are averaged."""
    if not flags.input or not flags.output:
        raise UserError(
            "--mode=predict needs --input (a folder, glob, zip or table of images) and --output (a folder)."
        )
    changes = {name: getattr(flags, "stretch_q" if name == "q" else name) for name in sight.SETTINGS}
    networks = [trained.load(path, views=flags.views) for path in workdir.split(",")]
    with lock.held(pathlib.Path(flags.output, f".lock{jax.process_index()}"), f"output {flags.output}"):
        output = prediction.predict_catalogue(
            flags.input,
            flags.output,
            networks,
            shard_size=flags.shard_size,
            id_column=flags.id_column,
            file_column=flags.file_column,
            file_columns=flags.file_columns,
            folder=flags.images,
            formats=flags.formats,
            embeddings=flags.embeddings,
            interval=flags.interval,
            keep=flags.keep,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            **changes,
        )
        found = tables.tally(output) if jax.process_index() == 0 and tables.is_finished(output) else None
    if found is not None:
        print(found.text())
    print(output)
    return int(found is not None and found.unusable == found.images)


def mergers(workdir: str, flags: Any) -> int:
    """The fraction of `--answer` in the predictions of `--input`, judged by the workdir's validation galaxies."""
    from gz_jax.analysis import merger_mode
    from gz_jax.modes.reports import versions

    if not flags.input:
        raise UserError(
            "--mode=mergers needs --input: a folder that --mode=predict wrote (several with commas: seeds)."
        )
    observability = sight.numbers(flags.observability)
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
