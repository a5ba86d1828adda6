"""The peers compute what we do: parameters, operations. (tests/models shows that the numbers agree.)"""

from unittest import mock

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest

from gz_jax.models import create

pytestmark = pytest.mark.peers

NETWORKS = {
    "cnn": {},
    "resnet50": {},
    "plain": {"name": "resnet50", "hidden": ()},
    "v1.5": {"name": "resnet50", "variant": "torchvision", "pooling": "average"},
}
SIZE = 68


def ours(which):
    module = create(num_outputs=37, **{"name": which} | NETWORKS[which])
    images = jax.ShapeDtypeStruct((2, SIZE, SIZE, 3), jnp.uint8)
    variables = jax.eval_shape(lambda x: module.init(jax.random.key(0), x), images)
    with mock.patch.object(jax, "default_backend", return_value="gpu"):  # convolutions as such, not as a CPU does them
        flops = operations(jax.make_jaxpr(module.apply)(variables, images).jaxpr)
    return module, sum(x.size for x in jax.tree.leaves(variables["params"])), flops


def operations(jaxpr):
    """Of convolutions and matrix products, counted as PyTorch does: with those on the padding, which XLA leaves out."""
    total = 0
    for equation in jaxpr.eqns:
        total += sum(operations(inner) for inner in jax.extend.core.jaxprs_in_params(equation.params))
        if equation.primitive.name == "conv_general_dilated":
            total += 2 * equation.outvars[0].aval.size * np.prod(equation.invars[1].aval.shape[:3])
        elif equation.primitive.name == "dot_general":
            ((contracted, _), _) = equation.params["dimension_numbers"]
            inner = np.prod([equation.invars[0].aval.shape[i] for i in contracted])
            total += 2 * equation.outvars[0].aval.size * inner
    return int(total)


@pytest.mark.parametrize("which", NETWORKS)
def test_torch_has_the_same_parameters_and_operations(which):
    torch = pytest.importorskip("torch")
    from torch.utils.flop_counter import FlopCounterMode

    from gz_jax.benchmark import torch_peer

    module, parameters, flops = ours(which)
    network = torch_peer.build(module, SIZE)
    assert sum(p.numel() for p in network.parameters()) == parameters
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros((2, SIZE, SIZE, 3), dtype=torch.uint8))
    assert counter.get_total_flops() == flops


@pytest.mark.parametrize("which", ["cnn", "resnet50", "plain"])
def test_keras_has_the_same_parameters(which):
    pytest.importorskip("keras")
    from gz_jax.data import tensorflow_cpu

    tensorflow_cpu.import_tensorflow()
    from gz_jax.benchmark import keras_peer

    module, parameters, _ = ours(which)
    model = keras_peer.build(module, SIZE)
    assert sum(int(np.prod(w.shape)) for w in model.trainable_weights) == parameters


@pytest.mark.parametrize("peer", ["torch", "keras"])
def test_a_peer_learns(peer):
    """The train step that is timed is one: the vote fractions that it is given are approached."""
    pytest.importorskip(peer)
    from gz_jax.modes.benchmark import peer_stages

    rng = np.random.default_rng(0)
    votes = np.full((8, 37), 0.9, np.float32)
    batch = {"image": rng.integers(0, 256, (8, 34, 34, 3), dtype=np.uint8), "vote_fractions": votes}
    _, forward, train = peer_stages(peer, create("cnn", num_outputs=37, momentum=0.5), batch, "cpu")
    before = np.square(np.asarray(forward.call(1)) - votes).mean()
    train.call(30)
    assert np.square(np.asarray(forward.call(1)) - votes).mean() < before / 2
