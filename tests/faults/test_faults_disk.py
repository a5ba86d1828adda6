"""A full disk at each writer, and a read-only workdir: one error, nothing lost, and the same command goes on."""

import dataclasses
import pathlib
import shutil
import subprocess

import numpy as np
import pytest
from runs import ROOT, assert_same, assert_same_report, assert_same_table, contents, finish, newest, refusal, watch

from gz_jax.data import galaxy_zoo


class Room:
    """A small disk (tmpfs) in a namespace of its own: no rights are needed where users may have namespaces."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.inside = folder / "room"
        self.inside.mkdir()
        script = f"mount -t tmpfs -o size=4k room {self.inside} && echo ready && exec sleep 36000"
        command = ["unshare", "--map-root-user", "--mount", "sh", "-c", script]
        self.keeper = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        if self.keeper.stdout.readline() != "ready\n":
            pytest.skip(f"no small disk can be mounted here: {self.keeper.stderr.read().strip()}")
        self.within = ("nsenter", f"--target={self.keeper.pid}", "--user", "--mount", "--preserve-credentials", "--wd")
        self.outside = pathlib.Path(f"/proc/{self.keeper.pid}/root{self.inside}")

    def remount(self, options: str) -> None:
        subprocess.run([*self.within, "mount", "-o", f"remount,{options}", self.inside], check=True)

    def fill(self) -> None:
        with open(self.outside / "filler", "wb", buffering=0) as file:
            for size in (1 << 20, 1 << 12):
                try:
                    while file.write(bytes(size)) == size:
                        pass
                except OSError:
                    continue

    def empty(self) -> None:
        (self.outside / "filler").unlink()


@pytest.fixture
def room(tmp_path):
    if shutil.which("unshare") is None or shutil.which("nsenter") is None:
        pytest.skip("no unshare and nsenter here (util-linux), so no small disk")
    room = Room(tmp_path)
    yield room
    room.keeper.kill()
    room.keeper.wait()


def test_no_room_to_prepare_the_data_set(place, whole, room, fault):
    inside = dataclasses.replace(place, within=room.within, store=room.inside / "store")
    workdir = place.folder / "whole" / "unused"
    assert "decoded cutouts need" in refusal(inside.start(workdir))
    shutil.rmtree(workdir)
    fault("disk full, data set")
    inside = dataclasses.replace(inside, pipeline="stream")
    assert "GB are needed" in refusal(inside.start(workdir))
    fault("disk full, data set")
    room.remount("size=10M")
    limited = dataclasses.replace(inside, within=(*room.within, "prlimit", "--fsize=20000"))
    assert "preparing the data set" in refusal(limited.start(workdir))
    fault("disk full, data set")
    assert not workdir.exists()
    process = inside.start(workdir)
    watch(process, lambda: "of them trainable" in process.said())
    process.terminate()
    finish(process, 75)
    stores = (place.store, room.outside / "store")
    made, expected = (galaxy_zoo.open_dataset(place.folder / "galaxies", store=s, image_size=64).splits for s in stores)
    for name, split in expected.items():
        rows = np.arange(split.size)
        for one, other in zip(made[name].read(rows).values(), split.read(rows).values(), strict=True):
            np.testing.assert_array_equal(one, other)
    shutil.rmtree(workdir)


def test_no_room_in_the_workdir(place, whole, room, fault):
    workdir, outside = room.inside / "run", room.outside / "run"
    inside = dataclasses.replace(place, within=room.within)

    room.fill()
    assert "cannot be used" in refusal(inside.start(workdir))
    fault("disk full, lock")
    room.empty()
    assert "config.json" in refusal(inside.start(workdir))
    assert not outside.exists()
    fault("disk full, config.json")
    room.remount("size=100M")
    limited = dataclasses.replace(inside, within=(*room.within, "prlimit", "--fsize=1000000"))  # not seen beforehand
    assert "cannot write a checkpoint" in refusal(limited.start(workdir), quiet=False)
    fault("disk full, checkpoint")

    process = inside.start(workdir)
    watch(process, lambda: newest(outside) >= 4)
    room.fill()
    assert "cannot write a checkpoint" in refusal(process, quiet=False)
    assert newest(outside) >= 4
    fault("disk full, checkpoint")
    room.empty()

    process = inside.start(workdir, "--config.checkpoint.every_steps=0", "--config.checkpoint.every_seconds=1e9")
    watch(process, lambda: "continuing" in process.said())
    room.fill()
    message = refusal(process, quiet=False)
    assert "log.csv" in message or "checkpoints/best" in message  # both are written at an epoch's end
    fault("disk full, log.csv and best checkpoint")
    room.empty()

    process = inside.start(workdir)
    watch(process, lambda: "best epoch" in process.said())
    room.fill()
    assert "report" in refusal(process)
    fault("disk full, report")
    room.empty()

    finish(inside.start(workdir))
    assert_same(outside, whole[0])

    room.remount("ro")
    before = contents(outside)
    assert "cannot be used" in refusal(inside.start(workdir))
    assert contents(outside) == before
    fault("read-only workdir")


def test_no_room_for_what_is_made_of_a_run(place, whole, predicted, room, fault):
    inside = dataclasses.replace(place, within=room.within)
    other = place.folder / "whole" / "other"
    shutil.copytree(whole[0], other)
    table = f"--input={predicted[0]}"
    commands = {
        "predictions": lambda: inside.predict(whole[0], room.inside / "table"),
        "mergers": lambda: inside.launch(
            "--mode=mergers", f"--workdir={whole[0]}", table, f"--output={room.inside}/mergers"
        ),
        "compare": lambda: inside.launch("--mode=compare", whole[0], other, f"--output={room.inside}/comparison"),
    }
    for name, start in commands.items():
        room.remount("size=20k" if name == "predictions" else "size=2200k")
        if name != "predictions":
            room.fill()
        before = contents(room.outside)
        assert "No space left" in refusal(start())
        now = contents(room.outside)
        assert all(now[path] == data for path, data in before.items())
        fault(f"disk full, {name}")
        if name != "predictions":
            room.empty()
        room.remount("size=100M")
        finish(start())
    assert_same_table(room.outside / "table", predicted[0])
    for name in ("mergers", "comparison"):
        assert "</html>" in (room.outside / name / "report.html").read_text()
    assert_same_report(other / "report", whole[0] / "report")
