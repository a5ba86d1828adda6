"""The notebook, run from top to bottom."""

import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
CELLS = json.loads((ROOT / "gz_jax" / "notebooks" / "first_steps.ipynb").read_text("utf-8"))["cells"]
CODE = ["".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "code"]


def test_it_is_stored_without_outputs():
    assert len(CODE) > 5
    assert not any(cell["outputs"] or cell["execution_count"] for cell in CELLS if cell["cell_type"] == "code")


@pytest.mark.slow
def test_it_runs_from_top_to_bottom(tmp_path):
    script = tmp_path / "notebook.py"
    script.write_text("\n".join([*CODE, "plt.gcf().savefig('figure.png')"]))
    environment = os.environ | {"MPLBACKEND": "Agg", "PYTHONPATH": os.fspath(ROOT)}
    done = subprocess.run(
        [sys.executable, script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=1200
    )
    assert done.returncode == 0, done.stderr
    low, high = map(float, re.search(r"calibrated .*\[(.*), (.*)\]", done.stdout).groups())
    assert 0 <= low < high <= 1
    assert len(re.findall(r"^[012]: ", done.stdout, re.MULTILINE)) == 3  # galaxies in words
    assert (tmp_path / "figure.png").stat().st_size > 10_000
    assert (tmp_path / "runs" / "first_steps" / "report" / "report.html").is_file()
