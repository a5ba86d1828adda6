"""`--mode=predict` and `--mode=mergers`: predictions for any catalogue, and the fraction of an answer from them."""

import pathlib
import shlex
import sys
from typing import Any

import jax

from gz_jax import fields
from gz_jax.data import sight
from gz_jax.inference import predict as prediction
from gz_jax.inference import shared, tables, trained, words
from gz_jax.inference.manifest import networks_of
from gz_jax.modes import summary
from gz_jax.modes.help import program
from gz_jax.runtime import lock
from gz_jax.runtime.errors import UserError
from gz_jax.training.workdir import read as read_workdir


def predict(workdir: str, flags: Any) -> int:
    """Predict the images of `--input` and write Parquet files (shards) into `--output`.

    The predictions of several workdirs, with commas between, are averaged. Without `--output`, a few images are
    described in words.
    """
    if not flags.input:
        raise UserError("--mode=predict needs --input: an image, or a folder, glob, zip or table of images.")
    of_tables = [name for name in ("formats", "embeddings", "keep") if getattr(flags, name)]
    of_tables += ["interval"] if flags.interval is not None else []
    if not flags.output and of_tables:
        raise UserError(f"--{of_tables[0]} is about the table of predictions: add --output=FOLDER for this table.")
    changes = {name: getattr(flags, "stretch_q" if name == "q" else name) for name in sight.SETTINGS}
    networks = [trained.load(path, views=flags.views) for path in workdir.split(",")]
    if not flags.output:
        return _say(networks, flags, changes)
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
        if found.images <= words.MOST:
            print("\n".join([words.ABOUT, *words.of_table(tables.read(output), networks[0].tree)]))
    print(output)
    if found is not None and found.unusable < found.images:
        print(_after(workdir, networks, output, flags))
    return int(found is not None and found.unusable == found.images)


def _after(workdir: str, networks: list[trained.Trained], output: pathlib.Path, flags: Any) -> str:
    """The next commands after a prediction, as text."""
    name = "validation.parquet" if flags.views == 1 else f"validation_{flags.views}_views.parquet"
    judged = all((network.workdir / "report" / name).exists() for network in networks)
    own = not any(shared.is_shared(network.workdir) for network in networks)
    merger = own and networks[0].tree.merger is not None
    how = {"merger": merger, "judged": judged, "embeddings": flags.embeddings}
    return summary.predicted(program(sys.argv[0]), workdir, output, flags.views, **how)


def _say(networks: list[trained.Trained], flags: Any, changes: dict[str, Any]) -> int:
    """Print the predictions for a few images in words; returns 1 if none of the images can be used."""
    print(f"looking at {prediction.seen_by(networks, changes).text}", flush=True)
    columns = {name: getattr(flags, name) for name in ("id_column", "file_column", "file_columns")}
    ids, found, tree = prediction.predict_arrays(
        flags.input, networks, folder=flags.images, most=words.MOST, **columns, **changes
    )
    print("\n".join([words.ABOUT, *words.of_table(tables.to_table(ids, found, tree), tree)]))
    return int((found.flag == tables.BAD).all())


def mergers(workdir: str, flags: Any) -> int:
    """Estimate the fraction of `--answer` in the predictions of `--input`.

    The workdir's validation galaxies, or the tables of `--validation`, show how well the network finds the answer.
    """
    from gz_jax.analysis import merger_mode
    from gz_jax.modes.reports import versions

    if not flags.input:
        raise UserError(
            "--mode=mergers needs --input: a folder that --mode=predict wrote, or one for each network, with commas "
            "between."
        )
    observability = sight.numbers(flags.observability)
    if flags.observability and len(observability) != 2:
        raise UserError(
            f"--observability={','.join(flags.observability)}: give time and error in Gyr, as in "
            "--observability=0.5,0.2"
        )
    runs = [pathlib.Path(run) for run in workdir.split(",")]
    predictions = flags.input.split(",")
    labelled = flags.validation.split(",") if flags.validation else [_validation(run, predictions) for run in runs]
    tree = merger_mode.common_tree([*predictions, *labelled])
    place = merger_mode.place_of(flags.answer, tree)
    ours = not flags.validation and not shared.is_shared(runs[0])
    own = "mergers" if tree.keys[place] == tree.merger else f"mergers_{tree.columns[place].replace('/', '_')}"
    output = pathlib.Path(flags.output or runs[0] / own)  # so that each answer's report has a folder of its own
    results = merger_mode.merger_mode(
        predictions,
        labelled,
        output,
        labels_csv=flags.labels,
        answer=flags.answer,
        threshold=flags.threshold,
        observability=observability or None,
        config=fields.flatten(read_workdir(runs[0]).config) if ours else None,
        context={
            "versions": versions(),
            "inputs": {"predictions": flags.input, "validation": ", ".join(map(str, labelled))},
        },
    )
    given = {name: getattr(flags, name) for name in ("answer", "validation", "labels", "output")}
    same = [f"--{name}={shlex.quote(value)}" for name, value in given.items() if value]
    same += [] if flags.threshold == 0.3 else [f"--threshold={flags.threshold:g}"]
    command = " ".join([f"--mode=mergers --workdir={shlex.quote(workdir)} --input={shlex.quote(flags.input)}", *same])
    print(summary.fraction(program(sys.argv[0]), command, results, output / "report.html"))
    return 0


def _validation(run: pathlib.Path, predictions: list[str]) -> pathlib.Path:
    """A run's table of validation galaxies: with the number of views of the predictions if there is such a table."""

    def views(path: str | pathlib.Path) -> set[Any]:
        return {network.get("views") for network in networks_of(tables.manifest(path))}

    wanted = set().union(*map(views, predictions))
    same = [path for path in sorted((run / "report").glob("validation*.parquet")) if views(path) == wanted]
    return same[0] if same else run / "report" / "validation.parquet"
