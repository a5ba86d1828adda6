"""The benchmark as one would run it, where TensorFlow is not installed."""

import json
import multiprocessing
import os
import pathlib
import statistics
import subprocess
import sys

import pytest
from ml_collections import ConfigDict

from gz_jax.benchmark import contest, peers, roofline
from gz_jax.benchmark.timing import Stage
from gz_jax.modes import benchmark as benchmark_mode
from gz_jax.modes import options
from gz_jax.modes.benchmark import benchmark
from gz_jax.runtime.errors import UserError

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_it_runs_without_tensorflow_and_says_what_is_missing(tmp_path):
    (tmp_path / "tensorflow").mkdir()
    (tmp_path / "tensorflow" / "__init__.py").write_text("raise ImportError('no TensorFlow here')\n")
    small = ("batch_size=4", "data.size=32", "data.crop=64", "data.image_size=100")
    flags = ["--config=configs/cnn.py", "--repeats=2", "--peers=keras", f"--output={tmp_path / 'out'}"]
    command = [sys.executable, "launch.py", "--mode=benchmark", *flags, *(f"--config.{setting}" for setting in small)]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "", "PYTHONPATH": str(tmp_path)}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    found = json.loads((tmp_path / "out" / "benchmark.json").read_text())
    assert [line.split(":")[0] for line in found["missing"]] == ["keras", "tf.data"]
    said = [line for line in result.stderr.splitlines() if line.startswith("not measured: ")]
    assert said == [f"not measured: {line}" for line in found["missing"]]
    stages = {row["name"]: row for row in found["stages"]}
    on_device = ["warp (JAX)", "forward", "evaluation step", "train step"]
    alone = ["decode (Pillow, one thread)", "host to device", *on_device]
    assert list(stages) == [*alone, "epoch (memory)", "epoch (device)", "predict from files"]
    for row in found["stages"]:
        assert len(row["seconds"]) == 2
        assert row["median_seconds"] == statistics.median(row["seconds"]) > 0
        assert row["images_per_second"] == pytest.approx(row["images"] / row["median_seconds"])
        assert ("roofline_fraction" in row) == (row["name"] in on_device)
    assert stages["train step"]["flops"] > 2 * stages["forward"]["flops"] > 0
    assert list(found["compile_seconds"]) == on_device
    assert set(found["ceilings"]) == {"flops", "bytes"}
    assert found["versions"]["jax"]
    assert found["config"]["batch_size"] == 4
    assert found["peak_bytes"]["host"] > 1e8
    assert found["peers"] == []
    text = (tmp_path / "out" / "benchmark.md").read_text()
    assert text in result.stdout
    assert "not measured: tf.data: no TensorFlow here" in text
    assert not list((tmp_path / "out").glob(".*"))


def test_a_device_whose_operations_jax_does_not_count_is_said():
    cost = roofline.Cost(1.0, 1.0)
    sent, counted, silent = (
        Stage(name, 4, made, c) for name, c in (("host to device", None), ("a", cost), ("b", None))
    )
    assert benchmark_mode._uncounted([sent, counted]) == []
    assert benchmark_mode._uncounted([sent, counted, silent]) == [
        "part of the roofline: JAX counts no operations for cpu"
    ]


def made(trainable, fails=None):
    """Two stages whose calls are counted where they run, for `contest.contender`."""
    calls = []

    def call(n):
        calls.append(n)
        if fails and sum(calls) > fails:
            raise ValueError("no more\nof this")

    return trainable, Stage("forward", 4, call), Stage("train step", 4, lambda n: os._exit(1) if n > 2 else None)


def test_contenders_run_in_processes_of_their_own():
    with contest.contender(made, 7) as one, contest.contender(made, 8, 3, our_memory=True) as other:
        assert (one.parameters, other.parameters) == (7, 8)
        assert [(stage.name, stage.images) for stage in one.stages] == [("forward", 4), ("train step", 4)]
        one.stages[0].call(100)
        other.stages[0].call(1)
        with pytest.raises(RuntimeError, match=r"^no more$"):
            other.stages[0].call(1)
        with pytest.raises(RuntimeError, match="its process ended unexpectedly"):
            one.stages[1].call(3)
        with pytest.raises(RuntimeError, match="its process ended unexpectedly"):
            one.stages[0].call(1)  # the pipe is broken now
    assert not multiprocessing.active_children()


def test_a_contender_that_cannot_begin_says_why():
    with pytest.raises(RuntimeError, match=r"^no more$"), contest.contender(made, 7, 1):
        pytest.fail("it began")


def test_a_peer_whose_package_is_not_installed_is_known_by_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ImportError, match=r"^not installed: pip install onnx openvino$"):
        peers.check("openvino", "cpu")


def test_peers_that_cannot_run_here_are_said_before_anything_is_timed(tmp_path, monkeypatch, capsys):
    for package in ("onnx", "openvino"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("raise ImportError('a broken package')\n")
    monkeypatch.syspath_prepend(tmp_path)
    missing = []
    assert benchmark_mode._able(["openvino"], missing) == []
    assert missing == ["openvino: a broken package"]
    assert capsys.readouterr().err == "not measured: openvino: a broken package\n"


def test_the_flag_names_every_peer():
    (option,) = [option for option in options.OPTIONS if option.name == "peers"]
    assert option.meaning("benchmark").split(": ")[1].removesuffix(".").split(", ") == list(peers.PEERS)


def test_mistakes_are_said(tmp_path):
    with pytest.raises(UserError, match=r"--peers=numpy must be one of torch, "):
        benchmark(ConfigDict(), str(tmp_path), peers=["numpy"])
    with pytest.raises(UserError, match="--repeats=0"):
        benchmark(ConfigDict(), str(tmp_path), repeats=0)
    for size in ("0", "-8", "3.5", "x", 0):
        with pytest.raises(UserError, match=f"--batch_sizes={size} must be whole numbers of 1 or more"):
            benchmark(ConfigDict(), str(tmp_path), batch_sizes=[32, size])
