"""The first layers of a network on a few images after the other, so that their maps stay in the processor's cache."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

IN_CACHE = 1_600_000  # float32 numbers of the maps of a group of images; measured


def in_groups(
    owner: nn.Module, function: Callable[..., jax.Array], x: jax.Array, numbers: int, *rest: Any
) -> jax.Array:
    """function(owner, x, *rest), where on CPU a network that is ready to predict takes a few images after the other.

    Then their maps, of `numbers` numbers for each image, stay in the processor's cache from one layer to the next.

    Args:
      owner: a module with transformed kernels (`folding.transformed`); another one takes all images at once.
      function: applied to the owner, the images of a group [b, ...] and `rest`; returns [b, ...].
    """
    fits = [n for n in range(1, len(x) + 1) if len(x) % n == 0 and n * numbers <= max(IN_CACHE, numbers)]
    if "transformed" not in owner.variables or owner.is_mutable_collection("transformed") or fits[-1] == len(x):
        return function(owner, x, *rest)
    scan = nn.scan(
        lambda module, _, group: (None, function(module, group, *rest)),
        variable_broadcast=("params", "transformed"),
        split_rngs={"params": False},
    )
    y = scan(owner, None, x.reshape(-1, fits[-1], *x.shape[1:]))[1]
    return y.reshape(-1, *y.shape[2:])
