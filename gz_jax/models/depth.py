"""Depth of each layer, counted from the outputs. Fine-tuning treats layers by their depth."""

import re
from typing import Any

import jax
from flax.traverse_util import flatten_dict, unflatten_dict

# Layers of the body, in the order of computation: ResNet50's stem (no number) and blocks, or the CNN's convolutions.
_BODY = re.compile(r"body/(?:stage(\d+)_block(\d+)/)?|(?:conv|bn)(\d+)/")


def depths(params: dict[str, Any]) -> dict[str, Any]:
    """Depth of each parameter, in the tree of `params`: 0 in the head, 1 in the body's last layer, and so on.

    The head is what follows the feature map: dense layers and outputs. ResNet50's blocks have depths 1 (the last of
    stage 4) to 16 and its stem 17, as in timm's layer groups; the CNN's convolutions have 1 to 3. Batch normalisation
    goes with its convolution.
    """
    flat = flatten_dict(params, sep="/")
    places = {name: tuple(int(n or 0) for n in found.groups()) for name in flat if (found := _BODY.match(name))}
    order = sorted(set(places.values()), reverse=True)
    return unflatten_dict({name: 1 + order.index(places[name]) if name in places else 0 for name in flat}, sep="/")


def hold_body(params: dict[str, Any]) -> dict[str, Any]:
    """The same parameters, with no gradient for those of the body: JAX then leaves out its backward pass."""
    return jax.tree.map(lambda x, depth: jax.lax.stop_gradient(x) if depth else x, params, depths(params))
