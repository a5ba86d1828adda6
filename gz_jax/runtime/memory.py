"""How the process gets its memory from Linux."""

import ctypes
import re

# From glibc's malloc.h; see mallopt(3).
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8


def use_one_arena() -> None:
    """Let all threads share the first arena, the only one that can grow beyond 64 MB. Call it before others start."""
    _set((_M_ARENA_MAX, 1))


def keep_freed_memory() -> None:
    """Let glibc keep what is freed for the next allocation; does nothing where the C library is another.

    By default every large buffer is returned to the system when freed. A training step on CPU takes and frees
    gigabytes of them, and the page faults were 40 % of the CNN's step, half of its inference and 14 % of ResNet50's
    step. Needs `use_one_arena`. Not while data is prepared: what it takes and frees would stay, in pieces.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:
        trim(0)  # what was freed before goes back
    _set((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1))


def exhausted(error: BaseException) -> str | None:
    """What an error of Python, NumPy or JAX says of memory that ran out, in one line; None for any other error."""
    lines = str(error).splitlines() or ["out of memory"]
    if isinstance(error, MemoryError):
        return lines[0]
    import jax  # not before `use_one_arena`

    # JAX raises a plain ValueError where a result is made a NumPy array.
    of_jax = isinstance(error, jax.errors.JaxRuntimeError) or type(error) is ValueError
    found = re.search(r"\bRESOURCE_EXHAUSTED: .{,300}", str(error)) if of_jax else None
    return found and found[0].rstrip(". ")


def _set(*options: tuple[int, int]) -> None:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option, value in options:
            mallopt(option, value)
