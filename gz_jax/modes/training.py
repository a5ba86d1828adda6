"""`--mode=train`: reads the config, builds the parts, trains, and reports."""

import contextlib
import pathlib
import sys

import jax
from ml_collections import ConfigDict

from gz_jax import resolve
from gz_jax.data import problems
from gz_jax.data.split import Dataset
from gz_jax.inference import shared, trained
from gz_jax.modes import summary
from gz_jax.modes.help import program
from gz_jax.runtime import distributed, interrupts, lock, memory
from gz_jax.runtime.errors import UserError
from gz_jax.training import feed, loop, state, workdir


def train(config: ConfigDict, folder: str) -> int:
    """`--mode=train` into the workdir `folder`: returns the exit status.

    Raises:
      UserError: the folder has a shared network, or the config, the data or the folder cannot be used.
    """
    if shared.is_shared(pathlib.Path(folder)):
        raise UserError(
            f"{folder} is a shared network: to start from it, train in another --workdir, with "
            f"--config.model.pretrained={folder}"
        )
    resolve.check(config, jax.device_count(), pathlib.Path(folder))
    alone = lock.held(pathlib.Path(folder, ".lock"), f"workdir {folder}")
    with alone if jax.process_index() == 0 else contextlib.nullcontext():
        return _train(config, folder)


def _train(config: ConfigDict, folder: str) -> int:
    tree = resolve.tree(config, pathlib.Path(folder))
    with distributed.lead_first(config.data.source != "synthetic"):  # downloads and prepares
        start = resolve.weights(config, tree, trained.network_of)
        dataset = resolve.dataset(config, tree)
    record = workdir.Record(config, tree, dataset.identity, start and start.fingerprint)
    with distributed.lead_first():
        path = workdir.claim(folder, record)
    if dataset.skipped and jax.process_index() == 0:
        problems.write_skipped_csv(path / "skipped.csv", dataset.skipped)
        print(f"{len(dataset.skipped)} galaxies left out, see {path / 'skipped.csv'}", flush=True)
    module, view, augmentation = resolve.parts(config, tree)
    mesh = state.make_mesh()
    how = resolve.feeding(config)
    recipe = resolve.recipe(config, tree, module, feed.steps_per_epoch(dataset, how))
    data, steps = feed.feed(dataset, view, augmentation, recipe, how, mesh)
    key, given = jax.random.fold_in(jax.random.key(config.seed), 0), start.variables["params"] if start else ()
    variables = state.initial_variables(module, config.data.size, key, given=given)
    if start:
        print(start.text, flush=True)
        variables = {kind: {**values, **start.variables.get(kind, {})} for kind, values in variables.items()}
    fresh = state.start(variables, recipe.optimizer, mesh)
    print(_describe(config, dataset, variables, mesh.size), flush=True)
    del start, given, variables  # frees their memory: `fresh` has copies
    memory.keep_freed_memory()
    try:
        settings = resolve.settings(config)._replace(rate_factor=recipe.rate)
        progress = loop.train(path, settings, data, steps, fresh)
    except loop.InterruptedRunError:
        if jax.process_index() == 0:
            print(f"interrupted and saved; the same command continues {path}", file=sys.stderr)
        return interrupts.EXIT_INTERRUPTED
    if jax.process_index() == 0 and progress.history:
        best, page = progress.history[progress.early_stop.best_epoch], _report(path, dataset)
        about = (len(progress.history), dataset.splits["validation"].size, dataset.statistics)
        print(summary.trained(program(sys.argv[0]), folder, best, *about, page))
    return 0


def _report(path: pathlib.Path, dataset: Dataset) -> pathlib.Path:
    """The page of a finished run. It is written unless there is one for this checkpoint already."""
    from gz_jax.modes import reports  # matplotlib takes a second to load

    page, model = path / "report" / "report.html", trained.load(path)
    if not page.exists() or reports.state_of(model) not in page.read_text():
        reports.evaluate(model, dataset)
    return page


def _describe(config: ConfigDict, dataset: Dataset, variables: dict, devices: int) -> str:
    trainable, total = (sum(x.size for x in jax.tree.leaves(tree)) for tree in (variables["params"], variables))
    sizes = ", ".join(f"{split.size} {name}" for name, split in dataset.splits.items())
    name = config.model.name + (f" from {config.model.pretrained}" if config.model.pretrained else "")
    return (
        f"{name}: {total:,} parameters, {trainable:,} of them trainable, {config.model.activation} outputs for "
        f"{len(dataset.tree.columns)} answers of {dataset.tree.name}; {sizes} galaxies ({dataset.identity}); {devices} "
        f"{jax.devices()[0].platform} device(s)"
    )
