import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from references import random_weights

from gz_jax.models import create
from gz_jax.models.layers import BatchNorm, Conv, max_pool, preprocess
from gz_jax.runtime.errors import UserError


def _count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def _shapes(**options):
    model = create("resnet50", num_outputs=37, **options)
    return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 68, 68, 3)))


def test_parameter_counts():
    plain = _shapes(hidden=())
    assert _count(plain["params"]["body"]) == 23_534_592  # the paper's, Keras' without top
    assert _count(plain["batch_stats"]) == 53_120
    assert plain["params"]["head"]["kernel"].shape == (3 * 3 * 2048, 37)
    torch = _shapes(variant="torchvision", pooling="average")
    assert _count(torch["params"]["body"]) == 25_557_032 - 2_049_000  # torchvision's resnet50 less its 1000-way top
    assert [torch["params"][name]["kernel"].shape for name in ("dense_0", "dense_1", "head")] == [
        (2048, 200),
        (200, 100),
        (100, 37),
    ]


@pytest.mark.parametrize("bad", [{"variant": "v2"}, {"pooling": "max"}])
def test_unknown_options_are_refused(bad):
    with pytest.raises(UserError, match="is not one of"):
        _shapes(**bad)


def test_preprocessing_by_hand():
    red = np.zeros((1, 1, 1, 3), np.uint8) + np.uint8([255, 0, 51])
    expected = {
        "unit": [1, 0, 0.2],
        "keras": [51 - 103.939, -116.779, 255 - 123.68],
        "torch": [(1 - 0.485) / 0.229, -0.456 / 0.224, (0.2 - 0.406) / 0.225],
    }
    for how, value in expected.items():
        np.testing.assert_allclose(preprocess(jnp.asarray(red), how)[0, 0, 0], value, rtol=1e-5)
        np.testing.assert_allclose(preprocess(jnp.asarray(red / 255.0), how)[0, 0, 0], value, rtol=1e-5)


@pytest.mark.parametrize(("size", "stride", "padding"), [(1, 1, 0), (1, 2, 0), (3, 2, 1), (7, 2, 3)])
def test_convolution_pads_both_sides(size, stride, padding):
    x = np.random.default_rng(0).normal(size=(2, 9, 8, 5)).astype(np.float32)
    layer = Conv(4, size, stride, padding)
    variables = layer.init(jax.random.key(0), x)
    kernel = np.asarray(variables["params"]["kernel"])
    padded = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), (1, 2))[:, ::stride, ::stride]
    np.testing.assert_allclose(layer.apply(variables, x), np.einsum("bhwcij,ijco->bhwo", windows, kernel), atol=1e-5)


@pytest.mark.parametrize(("size", "stride", "padding", "side"), [(2, 2, 0, 31), (3, 2, 1, 34), (3, 2, 1, 33)])
def test_max_pool_and_its_gradient_are_flaxs(size, stride, padding, side):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, side, side, 3)), jnp.float32)

    def ours(x):
        return max_pool(x, size, stride, padding)

    def theirs(x):
        return nn.max_pool(x, (size, size), (stride, stride), [(padding, padding)] * 2)

    np.testing.assert_array_equal(ours(x), theirs(x))
    weight = jnp.cos(jnp.arange(ours(x).size, dtype=jnp.float32)).reshape(ours(x).shape)
    for ours_grad, theirs_grad in [[jax.grad(lambda x, f=f: (f(x) * weight).sum())(x) for f in (ours, theirs)]]:
        np.testing.assert_allclose(ours_grad, theirs_grad, atol=1e-6)


@pytest.mark.parametrize("unbiased", [False, True])
def test_batch_norm_by_hand(unbiased):
    x = np.array([[1.0, 10], [2, 10], [6, 40]], np.float32)
    layer = BatchNorm(momentum=0.9, epsilon=0.5, unbiased=unbiased)
    variables = layer.init(jax.random.key(0), x, False)
    assert np.all(np.asarray(variables["batch_stats"]["mean"]) == 0)  # initialising leaves the statistics alone
    y, updates = layer.apply(variables, x, False, mutable=["batch_stats"])
    mean, var = np.array([3, 20]), np.array([14 / 3, 200])
    np.testing.assert_allclose(y, (x - mean) / np.sqrt(var + 0.5), rtol=1e-5)
    np.testing.assert_allclose(updates["batch_stats"]["mean"], 0.1 * mean, rtol=1e-6)
    np.testing.assert_allclose(updates["batch_stats"]["var"], 0.9 + 0.1 * var * (1.5 if unbiased else 1), rtol=1e-6)
    np.testing.assert_allclose(layer.apply(variables, x, True), x / np.sqrt(1.5), rtol=1e-6)


def test_batch_norm_survives_a_large_mean_and_bfloat16():
    noise = np.random.default_rng(0).normal(size=(64, 4, 4, 3))
    layer = BatchNorm(momentum=0.9, epsilon=1e-5)
    x = np.float32(4096 + noise)  # E[x^2] - E[x]^2 in float32 has no correct digit here
    variables = layer.init(jax.random.key(0), x, False)
    y, _ = layer.apply(variables, x, False, mutable=["batch_stats"])
    exact = np.float64(x)
    np.testing.assert_allclose(y, (exact - exact.mean((0, 1, 2))) / exact.std((0, 1, 2)), atol=5e-3)
    half = BatchNorm(momentum=0.9, epsilon=1e-5, dtype=jnp.bfloat16)
    y, updates = half.apply(variables, jnp.asarray(noise, jnp.bfloat16), False, mutable=["batch_stats"])
    assert y.dtype == jnp.bfloat16
    assert updates["batch_stats"]["var"].dtype == jnp.float32


def test_batch_norm_gradient_is_that_of_its_formula():
    rng = np.random.default_rng(0)
    x, scale, bias = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((16, 3), 3, 3))
    layer = BatchNorm(momentum=0.9, epsilon=1e-3)
    variables = layer.init(jax.random.key(0), x, False)

    def ours(x, scale, bias):
        given = variables | {"params": {"scale": scale, "bias": bias}}
        return (layer.apply(given, x, False, mutable=["batch_stats"])[0] ** 3).sum()

    def formula(x, scale, bias):
        centred = x - x.mean(0, keepdims=True)
        return ((centred / jnp.sqrt(x.var(0, keepdims=True) + 1e-3) * scale[None] + bias[None]) ** 3).sum()

    for got, expected in zip(*(jax.grad(f, (0, 1, 2))(x, scale, bias) for f in (ours, formula)), strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-4)


@pytest.mark.parametrize("train", [True, False])
def test_a_bias_before_batch_norm_moves_the_running_mean_alone(train):
    rng = np.random.default_rng(1)
    x, bias = jnp.asarray(rng.normal(size=(16, 3)), jnp.float32), jnp.array([1.0, -2, 3])
    layer = BatchNorm(momentum=0.9, epsilon=1e-3)
    variables = layer.init(jax.random.key(0), x, False)
    variables["batch_stats"]["mean"] = jnp.array([0.5, 0, -1])

    def apart(x, bias):
        return layer.apply(variables, x, not train, bias, mutable=["batch_stats"])

    def together(x, bias):
        return layer.apply(variables, x + bias[None], not train, mutable=["batch_stats"])

    for got, expected in zip(*(jax.tree.leaves(f(x, bias)) for f in (apart, together)), strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-5)
    gradients = [jax.grad(lambda x, b, f=f: (f(x, b)[0] ** 3).sum(), (0, 1))(x, bias) for f in (apart, together)]
    for got, expected in zip(*gradients, strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-4)
    assert (np.asarray(gradients[0][1]) == 0).all() == train


def test_batch_norm_is_over_the_global_batch_of_a_mesh():
    x = np.random.default_rng(0).normal(size=(8, 5, 5, 3)).astype(np.float32) + np.arange(8).reshape(8, 1, 1, 1)
    x = x.astype(np.float32)
    layer = BatchNorm(momentum=0.9, epsilon=1e-5, unbiased=True)
    variables = layer.init(jax.random.key(0), x, False)
    apply = jax.jit(lambda x: layer.apply(variables, x, False, mutable=["batch_stats"]))
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    sharded = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
    for one, four in zip(jax.tree.leaves(apply(x)), jax.tree.leaves(apply(sharded)), strict=True):
        np.testing.assert_allclose(one, four, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["keras", "torchvision"])
def test_training_moves_statistics_unless_frozen(variant):
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    model = create("resnet50", num_outputs=37, variant=variant, hidden=(), pooling="average")
    weights = random_weights(variant, top=False)
    head = {"kernel": np.full((2048, 37), 0.01, np.float32), "bias": np.zeros(37, np.float32)}
    variables = {
        "params": {"body": weights.body["params"], "head": head},
        "batch_stats": {"body": weights.body["batch_stats"]},
    }

    def train(model):
        return jax.jit(lambda v: model.apply(v, images, train=True, mutable=["batch_stats"]))(variables)

    logits, updates = train(model)
    moved = jax.tree.map(lambda a, b: np.any(a != b), variables["batch_stats"], updates["batch_stats"])
    assert all(jax.tree.leaves(moved))
    frozen = create("resnet50", num_outputs=37, variant=variant, hidden=(), pooling="average", freeze_statistics=True)
    still, updates = train(frozen)
    evaluated = jax.jit(model.apply)(variables, images)
    np.testing.assert_allclose(still, evaluated, rtol=1e-4, atol=1e-4 * np.abs(evaluated).max())
    jax.tree.map(np.testing.assert_array_equal, updates["batch_stats"], variables["batch_stats"])
    assert logits.dtype == still.dtype == jnp.float32
