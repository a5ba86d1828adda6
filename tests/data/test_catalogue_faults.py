"""A large table with two dozen kinds of fault: one report of all, nothing half-written, and little memory."""

import collections
import csv
import io
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
import zlib

import numpy as np
import pytest
from astropy.io import fits
from kaggle_like import jpeg
from PIL import Image

from gz_jax.data.problems import Problem, report
from gz_jax.runtime.errors import UserError

ROOT = pathlib.Path(__file__).resolve().parents[2]
FIRST = 1237648720693755918  # SDSS ids have 19 digits
EVERY = 31  # rows from one faulty one to the next


def fits_bytes(*units):
    buffer = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), *units]).writeto(buffer)
    return buffer.getvalue()


def plain(value, noise=0):
    pixels, buffer = np.full((40, 40, 3), value, np.uint8), io.BytesIO()
    pixels[0, 0] += noise
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def bomb():
    """A PNG whose header says 100,000 x 100,000 pixels."""
    data = bytearray(plain(0))
    data[16:24] = (100_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


GALAXY = np.random.default_rng(0).normal(100, 1, (40, 40)).astype(np.float32)
FILES = {
    "good.jpg": lambda: jpeg(0, (40, 40)),
    "text.jpg": lambda: b"this is no image",
    "empty.jpg": lambda: b"",
    "cut.jpg": lambda: jpeg(0, (40, 40))[:400],
    "flat.png": lambda: plain(7),
    "nearly.png": lambda: plain(7, 1),
    "bomb.png": bomb,
    "cut.fits": lambda: fits_bytes(fits.ImageHDU(GALAXY))[:6500],
    "none.fits": fits_bytes,
    "nan.fits": lambda: fits_bytes(fits.ImageHDU(GALAXY * np.nan)),
    "four.fits": lambda: fits_bytes(fits.ImageHDU(np.stack([GALAXY, GALAXY]).reshape(1, 2, 1, 40, 40).repeat(2, 0))),
    "weights.fits": lambda: fits_bytes(fits.ImageHDU(GALAXY, name="WHT")),
}
# What a faulty row has in a column, by the fault's kind as it is reported.
ROWS = {
    "no id": {"id": ""},
    "id used more than once": {"id": str(FIRST)},
    "text where a number belongs": {"ring_yes": "seven"},
    "count is infinite": {"ring_yes": "inf"},
    "count is negative or above 1e9": {"ring_no": "-3"},
    "labels of a part of a question's answers": {"ring_no": ""},
    "unknown split": {"split": "dev"},
    "pixel scale is missing or not positive": {"scale": "0"},
    "the table names no file": {"file": ""},
    "no such file": {"file": "gone.jpg"},
    "a URL, but only files can be read": {"file": "https://x.org/a.jpg"},
    "image: not a JPEG, PNG, TIFF or FITS image": {"file": "text.jpg"},
    "image: empty file": {"file": "empty.jpg"},
    "image: damaged or unreadable": {"file": "cut.jpg"},
    "image: not a regular file": {"file": "folder.jpg"},
    "image: every pixel has the same value": {"file": "flat.png"},
    "image: every pixel has nearly the same value": {"file": "nearly.png"},
    "image: too large": {"file": "bomb.png"},
    "image: crop of 8000000 pixels is too large": {"scale": "1e-6"},
    "image: truncated": {"file": "cut.fits"},
    "image: no image in the FITS file": {"file": "none.fits"},
    "image: no valid pixel in the central square": {"file": "nan.fits"},
    "image: not an image or a cube of images": {"file": "four.fits"},
    "image: no science image, only 1 WHT": {"file": "weights.fits"},
}
KINDS = list(ROWS)


def make(folder, count):
    """A table of `count` galaxies; returns its path and {kind: numbers of its faulty rows, from 0}."""
    folder.mkdir()
    (folder / "folder.jpg").mkdir()
    for name, data in FILES.items():
        (folder / name).write_bytes(data())
    rows = collections.defaultdict(list)
    with open(folder / "galaxies.csv", "w", newline="") as file:
        table = csv.DictWriter(file, ["id", "file", "ring_yes", "ring_no", "split", "scale"])
        table.writeheader()
        for i in range(count):
            side = "validation" if i % 5 == 0 else "train"
            row = {"id": FIRST + i, "file": "good.jpg", "ring_yes": i % 7, "ring_no": 3, "split": side, "scale": 0.2}
            if i % EVERY == EVERY - 1:
                kind = KINDS[i // EVERY % len(KINDS)]
                rows[kind].append(i)
                row |= ROWS[kind]
            table.writerow(row)
    rows["id used more than once"].insert(0, 0)  # the first row has that id
    return folder / "galaxies.csv", rows


def flags(folder, table, store, *more):
    return [
        sys.executable, str(ROOT / "launch.py"), "--config=configs/cnn.py", f"--workdir={folder / 'run'}",
        "--config.data.source=catalogue", "--config.tree=rings", f"--config.data.catalogue={table}",
        "--config.data.labels=counts", f"--config.data.store={store}", "--config.data.size=32",
        "--config.data.field=8", "--config.data.pixel_scale=scale", *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    folder = tmp_path_factory.mktemp("large")
    return *make(folder / "files", 20_000), folder / "store"


def environment():
    return {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "", "PYTHONPATH": str(ROOT)}


def named(rows, i):
    return f"row {i + 1}" if i in rows["no id"] else str(FIRST if i in rows["id used more than once"] else FIRST + i)


@pytest.mark.slow
def test_one_report(large, tmp_path):
    table, rows, store = large
    command = flags(tmp_path, table, store)
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    first, *lines, last = done.stderr[done.stderr.index("error: ") :].splitlines()
    assert first == f"error: {sum(map(len, rows.values()))} problems in the catalogue at {table}:"
    assert last.startswith("Repair the table, or go on without these galaxies")
    found = dict(re.fullmatch(r"  (.*?): (\d+: .*)", line).groups() for line in lines)
    assert set(found) == set(rows) == set(KINDS)
    for kind, some in rows.items():
        number, _, text = found[kind].partition(": ")
        assert int(number) == len(some), kind
        shown = re.findall(r"(?:^|(?<=\), )|(?<=\d, ))(row \d+|\d{19})", text)
        assert len(shown) >= 2
        assert shown == [named(rows, i) for i in some[: len(shown)]], kind
        assert text.endswith(f" and {len(some) - len(shown)} more")
    assert not list((tmp_path / "run").glob("[!.]*"))  # no workdir: the next command may have another table
    left = [path.name for path in store.rglob("*") if path.is_file()]
    assert left == ["checked.json"]  # so that the next command need not look at the images again


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_left_out_and_listed(large, tmp_path):
    table, rows, store = large
    command = flags(tmp_path, table, store, "--config.data.on_bad=skip", "--config.batch_size=16")
    listed = tmp_path / "run" / "skipped.csv"
    with open(tmp_path / "stderr.txt", "w") as file:
        process = subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=file, text=True)
    while not listed.exists() and process.poll() is None:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate()
    errors = (tmp_path / "stderr.txt").read_text()
    assert process.returncode == 75, errors
    assert "Traceback" not in errors
    with open(listed, newline="") as file:
        header, *found = csv.reader(file)
    assert header == ["galaxy_id", "file", "reason"]
    expected = [(named(rows, i), kind) for kind, some in rows.items() for i in some]
    assert f"{len(expected)} galaxies left out, see {listed}" in out
    assert len(found) == len(expected)
    by_kind = collections.Counter(
        (galaxy_id, next(kind for kind in KINDS if reason.startswith(kind))) for galaxy_id, _, reason in found
    )
    assert by_kind == collections.Counter(expected)


@pytest.mark.parametrize("kinds", [1, 10, 49, 51, 5_000])
def test_a_report_fits_into_one_message(kinds):
    """The count of all, up to 50 kinds with the count of each, and what to do about it."""
    problems = [Problem("1" * 19, "x.jpg", f"kind {i % kinds}", "y" * 100) for i in range(20 * kinds)]
    text = str(UserError(f"{report(problems, 'there')}\nlast"))
    first, *lines, last = text.splitlines()
    assert (first, last) == (f"{20 * kinds} problems in Kaggle's files at there:", "last")
    shown = [line for line in lines if re.match(r"  kind \d+: 20: 1{19} \(y{100}\)", line)]
    assert len(shown) == min(kinds, 50)
    assert lines[len(shown) :] == ([f"  and {kinds - 50} more kinds"] if kinds > 50 else [])


def growth(folder, count):
    """MB that a process of its own needs for opening a table of `count` galaxies, beyond its imports."""
    table, _ = make(folder / str(count), count)
    code = f"""
import pathlib
from gz_jax import labels
from gz_jax.data import catalogue, fits, pictures, tables
from gz_jax.data.sight import Sight
from tests.peak import peak_memory
import astropy.io.fits, pyarrow.parquet, scipy.stats
before = peak_memory()
found = catalogue.open_dataset({str(table)!r}, tree=labels.load("rings"), labels="counts", on_bad="skip", size=32,
    sight=Sight(field=8.0, scale_column="scale"), store={str(folder / "store")!r})
assert len(found.skipped) > {count // EVERY} - 2
print(peak_memory() - before)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return int(done.stdout) / 1e6


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_memory(tmp_path):
    few, many = growth(tmp_path, 2_000), growth(tmp_path, 40_000)
    assert many < 200
    assert many - few < 60  # 1.5 kB a row
