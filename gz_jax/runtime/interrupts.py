"""SIGTERM and SIGINT: the first asks a command to end, the second ends it at once, whatever it is doing."""

import contextlib
import os
import signal
import threading
import time
from typing import Any, NoReturn

from gz_jax.runtime import files

EXIT_INTERRUPTED = 75  # EX_TEMPFAIL: the same command goes on
SIGNALS = (signal.SIGTERM, signal.SIGINT)
ONE = 0.3  # seconds in which signals count as one: GNU timeout sends it to the process and again to its group


def install() -> None:
    """From now on the first signal removes this process's temporary files and ends it with 75, the next at once.

    No exception is raised: it would be lost where Python ignores them (garbage collection, `__del__`). The second is
    seen by a thread of its own, since Python's handlers wait while the main thread compiles or computes.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reader,), daemon=True).start()
    for number in SIGNALS:
        signal.signal(number, _leave)


def say(text: str) -> None:
    """To stderr, from a signal handler: print() could be in the middle of another print()."""
    os.write(2, f"\n{text}\n".encode())


def _leave(number: int, frame: Any) -> NoReturn:
    say("stopped; the same command goes on")
    for name in tuple(files.unfinished):
        with contextlib.suppress(OSError):
            os.unlink(name)
    os._exit(EXIT_INTERRUPTED)


def _watch(reader: int) -> None:
    os.read(reader, 1)
    time.sleep(ONE)
    os.set_blocking(reader, False)
    with contextlib.suppress(BlockingIOError):
        os.read(reader, 1000)
    os.set_blocking(reader, True)
    os._exit(128 + os.read(reader, 1)[0])
