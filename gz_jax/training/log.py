"""What a run reports: `log.csv`, a line for each epoch, and TensorBoard events."""

import csv
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from gz_jax.runtime.errors import UserError
from gz_jax.runtime.files import atomic

# Keras' CSVLogger columns, in its order, then ours. Epochs count from 1 (Keras counts from 0).
COLUMNS = (
    "epoch",
    "accuracy",
    "loss",
    "learning_rate",
    "val_accuracy",
    "val_loss",
    "val_rmse",
    "epoch_seconds",
    "images_per_second",
)


def write_csv(path: pathlib.Path, history: Sequence[Mapping[str, float]]) -> None:
    """Write all finished epochs. A resumed run replaces the file that a killed run left."""
    with atomic(path, newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(history)


def epoch_line(row: Mapping[str, float], num_epochs: int, best: bool) -> str:
    """One line for a finished epoch."""
    return (
        f"epoch {int(row['epoch']):3d}/{num_epochs}  loss {row['loss']:.5f}  val_loss {row['val_loss']:.5f}  "
        f"val_rmse {row['val_rmse']:.4f}  val_accuracy {row['val_accuracy']:.4f}  rate {row['learning_rate']:.2e}  "
        f"{row['epoch_seconds']:.1f} s  {row['images_per_second']:.0f} images/s{'  *' if best else ''}"
    )


def best_line(best: Mapping[str, float], epochs: int, why: str) -> str:
    """One line for a finished run: its best epoch, and why it ended."""
    return f"best epoch {int(best['epoch'])} of {epochs} ({why}), validation MSE {best['val_loss']:.6f}"


def lag(history: Sequence[Mapping[str, float]], statistics: Mapping[str, Any], steps: int) -> str:
    """Why validation is worse than guessing while training is better; '' unless the last epoch is the first with this.

    Args:
      history: rows of the log; statistics: of the data set (`split.Dataset`); steps: number of steps made.
    """
    guess = statistics["guess_the_means_rmse"]
    lags = [guess is not None and row["loss"] < guess**2 < row["val_loss"] for row in history]
    if not lags[-1] or any(lags[:-1]):
        return ""
    return (
        f"validation is worse than guessing the means (MSE {guess**2:.5f}) while training is better: validation uses "
        "running averages of the batch statistics, which lag behind at first. With momentum 0.99 (the CNN's) this "
        f"takes about a thousand steps; {steps:,} are done. If it stays so later, the network overfits."
    )


def tensorboard_writer(directory: pathlib.Path) -> Any:
    """A TensorBoard event writer (Flax's). Raises UserError where the package tensorboard is not installed."""
    from gz_jax.data.tensorflow_cpu import import_tensorflow

    import_tensorflow()
    try:
        from flax.metrics.tensorboard import SummaryWriter
    except ImportError as error:
        raise UserError("--config.tensorboard=True needs the package tensorboard: pip install tensorboard") from error

    return SummaryWriter(str(directory))
