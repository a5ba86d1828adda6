"""Networks with batch normalisation folded into their convolutions, against the networks as they were trained."""

import functools

import jax
import numpy as np
import pytest
from references import relative_error

from gz_jax.models import create, fourier, groups
from gz_jax.models.folding import fold, pays, transformed
from gz_jax.models.layers import MANY

NETWORKS = {
    "cnn": {"name": "cnn"},
    "keras": {"name": "resnet50", "hidden": (8,)},
    "torchvision": {"name": "resnet50", "variant": "torchvision", "pooling": "average"},
}


def shown(count, size):
    return np.random.default_rng(count).integers(0, 256, (count, size, size, 3)).astype(np.uint8)


def made(options, size):
    """A network with random weights whose activations neither vanish nor explode; all statistics and scales differ."""
    module, rng = create(**options, num_outputs=5), np.random.default_rng(0)

    def draw(path, of):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if name.endswith("kernel"):
            return np.float32(rng.normal(0, np.sqrt(1 / np.prod(of.shape[:-1])), of.shape))
        if name.endswith(("scale", "var")):
            return np.float32(rng.uniform(0.5, 1.5, of.shape) * (0.2 if name.endswith("3_bn/scale") else 1))
        return np.float32(rng.normal(0, 0.1, of.shape))

    shapes = jax.eval_shape(module.init, jax.random.key(0), shown(1, size))
    return module, jax.tree_util.tree_map_with_path(draw, shapes)


@pytest.mark.parametrize("options", NETWORKS.values(), ids=NETWORKS)
def test_the_same_logits_and_features_without_batch_normalisation(options):
    module, variables = made(options, 36)
    folded, params = fold(module, variables)
    assert set(params) == {"params"}
    assert not any("bn" in jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(params))
    before, after = (jax.jit(functools.partial(network.apply, method="embed")) for network in (module, folded))
    ready = transformed(folded, params, 36)
    for count in (2, MANY):  # of many images, some layers go by way of Fourier transforms even if not made ready
        images = shown(count, 36)
        expected = before(variables, images)
        for given in (params, ready):
            found = after(given, images)
            assert relative_error(found[0], expected[0]) < 2e-5
            assert relative_error(found[1], expected[1]) < 2e-5


@pytest.mark.parametrize("size", [36, 51])
@pytest.mark.parametrize("options", NETWORKS.values(), ids=NETWORKS)
def test_groups_of_images_as_all_at_once(options, size, monkeypatch):
    """The first layers in groups that divide the batch, or of one image each; sizes that no stride divides, too."""
    module, variables = made(options, size)
    folded, params = fold(module, variables)
    for count in (MANY, MANY + 5):  # 37 is prime
        images = shown(count, size)
        ready = transformed(folded, params, size)
        monkeypatch.setattr(groups, "IN_CACHE", 10**9)
        assert "scan" not in str(jax.make_jaxpr(folded.apply)(ready, images))
        expected = jax.jit(module.apply)(variables, images)
        monkeypatch.setattr(groups, "IN_CACHE", 8 * 13 * 13 * 256)
        if jax.default_backend() == "cpu":
            assert "scan" in str(jax.make_jaxpr(lambda *given: folded.apply(*given))(ready, images))
        assert relative_error(jax.jit(lambda *given: folded.apply(*given))(ready, images), expected) < 2e-5


def test_one_layer_by_hand():
    """Kernel 3, bias 1; scale 2, bias 5, mean 4, variance 9 - epsilon: (3 x + 1 - 4) * 2 / 3 + 5 = 2 x + 3."""
    module, variables = made(NETWORKS["cnn"], 30)
    norm = {"scale": np.full(32, 2.0), "bias": np.full(32, 5.0)}
    layer = {"kernel": np.full((3, 3, 3, 32), 3.0), "bias": np.ones(32)}
    given = {
        "params": {**variables["params"], "conv1": layer, "bn1": norm},
        "batch_stats": {"bn1": {"mean": np.full(32, 4.0), "var": np.full(32, 9 - 1e-3)}},
    }
    found = fold(module, given)[1]["params"]["conv1"]
    np.testing.assert_allclose(found["kernel"], 2.0, rtol=1e-12)
    np.testing.assert_allclose(found["bias"], 3.0, rtol=1e-12)


def test_folding_keeps_the_dtype_and_leaves_what_it_was_given():
    module, variables = made(NETWORKS["cnn"], 30)
    before = jax.tree.map(np.copy, variables)
    for dtype in (np.float32, np.float64):
        cast = jax.tree.map(lambda x, dtype=dtype: np.asarray(x, dtype), variables)
        assert {leaf.dtype for leaf in jax.tree.leaves(fold(module, cast)[1])} == {np.dtype(dtype)}
    jax.tree.map(np.testing.assert_array_equal, variables, before)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="other devices convolve in their own way")
def test_transforms_are_those_of_the_kernels():
    module, variables = made(NETWORKS["cnn"], 36)
    folded, params = fold(module, variables)
    found = transformed(folded, params, 36)["transformed"]
    side = (((36 - 2) // 2) - 2) // 2  # of the maps that the third convolution gets
    expected = fourier.transform(params["params"]["conv3"]["kernel"], side, 0)
    assert relative_error(found["conv3"]["kernel"], expected) < 1e-5


def test_transforms_pay_from_16_images_of_68_pixels_on_and_for_fewer_larger_ones():
    enough = {68: 16, 128: 5, 224: 2}
    assert all(pays((count, size, size, 3)) for size, count in enough.items())
    assert not any(pays((count - 1, size, size, 3)) for size, count in enough.items())


def test_initialising_a_network_makes_no_transforms():
    module = create("cnn", num_outputs=5)
    made = jax.eval_shape(module.init, jax.random.key(0), shown(MANY, 36))
    assert set(made) == {"params", "batch_stats"}
