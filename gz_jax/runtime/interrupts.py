"""SIGTERM and SIGINT: the first signal asks a command to end, the second ends it at once."""

import contextlib
import os
import signal
import threading
import time
from typing import Any, NoReturn

from gz_jax.runtime import files

EXIT_INTERRUPTED = 75  # EX_TEMPFAIL: the same command continues
SIGNALS = (signal.SIGTERM, signal.SIGINT)
ONE = 0.3  # seconds in which several signals count as one: GNU timeout signals the process, then its group


def install() -> None:
    """Handle both signals: the first deletes this process's temporary files and ends it with status 75.

    The second ends the process at once. No exception is raised, because Python ignores exceptions in some places
    (garbage collection, `__del__`). A thread waits for the second signal, because Python's handlers do not run while
    the main thread compiles or computes.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reader,), daemon=True).start()
    for number in SIGNALS:
        signal.signal(number, _leave)


def say(text: str) -> None:
    """Write to stderr from a signal handler. print() cannot be used: the signal may interrupt another print()."""
    os.write(2, f"\n{text}\n".encode())


def _leave(number: int, frame: Any) -> NoReturn:
    say("stopped; start the same command again to continue")
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
