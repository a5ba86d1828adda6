"""3x3 convolutions on CPU in prediction by Winograd's minimal filtering (Lavin & Gray 2016, arXiv:1509.09308).

The output is cut into tiles of 4x4 (or 3x3) pixels. Each is computed from the 6x6 (5x5) pixels under it with 36 (25)
products instead of 144 (81). Kernels are transformed once. The transforms of tiles are a few additions, which XLA
fuses; the products for one position in all tiles are a matrix product over the channels.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

# For tiles of 4 the points that oneDNN uses. On 128 channels the error is 8e-7 of the standard deviation of the output.
# For a direct convolution it is 2e-7, for the points of Lavin & Gray (0, 1, -1, 2, -2) it is 2e-6.
POINTS = {3: (0, 0.75, -0.75, 1.5), 4: (0, 0.625, -0.625, 1.5, -1.5)}


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


def convolve_transformed(x: jax.Array, transformed: jax.Array, size: int, padding: int) -> jax.Array:
    """Convolution with stride 1 of square maps, zeros around, by a kernel from `transform`.

    Args:
      x: float32 [B, S, S, in]; size: of the kernel, 3; padding: zeros on each side.

    Returns:
      float32 [B, S + 2 padding - 2, S + 2 padding - 2, out].
    """
    n = round(len(transformed) ** 0.5)
    tile = n - 2
    into, _, back = matrices(tile)
    batch, length, channels = len(x), x.shape[1] + 2 * padding - 2, x.shape[3]
    tiles = -(-length // tile)
    after = tiles * tile + 2 - x.shape[1] - padding
    x = jnp.pad(x, [(0, 0), (padding, after), (padding, after), (0, 0)])
    last = tile * (tiles - 1) + 1
    y = _combine(into, [x[:, i : i + last : tile] for i in range(n)], 0)  # [n, B, tiles, S, in]
    y = _combine(into, [y[:, :, :, j : j + last : tile] for j in range(n)], 1)
    y = (y.reshape(n * n, -1, channels) @ transformed).reshape(n, n, batch, tiles, tiles, -1)
    y = _combine(back, list(y), 3)  # [n, B, tiles, tile, tiles, out]
    y = _combine(back, list(y), 4)
    return y.reshape(batch, tiles * tile, tiles * tile, -1)[:, :length, :length]


def _combine(matrix: np.ndarray, parts: Sequence[jax.Array], axis: int) -> jax.Array:
    """For each row of the matrix the sum of the parts times its numbers, stacked."""
    rows = []
    for row in matrix.tolist():
        terms = [part if factor == 1 else factor * part for factor, part in zip(row, parts, strict=True) if factor]
        rows.append(functools.reduce(jnp.add, terms))
    return jnp.stack(rows, axis)
