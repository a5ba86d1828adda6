"""The same networks in Keras: every stage, the batch statistics, the gradients, and what they see in photographs."""

import csv
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from references import relative_error, relative_norm

from gz_jax.models import create, imagenet
from gz_jax.models.cnn import CNN
from gz_jax.models.imagenet_tables import TABLES, entries
from gz_jax.models.resnet import ResNet50

pytestmark = pytest.mark.peers

STAGES = {
    "stage1_block3": "conv2_block3_out",
    "stage2_block4": "conv3_block4_out",
    "stage3_block6": "conv4_block6_out",
    "stage4_block3": "conv5_block3_out",
}


@pytest.fixture(scope="module")
def keras():
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    pytest.importorskip("tensorflow")
    return pytest.importorskip("keras")


def _randomise(model, seed=0):
    """Random kernels and, so that nothing can hide in a default, random batch-norm parameters and statistics.

    The residual branches are weak, as in trained networks: otherwise the network amplifies rounding itself.
    """
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        if weight.name == "kernel":
            value = rng.normal(0, np.sqrt(1 / np.prod(weight.shape[:-1])), weight.shape)
        elif weight.name in ("gamma", "moving_variance"):
            value = rng.uniform(0.5, 1.5, weight.shape) * (0.2 if weight.path.endswith("3_bn/gamma") else 1)
        else:
            value = rng.normal(0, 0.1, weight.shape)
        weight.assign(value)


@pytest.fixture(scope="module", params=["random", "imagenet"])
def body(request, keras, tmp_path_factory):
    """Keras' body with random or ImageNet weights (outputs: the four stages), and ours read from its file."""
    if request.param == "imagenet":
        file = request.getfixturevalue("resnet50_imagenet")
        full = keras.applications.ResNet50(weights=str(file))
        theirs = keras.applications.ResNet50(weights=None, include_top=False)
        for layer in theirs.layers:
            layer.set_weights(full.get_layer(layer.name).get_weights() if layer.weights else [])
    else:
        theirs = keras.applications.ResNet50(weights=None, include_top=False)
        _randomise(theirs)
        file = tmp_path_factory.mktemp("keras") / "body.h5"
        theirs.save(file)
    weights = imagenet.read_weights(file)
    stages = keras.Model(theirs.input, [theirs.get_layer(name).output for name in STAGES.values()])
    return stages, theirs, weights.body


def _images(size, batch=4):
    # Preprocessed pixels: blurred noise in -120..150, so that neighbours correlate as in a photograph.
    noise = np.random.default_rng(size).normal(size=(batch, size + 8, size + 8, 3))
    smooth = sum(noise[:, i : i + size, j : j + size] for i in range(8) for j in range(8)) / 8
    return np.clip(50 * smooth, -120, 150).astype(np.float32)


def _stages(variables, images, train):
    model = ResNet50("keras")
    _, state = jax.jit(
        lambda v, x: model.apply(v, x, not train, capture_intermediates=True, mutable=["intermediates", "batch_stats"])
    )(variables, images)
    found = [state["intermediates"][name]["__call__"][0] for name in STAGES]
    return found, state["batch_stats"]


def _keras_by_our_path(model, values=None):
    """Keras' weights (or `values` in their place) by our path."""
    paths = {key: entry.path.replace("/body", "") for key, entry in entries(TABLES[0]).items()}
    values = model.weights if values is None else values
    return {
        paths[f"{layer}/{weight.name}"]: np.asarray(value)
        for layer, weight, value in zip(_layers(model), model.weights, values, strict=True)
    }


def _layers(model):
    return [layer.name for layer in model.layers for _ in layer.weights]


@pytest.mark.slow
@pytest.mark.parametrize("size", [68, 75, 224])
def test_every_stage_in_evaluation(body, size):
    stages, _, variables = body
    images = _images(size, batch=2)
    theirs = stages(images, training=False)
    ours, _ = _stages(variables, images, train=False)
    assert [relative_error(a, b) < 1e-4 for a, b in zip(ours, theirs, strict=True)] == [True] * 4


@pytest.mark.slow
@pytest.mark.parametrize("size", [68, 75, 224])
def test_every_stage_and_the_statistics_in_training(body, size):
    stages, model, variables = body
    before = model.get_weights()
    images = _images(size)
    theirs = stages(images, training=True)
    after = _keras_by_our_path(model)
    model.set_weights(before)
    ours, statistics = _stages(variables, images, train=True)
    assert [relative_error(a, b) < 1e-4 for a, b in zip(ours, theirs, strict=True)] == [True] * 4
    old = flatten_dict(variables["batch_stats"], sep="/")
    for path, new in flatten_dict(statistics, sep="/").items():
        step = np.asarray(new) - old[path]
        assert relative_error(step, after[f"batch_stats/{path}"] - old[path]) < 1e-3, path


@pytest.mark.slow
def test_gradients(body, keras):
    import tensorflow as tf

    stages, model, variables = body
    before = model.get_weights()
    images = _images(68)
    weight = np.random.default_rng(1).normal(size=(4, 3, 3, 2048)).astype(np.float32)
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(stages(images, training=True)[-1] * weight)
    trainable = model.trainable_weights
    theirs = dict(zip((w.path for w in trainable), tape.gradient(loss, [w.value for w in trainable]), strict=True))
    model.set_weights(before)

    def ours(params):
        features, _ = ResNet50("keras").apply(
            {"params": params, "batch_stats": variables["batch_stats"]}, images, False, mutable=["batch_stats"]
        )
        return jnp.mean(features * weight)

    gradients = flatten_dict(jax.jit(jax.grad(ours))(variables["params"]), sep="/")
    errors = {}
    for key, entry in entries(TABLES[0]).items():
        path = entry.path.removeprefix("params/body/")
        if path in gradients and not path.endswith("conv/bias"):  # before batch norm: zero but for rounding
            errors[path] = relative_norm(gradients[path], theirs[key])
    assert len(errors) == 159
    # ReLUs within rounding of zero flip, in Keras against itself (input times 1 + 1e-7) as much; a wrong formula
    # gives 1.
    assert max(errors.values()) < 3e-2
    assert max(error for path, error in errors.items() if path.startswith("stage4_block3/3")) < 1e-3


def test_cnn_is_kerass(keras):
    layers = keras.layers
    theirs = keras.Sequential(
        [
            keras.Input((68, 68, 3)),
            layers.Conv2D(32, 3),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.MaxPooling2D(2),
            layers.Conv2D(64, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Conv2D(128, 6, activation="relu"),
            layers.Flatten(),
            layers.Dense(128, activation="relu"),
            layers.Dense(64, activation="relu"),
            layers.Dense(37),
        ]
    )
    assert theirs.count_params() == 1_963_749
    _randomise(theirs)
    parameterised = [layer for layer in theirs.layers if layer.weights]
    params, statistics = {}, {}
    for name, layer in zip(["conv1", "bn1", "conv2", "conv3", "dense1", "dense2", "head"], parameterised, strict=True):
        values = layer.get_weights()
        if name == "bn1":
            params[name] = {"scale": values[0], "bias": values[1]}
            statistics[name] = {"mean": values[2], "var": values[3]}
        else:
            params[name] = {"kernel": values[0], "bias": values[1]}
    variables = {"params": params, "batch_stats": statistics}
    images = np.random.default_rng(0).uniform(size=(4, 68, 68, 3)).astype(np.float32)
    assert relative_error(create("cnn", num_outputs=37).apply(variables, images), theirs(images, training=False)) < 1e-5
    trained = theirs(images, training=True)
    ours, updates = CNN(37, dropout=(0.0, 0.0)).apply(variables, images, train=True, mutable=["batch_stats"])
    assert relative_error(ours, trained) < 1e-5
    after = parameterised[1].get_weights()
    assert relative_error(updates["batch_stats"]["bn1"]["mean"], after[2]) < 1e-5
    assert relative_error(updates["batch_stats"]["bn1"]["var"], after[3]) < 1e-5


@pytest.mark.slow
def test_photographs_are_recognised_as_keras_does(keras, resnet50_imagenet, imagenet_photos):
    with open(imagenet_photos / "labels.csv", newline="") as file:
        photos = np.stack([imagenet.read_photo(imagenet_photos / row["file"]) for row in csv.DictReader(file)])
    theirs = keras.applications.ResNet50(weights=str(resnet50_imagenet))
    expected = theirs.predict(keras.applications.resnet50.preprocess_input(photos.astype(np.float32)), verbose=0)
    model, variables = imagenet.classifier(imagenet.read_weights(resnet50_imagenet))
    apply = jax.jit(lambda v, x: jax.nn.softmax(model.apply(v, x)))
    ours = np.concatenate([apply(variables, photos[i : i + 20]) for i in range(0, 100, 20)])
    np.testing.assert_array_equal(ours.argmax(-1), expected.argmax(-1))
    best = [[set(row[-5:]) for row in np.argsort(p, -1)] for p in (ours, expected)]
    assert best[0] == best[1]
    np.testing.assert_allclose(ours, expected, atol=1e-4)
