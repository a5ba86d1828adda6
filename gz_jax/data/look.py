"""What a network sees of an image: the central square, at the network's size. NumPy only.

This is used wherever an image is not augmented: prediction from files and arrays, evaluation, and validation galaxies.
tf.data uses the same weights. `augment.warp` does the same with a random affine map.

The square is centred on the image's centre, to the half pixel on each axis. Each output pixel is the mean of `samples`
x `samples` bilinear samples, at most one source pixel apart. Samples outside of the image take the nearest pixel.
"""

import functools
import math

import numpy as np

TURN = np.array([[1, -1, 0], [1, 1, 0]]) / math.sqrt(2)  # `augment.affine` of 45 degrees
BAND = 1 << 18  # samples of a turned image at a time, so that memory stays small


def see(pixels: np.ndarray, crop: int, size: int, affine: np.ndarray | None = None) -> np.ndarray:
    """The central square of `crop` source pixels, brought to `size` pixels.

    Where the square is larger than the image, the image is first padded with black, as much on either side, so that
    the scale stays.

    Args:
      pixels: uint8 [H, W, 3], both sides at least 1; crop, size: at least 1.
      affine: float [2, 3] of `augment.affine`, applied before the cut; None is the identity.

    Returns:
      uint8 [size, size, 3], rounded half to even.
    """
    around = [(missing := max(0, -(-(crop - n) // 2)), missing) for n in pixels.shape[:2]]
    if any(map(any, around)):
        pixels = np.pad(pixels, [*around, (0, 0)])
    if affine is not None:
        return _turned(pixels, crop, size, affine)
    square = pixels[tuple(central(n, crop) for n in pixels.shape[:2])]
    if crop % size == 0 and square.shape[:2] == (crop, crop):
        return _boxes(square, crop // size)
    rows, columns = (_bands(n, crop, size) for n in pixels.shape[:2])
    shown = np.ascontiguousarray(_along(pixels, rows).swapaxes(0, 1))
    return np.rint(_along(shown, columns)).astype(np.uint8).swapaxes(0, 1)


def cutouts(pixels: np.ndarray, crop: int, size: int, turned: bool = False) -> np.ndarray:
    """`see`, uint8 [size, size, 3]; if `turned`, that and the same turned by 45 degrees: [2, size, size, 3].

    The turned one is cut from the whole of `pixels`, so its corners show what lies beyond the square.
    """
    straight = see(pixels, crop, size)
    return np.stack([straight, see(pixels, crop, size, TURN)]) if turned else straight


def symmetries(images: np.ndarray) -> list[np.ndarray]:
    """The 8 symmetries of the square, the identity first: of [..., S, S, 3], views of the same shape."""
    return [np.rot90(x, k, axes=(-3, -2)) for x in (images, images[..., ::-1, :]) for k in range(4)]


def samples(crop: float, size: int) -> int:
    """How many samples an output pixel needs along each axis, so that they are at most one source pixel apart."""
    return max(1, math.ceil(crop / size - 1e-9))


def central(length: int, side: int) -> slice:
    """The central `side` of `length` pixels, or one more to keep the centre; all pixels if there are fewer."""
    start = max(0, (length - side) // 2)
    return slice(start, length - start)


def reach(crop: int, size: int, turned: bool = False) -> int:
    """Side of the square that `cutouts` reads; the rest need not be decoded.

    If samples lie closer than a pixel, the outermost ones also need the neighbouring pixels.
    """
    return math.ceil(crop * math.sqrt(2)) + 2 if turned else crop + 2 * (crop % size > 0)


@functools.lru_cache(maxsize=64)
def weights(length: int, crop: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """How the output pixels along one axis are made of `length` >= `crop` source pixels.

    Returns:
      start int64 [size] and weight float64 [size, k]: output pixel j is the sum of weight[j] times the k source pixels
      from start[j] on. Weights are multiples of 2**-22, so that sums over both axes are exact in float64 and do not
      depend on their order: NumPy and TensorFlow agree to the bit.
    """
    count = samples(crop, size)
    middle = (length - 1) // 2  # positions are relative to it, so that they do not depend on `length`
    at = (np.arange(size * count) - (size * count - 1) / 2) * (crop / (size * count)) + (length - 1) % 2 / 2
    at = np.clip(at, -middle, length - 1 - middle)
    low = np.clip(np.floor(at), -middle, max(length - 2 - middle, -middle)).astype(int)
    part = (at - low).reshape(size, count)
    low = (low + middle).reshape(size, count)
    width = min(length, int((low[:, -1] - low[:, 0]).max()) + 2)
    start = np.minimum(low[:, 0], length - width)
    weight = np.zeros((size, width))
    row, column = np.arange(size)[:, None], low - start[:, None]
    np.add.at(weight, (row, column), (1 - part) / count)
    np.add.at(weight, (row, np.minimum(column + 1, width - 1)), part / count)
    weight = np.rint(weight * 2**22) / 2**22
    for array in (start, weight):
        array.setflags(write=False)  # shared by all callers through the cache
    return start, weight


def _boxes(square: np.ndarray, k: int) -> np.ndarray:
    """Means of k x k boxes of uint8 [size k, size k, 3]: equal to `augment.warp` by the identity."""
    kind, real = (np.uint16, np.float32) if k <= 16 else (np.uint64, np.float64)  # 256 x 255 fit in 16 bits
    rows: np.ndarray = square[::k].astype(kind)
    for i in range(1, k):
        rows += square[i::k]
    total = rows[:, ::k].copy()
    for i in range(1, k):
        total += rows[:, i::k]
    return np.rint(total / real(k * k)).astype(np.uint8)


@functools.lru_cache(maxsize=64)
def _bands(length: int, crop: int, size: int) -> list[tuple[int, np.ndarray]]:
    """`weights` as small matrices, of up to 16 neighbouring output pixels each, for fast matrix products.

    Returns:
      For each band of output pixels the first of the source pixels that it is made of, and their weights, float64
      [output pixels, source pixels].
    """
    start, weight = weights(length, crop, size)
    width, count = weight.shape[1], max(1, min(16, 16 * size // crop))  # few zeros where a pixel is made of many
    found = []
    for first in range(0, size, count):
        starts, values = start[first : first + count], weight[first : first + count]
        matrix = np.zeros((len(starts), starts[-1] - starts[0] + width))
        for row, at, numbers in zip(matrix, starts - starts[0], values, strict=True):
            row[at : at + width] = numbers
        found.append((int(starts[0]), matrix))
    return found


def _along(pixels: np.ndarray, bands: list[tuple[int, np.ndarray]]) -> np.ndarray:
    """The first axis of [H, W, 3] brought to [size, W, 3], float64; `bands` of `_bands`."""
    flat = pixels.reshape(len(pixels), -1)
    out = np.empty((sum(len(matrix) for _, matrix in bands), flat.shape[1]))
    done = 0
    for first, matrix in bands:  # band by band, so that memory stays small
        part = flat[first : first + matrix.shape[1]].astype(np.float64)
        np.matmul(matrix, part, out=out[done : done + len(matrix)])
        done += len(matrix)
    return out.reshape(-1, *pixels.shape[1:])


def _turned(pixels: np.ndarray, crop: int, size: int, affine: np.ndarray) -> np.ndarray:
    """`augment.warp` of one image."""
    sides, count = np.array(pixels.shape[1::-1]), samples(crop, size)  # width, height
    fine = size * count
    linear = affine[:, :2] * (crop / fine)
    offset = affine[:, 2] + (sides - 1) / 2 - (fine - 1) / 2 * linear.sum(-1)
    flat, band = pixels.reshape(-1), max(1, BAND // (count * fine))
    out = np.empty((size, size, 3), np.uint8)
    for first in range(0, size, band):
        y, x = np.ogrid[first * count : min(first + band, size) * count, :fine]
        at = [np.clip(a * x + b * y + c, 0, n - 1) for (a, b), c, n in zip(linear, offset, sides, strict=True)]
        low = [position.astype(int) for position in at]
        fx, fy = ((position - i).astype(np.float32) for position, i in zip(at, low, strict=True))
        right, down = (3 * (i < n - 1) for i, n in zip(low, sides, strict=True))
        corner = 3 * (low[1] * sides[0] + low[0])
        down *= sides[0]
        corners = [corner, corner + right, corner + down, corner + down + right]
        for colour in range(3):
            a, b, c, d = (flat.take(index + colour).astype(np.float32) for index in corners)
            top, bottom = a + (b - a) * fx, c + (d - c) * fx
            seen = (top + (bottom - top) * fy).reshape(-1, count, size, count).mean((1, 3))
            out[first : first + band, :, colour] = np.rint(seen)
    return out
