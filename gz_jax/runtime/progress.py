"""Progress of work that may take more than a few seconds: a bar on a terminal, a line now and then in a log file."""

import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from tqdm import tqdm

FIRST, AGAIN = 5.0, 30.0  # seconds until the first line in a log file, and from one line to the next
DRAWN = 0.5  # seconds from one drawing on a terminal to the next
BEAT = 1.0  # seconds between two checks, by a thread, whether something must be shown


class Work(NamedTuple):
    """How far a piece of work is.

    Attributes:
      name: of the work; total: number of its parts, None where it is unknown; unit: what the parts are called.
      start: time at which it began, s; done: parts that are done.
      waiting: text shown until the first part is done; note: text shown after the number of parts.
      first, last: time and number of parts done when the first and the latest of the parts ended. The time before
        `first` (compiling, opening files) does not count in the rate.
      rated: name of what the rate counts, and its number in each part; without a name the rate is not shown. None if
        parts do not take equally long: then neither the rate nor the time left is shown.
    """

    name: str
    total: int | None
    unit: str
    start: float
    done: int = 0
    waiting: str = ""
    note: str = ""
    first: tuple[float, int] | None = None
    last: tuple[float, int] = (0.0, 0)
    rated: tuple[str, int] | None = None


def advanced(work: Work, now: float, count: int = 1, note: str | None = None) -> Work:
    """The work after `count` more parts were done; `note` None keeps the old one."""
    last = (now, work.done + count)
    note = work.note if note is None else note
    return work._replace(done=work.done + count, note=note, first=work.first or last, last=last)


def rate(work: Work) -> float | None:
    """Parts per second since the first was done; None before the second, or if parts do not take equally long."""
    if work.rated is None or work.first is None or work.last[0] <= work.first[0]:
        return None
    return (work.last[1] - work.first[1]) / (work.last[0] - work.first[0]) or None


def text(work: Work, now: float) -> str:
    """How far the work is, e.g. '12/38 batches, loss 0.01312, 521 images/s, 14 s left'."""
    parts = []
    if work.total is not None:
        parts.append(f"{work.done:,}/{work.total:,} {work.unit}".strip())
    elif work.done:
        parts.append(f"{work.done:,} {work.unit}".strip())
    parts += filter(None, [work.waiting if work.first is None else "", work.note])
    speed = rate(work)
    if speed is not None and work.rated is not None and work.rated[0]:
        fast = speed * work.rated[1]
        parts.append(f"{fast:,.0f} {work.rated[0]}/s" if fast >= 10 else f"{fast:.2g} {work.rated[0]}/s")
    if speed is not None and work.total is not None:
        parts.append(f"{duration(max(work.total - work.done, 0) / speed)} left")
    else:
        parts.append(f"{duration(now - work.start)} so far")
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """'95 s', '12 min' or '3.4 h'."""
    if seconds < 119.5:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7170 else f"{seconds / 3600:.1f} h"


def _leads() -> bool:
    """Whether this process is the only one of its run, or process 0. JAX is not loaded for this."""
    jax = sys.modules.get("jax")
    return jax is None or not jax.distributed.is_initialized() or jax.process_index() == 0


def _is_terminal(file: Any) -> bool:
    """Whether a file is a terminal whose width is known, which bars need."""
    try:
        return bool(file.isatty()) and os.get_terminal_size(file.fileno()).columns > 0
    except (OSError, ValueError):
        return False


class Bar:
    """Show how far a piece of work is, by default on stderr. For work that ends within a few seconds, show nothing.

    with Bar("checking images", 61_578, "images") as bar:
        for chunk in chunks:
            check(chunk)
            bar.advance(len(chunk))

    A thread checks once a second whether something must be shown, so that the program does not seem to hang during a
    long part.
    """

    def __init__(
        self,
        name: str,
        total: int | None = None,
        unit: str = "",
        *,
        done: int = 0,
        waiting: str = "",
        rated: tuple[str, int] | None = None,
        even: bool = True,
        first: float = FIRST,
        loud: bool = True,
        file: Any = None,
        clock: Callable[[], float] = time.monotonic,
        beat: float | None = BEAT,
    ) -> None:
        """Begin.

        Args:
          name, total, unit, done, waiting, rated: see `Work`; even: False if parts do not take equally long, then no
            rate is shown.
          first: seconds until the first line in a log file; loud: False shows nothing. Of several
            processes only process 0 shows anything.
          file: where to write; clock: function that returns seconds and never goes back; beat: seconds between two
            checks by the thread, None for no thread.
        """
        self.clock, self.file, self.loud = clock, file or sys.stderr, loud and _leads()
        start = clock()
        self.work = Work(name, total, unit, start, done, waiting, rated=(rated or (unit, 1)) if even else None)
        self.terminal = _is_terminal(self.file)
        self.due = start + (DRAWN if self.terminal else first)
        self.noted = -float("inf")
        self.said = False
        self.tqdm: Any = None
        self.lock, self.ended = threading.RLock(), threading.Event()
        if self.loud:
            self.tick()
            if beat is not None:
                threading.Thread(target=self._beat, args=(beat,), daemon=True).start()

    def _beat(self, seconds: float) -> None:
        while not self.ended.wait(seconds):
            self.tick()

    def wants_note(self) -> bool:
        """Whether the latest note is more than half a second old (making a new one may take time)."""
        return self.loud and self.clock() - self.noted > DRAWN

    def advance(self, count: int = 1, note: str | None = None) -> None:
        """`count` more parts are done; `note` None keeps the old one."""
        with self.lock:
            self.work = advanced(self.work, self.clock(), count, note)
            self.noted = self.noted if note is None else self.clock()
            self.tick()

    def say(self, note: str) -> None:
        """Show another note, without counting a part as done."""
        with self.lock:
            self.work = self.work._replace(note=note)
            self.tick()

    def tick(self) -> None:
        """Show how far the work is, if enough time has passed since the last time."""
        with self.lock:
            now = self.clock()
            if self.loud and now >= self.due and not self.ended.is_set():
                self.due = now + (DRAWN if self.terminal else AGAIN)
                self._show(text(self.work, now))

    def _show(self, words: str) -> None:
        self.said = True
        if not self.terminal:
            print(f"{self.work.name}: {words}", file=self.file, flush=True)
            return
        words = words.replace("{", "{{").replace("}", "}}")
        form = "{desc}: " + words if self.work.total is None else "{l_bar}{bar}| " + words
        if self.tqdm is None:
            how = {"total": self.work.total, "initial": self.work.done, "desc": self.work.name, "bar_format": form}
            self.tqdm = tqdm(**how, file=self.file, leave=False, dynamic_ncols=True)
            return
        self.tqdm.n, self.tqdm.bar_format = self.work.done, form
        self.tqdm.refresh()

    def close(self, finished: bool = True) -> None:
        """Remove the bar. In a log file, say that the work is done if it is `finished` and there was a line before."""
        with self.lock:
            if self.ended.is_set():
                return
            self.ended.set()
            if self.tqdm is not None:
                self.tqdm.close()
            elif self.said and finished:
                took = duration(self.clock() - self.work.start)
                print(f"{self.work.name}: done in {took}", file=self.file, flush=True)

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, kind: Any, *others: Any) -> None:
        self.close(finished=kind is None)
