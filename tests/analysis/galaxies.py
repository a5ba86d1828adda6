"""Small random labels and predictions that obey the tree."""

import numpy as np

from gz_jax import labels
from gz_jax.labels import GALAXY_ZOO_2, Tree


def fractions(n: int, seed: int, sharpness: float = 2.0, tree: Tree = GALAXY_ZOO_2) -> np.ndarray:
    """float32 [n, answers]."""
    logits = np.random.default_rng(seed).normal(scale=sharpness, size=(n, len(tree.columns))).astype(np.float32)
    return np.array(labels.rescale(logits, "softmax", tree))


def pair(n: int, seed: int = 0, noise: float = 0.6, tree: Tree = GALAXY_ZOO_2) -> tuple[np.ndarray, np.ndarray]:
    """(truth, predicted), both float32 [n, answers]."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=2.0, size=(n, len(tree.columns))).astype(np.float32)
    noisy = logits + rng.normal(scale=noise, size=logits.shape).astype(np.float32)
    return np.array(labels.rescale(logits, "softmax", tree)), np.array(labels.rescale(noisy, "softmax", tree))


def holes(truth: np.ndarray, tree: Tree = GALAXY_ZOO_2, seed: int = 0) -> np.ndarray:
    """The labels with some unknown (NaN): whole questions, single answers, and the last question everywhere.

    Every galaxy keeps some.
    """
    rng, found = np.random.default_rng(seed), truth.copy()
    for s in tree.slices[1:]:
        found[rng.random(len(truth)) < 0.4, s] = np.nan
    found[rng.random(truth.shape) < 0.05] = np.nan
    found[:, tree.slices[-1]] = np.nan
    lost = np.isnan(found).all(1)
    found[lost, 0] = truth[lost, 0]
    return found


ONE_QUESTION = labels.from_dict(
    {
        "name": "Kinds of galaxies",
        "questions": [
            {
                "name": "kind",
                "text": "Which of these kinds describes the galaxy in the middle of the picture best?",
                "answers": ["early", "late", "$x$"],
                "texts": [
                    "a smooth galaxy with no sign of a disk or of anything else",
                    "a disk",
                    "costs $5, or $\\frac$6",
                ],
            }
        ],
    }
)


def wide_tree(answers: int = 45) -> Tree:
    """Questions of 2 to 17 answers, which add up to `answers`; the third comes after several; no merger."""
    sizes = (2, 17, 9, 8, 7, answers - 43)
    after = {2: ["q1_a2", "q1_a3", "q1_a4"], 4: ["q2_a1"]}
    questions = [
        {
            "name": f"q{i}",
            "text": f"question {i}" + " with many words" * i,
            "answers": [f"a{j}" for j in range(size)],
            "texts": [f"answer {j}" + " of many words" * (j % 4) for j in range(size)],
            "after": after.get(i, []),
        }
        for i, size in enumerate(sizes)
    ]
    return labels.from_dict({"name": "wide", "questions": questions})


def images(rows: np.ndarray) -> np.ndarray:
    """uint8 [n, 32, 32, 3], a function of the row alone."""
    return np.stack([np.random.default_rng(int(row)).integers(0, 255, (32, 32, 3), np.uint8) for row in rows])


def history(epochs: int) -> list[dict[str, float]]:
    """A log with Keras' column names; the best epoch is 3."""
    return [
        {
            "epoch": e + 1,
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
