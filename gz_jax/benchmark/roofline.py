"""What the hardware allows: ceilings that are measured, and the operations and bytes of a compiled function.

The roofline (Williams, Waterman & Patterson 2009, doi:10.1145/1498765.1498785): a function that does F operations and
moves B bytes takes at least max(F / ceiling of operations, B / ceiling of bytes).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gz_jax.benchmark.timing import seconds


class Cost(NamedTuple):
    """Cost of one call on one device, by XLA's analysis; `temporary`: bytes of memory beside arguments and results."""

    flops: float
    bytes: float
    temporary: int | None = None


class Ceilings(NamedTuple):
    """Rates of one device per second: operations in a large matrix product, bytes moved in an addition to an array."""

    flops: float
    bytes: float


def cost(lowered: Any, compiled: Any) -> Cost | None:
    """Operations and bytes of a jitted function, or None if the backend has no analysis.

    Operations are those of the program as it was written, since in the compiled program those inside library calls
    (cuDNN, oneDNN) may be missing. Bytes are those of the compiled program, in which the results inside fused
    operations are not written to memory. Bytes that are read again from a cache are counted, too, so small functions
    can be faster than the limit.
    """
    written, made = _first(lowered.cost_analysis), _first(compiled.cost_analysis)
    if "flops" not in written or "bytes accessed" not in made:
        return None
    memory = _first(compiled.memory_analysis)
    devices = len(jax.tree.leaves(compiled.output_shardings)[0].device_set)
    return Cost(written["flops"] / devices, made["bytes accessed"], getattr(memory, "temp_size_in_bytes", None))


def _first(analysis: Any) -> Any:
    try:
        found = analysis()
    except (NotImplementedError, RuntimeError):  # raised by XLA for a backend without an analysis
        return {}
    return (found[0] if isinstance(found, list) else found) or {}


def fraction(cost: Cost, seconds: float, ceilings: Ceilings) -> tuple[float, str]:
    """Shortest possible time divided by the measured time, and what sets the limit: 'operations' or 'bytes'."""
    limits = {"operations": cost.flops / ceilings.flops, "bytes": cost.bytes / ceilings.bytes}
    bound = max(limits, key=limits.__getitem__)
    return limits[bound] / seconds, bound


def ceilings(dtype: str, *, side: int | None = None, megabytes: int | None = None, repeats: int = 10) -> Ceilings:
    """Measure one device, the best of `repeats` (a ceiling is not a mean).

    Args:
      dtype: dtype in which networks compute; float32 products have JAX's default precision on this device.
      side: side of the square matrices; default 2,048 on a CPU, otherwise 8,192.
      megabytes: size of the array; default 256 on a CPU, otherwise 1,024.
    """
    cpu = jax.default_backend() == "cpu"
    side = side or (2048 if cpu else 8192)
    count = (megabytes or (256 if cpu else 1024)) * 250_000
    square = jax.random.normal(jax.random.key(0), (side, side), jnp.dtype(dtype))
    line = [jnp.zeros(count, jnp.float32)]
    multiply = jax.jit(jnp.matmul)
    step = jax.jit(lambda x: x + 1, donate_argnums=0)  # in place: with new memory it takes up to four times as long

    def add() -> jax.Array:
        line[0] = step(line[0])
        return line[0]

    operations = 2 * side**3 / _best(lambda: multiply(square, square), repeats)
    return Ceilings(operations, 2 * line[0].nbytes / _best(add, repeats))


def _best(function: Callable[[], jax.Array], repeats: int) -> float:
    calls = 1 if jax.default_backend() == "cpu" else 20  # so that launching and waiting take a small part of the time
    jax.block_until_ready(function())

    def run() -> None:
        for _ in range(calls):
            result = function()
        jax.block_until_ready(result)

    return min(seconds(run) for _ in range(repeats)) / calls
