"""The peers compute what we do: parameters, operations. (tests/models shows that the numbers agree.)"""

from unittest import mock

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest

from gz_jax import fields, labels, resolve
from gz_jax.benchmark import peers
from gz_jax.benchmark.peers import Task
from gz_jax.inference.shared import Network
from gz_jax.labels import GALAXY_ZOO_2
from gz_jax.models import create
from gz_jax.training.workdir import Record

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


def task(module, images, sizes=(), network=None):
    return Task(
        module, network, {"image": images, "vote_fractions": np.full((len(images), 37), 0.9, np.float32)}, sizes
    )


def some_images(count=8, size=34):
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


@pytest.mark.parametrize("peer", ["torch", "torch.bfloat16", "keras"])
def test_a_peer_learns(peer):
    """The train step that is timed is one: the vote fractions that it is given are approached."""
    pytest.importorskip(peer.split(".")[0])
    given = task(create("cnn", num_outputs=37, momentum=0.5), some_images())
    _, forward, train = peers.stages(peer, given)
    votes = given.batch["vote_fractions"]
    before = np.square(np.asarray(forward.call(1)) - votes).mean()
    train.call(30)
    assert np.square(np.asarray(forward.call(1)) - votes).mean() < before / 2


@pytest.fixture(scope="module", params=["cnn", "resnet50"])
def exported(request):
    """A task, whose network's logits have a standard deviation of 2, and the vote fractions of the task's images."""
    config, images = fields.default(), some_images(4, 64)
    config.model.name, config.data.size = request.param, 64
    module, rng = resolve.parts(config, GALAXY_ZOO_2).module, np.random.default_rng(0)
    variables = module.init(jax.random.key(0), images)
    variables["batch_stats"] = jax.tree.map(lambda x: rng.uniform(0.5, 1.5, x.shape), variables["batch_stats"])
    apply = jax.jit(lambda head: module.apply({**variables, "params": {**variables["params"], "head": head}}, images))
    head = variables["params"]["head"]
    head = jax.tree.map(lambda x: x * 2 / np.std(apply(head)), head)
    variables["params"]["head"] = head
    network = Network(Record(config, GALAXY_ZOO_2, "none", None), jax.device_get(variables), 0, {}, "test", {})
    return task(module, images, (6, 2), network), labels.activate(apply(head), config.model.activation)


def needed(name):
    try:
        peers.check(name, "cpu")
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"{name}: {error}")


@pytest.mark.parametrize(("name", "tolerance"), [("onnxruntime", 1e-5), ("openvino", 1e-5), ("openvino.bfloat16", 0.1)])
def test_peers_that_read_onnx_compute_what_our_network_does(name, tolerance, exported):
    needed(name)
    given, expected = exported
    parameters, *forward = peers.stages(name, given)
    assert parameters == sum(x.size for x in jax.tree.leaves(given.network.variables["params"]))
    assert [(stage.name, stage.images) for stage in forward] == [
        (f"forward, {name}", 4),
        (f"forward (6), {name}", 6),
        (f"forward (2), {name}", 2),
    ]
    for stage, rows in zip(forward, ([0, 1, 2, 3], [0, 1, 2, 3, 0, 1], [0, 1]), strict=True):
        found = stage.call(2)
        assert (found.shape, found.dtype) == ((len(rows), 37), np.float32)
        error = np.abs(found - expected[np.array(rows)]).max()
        assert error < tolerance
        assert not name.endswith("bfloat16") or error > 1e-4  # float32 would be nearer: it is bfloat16
    assert np.ptp(expected, 0).max() > 0.3  # what tells galaxies apart is more than the tolerance


def of_torch(name, sizes=()):
    """A peer's predictions at each batch size. Its weights are the same each time."""
    import torch

    torch.manual_seed(0)
    module = create("cnn", num_outputs=37)
    return [stage.call(2).float().numpy() for stage in peers.stages(name, task(module, some_images(), sizes))[1:-1]]


def test_torch_in_bfloat16_computes_nearly_the_same():
    needed("torch.bfloat16")
    [full], [half] = of_torch("torch"), of_torch("torch.bfloat16")
    assert 1e-5 < np.abs(full - half).max() < 0.01


@pytest.mark.slow
@pytest.mark.parametrize("half", ["", ".bfloat16"])
def test_compiled_torch_computes_the_same_at_each_batch_size(half):
    needed("torch.compile")
    for found, expected in zip(of_torch(f"torch.compile{half}", (3, 5)), of_torch(f"torch{half}", (3, 5)), strict=True):
        np.testing.assert_allclose(found, expected, atol=0.01 if half else 1e-5, rtol=0)
