"""Stages timed in turns, so that noise affects all of them equally."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:  # it loads JAX
    from gz_jax.benchmark.roofline import Cost


class Stage(NamedTuple):
    """Something to time.

    Attributes:
      name: what the table calls it.
      images: number of galaxies in one call.
      call: runs the stage as many times as its argument says, and returns when the last one is done.
      cost: operations and bytes of one call, if they are known.
    """

    name: str
    images: int
    call: Callable[[int], Any]
    cost: "Cost | None" = None


def seconds(function: Callable[..., Any], *arguments: Any) -> float:
    """How long one call takes."""
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


def measure(stages: Sequence[Stage], repeats: int, at_least: float = 0.2) -> list[tuple[Stage, list[float]]]:
    """Time stages round by round: A B C A B C ...

    Args:
      repeats: number of rounds, after each stage was called to warm up.
      at_least: a sample is the mean over as many calls as take about this many seconds.

    Returns:
      Each stage with its samples, seconds per call; sample i of all stages is of the same round.
    """
    counts = []
    for stage in stages:
        stage.call(1)  # may compile, and fill caches
        warm = seconds(stage.call, 1)
        counts.append(max(1, min(1000, round(at_least / max(warm, 1e-9)))))
    rounds = [
        [seconds(stage.call, count) / count for stage, count in zip(stages, counts, strict=True)]
        for _ in range(repeats)
    ]
    return [(stage, list(samples)) for stage, samples in zip(stages, zip(*rounds, strict=True), strict=True)]


def middle(values: Sequence[float]) -> tuple[float, float, float]:
    """Median, first and third quartile (all samples, the ends included)."""
    if len(values) == 1:
        return (values[0],) * 3
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return median, low, high


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float, float]:
    """How many times faster `ours` is, from seconds of the same rounds: median, smallest and largest."""
    ratios = [their / our for our, their in zip(ours, theirs, strict=True)]
    return statistics.median(ratios), min(ratios), max(ratios)
