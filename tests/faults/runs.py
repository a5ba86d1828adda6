"""The command in processes of its own, watched from outside, and what must be the same in the end."""

import csv
import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
import typing

import jax
import numpy as np
from pyarrow import parquet

from gz_jax.training import checkpoint

ROOT = pathlib.Path(__file__).resolve().parents[2]
TIMES = ("epoch_seconds", "images_per_second")
SMALL = (
    f"--config={ROOT}/configs/cnn.py",
    *("--config.data.image_size=64", "--config.data.crop=60", "--config.data.size=30"),
    *("--config.batch_size=8", "--config.num_epochs=3", "--config.checkpoint.every_steps=2"),
)
PREDICT = """
import sys
from gz_jax.inference import trained
from gz_jax.modes import command
from gz_jax.runtime import errors, interrupts
from gz_jax.inference.predict import predict_catalogue

interrupts.install()
try:
    predict_catalogue(sys.argv[1], sys.argv[2], [trained.load(sys.argv[3])], batch_size=4, shard_size=4, crop=60.0)
except errors.UserError as error:
    command.fail(error)
"""


class Process(subprocess.Popen):
    """A process whose words are in a file."""

    started: typing.ClassVar[list["Process"]] = []

    def __init__(self, command, log, **kwargs):
        self.log = log
        with open(log, "w") as file:
            super().__init__(command, stdout=file, stderr=subprocess.STDOUT, cwd=ROOT, **kwargs)
        self.started.append(self)

    def said(self):
        return self.log.read_text()


@dataclasses.dataclass(frozen=True)
class Place:
    """Where galaxies, store and compiled steps are; `within` goes before each command (nsenter, prlimit)."""

    folder: pathlib.Path
    store: pathlib.Path
    within: tuple[str, ...] = ()
    pipeline: str = "memory"

    def environment(self, cached=True):
        found = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "", "PYTHONPATH": str(ROOT)}
        found["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
        found.setdefault("JAX_COMPILATION_CACHE_DIR", str(self.folder / "cache"))
        if not cached:
            del found["JAX_COMPILATION_CACHE_DIR"]
        return found

    def launch(self, *flags, cached=True, **environment):
        """`launch.py` with these flags, started."""
        command = [*self.within, sys.executable, str(ROOT / "launch.py"), *map(str, flags)]
        log = self.folder / f"words{time.monotonic_ns()}"
        return Process(command, log, env=self.environment(cached) | environment)

    def start(self, workdir, *flags, **how):
        """The training run, started."""
        where = (f"--config.data.dir={self.folder}/galaxies", f"--config.data.store={self.store}")
        where += (f"--config.data.pipeline={self.pipeline}",)
        return self.launch(*SMALL, *where, f"--workdir={workdir}", *flags, **how)

    def predict(self, workdir, output, images=None):
        """160 images into 40 shards, started."""
        arguments = (images or self.folder / "images" / "images_test_rev1", output, workdir)
        command = [*self.within, sys.executable, "-c", PREDICT, *map(str, arguments)]
        return Process(command, self.folder / f"words{time.monotonic_ns()}", env=self.environment())


def watch(process, condition, seconds=None):
    """Wait until the condition holds, the process ends, or so many seconds are over; returns the seconds."""
    start = time.monotonic()
    while process.poll() is None and not condition():
        if seconds is not None and time.monotonic() - start > seconds:
            break
        time.sleep(0.01)
        assert time.monotonic() - start < 1200, process.said()
    return time.monotonic() - start


def aim(phase, process, workdir):
    """Wait until the process is in a phase."""
    latest, before = workdir / "checkpoints" / "latest", newest(workdir)
    signs = {
        "start": lambda: handles_signals(process),
        "data set": lambda: "Checking images" in process.said(),
        "compile": lambda: "of them trainable" in process.said(),
        "train": lambda: newest(workdir) > before,
        "save": lambda: newest(workdir) > before and any(latest.glob("*tmp*")),
        "evaluate": lambda: "best epoch" in process.said(),
        "report": lambda: "best epoch" in process.said() and (workdir / "report" / "validation.parquet").exists(),
    }
    watch(process, signs[phase])


def handles_signals(process):
    """Whether the process catches SIGTERM yet (before that the kernel ends it)."""
    status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
    return int(status.split("SigCgt:")[1].split()[0], 16) >> (signal.SIGTERM - 1) & 1


def finish(process, status=0, quiet=True):
    """Wait for the end; returns what it said."""
    assert process.wait(1200) == status, process.said()
    assert not (quiet and "Traceback" in process.said()), process.said()
    return process.said()


def refusal(process, quiet=True):
    """The one error of a process that gave up (beside it, if not `quiet`, what the threads of orbax print)."""
    words = finish(process, 2, quiet)
    assert words.count("error: ") == 1, words
    return words.partition("error: ")[2]


def newest(workdir):
    """The step of the newest checkpoint of `latest`, -1 where there is none."""
    folder = workdir / "checkpoints" / "latest"
    return max([int(p.name) for p in folder.glob("*") if p.name.isdigit()], default=-1)


def rows(workdir):
    with open(workdir / "log.csv") as file:
        return [{k: v for k, v in row.items() if k not in TIMES} for row in csv.DictReader(file)]


def _timeless(data):
    if isinstance(data, dict):
        return {k: _timeless(v) for k, v in data.items() if k not in (*TIMES, "seconds")}
    return [_timeless(v) for v in data] if isinstance(data, list) else data


def saved(workdir, which):
    manager = checkpoint.open_manager(workdir / "checkpoints" / which, 1, read_only=True)
    step, tree, info = checkpoint.load(manager, None)
    return step, jax.tree.map(np.asarray, tree), _timeless(info)


def assert_same(workdir, whole, report=True):
    """Log, metrics, both checkpoints to the last bit, the report's numbers and validation table."""
    assert rows(workdir) == rows(whole)
    for which in ("latest", "best"):
        (step_a, tree_a, info_a), (step_b, tree_b, info_b) = saved(workdir, which), saved(whole, which)
        assert (step_a, info_a) == (step_b, info_b)
        jax.tree.map(np.testing.assert_array_equal, tree_a, tree_b)
    metrics = [_timeless(json.loads((path / "metrics.json").read_text())) for path in (workdir, whole)]
    assert metrics[0] == metrics[1]
    assert not (workdir / ".lock").exists()
    if report:
        assert_same_report(workdir / "report", whole / "report")


def assert_same_report(one, other):
    assert "</html>" in (one / "report.html").read_text()
    tables = [parquet.read_table(path / "validation.parquet").to_pydict() for path in (one, other)]
    assert tables[0] == tables[1]
    assert (one / "submission.csv").read_bytes() == (other / "submission.csv").read_bytes()
    names = [{p.relative_to(path) for p in path.rglob("*") if not p.name.startswith(".")} for path in (one, other)]
    assert names[0] == names[1]


def assert_same_table(output, other):
    parts = [sorted(path.glob("part-*.parquet")) for path in (output, other)]
    assert [p.name for p in parts[0]] == [p.name for p in parts[1]]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(*parts, strict=True))


def contents(folder):
    """Every file below a folder with its bytes."""
    return {p.relative_to(folder): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
