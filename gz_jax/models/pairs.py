"""Convolution of images of few channels on CPU: two neighbouring pixels of a row are one pixel with twice the channels.

XLA's convolution is slow on 3 channels. In memory the pixels of a row follow each other, so that pairs cost no copy.
With stride 2 a pair of pixels is one step. With stride 1 a pair of outputs is computed at once, as twice the features.
"""

import jax
import jax.numpy as jnp


def transform(kernel: jax.Array, stride: int) -> jax.Array:
    """A kernel [K, K, in, out] for pairs: [K, pairs, 2 * in, 2 * out] with stride 1, [K, pairs, 2 * in, out] with 2."""
    size, _, channels, _ = kernel.shape
    pairs = -(-(size + 2 - stride) // 2)
    moved = [jnp.pad(kernel, [(0, 0), (by, 2 * pairs - size - by), (0, 0), (0, 0)]) for by in range(2 // stride)]
    return jnp.concatenate(moved, -1).reshape(size, pairs, 2 * channels, -1)


def convolve_transformed(x: jax.Array, transformed: jax.Array, stride: int, padding: int) -> jax.Array:
    """Convolution with stride 1 or 2, zeros around, by a kernel from `transform`.

    Args:
      x: float32 [B, H, W, in]; padding: zeros on each side.

    Returns:
      float32 [B, H', W', out], with H' = (H + 2 padding - K) // stride + 1, and W' likewise.
    """
    size, pairs, channels, _ = transformed.shape
    at_once, width = 2 // stride, (x.shape[2] + 2 * padding - size) // stride + 1
    steps = -(-width // at_once) + pairs - 1
    after = 2 * steps - x.shape[2] - padding
    edges = [(0, 0, 0), (padding, padding, 0), (padding, after, 0), (0, 0, 0)]
    x = jax.lax.pad(x, jnp.zeros((), x.dtype), edges)
    x = x.reshape(*x.shape[:2], steps, channels)
    y = jax.lax.conv_general_dilated(
        x, transformed, (stride, 1), [(0, 0), (0, 0)], dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return y.reshape(*y.shape[:2], -1, y.shape[3] // at_once)[:, :, :width]
