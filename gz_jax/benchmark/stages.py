"""The stages of training and prediction, each as a function to be timed."""

import contextlib
import functools
import itertools
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.compilation_cache import compilation_cache

from gz_jax.benchmark import roofline
from gz_jax.benchmark.peers import forward_batches
from gz_jax.benchmark.timing import Stage, seconds
from gz_jax.data import augment, packed, pipeline, tensorflow_cpu
from gz_jax.data.augment import Augmentation, View
from gz_jax.data.split import Split
from gz_jax.training import dispatch, state

CONTESTED = ("forward", "train step")
# From (params, batch_stats, images on the device): a jitted function that gives vote fractions, and its arguments.
Forward = Callable[[Any, Any, jax.Array], tuple[Callable[..., jax.Array], tuple[Any, ...]]]
Current = list[state.TrainState]  # one element: each train step replaces it, since the step reuses its memory


def device_stages(
    steps: dispatch.Steps,
    current: Current,
    forward: Forward,
    view: View,
    batch: dict[str, np.ndarray],
    contested: bool = False,
) -> tuple[list[Stage], dict[str, dict[str, float]]]:
    """The stages on the device, and how many seconds each takes to compile.

    Args:
      batch: batch of a train step, with the cutouts uint8 [B, C, C, 3] from which its images are made.
      contested: only the stages that peers have, too.
    """
    params, stats = jax.tree.map(jnp.copy, (current[0].params, current[0].batch_stats))
    on_device, split = steps.put(batch), state.by_galaxy(state.make_mesh())
    maps = augment.draw(Augmentation(rotate=True), 0, 0, batch["galaxy_id"])
    size, warp = len(batch["image"]), jax.jit(functools.partial(augment.warp, view=view))
    functions: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
        "warp (JAX)": (warp, jax.device_put((batch["cutout"], maps), split)),
        "forward": forward(params, stats, on_device["image"]),
        "evaluation step": (steps.evaluate, (params, stats, on_device)),
        "train step": (steps.train, (current[0], on_device)),
    }

    def put(n: int) -> None:
        for _ in range(n):
            jax.block_until_ready(steps.put(batch))

    def train(n: int) -> None:
        for _ in range(n):
            current[0], loss = steps.train(current[0], on_device)
        loss.block_until_ready()

    stages = [] if contested else [Stage("host to device", size, put)]
    compiling: dict[str, dict[str, float]] = {}
    for name in CONTESTED if contested else functions:
        jitted, arguments = functions[name]
        cost, compiling[name] = compile_twice(jitted, *arguments)
        call = train if name == "train step" else functools.partial(_repeat, jitted, arguments)
        stages.append(Stage(name, size, call, cost))
    return stages, compiling


def forward_stages(forward: Forward, current: Current, images: np.ndarray, sizes: Sequence[int]) -> list[Stage]:
    """Stages of the forward pass at other batch sizes than that of `images`, named by `peers.forward_batches`."""
    params, stats = jax.tree.map(jnp.copy, (current[0].params, current[0].batch_stats))
    split, batches = state.by_galaxy(state.make_mesh()), forward_batches(images, sizes)
    return [
        Stage(name, len(batch), functools.partial(_repeat, *forward(params, stats, jax.device_put(batch, split))))
        for name, batch in batches.items()
        if name not in CONTESTED
    ]


def _repeat(jitted: Callable[..., Any], arguments: tuple[Any, ...], n: int) -> None:
    """Call n times. On CPU each call is waited for, as ONNX Runtime does; elsewhere only the last, as for PyTorch."""
    waits = jax.default_backend() == "cpu"
    for _ in range(n):
        result = jitted(*arguments)
        if waits:
            jax.block_until_ready(result)
    jax.block_until_ready(result)


def compile_twice(jitted: Any, *arguments: Any) -> tuple[roofline.Cost | None, dict[str, float]]:
    """A function's cost, and seconds until it can run: {'cold', 'warm': from the compilation cache on disk}."""
    times, made = {}, []
    for name in ("cold", "warm"):
        times[name] = seconds(lambda: made.append((low := jitted.lower(*arguments), low.compile())))
        jax.clear_caches()
    return roofline.cost(*made[0]), times


@contextlib.contextmanager
def fresh_compilation_cache(scratch: str) -> Iterator[None]:
    """In this block the compilation cache is a folder in `scratch`, which is empty at first."""

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


def decode_stage(split: Split, view: View) -> Stage:
    """Decoding with Pillow on one thread."""
    jpegs = split.read(np.arange(min(64, split.size)))["image"]
    return Stage(
        "decode (Pillow, one thread)",
        len(jpegs),
        lambda n: [packed.cut_out(jpeg, view.cutout) for _ in range(n) for jpeg in jpegs],
    )


def tensorflow_stages(split: Split, view: View, augmentation: Augmentation, batch_size: int) -> list[Stage]:
    """tf.data alone: decoding, rotating and resizing ("warp"), and both as in training from files."""
    tensorflow_cpu.import_tensorflow()
    side = view.cutout
    cutouts = packed.pack(split, view, final=False).split()
    decoded = (split, View(side, side, side), Augmentation())
    warped, both = (cutouts, view, augmentation), (split, view, augmentation)

    def drain(arguments: tuple[Any, ...], n: int) -> None:
        for epoch in range(n):
            for _ in pipeline.train_batches(*arguments, batch_size=batch_size, seed=0, epoch=epoch):
                pass

    which = {"decode (tf.data)": decoded, "warp (tf.data)": warped, "decode and warp (tf.data)": both}
    return [Stage(name, split.size, functools.partial(drain, arguments)) for name, arguments in which.items()]


def epoch_stage(name: str, data: dispatch.Data, steps: dispatch.Steps, current: Current, batch_size: int) -> Stage:
    """Training as in `--mode=train`: inputs are prepared and sent while the steps run."""
    next(iter(data.train(0, 0)))  # so that an ImportError is raised now

    def epoch(n: int) -> None:
        for number in range(n):
            for _, put in dispatch.prefetch(lambda pair: (pair[0], steps.put(pair[1])), data.train(number, 0)):
                current[0], loss = steps.train(current[0], put)
        loss.block_until_ready()

    return Stage(name, data.steps_per_epoch * batch_size, epoch)


def predict_stage(workdir: pathlib.Path, images: pathlib.Path, crop: float) -> Stage:
    """`--mode=predict` for a folder of JPEGs, with the tables written into `workdir`."""
    from gz_jax.inference import trained
    from gz_jax.inference.predict import predict_catalogue

    network, number = trained.load(workdir), itertools.count()

    def predict(n: int) -> None:
        for _ in range(n):
            predict_catalogue(images, workdir / f"predictions{next(number)}", [network], crop=crop, progress=False)

    return Stage("predict from files", len(list(images.iterdir())), predict)
