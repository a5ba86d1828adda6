"""Contenders timed in turns, each in a process of its own, as its users have it.

Loaded into one process, PyTorch ran on memory kept by `gz_jax.runtime.memory`, and our steps slowed beside its threads.
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

Make = Callable[..., tuple[int, Stage, Stage]]


class Contender(NamedTuple):
    """A process that waits: its number of trainable parameters, and its stages, which run there."""

    parameters: int
    stages: list[Stage]


@contextlib.contextmanager
def contender(make: Make, *arguments: Any, our_memory: bool = False) -> Iterator[Contender]:
    """Start a process, let it `make(*arguments)` and call each stage twice; it ends with the block.

    Args:
      make, arguments: what pickle can send.
      our_memory: whether the process takes memory as gz_jax does (see `gz_jax.runtime.memory`).

    Raises:
      RuntimeError: with the first line of what went wrong there.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, our_memory), daemon=True)
    process.start()
    there.close()
    try:
        here.send((make, arguments))
        parameters, stages = _answer(here)
        remote = [Stage(name, items, functools.partial(_call, here, i)) for i, (name, items) in enumerate(stages)]
        yield Contender(parameters, remote)
    finally:
        here.close()
        process.join()


def _call(pipe: Connection, which: int, times: int) -> None:
    pipe.send((which, times))
    _answer(pipe)


def _answer(pipe: Connection) -> Any:
    try:
        answer = pipe.recv()
    except EOFError:
        raise RuntimeError("its process died") from None
    if isinstance(answer, str):
        raise RuntimeError(answer)
    return answer


def _serve(pipe: Connection, our_memory: bool) -> None:
    """The process: nothing but the standard library is loaded before its memory is decided on."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which closes the pipe
    if our_memory:
        memory.use_one_arena()
    try:
        make, arguments = pipe.recv()
        if our_memory:
            memory.keep_freed_memory()
        parameters, *stages = make(*arguments)
        for stage in stages:
            stage.call(2)  # what fails does so before anything is timed; the second call may still record a graph
        pipe.send((parameters, [(stage.name, stage.images) for stage in stages]))
        while True:
            which, times = pipe.recv()
            stages[which].call(times)
            pipe.send(None)
    except EOFError:
        return
    except Exception as error:  # of peers: no compiler, no memory, no such package
        pipe.send(first_line(error))
