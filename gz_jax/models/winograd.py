"""3x3 convolutions on CPU by Winograd's minimal filtering (Lavin & Gray 2016, arXiv:1509.09308).

The output is cut into tiles of 4x4 (or 3x3) pixels. Each is computed from the 6x6 (5x5) pixels under it with 36 (25)
products instead of 144 (81). The transforms of tiles are a few additions, which XLA fuses; the products for one
position in all tiles are a matrix product over the channels. In prediction, kernels are transformed once.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from gz_jax.models import groups

# For tiles of 4 the points that oneDNN uses. On 128 channels the error is 8e-7 of the standard deviation of the output.
# For a direct convolution it is 2e-7, for the points of Lavin & Gray (0, 1, -1, 2, -2) it is 2e-6.
POINTS = {3: (0, 0.75, -0.75, 1.5), 4: (0, 0.625, -0.625, 1.5, -1.5)}
# Numbers of the maps that are convolved together in training, so that they and their tiles stay in the cache; measured.
IN_CACHE = 300_000


@functools.cache
def matrices(tile: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """B [n, n], G [n, 3] and A [tile, n] with n = tile + 2: A @ ((B @ x) * (G @ k)) is x [n] convolved by k [3].

    As a network does it (k not flipped). By the Cook-Toom construction: from the values of polynomials at `POINTS` and
    at infinity.
    """
    points = POINTS[tile]
    into, kernels, back = np.zeros((tile + 2, tile + 2)), np.zeros((tile + 2, 3)), np.zeros((tile, tile + 2))
    for i, point in enumerate(points):
        others = points[:i] + points[i + 1 :]
        into[i, :-1] = np.poly(others)[::-1]
        kernels[i] = point ** np.arange(3.0) / np.prod(np.subtract(point, others))
        back[:, i] = point ** np.arange(float(tile))
    into[-1] = np.poly(points)[::-1]
    kernels[-1, -1] = back[-1, -1] = 1
    return into, kernels, back


def tile_of(length: int) -> int:
    """The tile, 3 or 4, that takes fewer products for outputs of `length` pixels a side."""
    return min((4, 3), key=lambda tile: -(-length // tile) * (tile + 2))


def transform(kernel: jax.Array, length: int, padding: int) -> jax.Array:
    """A kernel float32 [3, 3, in, out] transformed for maps of `length` pixels a side: [(tile + 2)**2, in, out]."""
    g = matrices(tile_of(length + 2 * padding - 2))[1]
    y = jnp.matmul(np.kron(g, g).astype(np.float32), kernel.reshape(9, -1), precision="highest")
    return y.reshape(-1, *kernel.shape[2:])


def together(batch: int, numbers: int) -> int:
    """How many images of a batch `convolve` should take at a time, where the map of one has `numbers` numbers.

    All if there are several devices, as each of them holds a part of every batch.
    """
    return batch if jax.device_count() > 1 else groups.together(batch, numbers, IN_CACHE)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolve(x: jax.Array, kernel: jax.Array, padding: int, images: int) -> jax.Array:
    """Convolution with stride 1 of square maps, zeros around; for training.

    Args:
      x: float32 [B, S, S, in]; kernel: float32 [3, 3, in, out]; padding: zeros on each side, 0 to 2.
      images: how many are computed at a time; a divisor of B.

    Returns:
      float32 [B, S + 2 padding - 2, S + 2 padding - 2, out].
    """
    return _forward(x, kernel, padding, images)[0]


def _forward(
    x: jax.Array, kernel: jax.Array, padding: int, images: int
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    transformed = transform(kernel, x.shape[1], padding)
    y = jax.lax.map(lambda some: convolve_transformed(some, transformed, 3, padding), _groups(x, images))
    return y.reshape(len(x), *y.shape[2:]), (x, kernel)


def _backward(
    padding: int, images: int, saved: tuple[jax.Array, jax.Array], dy: jax.Array
) -> tuple[jax.Array, jax.Array]:
    # Written by hand: JAX's own gradient would fill an array with zeros for each strided slice.
    x, kernel = saved
    around, tile = 2 - padding, tile_of(dy.shape[1])
    turned = transform(kernel[::-1, ::-1].swapaxes(2, 3), dy.shape[1], around)

    def gradients(total: jax.Array, some: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        x, dy = some
        products = jnp.einsum("rbi,rbo->rio", _tiles(x, tile, padding), _tiles_of_gradient(dy, tile))
        return total + products, convolve_transformed(dy, turned, 3, around)

    start = jnp.zeros(((tile + 2) ** 2, *kernel.shape[2:]), x.dtype)
    total, dx = jax.lax.scan(gradients, start, (_groups(x, images), _groups(dy, images)))
    g = matrices(tile)[1]
    back = jnp.matmul(np.kron(g, g).T.astype(np.float32), total.reshape(len(total), -1), precision="highest")
    return dx.reshape(x.shape), back.reshape(kernel.shape)


convolve.defvjp(_forward, _backward)


def _groups(x: jax.Array, images: int) -> jax.Array:
    """x [B, ...] as [B / images, images, ...]."""
    return x.reshape(-1, images, *x.shape[1:])


def convolve_transformed(x: jax.Array, transformed: jax.Array, size: int, padding: int) -> jax.Array:
    """As `convolve`, all images at once, by a kernel from `transform`; `size`: of the kernel, 3."""
    n = round(len(transformed) ** 0.5)
    tile, length = n - 2, x.shape[1] + 2 * padding - 2
    tiles = -(-length // tile)
    back = matrices(tile)[2]
    y = (_tiles(x, tile, padding) @ transformed).reshape(n, n, len(x), tiles, tiles, -1)
    y = _combine(back, list(y), 3)  # [n, B, tiles, tile, tiles, out]
    y = _combine(back, list(y), 4)
    return y.reshape(len(x), tiles * tile, tiles * tile, -1)[:, :length, :length]


def _tiles(x: jax.Array, tile: int, padding: int) -> jax.Array:
    """The transformed tiles of x [B, S, S, in]: [(tile + 2)**2, B * tiles**2, in]."""
    n, into = tile + 2, matrices(tile)[0]
    tiles = -(-(x.shape[1] + 2 * padding - 2) // tile)
    after = tiles * tile + 2 - x.shape[1] - padding
    x = jnp.pad(x, [(0, 0), (padding, after), (padding, after), (0, 0)])
    last = tile * (tiles - 1) + 1
    y = _combine(into, [x[:, i : i + last : tile] for i in range(n)], 0)  # [n, B, tiles, S, in]
    y = _combine(into, [y[:, :, :, j : j + last : tile] for j in range(n)], 1)
    return y.reshape(n * n, -1, x.shape[-1])


def _tiles_of_gradient(dy: jax.Array, tile: int) -> jax.Array:
    """What the products of tiles and kernel get of the output's gradient: [(tile + 2)**2, B * tiles**2, out]."""
    back = matrices(tile)[2]
    after = -dy.shape[1] % tile
    dy = jnp.pad(dy, [(0, 0), (0, after), (0, after), (0, 0)])
    y = _combine(back.T, [dy[:, i::tile] for i in range(tile)], 0)
    y = _combine(back.T, [y[:, :, :, j::tile] for j in range(tile)], 1)
    return y.reshape((tile + 2) ** 2, -1, dy.shape[-1])


def _combine(matrix: np.ndarray, parts: Sequence[jax.Array], axis: int) -> jax.Array:
    """For each row of the matrix the sum of the parts times its numbers, stacked."""
    rows = []
    for row in matrix.tolist():
        terms = [part if factor == 1 else factor * part for factor, part in zip(row, parts, strict=True) if factor]
        rows.append(functools.reduce(jnp.add, terms))
    return jnp.stack(rows, axis)
