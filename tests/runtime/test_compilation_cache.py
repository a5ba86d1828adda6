"""Compiled steps on disk: found again, bounded, and never a reason to fail."""

import os
import pathlib
import subprocess
import sys

import pytest

from gz_jax.runtime import compilation_cache

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCRIPT = """
import jax, jax.numpy as jnp
from gz_jax.runtime import compilation_cache
events = []
jax.monitoring.register_event_listener(lambda event, **_: events.append(event))
folder = compilation_cache.enable()
value = jax.jit(lambda x: jnp.sin(x @ x).sum())(jnp.ones((8, 8)))
print(folder, *(events.count(f"/jax/compilation_cache/cache_{what}") for what in ("hits", "misses")), value)
"""


def start(cache, **environment):
    clean = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    clean |= {"XDG_CACHE_HOME": str(cache), "PYTHONPATH": str(ROOT), "XLA_FLAGS": "", **environment}
    return subprocess.Popen([sys.executable, "-c", SCRIPT], env=clean, stdout=subprocess.PIPE, text=True)


def answer(process):
    """Folder, programs found there and not, and the value that a process printed."""
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    folder, hits, misses, value = output.split()
    return folder, int(hits), int(misses), value


@pytest.mark.slow
def test_a_second_process_finds_what_two_at_once_compiled(tmp_path):
    processes = [start(tmp_path), start(tmp_path)]
    first = [answer(process) for process in processes]
    folder, hits, misses, value = answer(start(tmp_path))
    assert pathlib.Path(folder).parent == tmp_path / "gz_jax" / "xla"
    assert misses == 0 < hits
    assert all(found[1] + found[2] == hits and found[3] == value for found in first)
    assert max(found[2] for found in first) > 0
    for entry in pathlib.Path(folder).glob("*-cache"):  # as a full disk or a kill would leave them
        entry.write_bytes(entry.read_bytes()[:50])
    again = answer(start(tmp_path))
    assert (again[0], again[1], again[3]) == (folder, 0, value)


@pytest.mark.slow
def test_without_a_folder_that_can_be_written_all_is_compiled(tmp_path):
    (tmp_path / "file").touch()
    assert answer(start(tmp_path / "file"))[:2] == ("None", 0)


@pytest.mark.slow
def test_jaxs_own_variable_is_left_to_jax(tmp_path):
    own = tmp_path / "own"
    settings = {"JAX_COMPILATION_CACHE_DIR": str(own), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    assert answer(start(tmp_path, **settings))[0] == "None"
    assert list(own.glob("*-cache"))
    assert not (tmp_path / "gz_jax").exists()


def test_the_oldest_entries_go_first(tmp_path):
    for age, name in enumerate(["new", "middle", "old"]):
        (tmp_path / f"cpu{age}").mkdir()
        entry = tmp_path / f"cpu{age}" / f"{name}-cache"
        entry.write_bytes(b"x" * 100)
        os.utime(entry, (1e9 - age, 1e9 - age))
    (tmp_path / "cpu2" / "other").write_bytes(b"x" * 1000)
    compilation_cache.prune(tmp_path, 250)
    assert {p.name for p in tmp_path.glob("*/*")} == {"new-cache", "middle-cache", "other"}


def test_cpus_of_other_instructions_have_folders_of_their_own(monkeypatch):
    texts = {"a": "processor : 0\nflags : sse avx\n", "b": "processor : 7\nflags : sse avx\n", "c": "flags : sse\n"}
    prints = {}
    for name, text in texts.items():
        monkeypatch.setattr(pathlib.Path, "read_text", lambda self, text=text: text)
        prints[name] = compilation_cache.cpu_fingerprint()
    assert prints["a"] == prints["b"] != prints["c"]
