"""`--mode=benchmark`: each stage of a config timed alone and together, beside the hardware's limits and the peers."""

import contextlib
import functools
import importlib.metadata
import io
import itertools
import os
import pathlib
import platform
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

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
from gz_jax.data.split import Dataset, Split
from gz_jax.data.synthetic_render import render
from gz_jax.labels import Tree
from gz_jax.resolve import Parts
from gz_jax.runtime.errors import UserError
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
    resolve.check(config, jax.device_count())
    if peers and jax.device_count() > 1:
        raise UserError("--peers run on one device: let JAX see one alone (CUDA_VISIBLE_DEVICES=0).")
    plain = {"loss": "mse", "weight_decay": 0.0, "average": 0.0, "model.frozen_statistics": False}
    if peers and (other := [name for name, value in plain.items() if fields.flatten(config)[name] != value]):
        raise UserError(
            f"--peers train by mean squared error and plain Adam: leave --config.{other[0]} at {plain[other[0]]}."
        )
    if jax.process_count() > 1:
        raise UserError("--mode=benchmark times one process.")
    pathlib.Path(outdir).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch, _fresh_compilation_cache(scratch):
        found = _measure(config, pathlib.Path(scratch), peers, repeats)
    text = report.text(found)
    with atomic(pathlib.Path(outdir) / "benchmark.md") as file:
        file.write(text)
    write_json(pathlib.Path(outdir) / "benchmark.json", found)
    print(f"{text}\n{pathlib.Path(outdir) / 'benchmark.json'}")
    return 0


def _measure(config: ConfigDict, scratch: pathlib.Path, peers: Sequence[str], repeats: int) -> dict[str, Any]:
    tree = resolve.tree(config)
    parts = resolve.parts(config, tree)
    missing: list[str] = []
    # One batch: where it can never fit, that is said before its files are made.
    np.empty((config.batch_size, config.data.size, config.data.size, 3), np.float32)
    batches = 4 if jax.default_backend() == "cpu" else 64  # of an epoch, here
    (scratch / "images").mkdir()
    split = galaxies(config, tree, batches * config.batch_size, scratch / "images")
    ceilings = roofline.ceilings(config.model.dtype)
    batch = _batch(split, parts.view, config.batch_size)
    current, device, compiling = _on_device(config, tree, parts, batch)
    groups: dict[str, Callable[[], list[Stage]]] = {
        "decode with Pillow": lambda: [stages.decode_stage(split, parts.view)],
        "tf.data": lambda: stages.tensorflow_stages(split, parts.view, parts.augmentation, config.batch_size),
        "on the device": lambda: device,
        **{
            f"epoch ({how})": functools.partial(_epoch, how, config, tree, split, parts, scratch, current)
            for how in dict.fromkeys((config.data.pipeline, "device"))
        },
        "predict from files": lambda: [
            stages.predict_stage(_network(config, tree, current[0], scratch), scratch / "images", config.data.crop)
        ],
    }
    timed = measure([stage for name, make in groups.items() for stage in _available(name, make, missing)], repeats)
    memory = {"host": _host_peak(), "device": _device_peak()}
    costs = {stage.name: stage.cost for stage in device}
    parameters, rounds = _against_peers(config, tree, parts.module, batch, scratch, peers, repeats, missing)
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


def _on_device(
    config: ConfigDict, tree: Tree, parts: Parts, batch: dict[str, np.ndarray], contested: bool = False
) -> tuple[stages.Current, list[Stage], dict[str, dict[str, float]]]:
    """A fresh state, and `stages.device_stages` with it."""
    recipe = resolve.recipe(config, tree, parts.module, 100)
    steps, current = start(config, parts.module, recipe)
    predict = functools.partial(step.predict_step, apply=recipe.apply, activation=recipe.activation, tree=tree)
    return current, *stages.device_stages(steps, current, predict, parts.view, batch, contested)


def _against_peers(
    config: ConfigDict,
    tree: Tree,
    module: nn.Module,
    batch: dict[str, np.ndarray],
    scratch: pathlib.Path,
    peers: Sequence[str],
    repeats: int,
    missing: list[str],
) -> tuple[dict[str, int], list[tuple[Stage, list[float]]]]:
    """Numbers of trainable parameters, which must agree, and our stages timed in turns with the peers'."""
    parameters, rivals = {}, []
    with contextlib.ExitStack() as stack:
        for name in ("gz_jax", *peers) if peers else ():
            if name == "gz_jax":
                make = functools.partial(
                    contest.contender, _own_stages, config, tree, batch, str(scratch), our_memory=True
                )
            else:
                how = (name, module, batch, jax.default_backend())
                make = functools.partial(contest.contender, peer_stages, *how, our_memory=False)
            for one in _available(name, functools.partial(_entered, stack, make), missing):
                parameters[name] = one.parameters
                rivals += one.stages
        if len(set(parameters.values())) > 1:
            raise UserError(f"the peers are other networks, by their numbers of trainable parameters: {parameters}.")
        if len(parameters) < 2 or "gz_jax" not in parameters:
            return parameters, []
        # One kind at a time, so that nothing but its rivals comes between two samples of a stage.
        kinds = itertools.groupby(sorted(rivals, key=_kind), key=_kind)
        return parameters, [pair for _, group in kinds for pair in measure(list(group), repeats)]


def _entered(stack: contextlib.ExitStack, make: Callable[[], Any]) -> list[Any]:
    return [stack.enter_context(make())]


def _own_stages(config: ConfigDict, tree: Tree, batch: dict[str, np.ndarray], scratch: str) -> tuple[int, Stage, Stage]:
    """As `peer_stages`, of ours; `scratch` has what was compiled already."""
    with _fresh_compilation_cache(scratch):
        current, found, _ = _on_device(config, tree, resolve.parts(config, tree), batch, contested=True)
    return sum(x.size for x in jax.tree.leaves(current[0].params)), *found


def _kind(stage: Stage) -> str:
    return stage.name.split(",")[0]


def _available(name: str, make: Callable[[], list[Any]], missing: list[str]) -> list[Any]:
    """What `make` makes, or nothing and a line in `missing` where a package is not installed or fails."""
    try:
        return make()
    except Exception as error:  # of peers: no compiler, no memory, no such device
        missing.append(f"{name}: {next(iter(str(error).splitlines()), type(error).__name__)}")
        return []


def _is_real(config: ConfigDict) -> bool:
    return config.data.source == "galaxy_zoo" and bool(config.data.dir)


def galaxies(config: ConfigDict, tree: Tree, count: int, folder: pathlib.Path) -> Split:
    """`count` galaxies as JPEG bytes, which are also written to `folder`/<galaxy_id>.jpg."""
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
        return {"galaxy_id": ids[rows], "vote_fractions": votes[rows % len(votes)].astype(np.float32), "image": image}

    return Split(count, read)


def _batch(split: Split, view: View, size: int) -> dict[str, np.ndarray]:
    """One batch of the network's input, and beside it the cutouts ('cutout') that it is warped from."""
    records = split.read(np.arange(size) % split.size)
    cutouts = np.stack([packed.cut_out(jpeg, view.cutout) for jpeg in records["image"]])
    maps = np.broadcast_to(augment.affine(), (size, 2, 3))
    image = np.array(jax.jit(augment.warp, static_argnums=2)(cutouts, maps, view))
    return {**records, "image": image, "cutout": cutouts, "mask": np.ones(size, bool)}


def start(config: ConfigDict, module: nn.Module, recipe: step.Recipe) -> tuple[dispatch.Steps, stages.Current]:
    """The jitted steps, and a fresh state."""
    mesh = state.make_mesh()
    variables = state.initial_variables(module, config.data.size, jax.random.key(config.seed))
    steps = dispatch.compile_steps(recipe, config.seed, mesh)
    fresh = state.start(variables, recipe.optimizer, mesh, average=config.average > 0)
    return steps, [state.with_rate(fresh, config.learning_rate)]


def _epoch(
    how: str,
    config: ConfigDict,
    tree: Tree,
    split: Split,
    parts: Parts,
    scratch: pathlib.Path,
    current: stages.Current,
) -> list[Stage]:
    """An epoch of these galaxies by the pipeline `how`."""
    config = config.copy_and_resolve_references()
    config.data.pipeline, config.data.store = how, str(scratch / "store")
    dataset = Dataset({"train": split, "validation": split}, "benchmark", {}, tree=tree)
    recipe = resolve.recipe(config, tree, parts.module, 100)
    how_fed = resolve.feeding(config)
    data, steps = feed.feed(dataset, parts.view, parts.augmentation, recipe, how_fed, state.make_mesh())
    return [stages.epoch_stage(f"epoch ({how})", data, steps, current, config.batch_size)]


def _network(config: ConfigDict, tree: Tree, train_state: state.TrainState, scratch: pathlib.Path) -> pathlib.Path:
    """A workdir that holds the network."""
    workdir = workdirs.claim(scratch / "network", workdirs.Record(config, tree, "benchmark", None))
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


def _host_peak() -> int | None:
    """Largest resident memory of this process so far, in bytes."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if platform.system() == "Darwin" else 1024)


def _device_peak() -> int | None:
    return (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


def _circumstances() -> dict[str, Any]:
    """Versions, device and machine."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    load = [round(x, 1) for x in os.getloadavg()] if hasattr(os, "getloadavg") else None
    device = jax.devices()[0]
    return {
        "versions": versions,
        "device": {"kind": device.device_kind, "count": jax.device_count(), "platform": device.platform},
        "host": {
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "machine": platform.platform(),
            "load": load,
        },
    }
