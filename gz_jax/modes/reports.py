"""`--mode=explore`, `evaluate` and `compare`: the paper's figures and tables, as pages."""

import csv
import functools
import hashlib
import importlib.metadata
import os
import pathlib
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from gz_jax import fields, labels, resolve
from gz_jax.analysis import calibration, compare, explore, report, report_data
from gz_jax.analysis.evaluate import agreement, squared_error
from gz_jax.data import augment, packed, pipeline
from gz_jax.data.augment import Augmentation
from gz_jax.data.image_file import ImageFile
from gz_jax.data.split import Dataset, Split
from gz_jax.inference import tables, trained
from gz_jax.inference.manifest import described, networks_of, same_networks
from gz_jax.inference.tables import read_validation, write_validation
from gz_jax.labels import GALAXY_ZOO_2, Tree
from gz_jax.modes import summary
from gz_jax.modes.help import program
from gz_jax.runtime.errors import UserError
from gz_jax.runtime.progress import Bar
from gz_jax.training.workdir import read as read_workdir

SHOWN = 240  # pixels of sky around a galaxy in the figures
CHUNK = 1024


def explore_mode(config: ConfigDict, workdir: str) -> int:
    """Write a page about the data that a config names: `workdir`/explore/report.html."""
    start = time.monotonic()
    resolve.check(config, 1)
    dataset = resolve.dataset(config, resolve.tree(config))
    outdir = pathlib.Path(workdir) / "explore"
    train, validation = (_side(dataset.splits[name]) for name in ("train", "validation"))
    about, examples = context(config, dataset), _examples(config, dataset.splits["train"])
    page = report_data.explore_report(train, validation, outdir, about, examples, config.seed, tree=dataset.tree)
    print(f"report: {page} ({time.monotonic() - start:.0f} s)")
    return 0


def evaluate_mode(
    workdir: str,
    *,
    data_dir: str | None = None,
    images: str | None = None,
    views: int = 1,
    other_data: bool = False,
) -> int:
    """Evaluate the best epoch of a workdir on its validation and test galaxies: `workdir`/report/report.html.

    Args:
      data_dir, images: where the data are now; `images` only for a catalogue.
      other_data: allow galaxies that are not the run's; their report is
        `workdir`/report_<their fingerprint>/report.html.

    Raises:
      UserError: the galaxies are not the run's, and `other_data` is False.
    """
    model = trained.load(workdir)
    if data_dir and model.config.data.source == "synthetic":
        raise UserError(f"{workdir} was trained on synthetic galaxies, which are in no folder: leave out --data_dir.")
    if data_dir and model.config.data.source == "catalogue":
        model.config.data.catalogue = data_dir
    elif data_dir:
        model.config.data.dir = data_dir
    if images and model.config.data.source != "catalogue":
        raise UserError(f"{workdir} was not trained on a catalogue: leave out --images.")
    model.config.data.images = images or model.config.data.images
    dataset = resolve.dataset(model.config, model.tree)
    if dataset.identity != model.data and not other_data:
        place = model.config.data.catalogue or model.config.data.dir or "the config"
        raise UserError(
            f"the galaxies of {place} are not those that {workdir} was trained and validated on: name the run's own "
            "with --data_dir=FOLDER (or TABLE). To evaluate on these other galaxies, add --other_data: their report "
            f"goes into {report_folder(model, dataset)}."
        )
    numbers = evaluate(model, dataset, views=views)
    folder, own = report_folder(model, dataset), dataset.identity == model.data
    tables = sorted(path.name for kind in ("*.parquet", "submission.csv") for path in folder.glob(kind))
    about = (numbers["by views"], own, folder / "report.html", tables, model.tree.merger is not None)
    print(summary.evaluated(program(sys.argv[0]), workdir, numbers, *about))
    return 0


def report_folder(model: trained.Trained, dataset: Dataset) -> pathlib.Path:
    """Folder of the report on a data set: one for the run's own galaxies, and one for each other data set."""
    own = dataset.identity == model.data
    return model.workdir / ("report" if own else f"report_{hashlib.sha256(dataset.identity.encode()).hexdigest()[:8]}")


def evaluate(model: trained.Trained, dataset: Dataset, *, views: int = 1) -> dict[str, Any]:
    """Predict, write the report and the tables of predictions into `report_folder`.

    The tables are `validation.parquet`, `validation_<n>_views.parquet` for several views, `test.parquet` for test
    galaxies with labels, and `submission.csv` for Kaggle's test galaxies, which have no labels.

    Returns:
      The scores of `report.evaluation_report`, and `by views`: (number of views, MSE, accuracy) for each.
    """
    outdir, own = report_folder(model, dataset), dataset.identity == model.data
    outdir.mkdir(exist_ok=True)
    many = trained.load(model.workdir, views=views) if views > 1 else model
    validation = dataset.splits["validation"]
    ids, truth, predicted, volunteers = predict_split(many, validation, "predicting validation galaxies")
    best = predicted.mean(0)
    by_views = {f"{n} view{'s' * (n > 1)}": predicted[:n].mean(0) for n in (1, 8, 16) if n <= views}
    # --mode=compare and the corrections of --mode=mergers use these tables.
    made = {"validation": (predicted[0], model)} | ({f"validation_{views}_views": (best, many)} if views > 1 else {})
    drawn = true_fractions(model.config, ids, dataset.tree) if own else None
    for name, (values, network) in made.items():
        path, judged = outdir / f"{name}.parquet", judge(network, validation, truth, values, drawn)
        write_validation(path, ids, truth, values, dataset.tree, [network.identity], dataset.identity, judged.levels)
    test_set = None
    if "test" in dataset.splits and dataset.splits["test"].size:
        split = dataset.splits["test"]
        test_ids, votes, test_views, _ = predict_split(many, split, "predicting test galaxies")
        guess, labelled = test_views.mean(0), np.isfinite(votes).any(1)
        test_set = report.TestSet(test_ids, guess, functools.partial(images, split), votes)
        if labelled.any():
            known = test_ids[labelled], votes[labelled], guess[labelled]
            write_validation(outdir / "test.parquet", *known, dataset.tree, [many.identity], dataset.identity)
        elif dataset.tree.columns == GALAXY_ZOO_2.columns and model.config.data.source != "catalogue":
            report.write_submission(outdir / "submission.csv", test_ids, guess)
    numbers = report.evaluation_report(
        report.EvaluationInputs(
            name=model.run if own else f"{model.run} on other galaxies than its own",
            chosen_here=own,
            galaxy_id=ids,
            truth=truth,
            predicted=best,
            volunteers=volunteers,
            tree=dataset.tree,
            history=read_log(model.workdir),
            images=functools.partial(images, validation),
            views=by_views if views > 1 else None,
            test=test_set,
            judged=judged,
            context=context(model.config, dataset) | {"best checkpoint": state_of(model)},
        ),
        outdir,
    )
    scores = [
        (int(name.split()[0]), float(squared_error(truth, x).mean()), float(agreement(truth, x).mean()))
        for name, x in by_views.items()
    ]
    return numbers | {"by views": scores}


def state_of(model: trained.Trained) -> str:
    """Identifier of the checkpoint and the log that a report was made from, printed on its page."""
    return f"weights {model.weights} (step {model.step}), after {len(read_log(model.workdir))} epochs"


def compare_mode(workdirs: Sequence[str], outdir: str) -> int:
    """Compare runs, with table 1 of the paper and intervals: `outdir`/report.html."""
    if len(workdirs) < 2:
        raise UserError("--mode=compare needs two workdirs or more: --mode=compare runs/a runs/b")
    paths = [pathlib.Path(workdir) for workdir in workdirs]
    names = [p.name for p in paths] if len({p.name for p in paths}) == len(paths) else [str(p) for p in paths]
    runs = []
    for path, name in zip(paths, names, strict=True):
        record = read_workdir(path)
        table = path / "report" / "validation.parquet"
        if not table.exists():
            raise UserError(f"{path} has no {table.name} yet: --mode=evaluate --workdir={path} writes it")
        model, made = trained.load(path), tables.manifest(table)
        if not same_networks(networks_of(made), [model.identity]):
            raise UserError(
                f"evaluate {path} again (--mode=evaluate --workdir={path}): {table} was made by another network, "
                f"{described(networks_of(made))}, than the run has now, {described([model.identity])}."
            )
        config, history, data = record.config, read_log(path), made.get("data")
        flat = {name: value for name, value in fields.flatten(config).items() if not fields.FIELDS[name].free}
        flat |= {"data": data, "pretrained weights": str(record.weights)}
        flat["num_epochs"] = max(config.num_epochs, len(history))  # what was asked for last may have been fewer
        found = (*read_validation(table), tables.tree_of(made, table))
        is_finished = finished(config, history)
        runs.append(compare.Run(name, config.seed, history, *found, flat, data, model.weights, is_finished))
    result = report.compare_report(runs, outdir, versions())
    folders, page = dict(zip(names, map(str, paths), strict=True)), pathlib.Path(outdir) / "report.html"
    print(summary.compared(program(sys.argv[0]), folders, result, page))
    return 0


def finished(config: ConfigDict, history: Sequence[dict[str, float]]) -> bool:
    """Whether a run with this log was trained to its last epoch, or stopped early as its config asks."""
    best = compare.best_epoch(history)
    stopped = best is not None and len(history) - best >= config.early_stop_patience
    return len(history) >= config.num_epochs or (config.schedule == "plateau" and stopped)


def true_fractions(config: ConfigDict, ids: np.ndarray, tree: Tree) -> np.ndarray | None:
    """True fractions [n, answers] of those asked, before votes are drawn from them; None if not synthetic."""
    if config.data.source != "synthetic":
        return None
    from gz_jax.data import synthetic

    _, found = synthetic.truth(ids, tree=tree, seed=config.data.seed, merger_fraction=config.data.merger_fraction)
    return np.asarray(labels.conditional(jnp.asarray(found), tree))


def judge(
    model: trained.Trained,
    split: Split,
    truth: np.ndarray,
    predicted: np.ndarray,
    drawn: np.ndarray | None = None,
) -> calibration.Judged:
    """Tests of the network's intervals with a split's galaxies; `drawn`: see `true_fractions`.

    For Dirichlet outputs the intervals are tested with votes, in whole numbers of volunteers; for other outputs the
    calibrated intervals are tested with fractions.
    """
    if model.config.model.activation != "dirichlet":
        return calibration.judge_conformal(truth, predicted, model.tree)
    found = [
        (np.rint(batch["votes"] * model.config.data.nominal_votes)[batch["mask"]], model.embed(batch["image"])[2])
        for batch in _batches(model, split, "computing intervals")
    ]
    counts = np.concatenate([votes for votes, _ in found])
    concentrations = np.concatenate([one[:, : len(votes)] for votes, one in found], axis=1)
    return calibration.judge_dirichlet(counts, concentrations, model.tree, drawn)


def _batches(model: trained.Trained, split: Split, doing: str) -> Iterator[dict[str, np.ndarray]]:
    """The galaxies as the network sees them; `doing` names what is done with them, for the progress."""
    devices = jax.local_device_count()
    batch_size = -(-model.config.batch_size // devices) * devices
    shown = packed.decoded(split, model.view, final=True, turned=model.turned)
    name = f"{doing}, {model.views} views" if model.views > 1 else doing
    with Bar(name, split.size, "galaxies", waiting="compiling") as bar:
        for batch in pipeline.eval_batches(shown, model.view, batch_size=batch_size):
            yield batch
            bar.advance(int(batch["mask"].sum()))


def predict_split(
    model: trained.Trained, split: Split, doing: str = "predicting"
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A split in order: ids [n], vote fractions float32 [n, answers], predictions [views, n, answers], volunteers [n].

    `volunteers` is how many looked at each galaxy, float32: the nominal number where only fractions are known.

    The ids are the split's names, str, if it has names, else the int64 galaxy_id.

    The images are the same, bit for bit, as in the validation of the training, for every pipeline. Therefore the mean
    squared error is that of the log, up to the order of float32 sums (about 1e-6 of it). For 16 views the turned images
    are cut from the whole pictures; synthetic galaxies have no pixels beyond the network's square, which is turned.
    """
    found, tree = [], model.tree
    everyone = [part for part, parents in zip(tree.slices, tree.parents, strict=True) if not parents]
    for batch in _batches(model, split, doing):
        keep, predicted = batch["mask"], model.predict(batch["image"])
        asked = np.max([batch["votes"][keep, part].sum(1) for part in everyone], axis=0)
        found.append((batch["galaxy_id"][keep], batch["vote_fractions"][keep], predicted[:, keep], asked))
    ids, truth, each, volunteers = zip(*found, strict=True)
    galaxy_id = np.concatenate(ids) if split.names is None else split.names
    count = model.config.data.nominal_votes * np.concatenate(volunteers)
    return galaxy_id, np.concatenate(truth), np.concatenate(each, axis=1), count


def images(split: Split, rows: np.ndarray, side: int = SHOWN) -> np.ndarray:
    """The central `side` pixels of Kaggle's images, the same part of a catalogue's images, or all of smaller images.

    Returns:
      uint8 [n, s, s, 3].
    """
    found = split.read(np.asarray(rows, np.int64))["image"]
    if found.dtype != object:
        return found
    shown = (x.shown(side, side / fields.CROP) if isinstance(x, ImageFile) else packed.cut_out(x, side) for x in found)
    return np.stack(list(shown))


def _side(split: Split) -> explore.Side:
    def blocks() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        with Bar("reading labels", split.size, "galaxies") as bar:
            for start in range(0, split.size, CHUNK):
                rows = np.arange(start, min(start + CHUNK, split.size))
                records = split.read(rows)
                yield records["galaxy_id"] if split.names is None else split.names[rows], records["vote_fractions"]
                bar.advance(len(rows))

    return explore.Side(blocks, functools.partial(images, split))


def _examples(config: ConfigDict, split: Split, count: int = 5, epochs: int = 5) -> report_data.PipelineExamples | None:
    """A few galaxies as on disk, cropped, and as `epochs` epochs would show them; None for synthetic cutouts."""
    records = split.read(np.arange(min(count, split.size)))
    if records["image"].dtype != object:
        return None
    drawn = Augmentation(**config.augment)
    if drawn.is_identity:
        drawn = Augmentation(rotate=True)  # the augmentation of the paper's optimised model
    view = resolve.view(config, drawn)
    rows = np.arange(len(records["image"]))
    cutouts, plain = (packed.decoded(split, view, final=final).read(rows)["image"] for final in (False, True))
    warp: Callable[..., jax.Array] = jax.jit(augment.warp, static_argnums=2)
    ids = records["galaxy_id"]
    seen = [np.asarray(warp(cutouts, augment.draw(drawn, config.seed, e, ids), view)) for e in range(epochs)]
    raw = images(split, rows, config.data.image_size)
    names = ids if split.names is None else split.names
    first = "image" if config.data.source == "catalogue" else ""  # of any size
    captions = [str(i) for i in names[: len(ids)]]
    return report_data.PipelineExamples(raw, plain, np.stack(seen, 1), captions, first)


def read_log(workdir: pathlib.Path) -> list[dict[str, float]]:
    """The rows of a workdir's log.csv; none where there is no log yet."""
    try:
        with open(workdir / "log.csv", newline="") as file:
            return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    except FileNotFoundError:
        return []
    except (OSError, TypeError, ValueError, csv.Error) as error:
        raise UserError(f"{workdir / 'log.csv'} is not the log of a run ({error}): move it away.") from error


def versions() -> dict[str, str]:
    """Versions of packages and Python, devices, the command, and the code's commit if it is a git checkout."""
    found = {name: importlib.metadata.version(name) for name in ("jax", "flax", "optax", "orbax-checkpoint", "numpy")}
    found |= {"python": platform.python_version(), "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}"}
    here = pathlib.Path(__file__).resolve().parents[2]
    git = ["git", "-C", os.fspath(here), "describe", "--always", "--dirty"]
    try:
        commit = subprocess.run(git, capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        commit = ""
    return found | ({"commit": commit} if commit else {}) | {"command": " ".join(["python", *sys.argv])}


def context(config: ConfigDict, dataset: Dataset) -> dict[str, Any]:
    """The config, data and versions that a report lists."""
    sizes = {f"{name} galaxies": split.size for name, split in dataset.splits.items()}
    return {
        "config": fields.flatten(config),
        "data": {"fingerprint": dataset.identity, **sizes, "left out": len(dataset.skipped)},
        "versions": versions(),
    }
