"""Where the faults happen, the run that nothing disturbed, and the table at the end."""

import collections
import json
import os
import pathlib

import pytest
from runs import Place, Process, finish, watch

from gz_jax.data import synthetic

TALLY: dict[str, list[int]] = collections.defaultdict(lambda: [0, 0])  # kind -> faults tried, faults with a loss


def pytest_collection_modifyitems(items):
    for item in items:
        if pathlib.Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.faults)


@pytest.fixture
def fault(request):
    """Call it with the kind of each fault that has happened; all of a failed test's count as losses."""
    tried = collections.Counter()
    yield lambda kind, count=1: tried.update({kind: count})
    failed = getattr(request.node, "failed", True)
    for kind, count in tried.items():
        TALLY[kind][0] += count
        TALLY[kind][1] += count * failed


@pytest.fixture(autouse=True)
def no_process_stays():
    yield
    for process in Process.started:
        process.kill()
        process.wait()
    Process.started.clear()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.when == "call":
        item.failed = report.failed
    return report


def pytest_terminal_summary(terminalreporter):
    if not TALLY:
        return
    width = max(map(len, TALLY))
    terminalreporter.section("faults")
    for kind, (tried, lost) in [*TALLY.items(), ("all", [sum(n) for n in zip(*TALLY.values(), strict=True)])]:
        terminalreporter.line(f"{kind:<{width}}  tried {tried:3d}  lost {lost:2d}")
    if path := os.environ.get("FAULTS_JSON"):
        rows = [{"fault": kind, "tried": tried, "lost": lost} for kind, (tried, lost) in TALLY.items()]
        pathlib.Path(path).write_text(json.dumps(rows, indent=2) + "\n")


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    """Kaggle's files with 120 small synthetic galaxies, and a cache of compiled steps."""
    folder = tmp_path_factory.mktemp("faults")
    synthetic.write_kaggle_files(folder / "galaxies", 120, seed=0, num_test=24, size=64, layout="zips")
    synthetic.write_kaggle_files(folder / "images", 1, seed=0, num_test=160, size=64, layout="folders")
    return Place(folder, folder / "store")


@pytest.fixture(scope="session")
def whole(place):
    """The workdir of a run that nothing disturbed, and how long its phases took."""
    workdir = place.folder / "whole" / "run"
    process = place.start(workdir)
    seconds = {"start": watch(process, lambda: "Checking images" in process.said())}
    seconds["data set"] = watch(process, lambda: "of them trainable" in process.said())
    seconds["compile"] = watch(process, lambda: (workdir / "checkpoints" / "latest" / "2").exists())
    seconds["train"] = watch(process, lambda: "best epoch" in process.said())
    seconds["evaluate"] = watch(process, lambda: (workdir / "report" / "validation.parquet").exists())
    seconds["report"] = watch(process, lambda: "report: " in process.said())
    finish(process)
    return workdir, seconds


@pytest.fixture(scope="session")
def predicted(place, whole):
    """A table that nothing disturbed, and how long it took."""
    output = place.folder / "whole" / "table"
    process = place.predict(whole[0], output)
    seconds = watch(process, lambda: (output / "manifest.json").exists())
    seconds = {"start": seconds, "predict": watch(process, lambda: process.poll() is not None)}
    finish(process)
    return output, seconds
