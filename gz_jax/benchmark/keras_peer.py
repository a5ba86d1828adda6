"""The same networks in Keras, on TensorFlow."""

import os
from typing import Any

import numpy as np

from gz_jax.benchmark.timing import Stage


def build(module: Any, size: int) -> Any:
    """The Keras model like `module`: uint8 images [B, size, size, 3] to sigmoids [B, answers].

    Raises:
      ImportError: Keras or TensorFlow is not installed; or there is no such network in Keras.
    """
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    import keras
    from keras import layers as k

    keras.mixed_precision.set_global_policy(
        "mixed_bfloat16" if np.dtype(module.dtype).name == "bfloat16" else "float32"
    )
    inputs = keras.Input((size, size, 3), dtype="uint8")
    x = keras.ops.cast(inputs, "float32")
    if hasattr(module, "variant"):
        if module.variant != "keras":
            raise ImportError("Keras' ResNet50 is v1 alone")
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


def stages(module: Any, batch: dict[str, np.ndarray]) -> tuple[int, Stage, Stage]:
    """Keras' number of trainable parameters, forward pass and train step, as `torch_peer.stages`."""
    images, votes = batch["image"], batch["vote_fractions"]
    model = build(module, images.shape[1])

    def forward(n: int) -> np.ndarray:
        for _ in range(n):
            predicted = model.predict_on_batch(images)
        return predicted

    def train(n: int) -> None:
        for _ in range(n):
            model.train_on_batch(images, votes)

    parameters = sum(int(np.prod(w.shape)) for w in model.trainable_weights)
    return parameters, Stage("forward, keras", len(images), forward), Stage("train step, keras", len(images), train)
