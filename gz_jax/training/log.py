"""What a person sees of a run: a progress bar, `log.csv`, TensorBoard events, and the summary at the end."""

import csv
import pathlib
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from tqdm import tqdm

from gz_jax.runtime.errors import UserError
from gz_jax.runtime.files import atomic

# Keras' CSVLogger columns, in its order, then ours.
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
LINE_SECONDS = 30.0


def write_csv(path: pathlib.Path, history: Sequence[Mapping[str, float]]) -> None:
    """All finished epochs, in Keras' format: a resumed run rewrites what a killed one left."""
    with atomic(path, newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(history)


class Bar:
    """Progress of one epoch: a bar on a terminal, a line now and then in a file."""

    def __init__(self, name: str, total: int, first: int, batch_size: int, *, file: Any = None) -> None:
        self.file = file or sys.stderr
        self.name, self.total, self.first, self.done, self.batch_size = name, total, first, first, batch_size
        self.start = self.last_line = time.monotonic()
        self.tqdm = None
        if self.file.isatty():
            self.tqdm = tqdm(total=total, initial=first, desc=name, unit="batch", file=self.file, leave=False)

    def due(self) -> bool:
        """Whether a fresh loss would be shown (reading one makes the host wait for the device)."""
        return time.monotonic() - self.last_line > (0.5 if self.tqdm else LINE_SECONDS)

    def advance(self, loss: float | None = None, steps: int = 1) -> None:
        self.done += steps
        if self.tqdm:
            self.tqdm.update(steps)
        if loss is None:
            return
        now = time.monotonic()
        rate = (self.done - self.first) * self.batch_size / (now - self.start)
        self.last_line = now
        if self.tqdm:
            self.tqdm.set_postfix_str(f"loss {loss:.5f}, {rate:.0f} images/s")
        else:
            left = (self.total - self.done) * self.batch_size / rate
            print(
                f"{self.name}: {self.done}/{self.total} batches, loss {loss:.5f}, {rate:.0f} images/s, "
                f"{left:.0f} s left",
                file=self.file,
                flush=True,
            )

    def close(self) -> None:
        if self.tqdm:
            self.tqdm.close()


def epoch_line(row: Mapping[str, float], num_epochs: int, best: bool) -> str:
    """One line for a finished epoch."""
    return (
        f"epoch {int(row['epoch']) + 1:3d}/{num_epochs}  loss {row['loss']:.5f}  val_loss {row['val_loss']:.5f}  "
        f"val_rmse {row['val_rmse']:.4f}  val_accuracy {row['val_accuracy']:.4f}  rate {row['learning_rate']:.2e}  "
        f"{row['epoch_seconds']:.1f} s  {row['images_per_second']:.0f} images/s{'  *' if best else ''}"
    )


def summary(best: Mapping[str, float], epochs: int, statistics: Mapping[str, Any], why: str) -> str:
    """The table at the end of a run."""
    guess = statistics["guess_the_means_rmse"]
    rows = [
        ("best epoch", f"{int(best['epoch']) + 1} of {epochs} ({why})"),
        ("validation MSE", f"{best['val_loss']:.6f} (slightly too good: the best epoch was chosen by it)"),
        ("validation RMSE", f"{best['val_rmse']:.5f}"),
        ("guessing the means, RMSE", "unknown" if guess is None else f"{guess:.5f}"),
        ("validation accuracy (Keras')", f"{best['val_accuracy']:.4f}"),
        ("share of the commonest answer", f"{statistics['majority_share']:.4f}"),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"  {name:<{width}}  {value}" for name, value in rows)


def tensorboard_writer(directory: pathlib.Path) -> Any:
    """A TensorBoard event writer (Flax's). Raises UserError where the package tensorboard is not installed."""
    from gz_jax.data.tensorflow_cpu import import_tensorflow

    import_tensorflow()
    try:
        from flax.metrics.tensorboard import SummaryWriter
    except ImportError as error:
        raise UserError("--config.tensorboard=True needs the package tensorboard: pip install tensorboard") from error

    return SummaryWriter(str(directory))
