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
