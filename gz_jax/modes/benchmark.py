"""`--mode=benchmark`: times each stage of a config alone and all together, and compares with the hardware and peers."""

import contextlib
import io
import itertools
import os
import pathlib
import platform
import resource
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from gz_jax import fields, labels, resolve
from gz_jax.benchmark import contest, report, roofline, stages
from gz_jax.benchmark.peers import PEERS, Task, check, kind, versions
from gz_jax.benchmark.peers import stages as peer_stages
from gz_jax.benchmark.timing import Stage, measure
from gz_jax.data import augment, packed, synthetic
from gz_jax.data.augment import View
from gz_jax.data.split import Dataset, Split, fraction_records
from gz_jax.data.synthetic_render import render
from gz_jax.inference.shared import Network
from gz_jax.labels import Tree
from gz_jax.models import folding
from gz_jax.resolve import Parts
from gz_jax.runtime.errors import UserError, first_line
from gz_jax.runtime.files import atomic, write_json
from gz_jax.training import checkpoint, dispatch, feed, state, step
from gz_jax.training import workdir as workdirs

DISTINCT = 64  # synthetic galaxies; the files repeat them


def benchmark(
    config: ConfigDict,
    outdir: str,
    *,
    peers: Sequence[str] = (),
    repeats: int = 7,
    batch_sizes: Sequence[int | str] = (),
) -> int:
    """Time everything, print the tables, write benchmark.json and benchmark.md into `outdir`.

    Weights are random. Galaxies are synthetic unless config.data.dir names real ones. If something cannot be measured,
    a line on stderr says so at once (for peers before anything is timed), and both files list it.

    Args:
      peers: names from `peers.PEERS`.
      batch_sizes: sizes at which the forward pass is timed, in addition to that of the config.

    Raises:
      UserError: an unknown peer, too few repeats, an invalid batch size, or a config that cannot work.
    """
    if unknown := [name for name in peers if name not in PEERS]:
        raise UserError(f"--peers={unknown[0]} must be one of {', '.join(PEERS)}.")
    if repeats < 1:
        raise UserError(f"--repeats={repeats} must be at least 1.")
    if wrong := [size for size in batch_sizes if not (str(size).isdecimal() and int(size))]:
        raise UserError(f"--batch_sizes={wrong[0]} must be whole numbers of 1 or more, as in --batch_sizes=32,128.")
    sizes = sorted({int(size) for size in batch_sizes})
    if peers:
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # they share the device's memory
    if config.data.source == "catalogue":
        raise UserError("--mode=benchmark times Kaggle's files, or synthetic ones: add --config.data.source=synthetic.")
    resolve.check(config, jax.device_count())
    if (peers or sizes) and jax.device_count() > 1:
        raise UserError("--peers and --batch_sizes need a single device: set CUDA_VISIBLE_DEVICES=0, for example.")
    plain = {"loss": "mse", "weight_decay": 0.0, "model.frozen_statistics": False}
    trained = any(PEERS[name].trains for name in peers)
    if trained and (other := [name for name, value in plain.items() if fields.flatten(config)[name] != value]):
        raise UserError(
            f"--peers train by mean squared error and plain Adam: set --config.{other[0]}={plain[other[0]]}."
        )
    pathlib.Path(outdir).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch, stages.fresh_compilation_cache(scratch):
        found = _measure(config, pathlib.Path(scratch), peers, repeats, sizes)
    text = report.text(found)
    with atomic(pathlib.Path(outdir) / "benchmark.md") as file:
        file.write(text)
    write_json(pathlib.Path(outdir) / "benchmark.json", found)
    print(f"{text}\n{pathlib.Path(outdir) / 'benchmark.json'}")
    return 0


class _Subject(NamedTuple):
    """What is timed: a config, and the tree, network and recipe that it gives."""

    config: ConfigDict
    tree: Tree
    parts: Parts
    recipe: step.Recipe


def _subject(config: ConfigDict) -> _Subject:
    tree = resolve.tree(config)
    parts = resolve.parts(config, tree)
    return _Subject(config, tree, parts, resolve.recipe(config, tree, parts.module, 100))


def _measure(
    config: ConfigDict, scratch: pathlib.Path, peers: Sequence[str], repeats: int, sizes: Sequence[int]
) -> dict[str, Any]:
    subject = _subject(config)
    _, view, augmentation = subject.parts
    missing: list[str] = []
    peers = _able(peers, missing)
    # Allocate one batch: if it cannot fit, the error comes before its files are made.
    np.empty((config.batch_size, config.data.size, config.data.size, 3), np.float32)
    batches = 4 if jax.default_backend() == "cpu" else 64  # of an epoch, here
    (scratch / "images").mkdir()
    split = _galaxies(subject, batches * config.batch_size, scratch / "images")
    ceilings = roofline.ceilings(config.model.dtype)
    batch = _batch(split, view, config.batch_size)
    current, device, compiling = _on_device(subject, batch)
    missing += _uncounted(device)
    found: list[Stage] = []
    with _noted("decode with Pillow", missing):
        found.append(stages.decode_stage(split, view))
    with _noted("tf.data", missing):
        found += stages.tensorflow_stages(split, view, augmentation, config.batch_size)
    found += device
    for how in dict.fromkeys((config.data.pipeline, "device")):
        with _noted(f"epoch ({how})", missing):
            found.append(_epoch(how, subject, split, scratch, current))
    with _noted("predict from files", missing):
        network = _network(subject, current[0], scratch)
        found.append(stages.predict_stage(network, scratch / "images", view.crop))
    timed = measure(found, repeats)
    in_kilobytes = platform.system() != "Darwin"
    memory = {
        "host": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1024 if in_kilobytes else 1),
        "device": (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use"),
    }
    costs = {stage.name: stage.cost for stage in device}
    sizes = [size for size in sizes if size != config.batch_size]
    parameters: dict[str, int] = {}
    rounds: list[tuple[Stage, list[float]]] = []
    if peers or sizes:
        task = _task(subject, batch, sizes)
        parameters, rounds = _against_peers(task, config, scratch, peers, repeats, missing)
    measured = [name for name in parameters if name != "gz_jax"]
    against = [report.row(stage._replace(cost=costs.get(stage.name)), samples, ceilings) for stage, samples in rounds]
    return {
        **report.circumstances(),
        "config": fields.flatten(config),
        "data": config.data.dir if _is_real(config) else "synthetic",
        "parameters": parameters,
        "ceilings": ceilings._asdict(),
        "compile_seconds": compiling,
        "peak_bytes": memory,
        "stages": [report.row(stage, samples, ceilings) for stage, samples in timed],
        "peer_samples": against,
        "peers": report.peer_rows(against, measured),
        "peer_packages": {name: versions(name) for name in measured},
        "missing": missing,
    }


def _uncounted(device: Sequence[Stage]) -> list[str]:
    """A line for `missing` if JAX does not count the operations of these stages, as on GPUs."""
    if all(stage.cost for stage in device if stage.name != "host to device"):
        return []
    return [f"part of the roofline: JAX counts no operations for {jax.devices()[0].device_kind}"]


@contextlib.contextmanager
def _noted(name: str, missing: list[str]) -> Iterator[None]:
    """Print an error in the block, such as a package that is not installed, and add it to `missing`."""
    try:
        yield
    except Exception as error:  # of peers: no compiler, no memory, no such device
        missing.append(f"{name}: {first_line(error)}")
        print("not measured:", missing[-1], file=sys.stderr, flush=True)


def _able(peers: Sequence[str], missing: list[str]) -> list[str]:
    """The peers that can run here, as far as this is known before they are timed."""
    found = []
    for name in dict.fromkeys(peers):
        with _noted(name, missing), contest.contender(check, name, jax.default_backend()):
            found.append(name)
    return found


def _on_device(
    subject: _Subject, batch: dict[str, np.ndarray], contested: bool = False
) -> tuple[stages.Current, list[Stage], dict[str, dict[str, float]]]:
    """A fresh state, and `stages.device_stages` with it."""
    config, _, parts, recipe = subject
    mesh = state.make_mesh()
    variables = state.initial_variables(parts.module, config.data.size, jax.random.key(config.seed))
    steps = dispatch.compile_steps(recipe, config.seed, mesh)
    fresh = state.start(variables, recipe.optimizer, mesh)
    current = [state.with_rate(fresh, config.learning_rate)]
    return current, *stages.device_stages(steps, current, _forward(subject), parts.view, batch, contested)


def _forward(subject: _Subject) -> stages.Forward:
    """The function that prediction computes (see `trained.load`): the network without batch normalisation.

    For large batches the transforms of its kernels are computed beforehand.
    """
    _, tree, parts, recipe = subject

    def of(params: Any, stats: Any, images: jax.Array) -> tuple[Callable[..., jax.Array], tuple[Any, ...]]:
        module, variables = folding.fold(parts.module, {"params": params, "batch_stats": stats})
        variables = jax.device_put(variables, state.replicated(state.make_mesh()))
        if folding.pays(images.shape):
            variables = folding.transformed(module, variables, images.shape[1])
        fractions = jax.jit(lambda given, x: labels.activate(module.apply(given, x), recipe.activation, tree))
        return fractions, (variables, images)

    return of


def _task(subject: _Subject, batch: dict[str, np.ndarray], sizes: Sequence[int]) -> Task:
    """The task of the peers. The network has the weights that gz_jax's starts with."""
    config, tree, parts, _ = subject
    variables = state.initial_variables(parts.module, config.data.size, jax.random.key(config.seed))
    record = workdirs.Record(config, tree, "benchmark", None)
    network = Network(record, jax.device_get(variables), 0, {}, "benchmark", {})
    return Task(parts.module, network, batch, sizes, jax.default_backend())


def _against_peers(
    task: Task,
    config: ConfigDict,
    scratch: pathlib.Path,
    peers: Sequence[str],
    repeats: int,
    missing: list[str],
) -> tuple[dict[str, int], list[tuple[Stage, list[float]]]]:
    """Numbers of trainable parameters, which must agree, and the stages of gz_jax and of the peers, timed in turns."""
    ours = contest.contender(_own_stages, config, task.batch, task.sizes, str(scratch), our_memory=True)
    theirs = {name: contest.contender(peer_stages, name, task) for name in peers}
    parameters: dict[str, int] = {}
    rivals: list[Stage] = []
    with contextlib.ExitStack() as stack:
        for name, contender in ({"gz_jax": ours} | theirs).items():
            with _noted(name, missing):
                parameters[name], started = stack.enter_context(contender)
                rivals += started
        if len(set(parameters.values())) > 1:
            raise UserError(f"the peers' networks have other numbers of trainable parameters: {parameters}.")
        if "gz_jax" not in parameters or (len(parameters) < 2 and not task.sizes):
            return parameters, []
        # One kind of stage at a time, so that between two samples of a stage only the peers' same stage runs.
        kinds = itertools.groupby(sorted(rivals, key=_kind), key=_kind)
        try:
            return parameters, [pair for _, group in kinds for pair in measure(list(group), repeats)]
        except RuntimeError as error:
            raise UserError(f"one of {', '.join(parameters)} could not be timed to the end: {error}.") from error


def _own_stages(
    config: ConfigDict, batch: dict[str, np.ndarray], sizes: Sequence[int], scratch: str
) -> tuple[int | Stage, ...]:
    """As `peers.stages`, for gz_jax; `scratch` has the compilation cache."""
    with stages.fresh_compilation_cache(scratch):
        subject = _subject(config)
        current, contested, _ = _on_device(subject, batch, contested=True)
        others = stages.forward_stages(_forward(subject), current, batch["image"], sizes)
    return sum(x.size for x in jax.tree.leaves(current[0].params)), *contested, *others


def _kind(stage: Stage) -> str:
    return kind(stage.name)


def _is_real(config: ConfigDict) -> bool:
    return config.data.source == "galaxy_zoo" and bool(config.data.dir)


def _galaxies(subject: _Subject, count: int, folder: pathlib.Path) -> Split:
    """`count` galaxies as JPEG bytes, which are also written to `folder`/<galaxy_id>.jpg."""
    config, tree = subject.config, subject.tree
    if _is_real(config):
        train = resolve.dataset(config, tree).splits["train"]
        split = Split(min(count, train.size), train.read)
        records = split.read(np.arange(split.size))
        for galaxy_id, jpeg in zip(records["galaxy_id"], records["image"], strict=True):
            (folder / f"{galaxy_id}.jpg").write_bytes(jpeg)
        return split
    ids = np.arange(100_000, 100_000 + count)
    parameters, votes = synthetic.truth(ids[:DISTINCT], tree=tree, seed=config.data.seed)
    jpegs = []
    for image in render(parameters, size=config.data.image_size, field=synthetic.FULL_FIELD):
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=90)
        jpegs.append(buffer.getvalue())
    files = [folder / f"{galaxy_id}.jpg" for galaxy_id in ids]
    for file, jpeg in zip(files, itertools.cycle(jpegs), strict=False):
        file.write_bytes(jpeg)

    def read(rows: np.ndarray) -> dict[str, np.ndarray]:
        image = np.empty(len(rows), object)
        image[:] = [files[i].read_bytes() for i in rows]
        records = fraction_records(votes[rows % len(votes)].astype(np.float32))
        return {"galaxy_id": ids[rows], "image": image, **records}

    return Split(count, read)


def _batch(split: Split, view: View, size: int) -> dict[str, np.ndarray]:
    """One batch of the network's input, with the cutouts ('cutout') from which it is made."""
    records = split.read(np.arange(size) % split.size)
    cutouts = np.stack([packed.cut_out(jpeg, view.cutout) for jpeg in records["image"]])
    maps = np.broadcast_to(augment.affine(), (size, 2, 3))
    image = np.array(jax.jit(augment.warp, static_argnums=2)(cutouts, maps, view))
    return {**records, "image": image, "cutout": cutouts, "mask": np.ones(size, bool)}


def _epoch(how: str, subject: _Subject, split: Split, scratch: pathlib.Path, current: stages.Current) -> Stage:
    """The stage that trains for an epoch of these galaxies with the pipeline `how`."""
    config = subject.config.copy_and_resolve_references()
    config.data.pipeline, config.data.store = how, str(scratch / "store")
    dataset = Dataset({"train": split, "validation": split}, "benchmark", {}, tree=subject.tree)
    _, view, augmentation = subject.parts
    fed = resolve.feeding(config)
    data, steps = feed.feed(dataset, view, augmentation, subject.recipe, fed, state.make_mesh())
    return stages.epoch_stage(f"epoch ({how})", data, steps, current, config.batch_size)


def _network(subject: _Subject, train_state: state.TrainState, scratch: pathlib.Path) -> pathlib.Path:
    """A workdir that holds the network."""
    record = workdirs.Record(subject.config, subject.tree, "benchmark", None)
    workdir = workdirs.claim(scratch / "network", record)
    manager = checkpoint.open_manager(workdir / "checkpoints" / "best", keep=1)
    checkpoint.save(manager, 0, state.variables_of(train_state), {"val_loss": 0.0})
    manager.close()
    return workdir
