"""Decode every image of a split once and keep the uint8 cutouts, in memory or in a memory-mapped file.

Without augmentation, the network's input itself is kept (68 x 68 pixels: 0.7 GB for all of Kaggle's training galaxies).
With augmentation, a larger cutout is kept. Pillow decodes; TensorFlow is not needed.
"""

import concurrent.futures
import functools
import io
import os
import pathlib
import shutil
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from gz_jax.data import look
from gz_jax.data.augment import View
from gz_jax.data.image_file import ImageFile
from gz_jax.data.split import Records, Split
from gz_jax.runtime import files, lock
from gz_jax.runtime.errors import UserError
from gz_jax.runtime.progress import Bar

CHUNK = 1024


class Packed(NamedTuple):
    """A split as arrays, in its order.

    image: uint8 [n, side, side, 3], perhaps memory-mapped; vote_fractions, votes: float32 [n, answers];
    galaxy_id: int64 [n].
    """

    image: np.ndarray
    vote_fractions: np.ndarray
    votes: np.ndarray
    galaxy_id: np.ndarray

    def split(self) -> Split:
        """The same galaxies, read by index."""
        return Split(len(self.galaxy_id), lambda index: {name: a[index] for name, a in self._asdict().items()})


def cut_out(jpeg: bytes, cutout: int) -> np.ndarray:
    """The central `cutout` pixels of a JPEG, or all of a smaller one: uint8 [cutout, cutout, 3]."""
    image = _pixels(jpeg)
    top, left = (max(0, (side - cutout) // 2) for side in image.shape[:2])
    return image[top : top + cutout, left : left + cutout]


def _pixels(jpeg: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB"))


def decoded(split: Split, view: View, *, final: bool, turned: bool = False, workers: int | None = None) -> Split:
    """The split with images as uint8 [n, side, side, 3], decoded by `workers` threads as they are read.

    Args:
      final: the network's input (`look.see`); else the `view.cutout` pixels of the source.
      turned: with `final`, the input and the same turned by 45 degrees, uint8 [n, 2, side, side, 3]. Images that are
        arrays already are at the network's size: they are turned as they are, and their rims repeated.
      workers: by default one for each core.
    """
    encoded = is_encoded(split)
    if not encoded and not turned:
        return split
    pool = concurrent.futures.ThreadPoolExecutor(workers or os.cpu_count() or 1)

    def small(image: Any) -> np.ndarray:
        if not encoded:
            return look.cutouts(image, view.size, view.size, turned)
        if isinstance(image, ImageFile):
            around = None if final else (view.cutout, view.crop)
            return image.see(size=view.size, turned=turned, around=around)
        return look.cutouts(_pixels(image), view.crop, view.size, turned) if final else cut_out(image, view.cutout)

    def read(index: np.ndarray) -> Records:
        records = split.read(index)
        return {**records, "image": np.stack(list(pool.map(small, records["image"])))}

    return split._replace(read=read)


def is_encoded(split: Split) -> bool:
    """Whether the images of a split are files that have not been decoded."""
    return split.size > 0 and split.read(np.array([0]))["image"].dtype == object


def pack(split: Split, view: View, *, final: bool, path: pathlib.Path | None = None) -> Packed:
    """Every galaxy of a split, decoded.

    Args:
      final: see `decoded`; images that are arrays already stay as they are.
      path: a .npy file for the images, memory-mapped and kept for the next time; None holds them in memory.

    Raises:
      UserError: the disk cannot hold the file, or what is there is another.
    """
    side = view.size if final else view.cutout
    shape, answers = (split.size, side, side, 3), split.read(np.arange(0))["vote_fractions"].shape[1]
    if path is not None and _is_whole(path):
        return _kept(path, shape, answers)
    if not is_encoded(split):
        records = split.read(np.arange(split.size))
        return Packed(*(records[name] for name in Packed._fields))
    fill = functools.partial(_fill, decoded(split, view, final=final), answers)
    if path is None:
        return fill(np.empty(shape, np.uint8))
    with lock.waited_for(path.parent):
        if not _is_whole(path):  # another process may have decoded them while we waited
            _keep(path, shape, fill)
    return _kept(path, shape, answers)


def _keep(path: pathlib.Path, shape: tuple[int, ...], fill: Callable[[np.ndarray], Packed]) -> None:
    """Fill a file for the images and one for the rest; what a killed process left of them is overwritten."""
    temporary = [file.with_name(f".{file.name}.partial") for file in (path, _labels(path))]
    files.unfinished.update(map(os.fspath, temporary))
    try:
        needed, free = float(np.prod(shape)), shutil.disk_usage(path.parent).free
        if needed > free:
            raise UserError(
                f"the decoded cutouts need {needed / 1e9:.1f} GB and {path.parent} has {free / 1e9:.1f}: make room, "
                "choose another --config.data.store, or stream the images: --config.data.pipeline=stream"
            )
        size = f"{needed / 1e9:.2g} GB in {path.parent}"
        print(f"decoding {shape[0]:,} images, once: {size}", file=sys.stderr, flush=True)
        images = np.lib.format.open_memmap(temporary[0], "w+", np.uint8, shape)
        packed = fill(images)
        images.flush()
        with open(temporary[1], "wb") as rest:
            np.savez(rest, **{name: array for name, array in packed._asdict().items() if name != "image"})
        os.replace(temporary[1], _labels(path))
        os.replace(temporary[0], path)  # last: this file is there only if everything is complete
    except OSError as error:
        raise UserError(f"cannot keep decoded cutouts in {path.parent}: {error.strerror}") from error
    finally:
        for file in temporary:
            file.unlink(missing_ok=True)
            files.unfinished.discard(os.fspath(file))


def _kept(path: pathlib.Path, shape: tuple[int, ...], answers: int) -> Packed:
    """What `pack` wrote. Nothing is unpickled."""
    try:
        images = np.load(path, mmap_mode="r", allow_pickle=False)
        with np.load(_labels(path), allow_pickle=False) as saved:
            packed = Packed(images, *(saved[name] for name in Packed._fields[1:]))
    except Exception as error:  # of zipfile, NumPy or the operating system
        raise UserError(f"{path} is damaged ({error}): delete it, and the images are decoded again.") from error
    kinds = [(array.shape, array.dtype) for array in packed]
    labels = ((shape[0], answers), np.float32)
    if kinds != [(shape, np.uint8), labels, labels, ((shape[0],), np.int64)]:
        raise UserError(f"{path} belongs to other images than these {shape[0]}: delete it, and they are decoded again.")
    return packed


def file_name(name: str, view: View, final: bool) -> str:
    """Name of the file of a split's cutouts, which says what part of the images it holds."""
    return f"{name}_{view.crop}to{view.size}.npy" if final else f"{name}_{view.cutout}.npy"


def _is_whole(path: pathlib.Path) -> bool:
    return path.exists() and _labels(path).exists()


def _labels(path: pathlib.Path) -> pathlib.Path:
    return path.with_suffix(".labels.npz")


def _fill(split: Split, answers: int, images: np.ndarray) -> Packed:
    fractions, votes = np.empty((2, split.size, answers), np.float32)
    packed = Packed(images, fractions, votes, np.empty(split.size, np.int64))
    with Bar("Decoding images", split.size, "images") as bar:
        for start in range(0, split.size, CHUNK):
            index = np.arange(start, min(start + CHUNK, split.size))
            records = split.read(index)
            for name, array in packed._asdict().items():
                array[index] = records[name]
            bar.advance(len(index))
    return packed
