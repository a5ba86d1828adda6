"""How the process gets its memory from Linux."""

import ctypes
import re

# From glibc's malloc.h; see mallopt(3).
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8


def use_one_arena() -> None:
    """Make all threads use the first arena, the only one that can exceed 64 MB. Call it before any thread starts.

    A thread that was there before has an arena of its own, which later threads would share. Buffers of more than 64 MB
    would then be taken from the system and returned in every step.
    """
    _set((_M_ARENA_MAX, 1))


def keep_freed_memory() -> None:
    """Make glibc keep freed memory for the next allocation. Does nothing with another C library.

    By default every large buffer is returned to the system when freed. A training step on CPU allocates and frees
    gigabytes of such buffers. The page faults took 40 % of the time of the CNN's step, half of its inference and 14 %
    of ResNet50's step. Call `use_one_arena` before. Call this only after data are prepared: memory that is freed
    there would otherwise stay with the process, in fragments.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:
        trim(0)  # returns what was freed before to the system
    _set((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1))


def exhausted(error: BaseException) -> str | None:
    """The message, in one line, if memory ran out (an error of Python, NumPy or JAX); None for any other error."""
    lines = str(error).splitlines() or ["out of memory"]
    if isinstance(error, MemoryError):
        return lines[0]
    import jax  # must not be imported before `use_one_arena`

    # JAX raises a plain ValueError where a result is converted to a NumPy array.
    of_jax = isinstance(error, jax.errors.JaxRuntimeError) or type(error) is ValueError
    found = re.search(r"\bRESOURCE_EXHAUSTED: .{,300}", str(error)) if of_jax else None
    return found and found[0].rstrip(". ")


def _set(*options: tuple[int, int]) -> None:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option, value in options:
            mallopt(option, value)
