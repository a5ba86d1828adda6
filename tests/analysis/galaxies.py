"""Small random labels and predictions that obey the tree."""

import numpy as np

from gz_jax import labels


def fractions(n: int, seed: int, sharpness: float = 2.0) -> np.ndarray:
    """float32 [n, 37]."""
    logits = np.random.default_rng(seed).normal(scale=sharpness, size=(n, 37)).astype(np.float32)
    return np.array(labels.rescale(logits, "softmax"))


def pair(n: int, seed: int = 0, noise: float = 0.6) -> tuple[np.ndarray, np.ndarray]:
    """(truth, predicted), both float32 [n, 37]."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=2.0, size=(n, 37)).astype(np.float32)
    noisy = logits + rng.normal(scale=noise, size=logits.shape).astype(np.float32)
    return np.array(labels.rescale(logits, "softmax")), np.array(labels.rescale(noisy, "softmax"))


def images(rows: np.ndarray) -> np.ndarray:
    """uint8 [n, 32, 32, 3], a function of the row alone."""
    return np.stack([np.random.default_rng(int(row)).integers(0, 255, (32, 32, 3), np.uint8) for row in rows])


def history(epochs: int) -> list[dict[str, float]]:
    """A log with Keras' column names; the best epoch is 2."""
    return [
        {
            "epoch": e,
            "accuracy": 0.5 + 0.01 * e,
            "loss": 0.04 / (e + 1),
            "learning_rate": 0.001 if e < 4 else 0.0005,
            "val_accuracy": 0.5 + 0.008 * e,
            "val_loss": 0.02 + 0.001 * abs(e - 2),
            "val_rmse": (0.02 + 0.001 * abs(e - 2)) ** 0.5,
            "epoch_seconds": 30.0,
            "images_per_second": 180.0,
        }
        for e in range(epochs)
    ]
