"""The benchmark as one would run it, where TensorFlow is not installed."""

import json
import os
import pathlib
import statistics
import subprocess
import sys

import pytest
from ml_collections import ConfigDict

from gz_jax.errors import UserError
from gz_jax.modes.benchmark import benchmark

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
    assert [line.split(":")[0] for line in found["missing"]] == ["tf.data", "keras"]
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


def test_mistakes_are_said(tmp_path):
    with pytest.raises(UserError, match=r"--peers=numpy must be of torch, "):
        benchmark(ConfigDict(), str(tmp_path), peers=["numpy"])
    with pytest.raises(UserError, match="--repeats=0"):
        benchmark(ConfigDict(), str(tmp_path), repeats=0)
