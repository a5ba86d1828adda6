"""Signals to a process of its own that is inside a call Python cannot interrupt, as it is while XLA compiles."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCRIPT = """
import gc, hashlib, sys
from gz_jax.runtime import files, interrupts
interrupts.install()
gc.callbacks.append(lambda *_: hashlib.pbkdf2_hmac("sha256", b"", b"", 1000))
with files.atomic(sys.argv[2]) as file:
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", int(sys.argv[1]))
    while True:
        gc.collect()  # an exception raised in there would be lost
"""


def start(folder, rounds):
    command = [sys.executable, "-c", SCRIPT, str(rounds), str(folder / "table")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.5)  # into the call
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_cleans_up_and_means_go_on(number, tmp_path):
    process = start(tmp_path, 1)
    assert len(list(tmp_path.iterdir())) == 1
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 75
    assert (out, err) == ("", "\nstopped; start the same command again to continue\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_later_one_ends_what_cannot_be_interrupted(number, tmp_path):
    process = start(tmp_path, 2_000_000_000)  # twenty minutes
    process.send_signal(number)
    time.sleep(0.1)
    process.send_signal(number)  # GNU timeout's: to the process, and to its group
    time.sleep(1)
    assert process.poll() is None
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert (out, err) == ("", "")
