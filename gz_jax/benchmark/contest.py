"""Programs that are timed in turns (contenders), each in a process of its own with its usual settings.

In one process with gz_jax, PyTorch would use memory kept by `gz_jax.runtime.memory`, and its threads would slow down
the steps of gz_jax.
"""

import contextlib
import functools
import multiprocessing
import signal
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from gz_jax.benchmark.timing import Stage
from gz_jax.runtime import memory
from gz_jax.runtime.errors import first_line

ENDED = "its process ended unexpectedly. If there was too little memory: name fewer --peers, or a smaller batch"
Make = Callable[..., tuple[Any, ...]]  # returns a number of parameters, and stages


class Contender(NamedTuple):
    """A process that runs stages when they are called: its number of trainable parameters, and these stages."""

    parameters: int
    stages: list[Stage]


@contextlib.contextmanager
def contender(make: Make, *arguments: Any, our_memory: bool = False) -> Iterator[Contender]:
    """Start a process that calls `make(*arguments)` and then each stage twice. The process ends with the block.

    Args:
      make, arguments: must be picklable.
      our_memory: whether the process uses memory as gz_jax does (see `gz_jax.runtime.memory`).

    Raises:
      RuntimeError: the first line of an error in the process.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, our_memory), daemon=True)
    process.start()
    there.close()
    try:
        parameters, stages = _asked(here, (make, arguments))
        remote = [Stage(name, items, functools.partial(_call, here, i)) for i, (name, items) in enumerate(stages)]
        yield Contender(parameters, remote)
    finally:
        here.close()
        process.join()


def _call(pipe: Connection, which: int, times: int) -> None:
    _asked(pipe, (which, times))


def _asked(pipe: Connection, request: tuple[Any, ...]) -> Any:
    """The process's answer to a request. Raises RuntimeError: it ended, or it answers with an error."""
    try:
        pipe.send(request)
        answer = pipe.recv()
    except (EOFError, OSError):
        raise RuntimeError(ENDED) from None
    if isinstance(answer, str):
        raise RuntimeError(answer)
    return answer


def _serve(pipe: Connection, our_memory: bool) -> None:
    """Run in the process. Only the standard library may be loaded before its use of memory is set."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which closes the pipe
    if our_memory:
        memory.use_one_arena()
    try:
        make, arguments = pipe.recv()
        if our_memory:
            memory.keep_freed_memory()
        parameters, *stages = make(*arguments)
        for stage in stages:
            stage.call(2)  # so that errors come before anything is timed; the second call may still record a graph
        pipe.send((parameters, [(stage.name, stage.images) for stage in stages]))
        while True:
            which, times = pipe.recv()
            stages[which].call(times)
            pipe.send(None)
    except EOFError:
        return
    except Exception as error:  # such as no compiler, no memory, no such package
        pipe.send(first_line(error))
