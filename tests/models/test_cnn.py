import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gz_jax.models import create
from gz_jax.runtime.errors import UserError


def _images(size=68, batch=2, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (batch, size, size, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def variables():
    return jax.jit(create("cnn", num_outputs=37).init)(jax.random.key(0), _images())


def test_papers_parameter_count(variables):
    # 896 + 128 + 18,496 + 295,040 + 1,638,528 + 8,256 + 2,405 = 1,963,749, batch norm's statistics included.
    assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == 1_963_749
    # 68 -> 66 -> 33 -> 31 -> 15 -> 10: a map of 10 x 10 x 128 enters the first dense layer.
    assert variables["params"]["dense1"]["kernel"].shape == (10 * 10 * 128, 128)


def test_initialised_as_keras_does(variables):
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables["params"]):
        name = path[-1].key
        if name == "kernel":
            fan_in, fan_out = np.prod(leaf.shape[:-1]), leaf.shape[-1] * np.prod(leaf.shape[:-2])
            limit = np.sqrt(6 / (fan_in + fan_out))
            assert np.abs(leaf).max() <= limit
            assert np.std(leaf) == pytest.approx(limit / np.sqrt(3), rel=0.05)
        else:
            assert np.all(np.asarray(leaf) == (1 if name == "scale" else 0))


def test_bytes_and_fractions_are_the_same_image(variables):
    model, images = create("cnn", num_outputs=37), _images()
    from_bytes = model.apply(variables, images)
    assert from_bytes.shape == (2, 37)
    assert from_bytes.dtype == jnp.float32
    np.testing.assert_allclose(from_bytes, model.apply(variables, np.float32(images) / 255), atol=1e-6)
    with pytest.raises(ValueError, match="int32"):
        model.apply(variables, images.astype(np.int32))


def test_dropout_follows_its_key_and_evaluation_has_none(variables):
    model, images = create("cnn", num_outputs=37), _images()

    def train(seed):
        return model.apply(
            variables, images, train=True, rngs={"dropout": jax.random.key(seed)}, mutable=["batch_stats"]
        )[0]

    np.testing.assert_array_equal(train(1), train(1))
    assert np.abs(train(1) - train(2)).max() > 1e-3
    np.testing.assert_array_equal(model.apply(variables, images), model.apply(variables, images))


def test_bfloat16_computes_close_to_float32_and_keeps_float32_variables(variables):
    half = create("cnn", num_outputs=37, dtype="bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(jax.eval_shape(half.init, jax.random.key(0), _images()))} == {
        jnp.dtype("float32")
    }
    full = create("cnn", num_outputs=37).apply(variables, _images())
    logits = half.apply(variables, _images())
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, full, atol=0.05 * np.abs(full).max())


def test_too_small_images_are_refused():
    with pytest.raises(UserError, match="30 x 30"):
        create("cnn", num_outputs=37).init(jax.random.key(0), _images(29))
    assert create("cnn", num_outputs=37).init_with_output(jax.random.key(0), _images(30))[0].shape == (2, 37)


@pytest.mark.parametrize("bad", [{"dtype": "float16"}, {"preprocess": "caffe"}])
def test_unknown_options_are_refused(bad):
    with pytest.raises(UserError, match="is not one of"):
        create("cnn", num_outputs=37, **bad)


def test_unknown_model_is_refused():
    with pytest.raises(UserError, match="'cnn', 'resnet50'"):
        create("vgg16", num_outputs=37)
