"""Cache of compiled steps on disk, so that the second start of a command does not wait for the compiler."""

import contextlib
import hashlib
import os
import pathlib
import platform
import tempfile

import jax

MAX_BYTES = 4 << 30


def enable(max_bytes: int = MAX_BYTES) -> pathlib.Path | None:
    """Keep everything that is compiled on disk. Returns the folder, or None if this function sets none.

    If JAX_COMPILATION_CACHE_DIR is set, JAX uses that folder, or none if it is empty, and this function returns None.
    Otherwise the folder is gz_jax/xla in the user's cache folder (XDG_CACHE_HOME or ~/.cache), or None if it cannot be
    written. It has one folder for each kind of CPU, because the machines of a cluster may share a home folder, and code
    compiled for one CPU must not run on another. If all entries together exceed `max_bytes`, the oldest are deleted
    (JAX's own limit needs another package, and locks on shared disks).
    """
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        # By default JAX keeps no program that compiles within a second, but ResNet50 starts with dozens of these.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return None
    try:
        root = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache", "gz_jax", "xla")
        folder = root / cpu_fingerprint()
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (OSError, RuntimeError):  # RuntimeError: there is no home folder
        return None
    prune(root, max_bytes)
    jax.config.update("jax_compilation_cache_dir", os.fspath(folder))
    return folder


def cpu_fingerprint() -> str:
    """16 hex digits that identify the CPU's model and instructions."""
    name = [platform.system(), platform.machine(), platform.processor()]
    with contextlib.suppress(OSError):
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        wanted = ("model name", "flags", "Features", "CPU part")  # the last two on ARM
        name += sorted({line for line in lines if line.startswith(wanted)})
    return hashlib.sha256("\n".join(name).encode()).hexdigest()[:16]


def prune(root: pathlib.Path, max_bytes: int) -> None:
    """Delete the oldest entries below `root` beyond `max_bytes`. Other processes may use the folder meanwhile."""
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
