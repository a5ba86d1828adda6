"""The stages of training and prediction, each as a function to be timed."""

import functools
import itertools
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gz_jax.benchmark import roofline
from gz_jax.benchmark.timing import Stage, seconds
from gz_jax.data import augment, packed, pipeline, tensorflow_cpu
from gz_jax.data.augment import Augmentation, View
from gz_jax.data.split import Split
from gz_jax.training import dispatch, state

CONTESTED = ("forward", "train step")
Current = list[state.TrainState]  # of one element: a train step takes its memory, and the new state is put there


def device_stages(
    steps: dispatch.Steps,
    current: Current,
    predict: Callable[..., jax.Array],
    view: View,
    batch: dict[str, np.ndarray],
    contested: bool = False,
) -> tuple[list[Stage], dict[str, dict[str, float]]]:
    """What runs on the accelerator, and how many seconds each takes to compile.

    Args:
      predict: (params, batch_stats, images) to vote fractions.
      batch: of a train step, with the cutouts uint8 [B, C, C, 3] that its images are warped from.
      contested: only what peers do, too.
    """
    params, stats = jax.tree.map(jnp.copy, (current[0].params, current[0].batch_stats))
    on_device, split = steps.put(batch), state.by_galaxy(state.make_mesh())
    maps = augment.draw(Augmentation(rotate=True), 0, 0, batch["galaxy_id"])
    size, warp = len(batch["image"]), jax.jit(functools.partial(augment.warp, view=view))
    functions: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
        "warp (JAX)": (warp, jax.device_put((batch["cutout"], maps), split)),
        "forward": (jax.jit(predict), (params, stats, on_device["image"])),
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

    def repeat(jitted: Callable[..., Any], arguments: tuple[Any, ...], n: int) -> None:
        for _ in range(n):
            result = jitted(*arguments)
        jax.block_until_ready(result)

    stages = [] if contested else [Stage("host to device", size, put)]
    compiling: dict[str, dict[str, float]] = {}
    for name in CONTESTED if contested else functions:
        jitted, arguments = functions[name]
        cost, compiling[name] = compile_twice(jitted, *arguments)
        call = train if name == "train step" else functools.partial(repeat, jitted, arguments)
        stages.append(Stage(name, size, call, cost))
    return stages, compiling


def compile_twice(jitted: Any, *arguments: Any) -> tuple[roofline.Cost | None, dict[str, float]]:
    """A function's cost, and seconds until it can run: {'cold', 'warm': from the compilation cache on disk}."""
    times, made = {}, []
    for name in ("cold", "warm"):
        times[name] = seconds(lambda: made.append((low := jitted.lower(*arguments), low.compile())))
        jax.clear_caches()
    return roofline.cost(*made[0]), times


def decode_stage(split: Split, view: View) -> Stage:
    """Pillow, one thread."""
    jpegs = split.read(np.arange(min(64, split.size)))["image"]
    return Stage(
        "decode (Pillow, one thread)",
        len(jpegs),
        lambda n: [packed.cut_out(jpeg, view.cutout) for _ in range(n) for jpeg in jpegs],
    )


def tensorflow_stages(split: Split, view: View, augmentation: Augmentation, batch_size: int) -> list[Stage]:
    """tf.data alone: decoding, warping, and both as in training from files."""
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
    """Training as `--mode=train` does it, inputs made and sent while the steps run."""
    next(iter(data.train(0, 0)))  # an ImportError comes now

    def epoch(n: int) -> None:
        for number in range(n):
            for _, put in dispatch.prefetch(lambda pair: (pair[0], steps.put(pair[1])), data.train(number, 0)):
                current[0], loss = steps.train(current[0], put)
        loss.block_until_ready()

    return Stage(name, data.steps_per_epoch * batch_size, epoch)


def predict_stage(workdir: pathlib.Path, images: pathlib.Path, crop: float) -> Stage:
    """`--mode=predict` of a folder of JPEGs, tables written (below `workdir`)."""
    from gz_jax.inference import trained
    from gz_jax.inference.predict import predict_catalogue

    network, number = trained.load(workdir), itertools.count()

    def predict(n: int) -> None:
        for _ in range(n):
            predict_catalogue(images, workdir / f"predictions{next(number)}", [network], crop=crop, progress=False)

    return Stage("predict from files", len(list(images.iterdir())), predict)
