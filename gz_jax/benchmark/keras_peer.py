"""The same networks in Keras, on TensorFlow."""

import functools
import os
from typing import Any

import numpy as np

from gz_jax.benchmark.peers import Task, forward_batches
from gz_jax.benchmark.timing import Stage
from gz_jax.data import tensorflow_cpu


def check(name: str, backend: str) -> None:
    """See `peers.check`."""
    if backend != "cpu":
        raise RuntimeError("it is timed on CPUs only")
    _import_keras()


def _import_keras() -> Any:
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # the usual setting; must be before TensorFlow is loaded
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    tensorflow_cpu.import_tensorflow()
    import keras

    return keras


def build(module: Any, size: int) -> Any:
    """The Keras model like `module`: uint8 images [B, size, size, 3] to sigmoids [B, answers].

    Raises:
      ImportError: Keras or TensorFlow is not installed; or there is no such network in Keras.
    """
    keras = _import_keras()
    k = keras.layers
    keras.mixed_precision.set_global_policy(
        "mixed_bfloat16" if np.dtype(module.dtype).name == "bfloat16" else "float32"
    )
    inputs = keras.Input((size, size, 3), dtype="uint8")
    x = keras.ops.cast(inputs, "float32")
    if hasattr(module, "variant"):
        if module.variant != "keras":
            raise ImportError("Keras has only v1 of ResNet50, --config.model.variant=keras")
        x = x[..., ::-1] - np.array([103.939, 116.779, 123.68], np.float32)
        x = keras.applications.ResNet50(include_top=False, weights=None, input_shape=(size, size, 3))(x)
        x = k.Flatten()(x) if module.pooling == "flatten" else k.GlobalAveragePooling2D()(x)
        dropout = module.dropout
    else:
        early, dropout = module.dropout
        x = k.Conv2D(module.features[0], 3)(x / 255)
        x = k.MaxPooling2D()(k.ReLU()(k.BatchNormalization(momentum=module.momentum)(x)))
        x = k.MaxPooling2D()(k.Conv2D(module.features[1], 3, activation="relu")(k.Dropout(early)(x)))
        x = k.Conv2D(module.features[2], 6, activation="relu")(k.Dropout(early)(x))
        x = k.Flatten()(k.Dropout(early)(x))
    for width in module.hidden:
        x = k.Dropout(dropout)(k.Dense(width, activation="relu")(x))
    model = keras.Model(inputs, k.Dense(module.num_outputs, activation="sigmoid", dtype="float32")(x))
    model.compile(optimizer=keras.optimizers.Adam(1e-3), loss="mse")
    return model


def stages(name: str, task: Task) -> tuple[int | Stage, ...]:
    """As `torch_peer.stages`, for Keras: its number of trainable parameters, forward passes and train step."""
    images, votes = task.batch["image"], task.batch["vote_fractions"]
    model = build(task.module, images.shape[1])

    def forward(images: np.ndarray, n: int) -> np.ndarray:
        for _ in range(n):
            predicted = model.predict_on_batch(images)
        return predicted

    def train(n: int) -> None:
        for _ in range(n):
            model.train_on_batch(images, votes)

    found = [
        Stage(f"{stage}, {name}", len(batch), functools.partial(forward, batch))
        for stage, batch in forward_batches(images, task.sizes).items()
    ]
    parameters = sum(int(np.prod(w.shape)) for w in model.trainable_weights)
    return parameters, *found, Stage(f"train step, {name}", len(images), train)
