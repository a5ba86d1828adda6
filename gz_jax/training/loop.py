"""The training loop: epochs of jitted steps, validation, the callbacks' rules, checkpoints and the log.

Order of initialisation: (1) fresh variables from the seed, (2) pretrained variables replace them, (3) the workdir's
latest checkpoint, with its place in the epoch, replaces everything. All that follows depends only on this state.
"""

import collections
import contextlib
import functools
import math
import pathlib
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, NoReturn

import jax
import numpy as np

from gz_jax.runtime import distributed, interrupts
from gz_jax.runtime.errors import UserError
from gz_jax.runtime.files import write_json
from gz_jax.runtime.progress import Bar
from gz_jax.training import checkpoint, dispatch, log, state, step
from gz_jax.training.checkpoint import Progress
from gz_jax.training.dispatch import Data, Steps
from gz_jax.training.schedule import EarlyStop, PlateauRule, start_plateau, update_early_stop, update_plateau
from gz_jax.training.state import TrainState


class Settings(NamedTuple):
    """The plain numbers of a run."""

    num_epochs: int
    batch_size: int
    learning_rate: float
    plateau: PlateauRule
    early_stop_patience: int
    seed: int
    frozen_epochs: int = 0  # the first epochs, in which only the head is trained
    every_seconds: float = 60.0
    every_steps: int = 0
    tensorboard: bool = False
    rate_factor: Callable[[Any], Any] | None = None  # of the run's step, for a schedule in the step


class InterruptedRunError(Exception):
    """SIGTERM or SIGINT came, and the state is saved."""


class Run:
    """One run in one workdir. Holds open checkpoints and a received signal; methods take and return all other state."""

    def __init__(self, workdir: pathlib.Path, settings: Settings, data: Data, steps: Steps) -> None:
        self.workdir, self.settings, self.data, self.steps = workdir, settings, data, steps
        self.lead = jax.process_index() == 0  # this process writes
        with distributed.lead_first():
            self.latest = checkpoint.open_manager(workdir / "checkpoints" / "latest", 2, read_only=not self.lead)
            self.best = checkpoint.open_manager(workdir / "checkpoints" / "best", 2, read_only=not self.lead)
        self.frozen: tuple[Data, Steps] | None = None  # data and steps of frozen epochs
        self.is_finite = jax.jit(step.is_finite)
        self.compiled: set[int] = set()  # ids of the steps that have run in this process
        self.saved_at = time.monotonic()
        self.signal: int | None = None
        self.votes = distributed.Votes()
        self.events = log.tensorboard_writer(workdir / "events") if settings.tensorboard and self.lead else None

    def restore(self, fresh: TrainState) -> tuple[TrainState, Progress]:
        """State and progress of the workdir's latest checkpoint, or those of the start if there is none."""
        found = checkpoint.load(self.latest, fresh)
        steps = distributed.gather(-1 if found is None else found[0])[:, 0]
        if len(set(steps.tolist())) > 1:
            raise UserError(
                f"the processes find different checkpoints in {self.workdir} (steps {', '.join(map(str, steps))}): it "
                "must lie on a file system that all of them share."
            )
        if found is None:
            progress = Progress(0, 0, start_plateau(self.settings.learning_rate), EarlyStop())
            tree = state.with_rate(fresh, progress.plateau.rate)
        else:
            _, tree, info = found
            progress = Progress.from_json(info)
        for manager in (self.latest, self.best) if self.lead else ():
            for later in [s for s in manager.all_steps() if found is None or s > int(tree.step)]:
                manager.delete(later)  # later than the restored step: damaged, or about to be written again
        return tree, progress

    def parts(self, train_state: TrainState, progress: Progress) -> tuple[Data, Steps]:
        """The data and the compiled steps of the epoch."""
        if progress.epoch >= self.settings.frozen_epochs:
            self.frozen = None
            return self.data, self.steps
        if self.frozen is None and self.data.once is not None:
            watch = functools.partial(self.watched, train_state, progress)
            self.frozen = self.data.once(self.data, train_state, watch)
        self.frozen = self.frozen or (self.data, self.steps._replace(train=self.steps.train_head))
        return self.frozen

    def watched(self, train_state: TrainState, progress: Progress, batches: Iterable[Any]) -> Iterator[Any]:
        """Yield batches; look for a signal before each. Raises InterruptedRunError: one came; the state is saved."""
        for batch in batches:
            if self.signal is not None and jax.process_count() == 1:  # several processes may differ
                self.save(train_state, progress)
                raise InterruptedRunError
            yield batch

    def last_rate(self, progress: Progress) -> float:
        """The learning rate of the epoch's last step."""
        factor, last = self.settings.rate_factor, (progress.epoch + 1) * self.data.steps_per_epoch - 1
        return progress.plateau.rate * (1 if factor is None else float(factor(last)))

    def save(self, train_state: TrainState, progress: Progress) -> None:
        self.check_finite(train_state)
        if self.lead:
            checkpoint.save(self.latest, int(train_state.step), train_state, progress.to_json())
        self.saved_at = time.monotonic()

    def check_finite(self, train_state: TrainState) -> None:
        bad, finite = int(train_state.bad_step), math.isfinite(train_state.bad_loss)
        if bad < 0:
            if self.is_finite(train_state.params):
                return
            bad, finite = max(int(train_state.step) - 1, 0), True  # the next step would have found it
        epoch, at = divmod(bad, self.data.steps_per_epoch)
        ids = ", ".join(map(str, self.data.galaxy_ids(epoch, at)))
        self.give_up(
            f"the {'update' if finite else 'loss'} is not finite at step {bad} (epoch {epoch + 1}, batch {at + 1})",
            None if finite else bad,
            f" Galaxies of the batch: {ids}",
        )

    def give_up(self, what: str, spoilt: int | None, more: str = "") -> NoReturn:
        """End a run whose numbers are not finite. Raises UserError, which says `what` and which checkpoint is kept.

        Args:
          spoilt: step whose parameters gave a loss that is not finite; its checkpoint is deleted from `latest`.
        """
        with distributed.lead_first():
            if self.lead:
                checkpoint.discard(self.latest, spoilt)
        kept = checkpoint.newest(self.workdir)
        distributed.gather(0)  # no process leaves before all have looked
        if kept is None:
            advice = "There is no checkpoint yet. A lower --config.learning_rate may help, in the same --workdir."
        else:
            advice = (
                f"The last good checkpoint, of step {kept.name}, is kept: {kept}. A lower --config.learning_rate may "
                "help: try it in a new --workdir, since this one continues with its own learning rate."
            )
        raise UserError(f"{what}. {advice}{more}")

    def stop_or_save(self, train_state: TrainState, before: int, after: int, *, now: bool = False) -> tuple[bool, bool]:
        """Whether to stop (a signal came), and whether a checkpoint is due at one of the steps `before` + 1 to `after`.

        The answers are the same in all processes (see `Votes`).
        """
        due = time.monotonic() - self.saved_at >= self.settings.every_seconds
        stop, save = self.votes(after, self.signal is not None, due, after=train_state.step, now=now)
        every = self.settings.every_steps
        return stop, save or bool(every and before // every != after // every)

    def train_epoch(self, train_state: TrainState, progress: Progress) -> tuple[TrainState, Progress]:
        """Train for the rest of the epoch that `progress` is in."""
        epoch, first = progress.epoch, progress.step_in_epoch
        total, sent = self.data.steps_per_epoch, first
        start = time.monotonic() - progress.seconds
        running: collections.deque[tuple[int, jax.Array]] = collections.deque()
        data, steps = self.parts(train_state, progress)
        with self.bar(f"epoch {epoch + 1}", total, "batches", steps.train, first, self.settings.batch_size) as bar:
            pairs = data.train(epoch, first)
            for count, batch in dispatch.prefetch(lambda pair: (pair[0], steps.put(pair[1])), pairs):
                train_state, loss = steps.train(train_state, batch)
                running.append((count, loss))
                _show(bar, dispatch.finished(running, dispatch.AHEAD))  # limits what waits on the device
                sent += count
                progress = progress._replace(step_in_epoch=sent, seconds=time.monotonic() - start)
                stop, save = self.stop_or_save(train_state, epoch * total + sent - count, epoch * total + sent)
                if stop or (save and sent < total):
                    self.save(train_state, progress)
                if stop:
                    raise InterruptedRunError
            _show(bar, dispatch.finished(running, 0))
        train_state.step.block_until_ready()
        return train_state, progress._replace(seconds=time.monotonic() - start)

    def bar(self, name: str, total: int, unit: str, call: Any, done: int = 0, images: int = 0) -> Bar:
        """A progress bar for calls of a compiled step. `images`: how many each part has."""
        waiting = "" if id(call) in self.compiled else "compiling the first step"
        self.compiled.add(id(call))
        rated = ("images", images) if images else None
        return Bar(name, total, unit, done=done, waiting=waiting, rated=rated)

    def finish_epoch(self, train_state: TrainState, progress: Progress) -> tuple[TrainState, Progress]:
        """Validate, log, apply the callbacks' rules, keep the best."""
        self.check_finite(train_state)
        training = step.metrics(train_state.sums)
        start = time.monotonic()
        use = state.variables_of(train_state)
        data, steps = self.parts(train_state, progress)
        batches = self.watched(train_state, progress, data.validation())
        with self.bar(f"epoch {progress.epoch + 1}, validation", data.validation_inputs, "", steps.evaluate) as bar:
            validation = dispatch.evaluate(steps, use["params"], use["batch_stats"], batches, bar)
        loss = validation["loss"]
        if not math.isfinite(loss):
            at = int(train_state.step)
            self.give_up(f"the validation loss is not finite after epoch {progress.epoch + 1} (step {at})", at)
        images = self.data.steps_per_epoch * self.settings.batch_size
        row = {
            "epoch": progress.epoch + 1,
            **training,
            "learning_rate": self.last_rate(progress),
            **{f"val_{name}": value for name, value in validation.items()},
            "val_rmse": float(np.sqrt(loss)),
            "epoch_seconds": round(progress.seconds + time.monotonic() - start, 3),
            "images_per_second": round(images / max(progress.seconds, 1e-9), 1),
        }
        stop = update_early_stop(progress.early_stop, progress.epoch, loss, self.settings.early_stop_patience)
        plateau = update_plateau(progress.plateau, loss, self.settings.plateau)
        history = (*progress.history, row)
        is_best = stop.best_epoch == progress.epoch
        if self.lead:
            if is_best:
                checkpoint.save(self.best, int(train_state.step), use, row)
            log.write_csv(self.workdir / "log.csv", history)
            print(log.epoch_line(row, self.settings.num_epochs, is_best), flush=True)
            if why := log.lag(history, self.data.statistics, int(train_state.step)):
                print(why, flush=True)
            if self.events:
                for name, value in row.items():
                    self.events.scalar(name, value, progress.epoch + 1)
                self.events.flush()
        progress = Progress(progress.epoch + 1, 0, plateau, stop, history)
        train_state = state.with_rate(train_state, plateau.rate)
        zero = jax.tree.map(lambda x: state.put(np.zeros((), np.float32), x.sharding), train_state.sums)
        return train_state.replace(sums=zero), progress

    def wanted(self, progress: Progress) -> bool:
        return progress.epoch < self.settings.num_epochs and not progress.early_stop.stop


def train(workdir: pathlib.Path, settings: Settings, data: Data, steps: Steps, fresh: TrainState) -> Progress:
    """Train until the last epoch or early stopping, continuing what the workdir holds.

    Returns:
      The progress of the run; `history` has a row for every epoch.

    Raises:
      InterruptedRunError: a signal came; the state is saved.
      UserError: a loss or an update is not finite, or no checkpoint can be read.
    """
    run = Run(workdir, settings, data, steps)
    train_state, progress = run.restore(fresh)
    if progress.history or progress.step_in_epoch:
        where = f"epoch {progress.epoch + 1}, batch {progress.step_in_epoch + 1}"
        print(f"continuing {workdir} at {where}", flush=True)
    try:
        with _listening(run):
            while run.wanted(progress):
                train_state, progress = run.train_epoch(train_state, progress)
                train_state, progress = run.finish_epoch(train_state, progress)
                last = not run.wanted(progress)
                at = int(train_state.step)
                stop, save = run.stop_or_save(train_state, at - 1, at, now=True)
                best = progress.early_stop.best_epoch == progress.epoch - 1
                if last or stop or save or best:  # the latest is never behind the best
                    run.save(train_state, progress)
                if stop and not last:
                    raise InterruptedRunError
    finally:  # an interrupted run, too, waits until its checkpoints are on disk
        for manager in (run.latest, run.best):
            checkpoint.close(manager)
    if run.signal is not None:  # the signal came during the last save
        raise InterruptedRunError
    if progress.history and run.lead:
        row, epochs = progress.history[progress.early_stop.best_epoch], len(progress.history)
        write_json(workdir / "metrics.json", {"best_epoch": row, "epochs": epochs, "data": data.statistics})
        why = "early stopping" if progress.early_stop.stop else "all epochs done"
        print(log.best_line(row, epochs, why), flush=True)
    return progress


def _show(bar: Bar, done: Iterable[tuple[int, jax.Array]]) -> None:
    """Count the dispatches that are done, with the loss of the last step now and then."""
    for count, loss in done:
        bar.advance(count, f"loss {float(loss):.5f}" if bar.wants_note() else None)


@contextlib.contextmanager
def _listening(run: Run) -> Iterator[None]:
    """While open, SIGTERM or SIGINT asks the run to save and stop."""

    def handle(number: int, frame: Any) -> None:
        if run.signal is None:
            run.signal = number
            interrupts.say("stopping after this step; a second Ctrl-C or SIGTERM stops at once")

    old = {number: signal.signal(number, handle) for number in interrupts.SIGNALS}
    try:
        yield
    finally:
        for number, before in old.items():
            signal.signal(number, before)
