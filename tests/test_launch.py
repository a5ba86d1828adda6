"""The command itself, in processes of its own, with the shipped configs made small."""

import csv
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import types

import jax.numpy as jnp
import numpy as np
import pytest

from configs import default
from gz_jax import modes, resolve
from gz_jax.data import galaxy_zoo, kaggle, synthetic
from gz_jax.inference import tables, trained
from gz_jax.labels import GALAXY_ZOO_2
from gz_jax.models import imagenet
from gz_jax.runtime import memory
from gz_jax.runtime.errors import UserError
from gz_jax.training.workdir import Record, claim, read

ROOT = pathlib.Path(__file__).resolve().parents[1]
SMALL = ("--config=configs/demo.py", "--config.data.num_galaxies=400", "--config.num_epochs=2")
TIMES = ("epoch_seconds", "images_per_second")


def command(*flags):
    return [sys.executable, str(ROOT / "launch.py"), *flags]


def environment(devices=1):
    flags = f"--xla_force_host_platform_device_count={devices}"
    return {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}


def launch(*flags, devices=1):
    return subprocess.run(command(*flags), cwd=ROOT, env=environment(devices), capture_output=True, text=True)


def log_rows(workdir):
    with open(workdir / "log.csv") as file:
        return [{k: v for k, v in row.items() if k not in TIMES} for row in csv.DictReader(file)]


def refusal(result):
    """The one line of a refused command."""
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, result.stderr
    return lines[0]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing interrupted."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    result = launch(*SMALL, f"--workdir={workdir}")
    assert result.returncode == 0, result.stderr
    return workdir, result


def test_demo_trains_and_reports(whole):
    workdir, result = whole
    rows = log_rows(workdir)
    assert [row["epoch"] for row in rows] == ["1", "2"]
    columns = ["epoch", "accuracy", "loss", "learning_rate", "val_accuracy", "val_loss", "val_rmse"]
    assert list(rows[0]) == columns
    metrics = json.loads((workdir / "metrics.json").read_text())
    losses = [float(row["val_loss"]) for row in rows]
    assert metrics["best_epoch"]["val_loss"] == min(losses)
    assert metrics["best_epoch"]["val_rmse"] == pytest.approx(min(losses) ** 0.5)
    assert f"{min(losses):.6f}" in result.stdout
    assert "tensorflow" not in result.stderr.lower()


def test_the_same_command_again_has_nothing_left_to_do(whole):
    workdir, _ = whole
    before = (workdir / "log.csv").read_text()
    result = launch(*SMALL, f"--workdir={workdir}")
    assert result.returncode == 0, result.stderr
    assert (workdir / "log.csv").read_text() == before


@pytest.mark.slow
def test_four_devices_log_what_one_does(whole, tmp_path):
    result = launch(*SMALL, f"--workdir={tmp_path}/run", devices=4)
    assert result.returncode == 0, result.stderr
    for a, b in zip(log_rows(whole[0]), log_rows(tmp_path / "run"), strict=True):
        assert float(a["val_loss"]) == pytest.approx(float(b["val_loss"]), abs=1e-4)


@pytest.mark.slow
def test_a_finished_run_is_evaluated_compared_and_used(whole, tmp_path):
    workdir, _ = whole
    page = (workdir / "report" / "report.html").read_text()  # written by training itself
    assert "http" not in page.split("</style>")[1].split("How this was made")[0]
    result = launch("--mode=evaluate", f"--workdir={workdir}", "--views=16")
    assert result.returncode == 0, result.stderr
    with open(workdir / "report" / "views.csv") as file:
        assert [row["views"] for row in csv.DictReader(file)] == ["1 view", "8 views", "16 views"]
    with open(workdir / "report" / "submission.csv") as file:
        rows = list(csv.reader(file))
    assert len(rows) == 1 + 40
    assert rows[0][:2] == ["GalaxyID", "Class1.1"]
    other = tmp_path / "other"
    shutil.copytree(workdir, other)
    result = launch("--mode=compare", str(workdir), str(other), f"--output={tmp_path}/comparison")
    assert result.returncode == 0, result.stderr
    assert "not significant" in result.stdout  # a run against itself
    files = tmp_path / "galaxies"
    synthetic.write_kaggle_files(files, 6, seed=5, num_test=5, layout="folders")
    result = launch(
        "--mode=predict", f"--workdir={workdir}", f"--input={files}/images_test_rev1", f"--output={tmp_path}/out"
    )
    assert result.returncode == 0, result.stderr
    assert tables.read(tmp_path / "out").num_rows == 5
    assert "needs --input" in refusal(launch("--mode=mergers", f"--workdir={workdir}"))
    both = ("--mode=predict", f"--workdir={workdir}", f"--input={files}", f"--output={tmp_path}/out")
    assert "--planes=1,x: three numbers" in refusal(launch(*both, "--planes=1,x"))
    lone = ("--mode=mergers", f"--workdir={workdir}", f"--input={tmp_path}/out", "--observability=0.5")
    assert "time and error in Gyr" in refusal(launch(*lone))
    assert "--views must be 1, 8 or 16" in refusal(launch("--mode=evaluate", f"--workdir={workdir}", "--views=4"))
    assert "two workdirs or more" in refusal(launch("--mode=compare", str(workdir)))


@pytest.mark.slow
def test_kaggles_files_are_explored_and_trained_on(tmp_path):
    synthetic.write_kaggle_files(tmp_path / "files", 60, seed=0, num_test=4, layout="one zip")
    flags = (f"--config.data.dir={tmp_path}/files", f"--config.data.store={tmp_path}/store", "--config.batch_size=16")
    result = launch("--mode=explore", "--config=configs/cnn.py", *flags, f"--workdir={tmp_path}/run")
    assert result.returncode == 0, result.stderr
    figures = {path.stem for path in (tmp_path / "run" / "explore" / "figures").glob("*.png")}
    assert {"examples", "label_histograms", "prototypes", "correlation", "pipeline"} <= figures
    rotate = ("--config.augment.rotate=True", "--config.num_epochs=1")
    result = launch("--config=configs/cnn.py", *flags, *rotate, f"--workdir={tmp_path}/run")
    assert result.returncode == 0, result.stderr
    assert len(log_rows(tmp_path / "run")) == 1


@pytest.mark.slow
def test_without_tensorflow_galaxies_on_the_device_train_as_streamed_ones(tmp_path):
    synthetic.write_kaggle_files(tmp_path / "kaggle", 160, seed=2, num_test=4)
    flags = ["--config=configs/cnn.py", f"--config.data.dir={tmp_path / 'kaggle'}", "--config.num_epochs=2"]
    flags += ["--config.augment.rotate=True", f"--config.data.store={tmp_path / 'store'}", "--config.batch_size=32"]
    blocker = tmp_path / "blocker"
    for name in ("tensorflow", "tensorflow_datasets", "array_record"):
        (blocker / name).mkdir(parents=True)
        (blocker / name / "__init__.py").write_text("raise ImportError('not here')")
    for pipe in ("device", "device", "stream"):  # the second time from the cutouts kept on disk
        path = os.pathsep.join([str(blocker), str(ROOT)] if pipe == "device" else [str(ROOT)])
        command_line = command(*flags, f"--config.data.pipeline={pipe}", f"--workdir={tmp_path / pipe}")
        result = subprocess.run(
            command_line, cwd=ROOT, env=environment() | {"PYTHONPATH": path}, capture_output=True, text=True
        )
        assert result.returncode == 0, result.stderr
        assert (tmp_path / pipe / "report" / "report.html").exists()
    device, stream = (log_rows(tmp_path / pipe) for pipe in ("device", "stream"))
    for a, b in zip(device, stream, strict=True):
        np.testing.assert_allclose(float(a["val_loss"]), float(b["val_loss"]), rtol=0.01)
    (kept,) = (tmp_path / "store" / "galaxy_zoo_cutouts").iterdir()
    names = sorted(p.name for p in kept.iterdir())
    kept = [f"{name}{end}" for name in ("train_292", "validation_204to68") for end in (".labels.npz", ".npy")]
    assert names == [".lock", "checked.json", *kept]


def test_another_config_in_the_same_workdir_is_refused(whole):
    workdir, _ = whole
    message = refusal(launch(*SMALL, f"--workdir={workdir}", "--config.learning_rate=0.5"))
    assert "learning_rate was 0.002 and is now 0.5" in message


def claimed(path, batch_size, step="latest/7"):
    """A workdir with a config, and a checkpoint's folder if `step` names one."""
    config = default.get_config()
    config.batch_size = batch_size
    claim(path, Record(config, GALAXY_ZOO_2, "data", None))
    if step:
        (path / "checkpoints" / step).mkdir(parents=True)
    return config


@pytest.mark.parametrize("step", ["", "latest/8.orbax-checkpoint-tmp-0"])
def test_before_its_first_checkpoint_a_workdir_is_anyones(tmp_path, step):
    config = claimed(tmp_path, 64, step)
    for left in ("log.csv", "skipped.csv"):
        (tmp_path / left).write_text("of the first run")
    (tmp_path / "notes.txt").write_text("mine")
    config.batch_size = 32
    assert claim(tmp_path, Record(config, GALAXY_ZOO_2, "other data", None)) == tmp_path
    assert read(tmp_path).config.batch_size == 32
    assert json.loads((tmp_path / "config.json").read_text())["data_fingerprint"] == "other data"
    assert {path.name for path in tmp_path.iterdir()} - {"checkpoints"} == {"config.json", "notes.txt"}


@pytest.mark.parametrize("step", ["latest/7", "best/7"])
def test_with_a_checkpoint_another_config_or_other_data_are_refused(tmp_path, step):
    config = claimed(tmp_path, 64, step)
    with pytest.raises(UserError, match="the data are not the same"):
        claim(tmp_path, Record(config, GALAXY_ZOO_2, "other data", None))
    config.batch_size = 32
    with pytest.raises(UserError, match="batch_size was 64 and is now 32"):
        claim(tmp_path, Record(config, GALAXY_ZOO_2, "data", None))
    assert read(tmp_path).config.batch_size == 64


def test_a_finished_runs_metrics_claim_its_workdir_too(tmp_path):
    config = claimed(tmp_path, 64, "")
    (tmp_path / "metrics.json").write_text("{}")
    config.batch_size = 32
    with pytest.raises(UserError, match="batch_size was 64 and is now 32"):
        claim(tmp_path, Record(config, GALAXY_ZOO_2, "data", None))


@pytest.mark.slow
def test_a_batch_too_large_for_the_memory_is_one_line_and_claims_nothing(tmp_path):
    still = ("--config.augment.rotate=False", "--config.augment.flip=False", "--config.data.pipeline=stream")
    flags = (*SMALL, *still, f"--workdir={tmp_path}/run", "--config.batch_size=100000000")
    message = refusal(launch(*flags))
    assert "not enough memory (Unable to allocate" in message
    assert "Choose a smaller batch: --config.batch_size=100000000 is too large here." in message
    assert "not enough memory" in refusal(launch("--mode=benchmark", *flags, "--repeats=1"))
    config = read(tmp_path / "run").config
    config.batch_size = 32
    claim(tmp_path / "run", Record(config, GALAXY_ZOO_2, "data", None))


@pytest.mark.parametrize(
    ("mode", "steps", "advice"),
    [
        ("train", ("latest/7",), "keeps its batch size, 64. Continue it on more devices"),
        ("train", (), "--config.batch_size=64 is too large here"),
        ("benchmark", (), "--config.batch_size=64 is too large here"),
        ("evaluate", (), "evaluated 64 at a time"),
        ("predict", (), "Stop other programs that use this memory"),
    ],
)
def test_what_jax_cannot_allocate_is_one_line(tmp_path, monkeypatch, mode, steps, advice):
    """The device's own error, whatever the mode was doing; NumPy gives it as a ValueError."""
    config = claimed(tmp_path, 64, *steps or ("",))
    flags = types.SimpleNamespace(distributed="off", coordinator=None, num_processes=None, process_id=None)
    for fail in (lambda *_: jnp.zeros(2**50).block_until_ready(), lambda *_: "x" * (sys.maxsize // 2)):
        monkeypatch.setattr(modes, "_run", fail)
        with pytest.raises(UserError, match=re.escape(advice)) as error:
            modes.run(mode, config, str(tmp_path), [], flags)
        assert "\n" not in str(error.value)


def test_other_errors_keep_their_traceback():
    for error in (ValueError("no memory of it"), RuntimeError("RESOURCE_EXHAUSTED: not JAX's"), OSError("memory")):
        assert memory.exhausted(error) is None


@pytest.mark.parametrize(
    ("old", "devices", "advice"),
    [
        (
            100,
            8,
            "keeps it. Continue it on a number of devices that divides 100 (1, 2, 4, 5), or use another --workdir.",
        ),
        (96, 8, "has --config.batch_size=96; continue it with that, or use another --workdir."),
    ],
)
def test_the_advice_on_a_batch_that_does_not_divide_fits_a_run_that_goes_on(tmp_path, old, devices, advice):
    config = claimed(tmp_path, old)
    config.batch_size = 100
    with pytest.raises(UserError, match=re.escape(advice)):
        resolve.check(config, devices, tmp_path)
    for other in (None, tmp_path / "new"):
        with pytest.raises(UserError, match="over 8 devices: use 96 or 104"):
            resolve.check(config, devices, other)
    shutil.rmtree(tmp_path / "checkpoints")
    with pytest.raises(UserError, match="use 96 or 104"):
        resolve.check(config, devices, tmp_path)


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (("--config.model.layers=5",), ("layers",)),
        (("--config.model.name=vgg",), ("model.name='vgg'", "'cnn', 'resnet50'")),
        (("--config.batch_size=many",), ("batch_size",)),
        (("--config.data.source=galaxy_zoo", "--config.data.dir=/no/such/folder"), ("/no/such/folder",)),
        (("surplus",), ("surplus",)),
        (("--config=configs/nothing.py",), ("configs/nothing.py",)),
    ],
    ids=["field", "choice", "type", "folder", "argument", "file"],
)
def test_a_mistake_gets_one_line(flags, parts, tmp_path):
    message = refusal(launch("--config=configs/demo.py", f"--workdir={tmp_path}/run", *flags))
    assert all(part in message for part in parts), message
    assert not (tmp_path / "run").exists()


def test_a_batch_that_does_not_divide_names_the_two_nearest(tmp_path):
    flags = ("--config=configs/demo.py", "--config.batch_size=30", f"--workdir={tmp_path}/run")
    message = refusal(launch(*flags, devices=4))
    assert "does not divide over 4 devices: use 28 or 32" in message


def test_a_workdir_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    message = refusal(launch(*SMALL, f"--workdir={tmp_path}/file/run"))
    assert "choose another with --workdir" in message


def test_runs_of_several_seeds_validate_on_the_same_galaxies():
    def validation(**seeds):
        config = default.get_config()
        config.data.source, config.data.num_galaxies, config.data.size = "synthetic", 40, 30
        config.update_from_flattened_dict(seeds)
        return set(resolve.dataset(config, GALAXY_ZOO_2).splits["validation"].read(np.arange(5))["galaxy_id"].tolist())

    assert validation(seed=0) == validation(seed=1) != validation(**{"data.seed": 1})


@pytest.mark.parametrize(
    ("field", "value"),
    [("model.frozen_statistics", True), ("model.hidden", (512,)), ("model.pooling", "average"), ("data.size", 28)],
)
def test_what_the_cnn_has_no_use_for_is_refused_before_anything_is_written(field, value):
    config = default.get_config()
    config.update_from_flattened_dict({field: value})
    with pytest.raises(UserError, match=f"--config.{field}"):
        resolve.check(config, 1)


def parsed(*arguments, home):
    """What the flags hold, and the other arguments, with this home folder."""
    code = """
import sys
from absl import flags
from gz_jax.modes import command
rest = command.parse(sys.argv)
names = ("workdir", "input", "output", "labels", "validation", "answer")
print([flags.FLAGS[name].value for name in names], rest[1:])
if command.config_flag.value:
    print(command.config_flag.value.data.dir, command.config_flag.value.model.pretrained)
"""
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        env={**environment(), "HOME": str(home)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_home_is_expanded_in_every_path(tmp_path):
    (tmp_path / "config.py").write_text((ROOT / "configs" / "default.py").read_text())
    (tmp_path / "flags").write_text("--output=~/from_a_file\n")
    flags = ("mode=mergers", "workdir=~/a,~/b", "input=~/*.jpg", "validation=x,~/v", "labels", "~/l.csv", "answer=a~b")
    flags = [flag if flag.startswith("~") else f"--{flag}" for flag in flags]
    config = ("--config=~/config.py", "--config.data.dir=~/kaggle", "--config.model.pretrained=~/w~1.h5")
    found = parsed(*flags, "--flagfile=~/flags", *config, "~/c", "d/~", home=tmp_path)
    paths = ["a,{0}/b", "*.jpg", "from_a_file", "l.csv"]
    values = [f"{tmp_path}/{path}".format(tmp_path) for path in paths] + [f"x,{tmp_path}/v", "a~b"]
    assert found == f"{values} {[f'{tmp_path}/c', 'd/~']}\n{tmp_path}/kaggle {tmp_path}/w~1.h5\n"


def test_a_run_that_does_not_exist(tmp_path):
    (tmp_path / "empty").mkdir()
    for name, what in (("none", "the folder does not exist"), ("empty", "the folder has no config.json")):
        result = launch("--mode=compare", str(tmp_path / name), str(tmp_path / "b"))
        assert f"{tmp_path}/{name} is not a workdir of a training run: {what}" in refusal(result)
        assert "Errno" not in result.stderr


def test_home_in_a_refusal_and_in_functions(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    result = launch("--mode=predict", "--workdir=~/run", "--input=~/x", "--output=~/y")
    assert f"{tmp_path}/run is not a workdir" in refusal(result)
    assert not (ROOT / "~").exists()
    monkeypatch.chdir(tmp_path)
    config = default.get_config()
    assert claim("~/run", Record(config, GALAXY_ZOO_2, "f", None)) == tmp_path / "run"
    assert read("~/run").config.seed == config.seed
    with pytest.raises(UserError, match=f"{tmp_path}/run has no best checkpoint"):
        trained.load("~/run")
    with pytest.raises(UserError, match=f"{tmp_path}/none.h5"):
        imagenet.load("~/none.h5")
    with pytest.raises(UserError, match=f"data directory {tmp_path}/none does not exist"):
        kaggle.find("~/none")
    assert galaxy_zoo.store_dir("~/store") == tmp_path / "store"
    assert [path.name for path in tmp_path.glob("~*")] == []
