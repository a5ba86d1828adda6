"""Compiled steps kept on disk, so that the second start of a command does not wait for the compiler."""

import contextlib
import hashlib
import os
import pathlib
import platform
import tempfile

import jax

MAX_BYTES = 4 << 30


def enable(max_bytes: int = MAX_BYTES) -> pathlib.Path | None:
    """Keep all that is compiled; returns the folder, or None where none can be written.

    JAX_COMPILATION_CACHE_DIR, if set (it may be empty, for none), is left to JAX. Otherwise it is gz_jax/xla in the
    user's cache folder (XDG_CACHE_HOME or ~/.cache), below that one folder for each kind of CPU: code compiled for one
    CPU must not reach another, as it would in a home folder shared by a cluster's machines. The oldest entries go when
    all together exceed `max_bytes` (JAX's own bound needs another package, and locks on shared disks).
    """
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        # By default what compiles within a second is not kept; but a start of ResNet50 has dozens of such programs.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return None
    try:
        root = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache", "gz_jax", "xla")
        folder = root / cpu_fingerprint()
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (OSError, RuntimeError):  # RuntimeError: there is no home
        return None
    prune(root, max_bytes)
    jax.config.update("jax_compilation_cache_dir", os.fspath(folder))
    return folder


def cpu_fingerprint() -> str:
    """16 hex digits that differ where the CPU's model or instructions do."""
    name = [platform.system(), platform.machine(), platform.processor()]
    with contextlib.suppress(OSError):
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        wanted = ("model name", "flags", "Features", "CPU part")  # the last two on ARM
        name += sorted({line for line in lines if line.startswith(wanted)})
    return hashlib.sha256("\n".join(name).encode()).hexdigest()[:16]


def prune(root: pathlib.Path, max_bytes: int) -> None:
    """Delete the oldest entries below `root` until the rest fits; others may be at work there too."""
    entries = []
    for path in root.glob("*/*-cache"):
        with contextlib.suppress(OSError):
            found = path.stat()
            entries.append((found.st_mtime, found.st_size, path))
    total = 0
    for _, size, path in sorted(entries, reverse=True):
        total += size
        if total > max_bytes:
            with contextlib.suppress(OSError):
                path.unlink()
