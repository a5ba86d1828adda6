"""Damaged and vanished files, wrong clocks, numbers that are not finite: what is lost is said, and nothing else is."""

import dataclasses
import os
import random
import shutil
import time

import jax
import numpy as np
import pytest
from runs import assert_same, finish, newest, refusal, saved, watch

from gz_jax.data import synthetic
from gz_jax.data.images import BAD
from gz_jax.inference import tables
from gz_jax.training import checkpoint

DAMAGES = ("truncated", "missing", "flipped")


def damage(file, how, bit=0):
    """Cut a file to its half, remove it, or flip one of its bits."""
    data = bytearray(file.read_bytes())
    if how == "missing":
        file.unlink()
    elif how == "truncated":
        file.write_bytes(data[: len(data) // 2])
    else:
        data[bit // 8] ^= 1 << bit % 8
        file.write_bytes(data)


@pytest.fixture(scope="session")
def halfway(place, whole):
    """A workdir that SIGTERM stopped in the middle of its second epoch."""
    workdir = place.folder / "halfway" / "run"
    process = place.start(workdir)
    watch(process, lambda: newest(workdir) >= 20)
    process.terminate()
    assert "the same command continues" in finish(process, 75)
    return workdir


def to_the_end(place, workdir):
    """Go on, as far as the last epoch."""
    process = place.start(workdir)
    watch(process, lambda: "best epoch" in process.said())
    process.terminate()
    return finish(process, 75)


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_checkpoint_gives_way_to_the_one_before(how, place, whole, halfway, tmp_path, fault):
    workdir = tmp_path / "run"
    shutil.copytree(halfway, workdir)
    step = workdir / "checkpoints" / "latest" / str(newest(workdir))
    largest = max((p for p in step.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    damage(largest, how, bit=4 * largest.stat().st_size)  # in the middle of it: the numbers of a layer
    words = to_the_end(place, workdir)
    assert f"{step} cannot be read; trying the one before" in words
    assert_same(workdir, whole[0], report=False)
    fault(f"checkpoint file {how}")


def test_no_damage_to_any_file_of_a_checkpoint_goes_unseen(halfway, tmp_path, fault):
    folder, random_ = tmp_path / "latest", random.Random(0)
    shutil.copytree(halfway / "checkpoints" / "latest", folder)
    step, tree, info = checkpoint.load(checkpoint.open_manager(folder, 2, read_only=True), None)
    tree = [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]
    for file in sorted(p for p in (folder / str(step)).rglob("*") if p.is_file()):
        data = file.read_bytes()
        for how in (*DAMAGES, "flipped", "flipped"):
            damage(file, how, random_.randrange(8 * len(data)))
            found, now, now_info = checkpoint.load(checkpoint.open_manager(folder, 2, read_only=True), None)
            if found == step:  # what was damaged is not what it is restored from
                assert now_info == info
                assert all(map(np.array_equal, tree, jax.tree.leaves(now)))
            else:
                assert found < step
            file.write_bytes(data)
            fault(f"checkpoint file {how}")


def test_clocks_that_went_back(place, whole, halfway, tmp_path, fault):
    """The first part of the run has dates ten years ahead of the second's."""
    workdir = tmp_path / "run"
    shutil.copytree(halfway, workdir)
    later = time.time() + 10 * 365 * 86400

    def date_ahead():
        for path in (workdir, *workdir.rglob("*")):
            os.utime(path, (later, later))

    date_ahead()
    to_the_end(place, workdir)
    date_ahead()  # log.csv is younger than any page can be
    process = place.start(workdir)
    finish(process)
    assert_same(workdir, whole[0])
    page = (workdir / "report" / "report.html").stat()
    finish(place.start(workdir))
    assert (workdir / "report" / "report.html").stat() == page  # and not made again
    fault("clock set back", 3)


def test_prepared_galaxies_that_vanish(place, tmp_path, fault):
    workdir, store = tmp_path / "run", tmp_path / "store"
    place = dataclasses.replace(place, store=store, pipeline="stream")
    finish(place.start(tmp_path / "whole"))
    process = place.start(workdir)
    watch(process, lambda: newest(workdir) >= 0)
    for file in sorted(store.rglob("*.array_record*")):
        file.unlink()
    assert f"Remove {store}" in refusal(process)
    fault("data file vanishes")
    shutil.rmtree(store)  # as the message says
    finish(place.start(workdir))
    assert_same(workdir, tmp_path / "whole")


def test_an_image_that_vanishes_is_flagged(place, whole, predicted, tmp_path, fault):
    images = tmp_path / "images"
    shutil.copytree(place.folder / "images" / "images_test_rev1", images)
    output, names = tmp_path / "table", sorted(images.iterdir())
    process = place.predict(whole[0], output, images)
    watch(process, lambda: any(output.glob("part-*")))
    names[-1].unlink()
    finish(process)
    table = tables.read(output)
    flags = table["flag"].to_pylist()
    assert [flag == BAD for flag in flags] == [False] * (len(names) - 1) + [True]
    assert "no such file" in table["reason"].to_pylist()[-1]
    fault("data file vanishes")


def test_numbers_that_are_not_finite(place, tmp_path, fault):
    workdir = tmp_path / "run"
    message = refusal(place.start(workdir, "--config.learning_rate=1e30"))
    assert "not finite at step" in message
    assert "Galaxies of the batch: 100" in message
    for step in (workdir / "checkpoints" / "latest").iterdir():
        assert int(step.name) <= int(message.split("at step ")[1].split()[0])
    if newest(workdir) >= 0:
        tree = saved(workdir, "latest")[1]
        assert np.isfinite(np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree["params"])])).all()
    fault("NaN in a step")

    synthetic.write_kaggle_files(tmp_path / "galaxies", 12, seed=0, num_test=1, size=64, layout="folders")
    labels = tmp_path / "galaxies" / "training_solutions_rev1.csv"
    lines = labels.read_text().splitlines()
    lines[3] = ",".join([*lines[3].split(",")[:5], "nan", *lines[3].split(",")[6:]])
    labels.write_text("\n".join(lines))
    other = dataclasses.replace(place, folder=tmp_path, store=tmp_path / "store")
    message = refusal(other.start(tmp_path / "other"))
    assert lines[3].split(",")[0] in message
    fault("NaN in a label")
