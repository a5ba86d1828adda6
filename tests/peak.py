"""The most memory that a process held."""

import pathlib
import re
import resource
import sys

# Environment of processes whose peaks are compared: glibc gives freed memory back to the system at once.
RETURNING = {"MALLOC_ARENA_MAX": "1", "MALLOC_TRIM_THRESHOLD_": "131072", "MALLOC_MMAP_THRESHOLD_": "131072"}


def peak_memory(pid: int | str = "self") -> int:
    """Bytes that a process held at most so far; 0 once it has ended.

    Not `ru_maxrss` where there is another way: on Linux a new process begins with that of the one that started it, so
    that below a test session of several gigabytes every program seems to need as much.
    """
    if sys.platform != "linux" and pid == "self":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = re.search(r"VmHWM:\s+(\d+) kB", pathlib.Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) * 1024 if found else 0


def forget_peak() -> None:
    """Let the peak begin at what this process holds now, where that can be done (Linux; proc(5), clear_refs)."""
    if sys.platform == "linux":
        pathlib.Path("/proc/self/clear_refs").write_text("5")
