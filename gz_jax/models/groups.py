"""The first layers of a network on a few images at a time, so that their maps stay in the processor's cache."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

IN_CACHE = 1_600_000  # float32 numbers of the maps of a group of images; measured


def together(batch: int, numbers: int, limit: int) -> int:
    """The largest number of images that divides the batch and whose maps, of `numbers` each, are within the limit.

    It is at least 1.
    """
    return max(n for n in range(1, batch + 1) if batch % n == 0 and n * numbers <= max(limit, numbers))


def in_groups(
    owner: nn.Module, function: Callable[..., jax.Array], x: jax.Array, numbers: int, *rest: Any
) -> jax.Array:
    """`function(owner, x, *rest)`, computed for a few images at a time if the owner's kernels are transformed.

    Args:
      owner: a module. If its kernels are not transformed (`folding.transformed`, on CPU), all images are computed at
        once.
      function: takes the owner, the images of a group [b, ...] and `rest`; returns [b, ...].
      x: images or maps, [B, ...]; numbers: how many numbers the largest map of one image has.

    Returns:
      [B, ...], the results of all groups in the order of x.
    """
    images = together(len(x), numbers, IN_CACHE)
    if "transformed" not in owner.variables or owner.is_mutable_collection("transformed") or images == len(x):
        return function(owner, x, *rest)
    scan = nn.scan(
        lambda module, _, group: (None, function(module, group, *rest)),
        variable_broadcast=("params", "transformed"),
        split_rngs={"params": False},
    )
    y = scan(owner, None, x.reshape(-1, images, *x.shape[1:]))[1]
    return y.reshape(-1, *y.shape[2:])
