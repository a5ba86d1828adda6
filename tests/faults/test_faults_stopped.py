"""SIGTERM and SIGINT, once and twice, and two processes on one workdir."""

import dataclasses
import os
import random
import shutil
import signal
import time

import pytest
from runs import aim, assert_same, finish, newest, refusal, watch

MOMENTS = ("start", "data set", "compile", "train", "save", "evaluate", "report")


def stopped(number, phase, place, workdir, seconds, random_):
    """Start the run and send it a signal at a random moment of a phase; returns whether it came before the end."""
    process = place.start(workdir, cached=phase != "compile")
    aim(phase, process, workdir)
    watch(process, lambda: False, random_.uniform(0, 0.4 * seconds[phase]))
    process.send_signal(number)
    if process.wait(1200) == 0:  # the machine was faster than in the undisturbed run: all over again
        finish(process)
        shutil.rmtree(workdir)
        shutil.rmtree(place.store)
        return False
    finish(process, 75)
    return True


def test_signals_in_every_phase_end_cleanly_and_lose_nothing(place, whole, tmp_path, fault):
    random_, seconds = random.Random(7), whole[1] | {"save": 0.02}
    place, workdir = dataclasses.replace(place, store=tmp_path / "store"), tmp_path / "run"
    for i, phase in enumerate(MOMENTS):
        number = (signal.SIGTERM, signal.SIGINT)[i % 2]
        tries = (stopped(number, phase, place, workdir, {phase: seconds[phase] / 2**n}, random_) for n in range(6))
        assert any(tries), f"it ended before a signal could be sent in {phase}"
        assert not (workdir / ".lock").exists()
        assert not list(workdir.rglob(".*.*"))  # nothing half-written
        fault(f"{number.name}, {phase}")
    finish(place.start(workdir))
    assert_same(workdir, whole[0])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_at_once(number, place, whole, tmp_path, fault):
    workdir = tmp_path / "run"
    large = ("--config.model.name=resnet50", "--config.data.size=32", "--config.data.crop=64")
    process = place.start(workdir, *large, cached=False)
    watch(process, lambda: (workdir / "checkpoints" / "best").exists())
    time.sleep(0.5)  # into the compiler, where Python's handlers wait
    process.send_signal(number)
    time.sleep(0.1)
    assert process.poll() is None
    process.send_signal(number)  # as GNU timeout does: still one
    time.sleep(0.4)
    assert process.poll() is None
    process.send_signal(number)
    finish(process, 128 + number)
    fault(f"{number.name} twice")


def test_a_second_process_in_a_workdir_is_refused(place, whole, tmp_path, fault):
    workdir = tmp_path / "run"
    first = place.start(workdir)
    watch(first, lambda: newest(workdir) >= 4)
    message = refusal(place.start(workdir))
    assert f"in use by process {first.pid} on {os.uname().nodename}" in message
    assert first.poll() is None
    fault("two processes on a workdir")
    first.kill()
    first.wait()
    third = place.start(workdir)
    watch(third, lambda: "continuing" in third.said())
    assert f"left behind by process {first.pid}" in third.said()
    fault("stale lock")
    finish(third)
    assert_same(workdir, whole[0])


def test_two_predictions_into_one_folder(place, whole, predicted, tmp_path, fault):
    output, flags = tmp_path / "table", (f"--workdir={whole[0]}", "--crop=60")
    images = f"--input={place.folder}/images/images_test_rev1"
    first = place.launch("--mode=predict", *flags, images, f"--output={output}")
    watch(first, lambda: (output / ".lock0").exists() and (output / ".lock0").read_text())
    first.send_signal(signal.SIGSTOP)  # else it may be through before the other has begun
    message = refusal(place.launch("--mode=predict", *flags, images, f"--output={output}"))
    first.send_signal(signal.SIGCONT)
    assert f"in use by process {first.pid}" in message
    finish(first)
    fault("two processes on a table")
