"""tf.data: shuffled, augmented training batches and finite, masked evaluation batches, as NumPy arrays.

The order of the galaxies in an epoch and their affine maps are computed here in NumPy, as functions of (seed, epoch).
tf.data only reads and warps the images, in parallel. A run can therefore start in the middle of an epoch, and each of
several processes can take its share of every batch, without any saved state.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from gz_jax.data import augment, packed
from gz_jax.data.augment import Augmentation, View
from gz_jax.data.image_file import ImageFile
from gz_jax.data.split import Records, Split
from gz_jax.runtime.errors import UserError

MARGIN = 16  # pixels: colours are interpolated from neighbours (8 suffice for JPEG's usual subsamplings)
Batch = dict[str, np.ndarray]
Maps = Callable[[np.ndarray], np.ndarray]  # galaxy_id [n] -> affine maps [n, 2, 3]


def train_indices(size: int, batch_size: int, *, seed: int, epoch: int) -> np.ndarray:
    """Indices of every training batch of an epoch: int64 [steps, batch_size], every galaxy at least once.

    The permutation depends on (seed, epoch) alone. All batches are full, so that the step compiles once: the last one
    is filled up with the first galaxies of the epoch.
    """
    order = np.random.Generator(np.random.Philox(key=[seed % 2**64, epoch])).permutation(size)
    return np.resize(order, (-(-size // batch_size), batch_size))


def eval_indices(size: int, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices int64 [steps, batch_size] that meet every galaxy once, and the mask that is False on the padding."""
    steps = -(-size // batch_size)
    index = np.arange(steps * batch_size)
    return np.minimum(index, size - 1).reshape(steps, batch_size), (index < size).reshape(steps, batch_size)


def train_batches(
    split: Split,
    view: View,
    augmentation: Augmentation,
    *,
    batch_size: int,
    seed: int,
    epoch: int,
    first_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[Batch]:
    """This process's rows of one epoch's training batches, from `first_step` on.

    Yields:
      image uint8 [b, size, size, 3], vote_fractions and votes float32 [b, answers], galaxy_id int64 [b], mask bool [b],
      all True.
    """
    indices = train_indices(split.size, batch_size, seed=seed, epoch=epoch)[first_step:]
    maps = None if augmentation.is_identity else functools.partial(augment.draw, augmentation, seed, epoch)
    yield from _batches(split, view, indices, np.ones(indices.shape, bool), maps, process_index, process_count)


def eval_batches(
    split: Split, view: View, *, batch_size: int, process_index: int = 0, process_count: int = 1
) -> Iterator[Batch]:
    """This process's rows of batches that hold every galaxy once, in order; the last is padded and masked.

    Images are those of `look.see`, bit for bit, whether they are decoded here or were before (`packed.decoded`).
    """
    indices, mask = eval_indices(split.size, batch_size)
    yield from _batches(split, view, indices, mask, None, process_index, process_count)


def _batches(
    split: Split, view: View, indices: np.ndarray, mask: np.ndarray, maps: Maps | None, process: int, processes: int
) -> Iterator[Batch]:
    """One process's equal share of the batches at `indices` [steps, batch_size]; `maps` None means the identity."""
    if not len(indices):
        return
    indices, mask = (np.split(array, processes, axis=1)[process] for array in (indices, mask))
    first = split.read(indices[0, :1])
    if isinstance(first["image"][0], ImageFile):  # which TensorFlow cannot read
        split = packed.decoded(split, view, final=maps is None)
        first = split.read(indices[0, :1])
        if maps is None:
            view = View(view.size, view.size, view.size)
        yield from _stream(split, view, indices, mask, maps, first)
        return
    image = first["image"]
    if maps is None and image.dtype != object and image.shape[-2] == view.size:
        for index, keep in zip(indices, mask, strict=True):  # the images are ready
            yield {**split.read(index), "mask": keep}
    else:
        yield from _stream(split, view, indices, mask, maps, first)


def _stream(
    split: Split, view: View, indices: np.ndarray, mask: np.ndarray, maps: Maps | None, first: Records
) -> Iterator[Batch]:
    """As `_batches`, by tf.data; `first` is any record, for the shapes."""
    from gz_jax.data.tensorflow_cpu import import_tensorflow

    tf = import_tensorflow()
    batch, answers = indices.shape[1], first["vote_fractions"].shape[1]
    shape = None if first["image"].dtype == object else first["image"].shape[1:]
    kept = ("vote_fractions", "votes", "galaxy_id")
    failures: list[UserError] = []

    def fetch(index: np.ndarray) -> tuple[np.ndarray, ...]:
        try:
            records = split.read(index)
        except UserError as error:  # TensorFlow would add a page of text to it
            failures.append(error)
            raise
        affines = np.zeros((len(index), 2, 3)) if maps is None else maps(records["galaxy_id"])
        return (*(records[name] for name in ("image", *kept)), affines.astype(np.float32))

    def read(index: Any, mask: Any) -> dict[str, Any]:
        types = [tf.uint8 if shape else tf.string, tf.float32, tf.float32, tf.int64, tf.float32]
        shapes = [[batch, *(shape or ())], [batch, answers], [batch, answers], [batch], [batch, 2, 3]]
        arrays = tf.numpy_function(fetch, [index], types)
        arrays = [tf.ensure_shape(array, known) for array, known in zip(arrays, shapes, strict=True)]
        return dict(zip(("image", *kept, "affine"), arrays, strict=True), mask=mask)

    def see(record: dict[str, Any]) -> dict[str, Any]:
        image = record["image"] if shape else _decode(tf, record["image"], view.cutout)
        image = augment.warp_tensorflow(image, None if maps is None else record["affine"], view)
        return {**{name: record[name] for name in (*kept, "mask")}, "image": image}

    dataset = tf.data.Dataset.from_tensor_slices((indices, mask))
    dataset = dataset.map(read, num_parallel_calls=2, deterministic=True).unbatch()
    dataset = dataset.map(see, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    try:
        yield from dataset.batch(batch, drop_remainder=True).prefetch(4).as_numpy_iterator()
    except tf.errors.OpError:
        if failures:
            raise failures[0] from None
        raise


def _decode(tf: Any, jpeg: Any, cutout: int) -> Any:
    """The central `cutout` pixels of a JPEG, decoded without the rest: equal to those of the whole, bit for bit."""
    shape = tf.image.extract_jpeg_shape(jpeg)[:2]
    start = (shape - cutout) // 2
    low, high = tf.maximum(start - MARGIN, 0), tf.minimum(start + cutout + MARGIN, shape)
    image = tf.image.decode_and_crop_jpeg(
        jpeg, tf.concat([low, high - low], 0), channels=3, dct_method="INTEGER_ACCURATE"
    )
    return tf.slice(image, tf.concat([start - low, [0]], 0), [cutout, cutout, 3])
