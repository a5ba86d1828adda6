"""SIGKILL at random moments of every phase, restarted each time: the end is that of a run never killed.

Another `FAULTS_SEED` in the environment gives other moments.
"""

import dataclasses
import os
import random
import shutil

from runs import aim, assert_same, assert_same_table, finish, watch

PHASES = (
    *("start", "data set", "data set", "compile", "compile", "train"),
    *("save", "train", "save", "evaluate", "report", "report"),
)
SHARE = {"data set": 0.2, "train": 0.3}  # of a phase's time, in which the kill comes


def kill_in(phase, place, workdir, seconds, random_):
    """Start the run, kill it at a random moment of a phase; returns whether it was still alive then."""
    if phase == "data set":
        shutil.rmtree(place.store, ignore_errors=True)  # so that it is prepared again
    if phase in ("train", "save") and (workdir / "metrics.json").exists():
        shutil.rmtree(workdir)  # it is trained to the end: once more
    process = place.start(workdir, cached=phase != "compile")
    aim(phase, process, workdir)
    watch(process, lambda: False, random_.uniform(0, SHARE.get(phase, 0.6) * seconds.get(phase, 0.02)))
    alive = process.poll() is None
    process.kill()
    process.wait()
    assert "Traceback" not in process.said(), process.said()
    return alive


def test_a_run_killed_twelve_times_ends_as_if_never_killed(place, whole, tmp_path, fault):
    random_ = random.Random(int(os.environ.get("FAULTS_SEED", "0")))
    place, workdir = dataclasses.replace(place, store=tmp_path / "store"), tmp_path / "run"
    for phase in PHASES:
        # The machine may be faster than in the undisturbed run, so each try comes earlier than the one before.
        shorter = ({name: value / 2**n for name, value in whole[1].items()} for n in range(6))
        tries = (kill_in(phase, place, workdir, seconds, random_) for seconds in shorter)
        assert any(tries), f"never caught it in {phase}"  # one that ended before does not count
        fault(f"SIGKILL, {phase}")
    finish(place.start(workdir))
    assert_same(workdir, whole[0])


def test_predictions_killed_six_times_end_as_if_never_killed(place, whole, predicted, tmp_path, fault):
    random_, output = random.Random(3), tmp_path / "table"
    for phase in ("start", *["predict"] * 5):
        for _ in range(5):  # one that ended before does not count
            process, before = place.predict(whole[0], output), len(list(output.glob("part-*")))
            if phase == "predict":
                watch(process, lambda n=before: len(list(output.glob("part-*"))) > n)
            watch(process, lambda: False, random_.uniform(0, 0.1 * predicted[1][phase]))
            if alive := process.poll() is None:
                break
            shutil.rmtree(output)
        process.kill()
        process.wait()
        assert alive, f"never caught it in {phase}"
        fault(f"SIGKILL, {phase}")
    finish(place.predict(whole[0], output))
    assert_same_table(output, predicted[0])
