"""Predictions on disk: every image accounted for, whatever is broken, killed, split up or padded."""

import io
import json
import os
import pathlib
import random
import signal
import struct
import subprocess
import sys
import time
import zlib

import jax
import numpy as np
import pyarrow as pa
import pytest
from absl import flags
from astropy.io import fits
from astropy.table import Table
from PIL import Image
from pyarrow import csv, parquet

import gz_jax
from configs import demo
from gz_jax import labels, resolve
from gz_jax.data import look
from gz_jax.data.images import BAD, GOOD, NOTED, read_cutout
from gz_jax.data.inputs import Catalogue
from gz_jax.inference import tables, trained
from gz_jax.inference.manifest import networks_of
from gz_jax.inference.predict import predict_arrays, predict_catalogue, read_validation, write_validation
from gz_jax.labels import GALAXY_ZOO_2
from gz_jax.modes import (
    options,  # noqa: F401  # defines the flags
    science,
)
from gz_jax.runtime.errors import UserError
from gz_jax.training import checkpoint, workdir
from tests.peak import RETURNING

ROOT = pathlib.Path(__file__).resolve().parents[2]
SIZE = 34


def make_workdir(
    path: pathlib.Path, seed: int = 0, tree=GALAXY_ZOO_2, activation: str | None = None, **data
) -> pathlib.Path:
    """The workdir of a network that was never trained: random weights, wide enough apart to tell galaxies."""
    config = demo.get_config()
    config.seed, config.data.size = seed, SIZE
    config.schedule = "plateau"  # a cosine's length cannot be changed later
    config.data.update(data)
    if activation:
        config.model.activation = config.loss = activation
    workdir.claim(path, workdir.Record(config, tree, "none", None))
    images = np.zeros((1, SIZE, SIZE, 3), np.float32)
    variables = resolve.parts(config, tree).module.init(jax.random.key(seed), images, train=False)
    best = {
        "params": jax.tree.map(lambda x: 2 * x, variables["params"]),
        "batch_stats": variables.get("batch_stats", {}),
    }
    manager = checkpoint.open_manager(path / "checkpoints" / "best", 1)
    checkpoint.save(manager, 7, best, {"val_loss": 0.1 + seed})
    manager.wait_until_finished()
    return path


@pytest.fixture(scope="session")
def workdirs(tmp_path_factory) -> list[pathlib.Path]:
    return [make_workdir(tmp_path_factory.mktemp("runs") / f"seed{seed}", seed) for seed in range(2)]


@pytest.fixture(scope="session")
def network(workdirs) -> trained.Trained:
    return trained.load(workdirs[0])


def picture(seed: int, side: int = 60) -> Image.Image:
    """A blob of random place, width and colour on noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] - side / 2
    radius = np.hypot(y * rng.uniform(0.5, 1), x) / rng.uniform(0.05, 0.2) / side
    pixels = np.exp(-radius)[..., None] * rng.uniform(100, 240, 3) + rng.uniform(0, 15, (side, side, 3))
    return Image.fromarray(pixels.astype(np.uint8))


def encode(image: Image.Image, kind: str, **how) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **how)
    return buffer.getvalue()


def as_fits(unit) -> bytes:
    buffer = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), unit] if isinstance(unit, fits.BinTableHDU) else [unit]).writeto(buffer)
    return buffer.getvalue()


def as_floats(seed: int) -> np.ndarray:
    return np.moveaxis(np.asarray(picture(seed), np.float32), -1, 0)


def broken() -> dict[str, bytes]:
    """Ten ways in which an image can be of no use."""
    png = encode(picture(0), "PNG")
    header = b"IHDR" + struct.pack(">II", 100_000, 100_000) + png[24:29]
    jpeg, cube = encode(picture(0), "JPEG"), as_fits(fits.PrimaryHDU(as_floats(0)))
    return {
        "empty.jpg": b"",
        "text.jpg": b"<html>404 not found</html>",
        "cut.jpg": jpeg[: len(jpeg) // 2],
        "noise.jpg": jpeg[:200] + bytes(range(256)) * 4,
        "huge.png": png[:12] + header + struct.pack(">I", zlib.crc32(header)) + png[33:],
        "ink.jpg": encode(picture(0).convert("CMYK"), "JPEG"),
        "half.fits": cube[: len(cube) // 2],
        "nan.fits": as_fits(fits.PrimaryHDU(np.full((60, 60), np.nan, np.float32))),
        "flat.fits": as_fits(fits.PrimaryHDU(np.ones((60, 60), np.float32))),
        "table.fits": as_fits(fits.BinTableHDU(np.zeros(3, [("x", "f4")]))),
    }


def write_catalogue(folder: pathlib.Path, good: int) -> pathlib.Path:
    """A table of `good` pictures of every kind, ten broken ones in between and one that is not there."""
    contents = {f"{i}.jpg": encode(picture(i), "JPEG") for i in range(good - 4)}
    missing = as_floats(1)
    missing[:, 30, 30] = np.nan
    contents |= {
        "grey.png": encode(picture(2).convert("L"), "PNG"),
        "one.fits": as_fits(fits.PrimaryHDU(as_floats(3)[0])),
        "three.fits": as_fits(fits.PrimaryHDU(as_floats(4))),
        "holes.fits": as_fits(fits.PrimaryHDU(missing)),
    }
    names = [*contents, *broken(), "nowhere.jpg"]
    random.Random(0).shuffle(names)
    for name, data in (contents | broken()).items():
        (folder / name).write_bytes(data)
    table = pa.table({"id": [f"={name}" if name == "3.jpg" else name for name in names], "file": names})
    csv.write_csv(table, folder / "catalogue.csv")
    return folder / "catalogue.csv"


@pytest.fixture(scope="session")
def catalogue(tmp_path_factory) -> pathlib.Path:
    return write_catalogue(tmp_path_factory.mktemp("images"), 26)


QUIET = {"progress": False, "workers": 2}


@pytest.fixture(scope="session")
def predicted(catalogue, network, tmp_path_factory) -> pathlib.Path:
    """37 images in shards of 8, two batches of 4."""
    output = tmp_path_factory.mktemp("tables") / "one"
    formats = ("parquet", "csv", "fits")
    return predict_catalogue(catalogue, output, [network], batch_size=4, shard_size=8, formats=formats, **QUIET)


def contents(folder: pathlib.Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("part-*")}


def fractions(table: pa.Table, prefix: str = "") -> np.ndarray:
    return np.stack([table[prefix + name].to_numpy() for name in GALAXY_ZOO_2.columns], 1)


def test_every_image_has_a_row_in_the_catalogues_order(catalogue, predicted):
    table = tables.read(predicted)
    assert table["id"].to_pylist() == csv.read_csv(catalogue)["id"].to_pylist()
    assert [parquet.read_metadata(path).num_rows for path in sorted(predicted.glob("part-*"))] == [8, 8, 8, 8, 5]
    rows = {row["id"]: row for row in table.to_pylist()}
    assert {name for name, row in rows.items() if row["flag"] == BAD} == {*broken(), "nowhere.jpg"}
    for name, row in rows.items():
        assert bool(row["reason"]) == (row["flag"] != GOOD), name
        assert row["file"] == (name[1:] if name.startswith("=") else name)
        empty = [column for column, value in row.items() if value is None]
        assert len(empty) == (74 if row["flag"] == BAD else 0), name
    assert rows["holes.fits"]["flag"] == NOTED
    assert rows["nowhere.jpg"]["reason"] == f"no such file: {catalogue.parent / 'nowhere.jpg'}"
    assert rows["huge.png"]["reason"] == "too large: a decompression bomb"


def test_parts_have_as_many_rows_as_asked_whatever_the_batch_size(catalogue, predicted, network, tmp_path):
    predict_catalogue(catalogue, tmp_path, [network], batch_size=4, shard_size=5, **QUIET)
    assert [parquet.read_metadata(path).num_rows for path in sorted(tmp_path.glob("part-*"))] == [5] * 7 + [2]
    table, other = tables.read(tmp_path), tables.read(predicted)
    assert table["id"].equals(other["id"])
    np.testing.assert_allclose(fractions(table), fractions(other), atol=1e-6)


def test_fractions_are_the_networks_own_image_by_image(catalogue, predicted, network):
    """Also those of the last, padded batch."""
    table = tables.read(predicted)
    good = np.flatnonzero(table["flag"].to_numpy() != BAD)
    names = csv.read_csv(catalogue)["file"].to_pylist()
    cutouts = [read_cutout(catalogue.parent / names[i], size=SIZE)[0] for i in good]
    alone = [network.predict(np.stack([x] * jax.device_count()))[0, 0] for x in cutouts]
    found = fractions(table)
    np.testing.assert_allclose(found[good], alone, rtol=1e-4, atol=1e-6)
    assert np.isnan(np.delete(found, good, 0)).all()
    assert found[good].std(0).max() > 0.01, "the test's network does not tell galaxies apart"
    np.testing.assert_allclose(labels.joint(fractions(table, "cond_")[good]), found[good], atol=1e-6)


def test_csv_and_fits_hold_the_same_table(predicted):
    table = tables.read(predicted)
    text = csv.read_csv(predicted / "predictions.csv")
    assert text.column_names == table.column_names
    assert text["id"].to_pylist() == ["'=3.jpg" if x == "=3.jpg" else x for x in table["id"].to_pylist()]
    binary = Table.read(predicted / "predictions.fits")
    assert binary.colnames == table.column_names
    assert list(binary["id"]) == table["id"].to_pylist()
    reasons = [None if np.ma.is_masked(x) or not x else str(x) for x in binary["reason"]]
    assert reasons == [x or None for x in table["reason"].to_pylist()]
    for other in (
        [text[name].to_numpy() for name in GALAXY_ZOO_2.columns],
        [binary[c].filled(np.nan) for c in GALAXY_ZOO_2.columns],
    ):
        np.testing.assert_array_equal(np.stack(other, 1).astype(np.float32), fractions(table))
    fits.open(predicted / "predictions.fits")[1].verify("exception")
    comments = [str(line) for line in fits.getheader(predicted / "predictions.fits", 1)["COMMENT"]]
    assert '    "run": "seed0",' in comments


def test_metadata_names_the_network_and_its_config(predicted, network):
    for path in predicted.glob("part-*"):
        manifest = json.loads(parquet.read_schema(path).metadata[b"gz_jax"])
        assert len(manifest.pop("rows")) == 16
        assert manifest == json.loads((predicted / "manifest.json").read_text())
    assert manifest["models"] == {"networks": [network.identity]}
    assert tables.manifest(predicted)["models"] == manifest["models"]
    assert manifest["configs"][0]["data.size"] == SIZE
    assert manifest["versions"]["jax"] == jax.__version__
    assert manifest["catalogue"]["images"] == 37


def test_continued_and_shared_out_tables_are_the_same_bytes(catalogue, predicted, network, tmp_path):
    whole = contents(predicted)
    how = {"batch_size": 4, "shard_size": 8, **QUIET}
    (tmp_path / "part-00009.parquet").write_bytes(b"")
    with pytest.raises(UserError, match=r"without a manifest\.json"):
        predict_catalogue(catalogue, tmp_path, [network], **how)
    (tmp_path / "part-00009.parquet").unlink()
    for process in (1, 0):
        predict_catalogue(catalogue, tmp_path, [network], process_index=process, process_count=2, **how)
        if process == 1:
            assert set(contents(tmp_path)) == {"part-00001.parquet", "part-00003.parquet"}
            with pytest.raises(UserError, match="3 of 5 parts are missing"):
                tables.read(tmp_path)
    assert contents(tmp_path) == whole
    before = (tmp_path / "part-00000.parquet").stat().st_mtime_ns
    (tmp_path / "part-00001.parquet").unlink()
    (tmp_path / "part-00002.parquet").write_bytes(b"")  # as after a power cut
    (tmp_path / ".part-00002.parquet.abc").write_bytes(b"left by a killed run")
    predict_catalogue(catalogue, tmp_path, [network], formats=("csv",), **how)
    assert contents(tmp_path) == whole
    assert (tmp_path / "part-00000.parquet").stat().st_mtime_ns == before
    assert (tmp_path / "predictions.csv").read_bytes() == (predicted / "predictions.csv").read_bytes()
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"crop": 30.0}, r"settings crop was None and is now 30\.0"),
        (
            {"pixel_scale": 0.4, "field": 20.0},
            r"settings field was None and is now 20\.0; settings pixel_scale was None",
        ),
        ({"share": 0.5}, r"settings share was 0\.48\d+ and is now 0\.5"),
        ({"q": 8.0}, r"settings q was None and is now 8\.0"),
        ({"shard_size": 12}, "settings shard_size was 8 and is now 12"),
        ({"planes": (2, 1, 0)}, r"settings planes was None and is now \[2, 1, 0\]"),
        ({"formats": ("xlsx",)}, "format 'xlsx' is not one of parquet, csv, fits"),
        ({"crop": 0.0}, "--crop=0 shows nothing: it must be at least 1"),
        ({"share": -1}, "--share=-1 shows nothing: it must be positive"),
        ({"crop": 30, "share": 0.5}, r"--crop=30 and --share=0\.5: only one of them can say which square"),
        ({"pixel_scale": 0.4}, r"--field \(arcsec\) and --pixel_scale \(arcsec per pixel, or a column\) go together"),
        ({"field": 30}, "go together"),
        ({"pixel_scale": "0", "field": 30}, "--pixel_scale=0 must be positive"),
        (
            {"colour": 3},
            "'colour' is not a setting of what a network sees; there are crop, share, field, pixel_scale, planes",
        ),
    ],
)
def test_other_settings_are_refused(change, message, catalogue, predicted, network):
    before = contents(predicted)
    with pytest.raises(UserError, match=message):
        predict_catalogue(catalogue, predicted, [network], **{"batch_size": 4, "shard_size": 8, **QUIET, **change})
    assert contents(predicted) == before


def test_an_option_that_is_left_away_is_noticed_and_so_is_another_folder_with_the_same_names(network, tmp_path):
    how = {"batch_size": 4, "shard_size": 8, **QUIET}
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        for i in range(3):
            (tmp_path / folder / f"{i}.jpg").write_bytes(encode(picture(i), "JPEG"))
    predict_catalogue(tmp_path / "a", tmp_path / "out", [network], planes=(2, 1, 0), **how)
    with pytest.raises(UserError, match=r"settings planes was \[2, 1, 0\] and is now None"):
        predict_catalogue(tmp_path / "a", tmp_path / "out", [network], **how)
    with pytest.raises(UserError, match="catalogue where was"):
        predict_catalogue(tmp_path / "b", tmp_path / "out", [network], planes=(2, 1, 0), **how)


def test_other_images_and_networks_are_refused(catalogue, predicted, network, workdirs, tmp_path):
    how = {"batch_size": 4, "shard_size": 8, **QUIET}
    with pytest.raises(UserError, match="catalogue images was 37 and is now 36"):
        predict_catalogue(catalogue.parent, predicted, [network], **how)
    with pytest.raises(UserError, match=r"network was seed0 \(1 view, weights \w{8}\) and is now seed1 \(1 view, "):
        predict_catalogue(catalogue, predicted, [trained.load(workdirs[1])], **how)
    other = trained.load(make_workdir(tmp_path / "other", crop=170))
    with pytest.raises(
        UserError, match=r"seed0: 48.11 % of the shorter side, as 34 px; .*other: 40.09 % of the shorter"
    ):
        predict_catalogue(catalogue, tmp_path / "table", [network, other], **how)


def test_networks_are_averaged_and_their_spread_told(catalogue, predicted, workdirs, tmp_path):
    how = {"batch_size": 4, "shard_size": 100, **QUIET}
    networks = [trained.load(workdir) for workdir in workdirs]
    both = tables.read(predict_catalogue(catalogue, tmp_path / "both", networks, **how))
    second = tables.read(predict_catalogue(catalogue, tmp_path / "second", networks[1:], **how))
    each = np.stack([fractions(tables.read(predicted)), fractions(second)])
    np.testing.assert_allclose(fractions(both), each.mean(0), atol=1e-6)
    # Of two numbers the standard deviation is their distance over the root of 2.
    np.testing.assert_allclose(fractions(both, "spread_"), np.abs(each[0] - each[1]) / np.sqrt(2), atol=1e-6)
    assert not [name for name in second.column_names if name.startswith("spread_")]


@pytest.mark.parametrize("views", [8, pytest.param(16, marks=pytest.mark.slow)])
def test_views_are_averaged_and_their_spread_told(workdirs, views):
    images = np.stack([np.asarray(picture(i)) for i in range(3)])
    ids, single, _ = predict_arrays(images, workdirs[0])
    _, many, _ = predict_arrays(images, workdirs[0], views=views)
    assert single.spread is None
    assert (many.spread.max(1) > 1e-4).all()
    cutouts = [read_cutout(encode(Image.fromarray(x), "PNG"), size=SIZE, turned=True)[0] for x in images]
    shown = [view for x in zip(*cutouts, strict=True) for view in look.symmetries(np.stack([*x, x[0]]))][:views]
    each = np.concatenate([trained.load(workdirs[0]).predict(view)[:, :3] for view in shown])
    np.testing.assert_allclose(many.fractions, each.mean(0), atol=1e-6)
    np.testing.assert_allclose(many.spread, each.std(0, ddof=1), atol=1e-6)
    np.testing.assert_allclose(single.fractions, each[0], atol=1e-5)  # the first view is the image as it is
    assert ids.tolist() == [0, 1, 2]
    with pytest.raises(UserError, match="must be 1, 8 or 16, not 4"):
        predict_arrays(images, workdirs[0], views=4)


def test_a_frame_from_arrays_is_that_from_files(workdirs, tmp_path):
    pytest.importorskip("pandas")
    images = np.stack([np.asarray(picture(i)) for i in range(5)])
    paths = [tmp_path / f"{i}.png" for i in range(5)]
    for path, pixels in zip(paths, images, strict=True):
        Image.fromarray(pixels).save(path)
    arrays, files = (gz_jax.predict(workdirs[0], given) for given in (images, [*paths, tmp_path / "none.png"]))
    np.testing.assert_array_equal(arrays[list(GALAXY_ZOO_2.columns)], files[list(GALAXY_ZOO_2.columns)][:5])
    assert files["id"].tolist() == [str(path) for path in [*paths, tmp_path / "none.png"]]
    assert files["flag"].tolist() == [0, 0, 0, 0, 0, 2]
    assert files.iloc[5]["Class1.1"] != files.iloc[5]["Class1.1"]
    for wrong in (images / 255, images[0], images[..., :1]):
        with pytest.raises(UserError, match=r"images must be uint8 \[n, height, width, 3\]"):
            gz_jax.predict(workdirs[0], wrong)
    with pytest.raises(UserError, match="no images"):
        gz_jax.predict(workdirs[0], images[:0])


def test_validation_table_comes_back(tmp_path):
    rng = np.random.default_rng(0)
    ids, truth, guess = np.arange(5) + 2**40, *rng.random((2, 5, 37)).astype(np.float32)
    about = [{"run": "cnn", "weights": "0123", "views": 1}]
    write_validation(tmp_path / "validation.parquet", ids, truth, guess, GALAXY_ZOO_2, about, "galaxies")
    made = tables.manifest(tmp_path / "validation.parquet")
    assert (networks_of(made), made["data"]) == (about, "galaxies")
    for found, given in zip(read_validation(tmp_path / "validation.parquet"), (ids, truth, guess), strict=True):
        np.testing.assert_array_equal(found, given)
        assert found.dtype == given.dtype
    texts, partly = np.array(["J10", "", "00123", "é", "a longer name"]), np.where(truth < 0.5, np.nan, truth)
    write_validation(tmp_path / "texts.parquet", texts, partly, guess, GALAXY_ZOO_2)
    for found, given in zip(read_validation(tmp_path / "texts.parquet"), (texts, partly, guess), strict=True):
        np.testing.assert_array_equal(found, given)
        assert found.dtype == given.dtype
    table = tables.read(tmp_path / "texts.parquet")
    assert table["true_Class1.1"].null_count == np.isnan(partly[:, 0]).sum()
    with pytest.raises(UserError, match="neither a Parquet file nor a folder"):
        read_validation(tmp_path)
    (tmp_path / "text.parquet").write_text("text")
    with pytest.raises(UserError, match=r"cannot read .*text\.parquet as Parquet"):
        read_validation(tmp_path / "text.parquet")


SCRIPT = """
import sys
from gz_jax.inference import predict, trained
from tests.peak import peak_memory
table, output, workdir, batch_size, shard_size, index, count = sys.argv[1:]
predict.predict_catalogue(
    table, output, [trained.load(workdir)], batch_size=int(batch_size), shard_size=int(shard_size),
    formats=("csv", "fits"), process_index=int(index), process_count=int(count))
print(peak_memory())
"""


def start(table, output, workdir, batch_size=20, shard_size=100, index=0, count=1) -> subprocess.Popen:
    arguments = (table, output, workdir, batch_size, shard_size, index, count)
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT), **RETURNING},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def all_files(folder: pathlib.Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.slow
def test_killed_at_random_moments_and_continued_it_is_the_same_table(workdirs, tmp_path):
    """Between shards, and while one is being written; alone, and as one process of two."""
    folder, killed = tmp_path / "images", tmp_path / "killed"
    folder.mkdir()
    table = write_catalogue(folder, 1990)
    assert start(table, tmp_path / "whole", workdirs[0]).wait() == 0
    whole, rng, amid = all_files(tmp_path / "whole"), random.Random(0), 0
    for index, count, writing in ((0, 1, False), (0, 2, True), (1, 2, True), (1, 2, False), (0, 1, True)):
        there = len(list(killed.glob("part-*")))
        process = start(table, killed, workdirs[0], index=index, count=count)
        while process.poll() is None and len(list(killed.glob("part-*"))) <= there:
            time.sleep(0.002)
        if not writing:
            time.sleep(rng.uniform(0, 0.3))
        while writing and process.poll() is None and not list(killed.glob(".part-*")):
            time.sleep(0.0005)
        assert process.poll() is None, "finished before it could be killed"
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        amid += bool(list(killed.glob(".part-*")))
        found = contents(killed)
        assert there < len(found) < 20
        assert found.items() <= whole.items()  # what is there is whole
    assert amid, "no kill hit a shard being written"
    assert start(table, killed, workdirs[0], index=1, count=2).wait() == 0
    assert start(table, killed, workdirs[0], index=0, count=2).wait() == 0
    assert all_files(killed) == whole
    flags = tables.read(killed)["flag"].to_numpy()
    assert len(flags) == 2001
    assert (flags == BAD).sum() == 11


@pytest.mark.slow
def test_20000_images_of_which_every_hundredth_is_broken_in_one_of_ten_ways(workdirs, tmp_path):
    """Rows out = rows in; the reasons are each kind's own; good ones are unharmed; memory as for 2,000."""
    good = [encode(picture(seed), "JPEG") for seed in range(200)]
    kinds, where, folder = list(broken()), {}, tmp_path / "images"
    folder.mkdir()
    for name, data in (broken() | {f"{i}.jpg": data for i, data in enumerate(good)}).items():
        (tmp_path / name).write_bytes(data)
        where[name] = read_cutout(data, size=SIZE)[2]
    names = [kinds[i // 100 % 10] if i % 100 == 37 else f"{i % 200}.jpg" for i in range(20_000)]
    for i, name in enumerate(names):
        os.link(tmp_path / name, folder / f"{i}_{name}")
    files = [f"images/{i}_{name}" for i, name in enumerate(names)]
    peak = {}
    for count in (2_000, 20_000):
        table = tmp_path / f"{count}.csv"
        csv.write_csv(pa.table({"id": range(count), "file": files[:count]}), table)
        process = start(table, tmp_path / str(count), workdirs[0], batch_size=128, shard_size=1000)
        peak[count] = int(process.communicate()[0].split()[-1])  # after what prediction says
    found = tables.read(tmp_path / "20000")
    assert found["id"].to_pylist() == list(range(20_000))
    bad, flag = np.arange(20_000) % 100 == 37, found["flag"].to_numpy()
    np.testing.assert_array_equal(flag, np.where(bad, BAD, GOOD))
    assert found["reason"].to_pylist() == [where[name] for name in names]
    assert len(set(where.values())) == 11  # ten reasons, and "" of the good ones
    _, alone, _ = predict_arrays([tmp_path / f"{i}.jpg" for i in range(200)], workdirs[0])
    expected = np.where(bad[:, None], np.nan, np.tile(alone.fractions, (100, 1)))
    np.testing.assert_allclose(fractions(found), expected, atol=1e-5)
    assert peak[20_000] < 1.1 * peak[2_000], peak


def test_a_short_table_is_one_small_batch_of_one_of_few_sizes(network, tmp_path):
    """The network computes 1, 4 or 16 images, not a full batch, and its kernels are not transformed for them."""
    asked, devices = [], jax.device_count()

    def noted(images, **how):
        asked.append((len(images), how))
        return network.predict(images, **how)

    data = [encode(picture(i), "JPEG") for i in range(17)]
    for count, rows in {1: 1, 2: 4, 16: 16, 17: 24}.items():
        catalogue = Catalogue(np.arange(count), data.__getitem__, "memory")
        folder = tmp_path / str(count)
        predict_catalogue(catalogue, folder, [network._replace(predict=noted)], batch_size=24, **QUIET)
        assert asked.pop() == (-(-rows // devices) * devices, {"once": True} if count < 17 else {})
        assert not asked
        assert len(tables.read(folder)) == count


def test_network_without_finite_output_flags_its_images(network, tmp_path):
    """One galaxy of a batch gone wrong costs that galaxy alone."""

    def spoilt(images, **how):
        found = network.predict(images, **how).copy()
        found[:, 1] = np.nan
        return found

    data = [encode(picture(i), "JPEG") for i in range(4)]
    catalogue = Catalogue(np.arange(4), data.__getitem__, "memory")
    predict_catalogue(catalogue, tmp_path, [network._replace(predict=spoilt)], batch_size=4, **QUIET)
    table = tables.read(tmp_path)
    assert table["flag"].to_pylist() == [0, 2, 0, 0]
    assert table["reason"].to_pylist() == ["", "no finite prediction", "", ""]
    assert table["cond_Class1.1"].null_count == 1


def run_mode(workdir, spec, output, **given) -> int:
    """`--mode=predict` in this process; its exit status."""
    flags.FLAGS.unparse_flags()
    flags.FLAGS(["launch.py", f"--input={spec}", f"--output={output}", *(f"--{k}={v}" for k, v in given.items())])
    return science.predict(str(workdir), flags.FLAGS)


def test_the_end_of_a_run_says_how_many_images_could_be_read(workdirs, tmp_path, capsys):
    for i in range(3):
        (tmp_path / f"{i}.jpg").write_bytes(encode(picture(i), "JPEG"))
    (tmp_path / "cut.jpg").write_bytes(encode(picture(0), "JPEG")[:500])
    (tmp_path / "half.jpg").write_bytes(encode(picture(1), "JPEG")[:700])
    names = ["0.jpg", "gone.jpg", "1.jpg", "cut.jpg", "half.jpg"]
    table = tmp_path / "table.csv"
    csv.write_csv(pa.table({"id": range(5), "file": names}), table)
    assert run_mode(workdirs[0], table, tmp_path / "out") == 0
    said = capsys.readouterr().out
    assert "2 of 5 images predicted\nnot used (flag 2, reasons in the table): 3\n" in said
    assert "  2 x damaged or unreadable; the first: cut.jpg (damaged or unreadable: " in said
    assert f"  1 x no such file; the first: gone.jpg (no such file: {tmp_path}/gone.jpg)" in said
    assert "more than a tenth" in said
    csv.write_csv(pa.table({"id": range(5), "file": ["gone.jpg"] * 5}), table)
    assert run_mode(workdirs[0], table, tmp_path / "none") == 1
    assert "0 of 5 images predicted" in capsys.readouterr().out
    csv.write_csv(pa.table({"id": range(5), "file": ["0.jpg"] * 5}), table)
    assert run_mode(workdirs[0], table, tmp_path / "none") == 0
    said = capsys.readouterr().out
    assert said.startswith("looking at 48.11 % of the shorter side\n5 of 5 images predicted\nPercentages are")
    assert run_mode(workdirs[0], table, tmp_path / "padded", crop=70) == 0
    remark = "used with a remark (flag 1):\n  5 x padded; the first: 0.jpg (padded: 60 x 60 pixels, crop 70)"
    assert remark in capsys.readouterr().out
