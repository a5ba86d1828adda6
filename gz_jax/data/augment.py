"""Rotation, flip, zoom and shift as one affine map, and the anti-aliased warp that applies it.

Every random number is a pure function of (seed, epoch, galaxy_id), computed on the host in NumPy. So all pipelines see
the same galaxies at the same angles, and a run that is continued sees the same images as one that was not interrupted.
The warp exists twice, in TensorFlow and in JAX, with the same mathematics: each output pixel is the mean of
`supersample` x `supersample` bilinear samples of the source. Rotation therefore comes before downsizing (paper section
4.2), without aliasing. At angle 0, 204 -> 68 px is exactly the mean of 3 x 3 pixels. Without augmentation, images are
seen as by `look.see`.

Coordinates: x to the right, y down, in source pixels from the image's centre. An affine map [2, 3] takes a point of
the output (in units of source pixels) to the point of the source that is shown there.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gz_jax.data import look
from gz_jax.data.split import splitmix64


class Augmentation(NamedTuple):
    """What may happen to a training cutout. The default is nothing.

    rotate: any angle in 0..360 degrees; flip: mirrored in half of the draws; zoom: magnified by a log-uniform factor
    in 1/zoom..zoom; shift: moved by up to this many source pixels along each axis.
    """

    rotate: bool = False
    flip: bool = False
    zoom: float = 1.0
    shift: float = 0.0

    @property
    def is_identity(self) -> bool:
        return self == Augmentation()


class View(NamedTuple):
    """Which part of an image the network sees: the central `crop` source pixels, brought to `size` pixels.

    `cutout` is the side, in source pixels, of what is decoded and kept (at least `crop`, so that rotated corners show
    real sky). `zoom`: galaxies may be drawn smaller by up to this factor, and are sampled finely enough for that.
    """

    size: int
    crop: int
    cutout: int
    zoom: float = 1.0

    @property
    def supersample(self) -> int:
        """Samples of an output pixel along each axis."""
        return look.samples(self.crop * self.zoom, self.size)


def view(size: int, crop: int, image_size: int, augmentation: Augmentation | None = None) -> View:
    """The `View` whose cutout is just large enough for what `augmentation` may ask for, at most the whole image."""
    augmentation = augmentation or Augmentation()
    side = (crop + 2 * augmentation.shift) * augmentation.zoom * (math.sqrt(2) if augmentation.rotate else 1)
    cutout = min(image_size, look.reach(crop, size) if augmentation.is_identity else math.ceil(side) + 2)
    # The parity of the image's side keeps the centre where it is, to the half pixel.
    return View(size, crop, cutout + (image_size - cutout) % 2, augmentation.zoom)


def unaugmented(training: View) -> View:
    """The `view` without augmentation of the images that are trained on through `training`."""
    return view(training.size, training.crop, training.cutout)


def uniforms(seed: int, epoch: int, galaxy_ids: np.ndarray, count: int) -> np.ndarray:
    """`count` numbers in [0, 1) for each galaxy: float64 [n, count], a function of (seed, epoch, galaxy_id) alone."""
    state = np.full(1, np.uint64(seed % 2**64))
    for part in (np.array([epoch]), np.asarray(galaxy_ids, np.int64)[:, None], np.arange(count)):
        state = splitmix64(state ^ splitmix64(part.astype(np.uint64)))
    return (state >> np.uint64(11)).astype(np.float64) / 2**53


def affine(angle: Any = 0.0, *, mirror: Any = False, magnify: Any = 1.0, shift: Any = (0.0, 0.0)) -> np.ndarray:
    """Affine maps for galaxies turned counter-clockwise by `angle` radians, as on a display with y down.

    Args:
      angle, magnify: scalars or [n]; mirror: bool or [n], left and right exchanged before turning;
      shift: [..., 2], how far the galaxy moves to the right and down, in source pixels.

    Returns:
      float32 [..., 2, 3]. At 90 degrees the result of a warp equals `numpy.rot90`.
    """
    angle, mirror, magnify = np.broadcast_arrays(np.asarray(angle, np.float64), mirror, magnify)
    sign = np.where(mirror, -1.0, 1.0)
    cos, sin = np.cos(angle) / magnify, np.sin(angle) / magnify
    linear = np.stack([np.stack([sign * cos, -sign * sin], -1), np.stack([sin, cos], -1)], -2)
    offset = -np.einsum("...ij,...j->...i", linear, np.broadcast_to(shift, (*angle.shape, 2)))
    return np.concatenate([linear, offset[..., None]], -1).astype(np.float32)


def draw(augmentation: Augmentation, seed: int, epoch: int, galaxy_ids: np.ndarray) -> np.ndarray:
    """Each galaxy's affine map in this epoch: float32 [n, 2, 3]."""
    u = uniforms(seed, epoch, galaxy_ids, 5)
    return affine(
        2 * np.pi * u[:, 0] * augmentation.rotate,
        mirror=augmentation.flip & (u[:, 1] < 0.5),
        magnify=augmentation.zoom ** (2 * u[:, 2] - 1),
        shift=augmentation.shift * (2 * u[:, 3:5] - 1),
    )


def warp_tensorflow(image: Any, affine: Any, view: View) -> Any:
    """The warp of one image in a tf.data graph: uint8 [H, H, 3], float32 [2, 3] -> uint8 [size, size, 3].

    An `affine` of None gives `look.see`, to the bit; the image's shape must then be known.
    """
    from gz_jax.data.tensorflow_cpu import import_tensorflow

    tf = import_tensorflow()
    if affine is None:
        return _see_tensorflow(tf, image, view)
    s, fine = view.supersample, view.size * view.supersample
    image = tf.cast(image, tf.float32)
    linear = affine[:, :2] * (view.crop / fine)
    centre = (tf.cast(tf.shape(image)[0], tf.float32) - 1) / 2
    offset = affine[:, 2] + (centre - (fine - 1) / 2 * tf.reduce_sum(linear, -1))
    # x' = t0 x + t1 y + t2, y' = t3 x + t4 y + t5
    transform = tf.concat([linear[0], offset[:1], linear[1], offset[1:], tf.zeros(2)], 0)
    warped = tf.raw_ops.ImageProjectiveTransformV3(
        images=image[None],
        transforms=transform[None],
        output_shape=[fine, fine],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="NEAREST",
    )[0]
    if s > 1:
        warped = tf.reduce_mean(tf.reshape(warped, [view.size, s, view.size, s, 3]), [1, 3])
    return tf.cast(tf.round(tf.ensure_shape(warped, [view.size, view.size, 3])), tf.uint8)


def _see_tensorflow(tf: Any, image: Any, view: View) -> Any:
    """`look.see` of an image of at least crop x crop pixels."""
    size, sides = view.size, image.shape[:2]
    if view.crop % size == 0 and all((side - view.crop) % 2 == 0 for side in sides):
        rows, columns = (look.central(side, view.crop) for side in sides)
        boxes = tf.reshape(tf.cast(image[rows, columns], tf.float32), [size, view.crop // size] * 2 + [3])
        mean = tf.cast(tf.reduce_sum(boxes, [1, 3]), tf.float64) / (view.crop // size) ** 2
    else:
        mean = tf.cast(image, tf.float64)
        for axis, equation in enumerate(("jk,jkxc->jxc", "jk,xjkc->xjc")):
            start, weight = look.weights(sides[axis], view.crop, size)
            index = start[:, None] + np.arange(weight.shape[1])
            mean = tf.einsum(equation, tf.constant(weight), tf.gather(mean, index, axis=axis))
    return tf.cast(tf.round(mean), tf.uint8)


def warp(images: jax.Array, affines: jax.Array, view: View) -> jax.Array:
    """The same warp in JAX, inside a jitted step: uint8 [n, H, H, 3], float32 [n, 2, 3] -> uint8 [n, size, size, 3].

    Coordinates are whole numbers of 2**-(bits + 1) pixels, where a cutout of 424 pixels leaves 20 binary digits. XLA
    computes them anew for a sample's pixel and for its weight. Floating-point numbers could be rounded differently the
    second time, and the weight would belong to the neighbouring pixel.
    """
    source, s, fine = images.shape[1], view.supersample, view.size * view.supersample
    bits = 30 - math.ceil(math.log2(2 * source + 2 * view.crop * view.zoom))
    linear = jnp.round(affines[..., :2] * (view.crop / fine * 2**bits)).astype(jnp.int32)
    offset = jnp.round(affines[..., 2] * 2 ** (bits + 1)).astype(jnp.int32) + (source - 1) * 2**bits
    grid = 2 * jnp.arange(fine, dtype=jnp.int32) - (fine - 1)  # from the centre, in half samples
    # [n, 2, fine (y), fine (x)]: the source's x and y.
    xy = (
        linear[:, :, 0, None, None] * grid[None, None, None, :]
        + linear[:, :, 1, None, None] * grid[None, None, :, None]
        + offset[:, :, None, None]
    )
    xy = jnp.clip(xy, 0, (source - 1) << (bits + 1))
    low = jnp.minimum(xy >> (bits + 1), source - 2)
    part = (xy - (low << (bits + 1))).astype(jnp.float32) / 2 ** (bits + 1)
    flat = images.reshape(images.shape[0], source * source, 3)
    corner = low[:, 1] * source + low[:, 0]

    def sample(step: int) -> jax.Array:
        index = (corner + step).reshape(images.shape[0], fine * fine, 1)
        return jnp.take_along_axis(flat, index, axis=1).reshape(-1, fine, fine, 3).astype(jnp.float32)

    fx, fy = part[:, 0, ..., None], part[:, 1, ..., None]
    top = sample(0) * (1 - fx) + sample(1) * fx
    bottom = sample(source) * (1 - fx) + sample(source + 1) * fx
    warped = top * (1 - fy) + bottom * fy
    warped = warped.reshape(-1, view.size, s, view.size, s, 3).mean((2, 4))
    return jnp.round(warped).astype(jnp.uint8)
