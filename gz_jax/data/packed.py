"""Decode every image of a split once and keep the uint8 cutouts, in memory or in a memory-mapped file.

What is kept is the network's own input where nothing is augmented (68 x 68 pixels: all of Kaggle's training galaxies
in 0.7 GB), else a cutout large enough for the augmentation. Pillow decodes; TensorFlow is not needed.
"""

import concurrent.futures
import io
import os
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from PIL import Image
from tqdm import tqdm

from gz_jax.data import augment
from gz_jax.data.augment import View
from gz_jax.data.split import Records, Split

CHUNK = 256


def cut_out(jpeg: bytes, cutout: int) -> np.ndarray:
    """The central `cutout` pixels of a JPEG: uint8 [cutout, cutout, 3]."""
    image = np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB"))
    top, left = (image.shape[0] - cutout) // 2, (image.shape[1] - cutout) // 2
    return image[top : top + cutout, left : left + cutout]


def pack(
    split: Split, view: View, *, final: bool, path: pathlib.Path | None = None, workers: int | None = None
) -> Split:
    """A split whose `read` returns uint8 images without decoding.

    Args:
      final: keep the network's input (warped once by the identity); else the `view.cutout` pixels of the source.
      path: a .npy file for the images, memory-mapped and kept for the next time; None holds them in memory.
      workers: decoding threads, by default one for each core.

    Returns:
      A split with the same galaxies in the same order; images uint8 [n, side, side, 3].
    """
    side = view.size if final else view.cutout
    shape = (split.size, side, side, 3)
    if split.size and split.read(np.array([0]))["image"].dtype != object:
        return split
    ids, votes = np.empty(split.size, np.int64), np.empty((split.size, 37), np.float32)
    extra = None if path is None else path.with_suffix(".labels.npz")
    if path is not None and path.exists() and extra.exists():
        with np.load(extra) as saved:
            return _split(np.load(path, mmap_mode="r"), saved["vote_fractions"], saved["galaxy_id"])
    temporary = None if path is None else path.with_name(f".{path.name}.{os.getpid()}")
    if temporary is None:
        images = np.empty(shape, np.uint8)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        images = np.lib.format.open_memmap(temporary, "w+", np.uint8, shape)
    for start, records in _decoded(split, view, final, workers or os.cpu_count() or 1):
        stop = start + len(records["galaxy_id"])
        images[start:stop], votes[start:stop] = records["image"], records["vote_fractions"]
        ids[start:stop] = records["galaxy_id"]
    if temporary is not None:
        images.flush()
        with open(extra.with_name(f".{extra.name}.{os.getpid()}"), "wb") as file:
            np.savez(file, vote_fractions=votes, galaxy_id=ids)
        os.replace(file.name, extra)
        os.replace(temporary, path)  # last: its presence says that all is whole
        images = np.load(path, mmap_mode="r")
    return _split(images, votes, ids)


def _decoded(split: Split, view: View, final: bool, workers: int) -> Iterator[tuple[int, Records]]:
    shrink = jax.jit(augment.warp, static_argnums=2)

    def work(start: int) -> tuple[int, Records]:
        records = split.read(np.arange(start, min(start + CHUNK, split.size)))
        images: Any = np.stack([cut_out(jpeg, view.cutout) for jpeg in records["image"]])
        if final:
            affines = np.broadcast_to(augment.affine(), (len(images), 2, 3))
            small = augment.box_mean(images, view)
            images = np.asarray(shrink(images, affines, view)) if small is None else small
        return start, {**records, "image": images}

    with (
        concurrent.futures.ThreadPoolExecutor(workers) as pool,
        tqdm(
            total=split.size,
            desc="decoding",
            unit="image",
            mininterval=0.5 if sys.stderr.isatty() else 30,
            disable=jax.process_index() > 0,
        ) as bar,
    ):
        starts = iter(range(0, split.size, CHUNK))
        pending = {pool.submit(work, s) for _, s in zip(range(2 * workers), starts, strict=False)}
        while pending:
            done, pending = concurrent.futures.wait(pending, return_when=concurrent.futures.FIRST_COMPLETED)
            for future in done:
                yield future.result()
                bar.update(len(future.result()[1]["galaxy_id"]))
                pending |= {pool.submit(work, s) for s in [next(starts, None)] if s is not None}


def _split(images: np.ndarray, votes: np.ndarray, ids: np.ndarray) -> Split:
    def read(index: np.ndarray) -> Records:
        return {"image": images[index], "vote_fractions": votes[index], "galaxy_id": ids[index]}

    return Split(len(ids), read)
