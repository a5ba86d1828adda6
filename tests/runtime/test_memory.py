import ctypes
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys, threading
from gz_jax.runtime import memory
if sys.argv[1] == "keep":
    memory.use_one_arena()
    memory.keep_freed_memory()

def fill():
    for _ in range(4):
        bytearray(2**28)  # written to; NumPy would ask for huge pages

fill()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
thread = threading.Thread(target=fill)
thread.start()
thread.join()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how):
    return int(subprocess.run([sys.executable, "-c", PROGRAM, how], check=True, capture_output=True, text=True).stdout)


def test_freed_memory_is_used_again_in_every_thread():
    if faults("default") < 1000:
        pytest.skip("this C library keeps freed memory by itself")
    assert faults("keep") < 1000  # 256 MB of fresh 4 KB pages are 65,536


COMMAND = """
import ctypes, os, sys, threading, types

def arenas():
    libc = ctypes.CDLL(None)
    libc.fopen.restype = ctypes.c_void_p
    file = libc.fopen(sys.argv[1].encode(), b"w")
    libc.malloc_info(0, ctypes.c_void_p(file))
    libc.fclose(ctypes.c_void_p(file))
    return open(sys.argv[1]).read().count("<heap nr=")

def run():
    assert threading.active_count() > 1  # a thread waits for signals
    for _ in range(4):
        thread = threading.Thread(target=bytearray, args=(10**6,))
        thread.start()
        thread.join()
    print(arenas())

sys.modules["gz_jax.modes.command"] = types.SimpleNamespace(run=run)
import gz_jax.modes
gz_jax.modes.command = sys.modules["gz_jax.modes.command"]
from gz_jax.__main__ import main
main()
"""


def test_all_threads_of_the_command_share_one_arena(tmp_path):
    if not hasattr(ctypes.CDLL(None), "malloc_info"):
        pytest.skip("this C library has no arenas")
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, tmp_path / "arenas.xml"], check=True, capture_output=True, text=True
    )
    assert int(done.stdout) == 1
