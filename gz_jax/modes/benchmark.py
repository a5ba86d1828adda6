"""`--mode=benchmark`: each stage of a config timed alone and together, beside the hardware's limits and the peers."""

import contextlib
import functools
import importlib.metadata
import io
import itertools
import os
import pathlib
import platform
import resource
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from jax.experimental.compilation_cache import compilation_cache
from ml_collections import ConfigDict
from PIL import Image

from gz_jax import fields, resolve
from gz_jax.benchmark import contest, report, roofline, stages
from gz_jax.benchmark.timing import Stage, measure
from gz_jax.data import augment, packed, synthetic, tensorflow_cpu
from gz_jax.data.augment import View
from gz_jax.data.split import Dataset, Split, fraction_records
from gz_jax.data.synthetic_render import render
from gz_jax.labels import Tree
from gz_jax.resolve import Parts
from gz_jax.runtime.errors import UserError, first_line
from gz_jax.runtime.files import atomic, write_json
from gz_jax.training import checkpoint, dispatch, feed, state, step
from gz_jax.training import workdir as workdirs

DISTINCT = 64  # synthetic galaxies; the files repeat them
PEERS = ("torch", "torch.compile", "torch.max-autotune", "keras")
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "pillow", "tensorflow-cpu", "tensorflow", "keras", "torch")


def benchmark(config: ConfigDict, outdir: str, *, peers: Sequence[str] = (), repeats: int = 7) -> int:
    """Time everything, print the tables, write benchmark.json and benchmark.md into `outdir`.

    Weights are random, and galaxies synthetic unless config.data.dir says where real ones are. What cannot be
    measured here is said under "Not measured".

    Raises:
      UserError: an unknown peer, too few repeats, or a config that cannot work.
    """
    if unknown := set(peers) - set(PEERS):
        raise UserError(f"--peers={unknown.pop()} must be of {', '.join(PEERS)}.")
    if repeats < 1:
        raise UserError(f"--repeats={repeats} must be at least 1.")
    if peers:
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # they share the device's memory
    if config.data.source == "catalogue":
        raise UserError("--mode=benchmark times Kaggle's files, or synthetic ones: add --config.data.source=synthetic.")
    resolve.check(config, jax.device_count())
    if peers and jax.device_count() > 1:
        raise UserError("--peers run on one device: let JAX see one alone (CUDA_VISIBLE_DEVICES=0).")
    plain = {"loss": "mse", "weight_decay": 0.0, "average": 0.0, "model.frozen_statistics": False}
    if peers and (other := [name for name, value in plain.items() if fields.flatten(config)[name] != value]):
        raise UserError(
            f"--peers train by mean squared error and plain Adam: leave --config.{other[0]} at {plain[other[0]]}."
        )
    pathlib.Path(outdir).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch, _fresh_compilation_cache(scratch):
        found = _measure(config, pathlib.Path(scratch), peers, repeats)
    text = report.text(found)
    with atomic(pathlib.Path(outdir) / "benchmark.md") as file:
        file.write(text)
    write_json(pathlib.Path(outdir) / "benchmark.json", found)
    print(f"{text}\n{pathlib.Path(outdir) / 'benchmark.json'}")
    return 0


class _Subject(NamedTuple):
    """What is timed: a config, and what it says."""

    config: ConfigDict
    tree: Tree
    parts: Parts
    recipe: step.Recipe


def _subject(config: ConfigDict) -> _Subject:
    tree = resolve.tree(config)
    parts = resolve.parts(config, tree)
    return _Subject(config, tree, parts, resolve.recipe(config, tree, parts.module, 100))


def _measure(config: ConfigDict, scratch: pathlib.Path, peers: Sequence[str], repeats: int) -> dict[str, Any]:
    subject = _subject(config)
    module, view, augmentation = subject.parts
    missing: list[str] = []
    # One batch: where it can never fit, that is said before its files are made.
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
    parameters, rounds = _against_peers(config, module, batch, scratch, peers, repeats, missing)
    against = [report.row(stage._replace(cost=costs.get(stage.name)), samples, ceilings) for stage, samples in rounds]
    return {
        **_circumstances(),
        "config": fields.flatten(config),
        "data": config.data.dir if _is_real(config) else "synthetic",
        "parameters": parameters,
        "ceilings": ceilings._asdict(),
        "compile_seconds": compiling,
        "peak_bytes": memory,
        "stages": [report.row(stage, samples, ceilings) for stage, samples in timed],
        "peer_samples": against,
        "peers": report.peer_rows(against, [name for name in parameters if name != "gz_jax"]),
        "missing": missing,
    }


def _uncounted(device: Sequence[Stage]) -> list[str]:
    """A line where JAX does not count what these stages compute, as on GPUs."""
    if all(stage.cost for stage in device if stage.name != "host to device"):
        return []
    return [f"part of the roofline: JAX counts no operations for {jax.devices()[0].device_kind}"]


@contextlib.contextmanager
def _noted(name: str, missing: list[str]) -> Iterator[None]:
    """What goes wrong in the block, as where a package is not installed, becomes a line in `missing`."""
    try:
        yield
    except Exception as error:  # of peers: no compiler, no memory, no such device
        missing.append(f"{name}: {first_line(error)}")


def _on_device(
    subject: _Subject, batch: dict[str, np.ndarray], contested: bool = False
) -> tuple[stages.Current, list[Stage], dict[str, dict[str, float]]]:
    """A fresh state, and `stages.device_stages` with it."""
    config, tree, parts, recipe = subject
    mesh = state.make_mesh()
    variables = state.initial_variables(parts.module, config.data.size, jax.random.key(config.seed))
    steps = dispatch.compile_steps(recipe, config.seed, mesh)
    fresh = state.start(variables, recipe.optimizer, mesh, average=config.average > 0)
    current = [state.with_rate(fresh, config.learning_rate)]
    predict = functools.partial(step.predict_step, apply=recipe.apply, activation=recipe.activation, tree=tree)
    return current, *stages.device_stages(steps, current, predict, parts.view, batch, contested)


def _against_peers(
    config: ConfigDict,
    module: nn.Module,
    batch: dict[str, np.ndarray],
    scratch: pathlib.Path,
    peers: Sequence[str],
    repeats: int,
    missing: list[str],
) -> tuple[dict[str, int], list[tuple[Stage, list[float]]]]:
    """Numbers of trainable parameters, which must agree, and our stages timed in turns with the peers'."""
    ours = contest.contender(_own_stages, config, batch, str(scratch), our_memory=True)
    backend = jax.default_backend()
    theirs = {name: contest.contender(peer_stages, name, module, batch, backend) for name in peers}
    parameters: dict[str, int] = {}
    rivals: list[Stage] = []
    with contextlib.ExitStack() as stack:
        for name, contender in ({"gz_jax": ours} | theirs).items() if peers else ():
            with _noted(name, missing):
                parameters[name], started = stack.enter_context(contender)
                rivals += started
        if len(set(parameters.values())) > 1:
            raise UserError(f"the peers are other networks, by their numbers of trainable parameters: {parameters}.")
        if len(parameters) < 2 or "gz_jax" not in parameters:
            return parameters, []
        # One kind at a time, so that nothing but its rivals comes between two samples of a stage.
        kinds = itertools.groupby(sorted(rivals, key=_kind), key=_kind)
        return parameters, [pair for _, group in kinds for pair in measure(list(group), repeats)]


def _own_stages(config: ConfigDict, batch: dict[str, np.ndarray], scratch: str) -> tuple[int, Stage, Stage]:
    """As `peer_stages`, of ours; `scratch` has what was compiled already."""
    with _fresh_compilation_cache(scratch):
        current, (forward, train), _ = _on_device(_subject(config), batch, contested=True)
    return sum(x.size for x in jax.tree.leaves(current[0].params)), forward, train


def _kind(stage: Stage) -> str:
    return stage.name.split(",")[0]


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
        labels = fraction_records(votes[rows % len(votes)].astype(np.float32))
        return {"galaxy_id": ids[rows], "image": image, **labels}

    return Split(count, read)


def _batch(split: Split, view: View, size: int) -> dict[str, np.ndarray]:
    """One batch of the network's input, and beside it the cutouts ('cutout') that it is warped from."""
    records = split.read(np.arange(size) % split.size)
    cutouts = np.stack([packed.cut_out(jpeg, view.cutout) for jpeg in records["image"]])
    maps = np.broadcast_to(augment.affine(), (size, 2, 3))
    image = np.array(jax.jit(augment.warp, static_argnums=2)(cutouts, maps, view))
    return {**records, "image": image, "cutout": cutouts, "mask": np.ones(size, bool)}


def _epoch(how: str, subject: _Subject, split: Split, scratch: pathlib.Path, current: stages.Current) -> Stage:
    """An epoch of these galaxies by the pipeline `how`."""
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
    checkpoint.save(manager, 0, state.to_use(train_state), {"val_loss": 0.0})
    manager.close()
    return workdir


def peer_stages(name: str, module: Any, batch: dict[str, np.ndarray], backend: str) -> tuple[int, Stage, Stage]:
    """A peer's number of trainable parameters, forward pass and train step; ImportError where it is not installed.

    `backend` is JAX's name of the kind of device.
    """
    if name == "keras":
        if backend != "cpu":
            raise ImportError("TensorFlow is used on the CPU alone here")
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # as Keras' users have it; before TensorFlow is loaded
        tensorflow_cpu.import_tensorflow()
        from gz_jax.benchmark import keras_peer

        return keras_peer.stages(module, batch)
    from gz_jax.benchmark import torch_peer

    return torch_peer.stages(name, module, batch, {"gpu": "cuda"}.get(backend, backend))


@contextlib.contextmanager
def _fresh_compilation_cache(scratch: str) -> Iterator[None]:
    """What is compiled meanwhile is kept below `scratch`, which is empty at first."""

    def use(settings: dict[str, Any]) -> None:
        for name, value in settings.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()

    new = {"jax_compilation_cache_dir": f"{scratch}/xla", "jax_persistent_cache_min_compile_time_secs": 0.0}
    old = {name: getattr(jax.config, name) for name in new}
    use(new)
    try:
        yield
    finally:
        use(old)


def _circumstances() -> dict[str, Any]:
    """Versions, device and machine."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    device = jax.devices()[0]
    return {
        "versions": versions,
        "device": {"kind": device.device_kind, "count": jax.device_count(), "platform": device.platform},
        "host": {
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "machine": platform.platform(),
            "load": [round(x, 1) for x in os.getloadavg()],
        },
    }
