"""Depth of the real networks' layers, from their outputs, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from gz_jax.models import create
from gz_jax.models.depth import depths
from gz_jax.training import state

CNN = {"conv1": 3, "bn1": 3, "conv2": 2, "conv3": 1, "dense1": 0, "dense2": 0, "head": 0}
RESNET50 = {
    "head": 0, "dense_0": 0, "dense_1": 0,
    "stage4_block3": 1, "stage4_block2": 2, "stage4_block1": 3,
    "stage3_block6": 4, "stage3_block5": 5, "stage3_block4": 6,
    "stage3_block3": 7, "stage3_block2": 8, "stage3_block1": 9,
    "stage2_block4": 10, "stage2_block3": 11, "stage2_block2": 12, "stage2_block1": 13,
    "stage1_block3": 14, "stage1_block2": 15, "stage1_block1": 16,
    "stem_conv": 17, "stem_bn": 17,
}  # fmt: skip
NETWORKS = [("cnn", {}, CNN)] + [("resnet50", {"variant": v}, RESNET50) for v in ("keras", "torchvision")]


@pytest.mark.parametrize(("name", "options", "expected"), NETWORKS, ids=["cnn", "keras", "torchvision"])
def test_rates_of_the_layers_by_hand(name, options, expected):
    """Adam's first step is the rate in every coordinate: 0.01 in the head, and half of that for each layer below."""
    module = create(name, num_outputs=37, **options)
    params = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 68, 68, 3)))["params"]

    def layer(path):
        return path[1] if path[0] == "body" else path[0]

    found = flatten_dict(depths(params))
    assert {layer(path): depth for path, depth in found.items()} == expected
    assert all(depth == expected[layer(path)] for path, depth in found.items())
    small = jax.tree.map(lambda x: jnp.ones(len(x.shape) * (1,)), params)
    optimizer = state.adam(layer_decay=0.5)
    opt_state = optimizer.init(small)
    opt_state.hyperparams["learning_rate"] = jnp.float32(0.01)
    updates, _ = optimizer.update(small, opt_state, small)
    for path, update in flatten_dict(updates).items():
        np.testing.assert_allclose(update, -0.01 / 2 ** expected[layer(path)], rtol=1e-5)
