"""Training from files takes no more memory for many galaxies than for few."""

import csv
import io
import os
import pathlib
import signal
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest
from PIL import Image

from gz_jax import labels
from gz_jax.data import synthetic
from gz_jax.data.synthetic_render import render
from tests.peak import RETURNING, peak_memory

ROOT = pathlib.Path(__file__).resolve().parents[1]
SIZE, STEPS = 128, 40
FEW, MANY = 1_000, 30_000


def write_galaxies(folder, count):
    """Kaggle's files with `count` galaxies, of which 20 are distinct."""
    folder.mkdir(parents=True)
    ids = 100_000 + np.arange(count)
    parameters, fractions = synthetic.truth(ids[:20], seed=0)
    votes = [[f"{x:.9g}" for x in row] for row in synthetic.draw_votes(fractions, ids[:20], seed=0)]
    jpegs = []
    for image in render(parameters, size=SIZE, field=synthetic.FULL_FIELD):
        jpegs.append(io.BytesIO())
        Image.fromarray(image).save(jpegs[-1], "JPEG")
    with zipfile.ZipFile(folder / "images_training_rev1.zip", "w") as file:
        for i, galaxy_id in enumerate(ids):
            file.writestr(f"images_training_rev1/{galaxy_id}.jpg", jpegs[i % 20].getvalue())
    with open(folder / "training_solutions_rev1.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["GalaxyID", *labels.GALAXY_ZOO_2.columns])
        table.writerows([galaxy_id, *votes[i % 20]] for i, galaxy_id in enumerate(ids))


def peak_of_training(folder, count):
    """GB that `launch.py` held at most while it prepared `count` galaxies and trained STEPS steps on them."""
    write_galaxies(folder / "files", count)
    flags = [f"--workdir={folder / 'run'}", f"--config.data.dir={folder / 'files'}"]
    flags += [f"--config.data.store={folder / 'store'}", f"--config.data.image_size={SIZE}", "--config.data.crop=64"]
    flags += ["--config.data.size=64", "--config.data.pipeline=stream", "--config.augment.rotate=True"]
    flags += ["--config.batch_size=16", f"--config.checkpoint.every_steps={STEPS}"]
    command = [sys.executable, str(ROOT / "launch.py"), "--config=configs/cnn.py", *flags]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "", **RETURNING}
    environment["JAX_ENABLE_COMPILATION_CACHE"] = "0"  # else the first compiles for both
    errors = folder / "stderr.txt"
    with open(errors, "w") as file:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=file)
    peak = 0
    while process.poll() is None:
        peak = max(peak, peak_memory(process.pid))
        if (folder / "run" / "checkpoints" / "latest" / str(STEPS)).exists():
            process.send_signal(signal.SIGTERM)
            break
        time.sleep(0.1)
    assert process.wait() == 75, errors.read_text()
    return peak / 1e9


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_peak_memory_does_not_grow_with_the_galaxies(tmp_path):
    few, many = (peak_of_training(tmp_path / str(count), count) for count in (FEW, MANY))
    assert many < 3
    assert many == pytest.approx(few, rel=0.1)  # 29,000 decoded galaxies have 0.36 GB
