"""Every mode on a table with ids that are texts, labels that are partly unknown, and a test split."""

import csv
import json
import re
import shutil

import catalogue_files
import numpy as np
import pytest
from catalogue_files import DECALS, as_fits, config_of, counted, flags_of, flux, log_of, named, png, sample
from test_launch import launch, refusal

from gz_jax.inference import tables
from gz_jax.modes import training
from gz_jax.runtime.errors import UserError

pytestmark = pytest.mark.slow
KINDS = """
name = "Kinds"
merger = "kind_merging"
questions = [{name = "kind", text = "which kind?", answers = ["smooth", "disk", "merging"]}]
"""


def done(*flags):
    result = launch(*flags)
    assert result.returncode == 0, result.stderr
    return result


def page_of(path):
    """A page's text; no number on it is missing."""
    text = re.sub(r"data:[a-z/+-]*;base64,[^\"']*", "", path.read_text())
    assert not re.search(r">[^<]*\bnan\b[^<]*<", text, re.IGNORECASE)
    return text


def text_ids(count):
    """As surveys have them, and as they should not."""
    strange = ["<b>1</b>", "a, b", 'say "x"', "Ünïcode ★", "=1+1", "$x_1$"]
    return np.array([strange[i] if i < len(strange) else f"J{i:06}+{i % 90:02}" for i in range(count)])


@pytest.fixture(scope="module")
def many():
    """Ids in no order of the rows; votes of whole questions lost here and there."""
    galaxies = sample(170, 44)
    rng = np.random.default_rng(1)
    for answers in DECALS.slices[1:]:
        galaxies.counts[rng.random(170) < 0.2, answers] = 0
    galaxies.counts[-12:] = 0  # of the test galaxies the last have no labels
    return galaxies


@pytest.fixture(scope="module")
def table(many, tmp_path_factory):
    """Images of 40 to 44 pixels that are 0.4 to 0.6 arcsec wide."""
    count, rng = len(many.ids), np.random.default_rng(2)
    ids, files = text_ids(count), named(many.ids, ".png")
    images = {
        name: png(pixels[i % 3 :, i % 5 :]) for i, (name, pixels) in enumerate(zip(files, many.images, strict=True))
    }
    split = np.where(np.arange(count) >= 140, "test", np.where(np.arange(count) % 5 == 3, "validation", "train"))
    columns = {"id": ids, "file": files, "split": split, "arcsec": rng.uniform(0.4, 0.6, count), **counted(many)}
    return catalogue_files.write(tmp_path_factory.mktemp("rich") / "table" / "galaxies.csv", columns, images)


def rich(table, **changed):
    how = {"data__field": 16.0, "data__pixel_scale": "arcsec", "data__pipeline": "memory", "loss": "multinomial"}
    how |= {"model__activation": "softmax", "augment__rotate": True, "learning_rate": 1e-3, "model__momentum": 0.8}
    return config_of(table, **{**how, **changed})


@pytest.fixture(scope="module")
def run(table, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "first"
    done(*flags_of(rich(table)), f"--workdir={workdir}")
    return workdir


def test_a_run_reports_on_names_and_on_labelled_test_galaxies(run, many):
    ids, truth, predicted = tables.read_validation(run / "report" / "validation.parquet")
    names, rows = text_ids(170), np.arange(170)
    assert set(ids) == set(names[(rows < 140) & (rows % 5 == 3)])
    place = {name: i for i, name in enumerate(names)}
    for i, row in enumerate(truth):
        for answers in DECALS.slices:
            asked = many.counts[place[ids[i]], answers].sum() > 0
            known = np.isfinite(row[answers])
            assert not known.any() or asked
    assert np.isnan(truth).any()
    assert np.isfinite(predicted).all()
    tested = tables.read_validation(run / "report" / "test.parquet")[0]
    assert set(tested) == set(names[140:158])
    assert not (run / "report" / "submission.csv").exists()
    page = page_of(run / "report" / "report.html")
    assert "test" in page.lower()
    assert "<b>1</b>" not in page
    mse = np.nanmean(np.square(predicted - truth), axis=1).mean()
    assert mse == pytest.approx(log_of(run)[:, -2].min(), rel=1e-5)


def test_explore_shows_a_catalogue(table, tmp_path):
    done("--mode=explore", *flags_of(rich(table)), f"--workdir={tmp_path}")
    page = page_of(tmp_path / "explore" / "report.html")
    assert "Galaxy Zoo DECaLS 5" in page


def test_evaluate_follows_a_table_that_has_moved_and_says_what_is_gone(run, table, tmp_path):
    workdir, moved = tmp_path / "run", tmp_path / "moved"
    shutil.copytree(run, workdir)
    shutil.copytree(table.parent, moved)
    shutil.rmtree(workdir / "report")
    done("--mode=evaluate", f"--workdir={workdir}", f"--data_dir={moved / table.name}")
    after = tables.read_validation(workdir / "report" / "validation.parquet")
    for one, other in zip(after, tables.read_validation(run / "report" / "validation.parquet"), strict=True):
        np.testing.assert_array_equal(one, other)
    (moved / "images").rename(tmp_path / "images")  # and these to another place than the table
    shutil.rmtree(workdir / "report")
    again = ("--mode=evaluate", f"--workdir={workdir}", f"--data_dir={moved / table.name}")
    done(*again, f"--images={tmp_path}")
    assert (workdir / "report" / "report.html").exists()
    (tmp_path / "images").rename(moved / "images")
    victim = moved / "images" / "100005.png"
    victim.unlink()
    line = refusal(launch(*again))
    assert "1 problem in the catalogue at" in line
    shutil.rmtree(moved / "images")
    text = launch(*again).stderr
    assert "no such file" in text
    assert "Traceback" not in text
    shutil.rmtree(moved)
    assert str(moved / table.name) in refusal(launch(*again))


def test_eight_views_and_a_comparison_of_two_runs(run, table, tmp_path):
    second = tmp_path / "second"
    done(*flags_of(rich(table, seed=1)), f"--workdir={second}")
    done("--mode=evaluate", f"--workdir={second}", "--views=16")
    assert (second / "report" / "validation_16_views.parquet").exists()
    result = done("--mode=compare", str(run), str(second), f"--output={tmp_path / 'both'}")
    assert "first" in result.stdout
    page_of(tmp_path / "both" / "report.html")


def test_mergers_on_texts_and_partly_unknown_labels(run, table, tmp_path):
    done("--mode=predict", f"--workdir={run}", f"--input={table}", f"--output={tmp_path / 'predicted'}")
    done("--mode=mergers", f"--workdir={run}", f"--input={tmp_path / 'predicted'}", f"--output={tmp_path / 'mergers'}")
    page_of(tmp_path / "mergers" / "report.html")
    found = tables.read(tmp_path / "predicted")
    assert found["id"].to_pylist() == text_ids(170).tolist()
    metrics = json.loads((tmp_path / "mergers" / "metrics.json").read_text())
    truth = tables.read_validation(run / "report" / "validation.parquet")[1]
    assert metrics["answer"] == "merging-dr5_merger"
    known = int(np.isfinite(truth[:, DECALS.columns.index("merging-dr5_merger")]).sum())
    assert metrics["validation"] == {"galaxies": known, "left_out": len(truth) - known}
    assert 0 < known < len(truth)


def test_classes_of_a_tree_of_one_question_from_training_to_mergers(many, tmp_path):
    """FITS of arcsec, a class a galaxy: some have none, and are for prediction alone."""
    (tmp_path / "kinds.toml").write_text(KINDS)
    rng = np.random.default_rng(3)
    kinds = np.array(["smooth", "Disk", "merging"])[rng.choice(3, 170, p=[0.5, 0.3, 0.2])].astype(object)
    kinds[:9] = None
    files = named(many.ids, ".fits")
    images = dict(zip(files, map(as_fits, map(flux, many.images)), strict=True))
    columns = {"id": text_ids(170), "file": files, "class": kinds.tolist(), "scale": np.full(170, 0.5)}
    table = catalogue_files.write(tmp_path / "table" / "galaxies.parquet", columns, images)
    config = config_of(table, "class", str(tmp_path / "kinds.toml"), data__pixel_scale="scale", data__field=18.0)
    config.data.pipeline, config.loss, config.model.activation = "memory", "multinomial", "softmax"
    run, predicted = tmp_path / "run", tmp_path / "predicted"
    result = done(*flags_of(config), f"--workdir={run}")
    assert "9 galaxies have no labels" in result.stderr
    assert not (run / "report" / "test.parquet").exists()
    page_of(run / "report" / "report.html")
    done("--mode=explore", *flags_of(config), f"--workdir={run}")
    page_of(run / "explore" / "report.html")
    done("--mode=predict", f"--workdir={run}", f"--input={table}", f"--output={predicted}")
    done("--mode=mergers", f"--workdir={run}", f"--input={predicted}", "--threshold=0.25")
    page_of(run / "mergers" / "report.html")


def test_a_workdir_keeps_its_catalogue_labels_and_sight(run, table, many, tmp_path):
    """A refusal names what differs; galaxies without labels may come later."""
    workdir = tmp_path / "run"
    shutil.copytree(run, workdir)

    def refused(config):
        with pytest.raises(UserError) as error:
            training.train(config, str(workdir))
        return str(error.value)

    assert "data.field was 16.0 and is now 18.0" in refused(rich(table, data__field=18.0))
    text = refused(rich(table, data__field=None, data__pixel_scale=None, data__share=0.5))
    assert "data.share was None and is now 0.5" in text
    assert "data.pixel_scale was 'arcsec' and is now None" in text
    assert "fits.q was 6.0 and is now 8.0" in refused(rich(table, fits__q=8.0))
    assert "data.nominal_votes was 44.0 and is now 20.0" in refused(rich(table, data__nominal_votes=20.0))
    columns = {name: [] for name in ("id", "file", "split", "arcsec", *DECALS.columns)}
    with open(table, newline="") as file:
        for row in csv.DictReader(file):
            for name, values in columns.items():
                values.append(row[name])
    for answers in DECALS.slices:
        votes = np.array([columns[name] for name in DECALS.columns[answers]], float)
        fractions = votes / np.where(votes.sum(0) > 0, votes.sum(0), np.nan)
        columns |= {f"{n}_fraction": f for n, f in zip(DECALS.columns[answers], fractions, strict=True)}
    both = catalogue_files.write(table.with_name("both.csv"), columns, {})
    assert "data.labels was 'counts' and is now 'conditional'" in refused(rich(both, data__labels="conditional"))
    lines = table.read_text().splitlines(keepends=True)
    other = table.with_name("other.csv")
    other.write_text("".join(lines[:20] + lines[21:]))
    text = refused(rich(other))
    assert "the data are not the same" in text
    assert "data.catalogue" not in text
    more = table.with_name("more.csv")
    unlabelled = lines[-1].replace("J000169+79", "J999999+00")
    assert unlabelled != lines[-1]
    more.write_text("".join([*lines, unlabelled]))
    assert training.train(rich(more), str(workdir)) == 0
