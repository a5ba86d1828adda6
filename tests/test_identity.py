"""No result is taken for that of other data, another network or other images."""

import json
import os
import shutil

import jax
import numpy as np
import pyarrow as pa
import pytest
from pyarrow import csv, parquet
from test_predict import QUIET, contents, encode, make_workdir, picture

from gz_jax import resolve
from gz_jax.data import galaxy_zoo, synthetic
from gz_jax.data.images import BAD
from gz_jax.inference import tables, trained
from gz_jax.inference.predict import predict_catalogue
from gz_jax.labels import GALAXY_ZOO_2
from gz_jax.modes import reports
from gz_jax.runtime.errors import UserError
from gz_jax.training import checkpoint
from gz_jax.training.workdir import Record, claim, read

HOW = {"batch_size": 4, "shard_size": 4, **QUIET}


@pytest.fixture(scope="module")
def network(tmp_path_factory) -> trained.Trained:
    return trained.load(make_workdir(tmp_path_factory.mktemp("runs") / "net"))


def write_table(path, rows):
    """A CSV of (id, file, other) rows."""
    names = ("id", "file", "other")
    csv.write_csv(pa.table(dict(zip(names, zip(*rows, strict=True), strict=True))), path)
    return path


@pytest.fixture
def folder(tmp_path):
    """Eight images, and a table of six in two shards; `other` names the images in another order."""
    for i in range(8):
        (tmp_path / f"{i}.jpg").write_bytes(encode(picture(i), "JPEG"))
    rows = [(i, f"{i}.jpg", f"{7 - i}.jpg") for i in range(6)]
    return tmp_path, write_table(tmp_path / "table.csv", rows), rows


def half(table, network, output, **how):
    """The first of two shards."""
    predict_catalogue(table, output, [network], process_index=0, process_count=2, **{**HOW, **how})
    assert set(contents(output)) == {"part-00000.parquet"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: [(i, f"{(i + 1) % 8}.jpg", o) for i, _, o in rows], "image 0 was predicted from '0.jpg' and is"),
        (
            lambda rows: [*rows[:3], (3, "7.jpg", "x"), *rows[4:]],
            "image 3 was predicted from '3.jpg' and is now '7.jpg'",
        ),
        (lambda rows: [(9, *rows[0][1:]), *rows[1:]], "other ids now"),
        (lambda rows: rows[::-1], "other ids now"),
        (lambda rows: rows[:5], "catalogue images was 6 and is now 5"),
    ],
    ids=["all files", "one file", "one id", "order", "fewer"],
)
def test_a_resumed_prediction_never_mixes_two_catalogues(change, message, folder, network):
    path, table, rows = folder
    half(table, network, path / "out")
    before = contents(path / "out")
    write_table(table, change(rows))
    with pytest.raises(UserError, match=message):
        predict_catalogue(table, path / "out", [network], **HOW)
    assert contents(path / "out") == before


def test_another_column_of_files_is_refused(folder, network):
    path, table, _ = folder
    half(table, network, path / "out")
    with pytest.raises(UserError, match="settings file_column was 'file' and is now 'other'"):
        predict_catalogue(table, path / "out", [network], file_column="other", **HOW)


def test_a_zip_whose_files_were_replaced_is_refused(tmp_path, network):
    def write(first):
        import zipfile

        with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
            for i in range(6):
                archive.writestr(f"{i}.jpg", encode(picture(i + first), "JPEG"))

    write(0)
    half(tmp_path / "images.zip", network, tmp_path / "out")
    write(0)
    half(tmp_path / "images.zip", network, tmp_path / "out")  # the same content, written anew
    write(1)
    with pytest.raises(UserError, match=r"files of part-00000\.parquet have changed"):
        predict_catalogue(tmp_path / "images.zip", tmp_path / "out", [network], **HOW)


def test_what_could_not_be_read_is_tried_again_and_exports_follow(folder, network):
    """A path corrected in the table, a file that has arrived, and one that is still missing."""
    path, table, rows = folder
    broken = [rows[0], (1, "typo.jpg", ""), rows[2], (3, "late.jpg", ""), (4, "never.jpg", ""), rows[5]]
    write_table(table, broken)
    how = {**HOW, "formats": ("csv", "fits")}
    predict_catalogue(table, path / "out", [network], **how)
    assert tables.read(path / "out")["flag"].to_pylist() == [0, BAD, 0, BAD, BAD, 0]
    stale = [(path / "out" / f"predictions.{kind}").read_bytes() for kind in ("csv", "fits")]
    untouched = (path / "out" / "part-00001.parquet").stat().st_mtime_ns
    write_table(table, [broken[0], rows[1], *broken[2:]])
    shutil.copy(path / "3.jpg", path / "late.jpg")
    os.utime(path / "out" / "predictions.csv", ns=(2**62, 2**62))  # its time says that it is the newest
    predict_catalogue(table, path / "out", [network], **how)
    found = tables.read(path / "out")
    assert found["flag"].to_pylist() == [0, 0, 0, 0, BAD, 0]
    assert found["file"].to_pylist() == ["0.jpg", "1.jpg", "2.jpg", "late.jpg", "never.jpg", "5.jpg"]
    assert (path / "out" / "part-00001.parquet").stat().st_mtime_ns == untouched
    fresh = predict_catalogue(table, path / "fresh", [network], **how)
    for kind, old in zip(("csv", "fits"), stale, strict=True):
        now = (path / "out" / f"predictions.{kind}").read_bytes()
        assert now == (fresh / f"predictions.{kind}").read_bytes() != old
    assert contents(path / "out") == contents(fresh)


def test_without_their_format_exports_that_no_longer_hold_are_removed(folder, network):
    path, table, _ = folder
    predict_catalogue(table, path / "out", [network], formats=("csv",), **HOW)
    (path / "out" / "part-00001.parquet").unlink()
    predict_catalogue(table, path / "out", [network], **HOW)
    assert not (path / "out" / "predictions.csv").exists()


def test_a_part_that_was_replaced_by_hand_makes_the_exports_anew(folder, network):
    path, table, _ = folder
    predict_catalogue(table, path / "out", [network], formats=("csv",), **HOW)
    expected = (path / "out" / "predictions.csv").read_bytes()
    (path / "out" / "predictions.csv").write_text("stale")
    os.utime(path / "out" / "predictions.csv", (1, 1))
    predict_catalogue(table, path / "out", [network], formats=("csv",), **HOW)
    assert (path / "out" / "predictions.csv").read_bytes() == expected


def test_a_network_is_known_by_its_content_not_by_its_folder(network, folder, tmp_path_factory):
    path, table, _ = folder
    copy = tmp_path_factory.mktemp("copies") / "renamed"
    shutil.copytree(network.workdir, copy)
    renamed = trained.load(copy)
    assert renamed.weights == network.weights
    half(table, network, path / "out")
    predict_catalogue(table, path / "out", [renamed], **HOW)  # goes on: the same network
    with pytest.raises(UserError, match=r"net and .*renamed are the same network"):
        predict_catalogue(table, path / "both", [network, renamed], **HOW)
    record = json.loads((copy / "config.json").read_text())
    record["config"]["model.activation"] = "divisive"
    (copy / "config.json").write_text(json.dumps(record))
    assert trained.load(copy).weights != network.weights


def with_table(workdir, ids=range(5), data="none"):
    """The workdir with a validation table of its network, and a log of two epochs."""
    rng = np.random.default_rng(0)
    truth, guess = rng.random((2, len(ids), 37)).astype(np.float32)
    (workdir / "report").mkdir()
    network = trained.load(workdir)
    path = workdir / "report" / "validation.parquet"
    tables.write_validation(path, np.array(ids), truth, guess, GALAXY_ZOO_2, [network.identity], data)
    (workdir / "log.csv").write_text("epoch,loss,val_loss\n1,0.2,0.2\n2,0.1,0.1\n")
    return workdir


@pytest.mark.slow
def test_compare_refuses_a_table_of_an_earlier_epoch(tmp_path):
    a, b = (with_table(make_workdir(tmp_path / name, seed)) for seed, name in enumerate("ab"))
    assert reports.compare_mode([str(a), str(b)], str(tmp_path / "out")) == 0
    manager = checkpoint.open_manager(b / "checkpoints" / "best", 1)
    tree = jax.tree.map(lambda x: x + 1, checkpoint.load(manager, None)[1])
    checkpoint.save(manager, 20, tree, {"epoch": 8, "val_loss": 0.02})
    checkpoint.close(manager)
    with pytest.raises(
        UserError, match=r"--mode=evaluate.*validation.parquet was made by another network, .* b \(epoch 8, "
    ):
        reports.compare_mode([str(a), str(b)], str(tmp_path / "out"))
    shutil.rmtree(b / "report")
    with pytest.raises(UserError, match=r"has no validation\.parquet yet"):
        reports.compare_mode([str(a), str(b)], str(tmp_path / "out"))


def kaggle_workdir(path, files, store):
    """A workdir on Kaggle-like files, its network untrained."""
    config = {"source": "galaxy_zoo", "dir": str(files), "store": str(store), "pipeline": "memory"}
    make_workdir(path, **config)
    record = json.loads((path / "config.json").read_text())
    record["data_fingerprint"] = resolve.dataset(read(path).config, GALAXY_ZOO_2).identity
    (path / "config.json").write_text(json.dumps(record))
    return path


def test_evaluate_refuses_galaxies_that_are_not_the_runs(tmp_path):
    for name, seed in (("own", 0), ("others", 1)):
        synthetic.write_kaggle_files(tmp_path / name, 24, seed=seed, num_test=2, layout="folders")
    workdir = kaggle_workdir(tmp_path / "run", tmp_path / "own", tmp_path / "store")
    others = tmp_path / "others"
    with pytest.raises(
        UserError, match=r"are not those that .*run was trained .*--data_dir.*--other_data.*report_\w{8}"
    ):
        reports.evaluate_mode(str(workdir), data_dir=str(others))
    assert not list(workdir.glob("report*"))
    image = next((tmp_path / "own" / "images_training_rev1").glob("*.jpg"))
    image.write_bytes(image.read_bytes() + b"\0")  # the run's own, of which one image was replaced
    with pytest.raises(UserError, match="are not those"):
        reports.evaluate_mode(str(workdir))
    with pytest.raises(UserError, match="trained on synthetic galaxies"):
        reports.evaluate_mode(str(make_workdir(tmp_path / "drawn")), data_dir=str(others))


def test_test_images_may_come_later_and_the_pipeline_does_not_matter(tmp_path):
    synthetic.write_kaggle_files(tmp_path / "files", 24, seed=0, num_test=3)
    shutil.move(tmp_path / "files" / "images_test_rev1.zip", tmp_path / "later.zip")
    how = {"store": tmp_path / "store", "image_size": 424}
    first = galaxy_zoo.open_dataset(tmp_path / "files", **how)
    shutil.move(tmp_path / "later.zip", tmp_path / "files" / "images_test_rev1.zip")
    second, third = (galaxy_zoo.open_dataset(tmp_path / "files", prepared=p, **how) for p in (True, False))
    assert first.identity == second.identity == third.identity
    assert first.fingerprint != second.fingerprint == third.fingerprint
    assert "test" in second.splits


@pytest.mark.slow
def test_evaluate_on_other_galaxies_leaves_the_runs_own_report_alone(tmp_path):
    for name, seed in (("own", 0), ("others", 1)):
        synthetic.write_kaggle_files(tmp_path / name, 40, seed=seed, num_test=2)
    workdir = kaggle_workdir(tmp_path / "run", tmp_path / "own", tmp_path / "store")
    reports.evaluate_mode(str(workdir))
    before = {path: path.read_bytes() for path in (workdir / "report").rglob("*") if path.is_file()}
    reports.evaluate_mode(str(workdir), data_dir=str(tmp_path / "others"), other_data=True)
    assert {path: path.read_bytes() for path in (workdir / "report").rglob("*") if path.is_file()} == before
    (other,) = workdir.glob("report_*")
    page = (other / "report.html").read_text()
    assert "run on other galaxies than its own" in page
    assert "slightly too good" not in page
    assert "slightly too good" in before[workdir / "report" / "report.html"].decode()
    data = {tables.manifest(path / "validation.parquet")["data"] for path in (other, workdir / "report")}
    assert len(data) == 2
    shutil.copytree(tmp_path / "store", tmp_path / "moved")
    shutil.rmtree(tmp_path / "store")  # prepared anew, the data are the same
    assert reports.evaluate_mode(str(workdir)) == 0
    assert parquet.read_table(workdir / "report" / "validation.parquet").num_rows > 0


def test_a_part_that_is_damaged_within_is_predicted_again(folder, network):
    path, table, _ = folder
    predict_catalogue(table, path / "out", [network], **HOW)
    whole = contents(path / "out")
    part = path / "out" / "part-00000.parquet"
    data = bytearray(part.read_bytes())
    data[4 : len(data) // 2] = b"\0" * (len(data) // 2 - 4)  # the footer, with its numbers of rows, is as it was
    part.write_bytes(data)
    predict_catalogue(table, path / "out", [network], **HOW)
    assert contents(path / "out") == whole


@pytest.mark.slow
def test_a_run_that_was_trained_on_says_so_and_is_no_seed_of_a_shorter_one(tmp_path, capsys):
    a, b = (with_table(make_workdir(tmp_path / name, seed, source="synthetic")) for seed, name in enumerate("ab"))
    config = read(a).config
    for workdir, epochs in ((a, 40), (b, 2)):
        config = read(workdir).config
        config.num_epochs = epochs
        claim(workdir, Record(config, GALAXY_ZOO_2, "none", None))
        assert read(workdir).config.num_epochs == epochs
    reports.compare_mode([str(a), str(b)], str(tmp_path / "out"))
    said = capsys.readouterr().out
    assert "a does not count for the spread across seeds: its training is not finished" in said
    assert not (tmp_path / "out" / "seeds.csv").exists()
    (a / "log.csv").write_text("epoch,loss,val_loss\n" + "".join(f"{i + 1},0.1,{1 - i / 50}\n" for i in range(40)))
    reports.compare_mode([str(a), str(b)], str(tmp_path / "out"))
    assert "seed" not in capsys.readouterr().out
    assert not (tmp_path / "out" / "seeds.csv").exists()
