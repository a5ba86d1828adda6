"""Networks of other trees than Galaxy Zoo 2's: what a workdir and a table say of their tree, and a whole run."""

import json
import subprocess

import numpy as np
import pytest
from PIL import Image
from test_launch import ROOT, command, environment, refusal
from test_predict import QUIET, make_workdir, write_catalogue

import gz_jax
from configs import demo
from gz_jax import fields, labels, resolve
from gz_jax.data import synthetic
from gz_jax.inference import tables, trained
from gz_jax.inference.predict import predict_catalogue
from gz_jax.runtime.errors import UserError
from gz_jax.training.workdir import Record, claim, read

DECALS = labels.load("galaxy_zoo_decals")
OWN = """
name = "Shapes"
merger = "kind_merger"
questions = [
  {name = "kind", text = "what is it?", answers = ["round", "flat", "merger"]},
  {name = "spins", after = ["kind_round", "kind_flat"], answers = ["yes", "no"], columns = ["spinning", "still"]},
]
"""


@pytest.fixture
def own(tmp_path):
    """A tree's file of a user, and the workdir of a network that was begun with it."""
    file = tmp_path / "shapes.toml"
    file.write_text(OWN)
    workdir = make_workdir(tmp_path / "run", tree=labels.load(file))
    record = json.loads((workdir / "config.json").read_text())
    record["config"]["tree"] = str(file)
    (workdir / "config.json").write_text(json.dumps(record))
    return file, workdir


def config_of(file):
    config = demo.get_config()
    config.data.size, config.tree = 34, str(file)
    return config


def test_a_network_predicts_and_a_run_goes_on_without_the_trees_file(own, tmp_path):
    file, workdir = own
    tree = labels.load(file)
    file.unlink()
    assert resolve.tree(config_of(file), workdir) == trained.load(workdir).tree == tree
    with pytest.raises(UserError, match=r"shapes\.toml': there is no such tree"):
        resolve.tree(config_of(file), tmp_path / "another")
    output = predict_catalogue(write_catalogue(tmp_path, 5), tmp_path / "out", [trained.load(workdir)], **QUIET)
    table = tables.read(output)
    columns = ["kind_round", "kind_flat", "kind_merger", "spinning", "still"]
    assert table.column_names == ["id", "file", *columns, *(f"cond_{c}" for c in columns), "flag", "reason"]
    assert tables.tree_of(tables.manifest(output), output) == tree
    used = table["flag"].to_numpy() < 2
    found = np.stack([table[c].to_numpy()[used] for c in columns], 1)
    assert labels.tree_violation(found, tree).max() < 1e-6
    np.testing.assert_allclose(found[:, 3:].sum(1), found[:, :2].sum(1), atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('"round", "flat",', '"round", "flat", "odd",'), "answers of 'kind' were round, flat, merger and are now"),
        (('"kind_round", "kind_flat"', '"kind_round"'), "after of 'spins' were kind_round, kind_flat and are now"),
        (("spinning", "turning"), "columns of 'spins' were spinning, still and are now turning, still"),
        (('"spins"', '"turns"'), "the question 'spins' is not there any more"),
    ],
)
def test_a_run_does_not_go_on_with_another_tree(own, change, message):
    file, workdir = own
    file.write_text(OWN.replace(*change))
    config = read(workdir).config
    with pytest.raises(UserError, match=r"the decision tree was Shapes and is now Shapes \(.*" + message):
        claim(workdir, Record(config, resolve.tree(config, workdir), "none", None))


def test_a_text_may_change_and_the_trees_file_may_move(own, tmp_path):
    workdir = own[1]
    (tmp_path / "moved.toml").write_text(OWN.replace("what is it?", "which kind is it?"))
    config = read(workdir).config
    config.tree = str(tmp_path / "moved.toml")
    claim(workdir, Record(config, resolve.tree(config, workdir), "none", None))
    assert read(workdir).tree.questions[0].text == "which kind is it?"
    assert read(workdir).config.tree.endswith("moved.toml")


def test_networks_of_different_trees_are_not_averaged(own, tmp_path):
    networks = [trained.load(own[1]), trained.load(make_workdir(tmp_path / "other", tree=DECALS))]
    with pytest.raises(UserError, match=r"answer different decision trees: .*the question 'bar' was not there"):
        predict_catalogue(write_catalogue(tmp_path, 5), tmp_path / "out", networks, **QUIET)


def test_a_network_is_another_one_with_another_tree(own, tmp_path):
    """The same parameters under another parent rule compute other numbers."""
    before = trained.load(own[1]).weights
    record = json.loads((own[1] / "config.json").read_text())
    record["tree"]["questions"][1]["after"] = ["kind_round"]
    (own[1] / "config.json").write_text(json.dumps(record))
    assert trained.load(own[1]).weights != before


def test_a_data_frame_has_the_trees_columns(own):
    images = np.random.default_rng(0).integers(0, 255, (3, 40, 40, 3)).astype(np.uint8)
    table = gz_jax.predict(own[1], images)
    assert list(table.columns[1:6]) == ["kind_round", "kind_flat", "kind_merger", "spinning", "still"]


def test_fits_tables_have_the_published_names(tmp_path):
    from astropy.io import fits

    workdir = make_workdir(tmp_path / "run", tree=DECALS)
    how = {"formats": ("parquet", "fits"), **QUIET}
    output = predict_catalogue(write_catalogue(tmp_path, 5), tmp_path / "out", [trained.load(workdir)], **how)
    with fits.open(output / "predictions.fits") as file:
        names = file[1].columns.names
        header = "".join(map(str, file[1].header["COMMENT"]))
    assert set(DECALS.columns) < set(names)
    assert "smooth-or-featured-dr5_smooth" in names
    assert "Walmsley et al. 2022" in header


def test_an_unknown_tree_is_refused_by_name(tmp_path):
    config = demo.get_config()
    fields.check(config)
    config.tree = "galaxy_zoo_decal"
    with pytest.raises(UserError, match=r"'galaxy_zoo_decal': there is no such tree .*; do you mean galaxy_zoo_decals"):
        resolve.tree(config)


def run(*flags):
    result = subprocess.run(command(*flags), cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.slow
def test_galaxy_zoo_decals_from_training_to_the_merger_fraction(tmp_path):
    """A tree with a two-parent question, on synthetic galaxies of known truth."""
    workdir, output = tmp_path / "run", tmp_path / "predictions"
    text = run("--config=configs/decals.py", f"--workdir={workdir}")
    assert "34 answers of Galaxy Zoo DECaLS 5" in text
    assert (workdir / "report" / "report.html").exists()
    assert not (workdir / "report" / "submission.csv").exists()
    ids = np.arange(200_001, 201_501)  # none of the training's
    parameters, fractions = synthetic.truth(ids, tree=DECALS, seed=0, merger_fraction=0.08)
    images = synthetic.render(parameters, size=40, field=synthetic.CENTRE_FIELD)
    votes = synthetic.draw_votes(fractions, ids, tree=DECALS, seed=0)
    folder = tmp_path / "images"
    folder.mkdir()
    for galaxy_id, image in zip(ids, images, strict=True):
        Image.fromarray(image).save(folder / f"{galaxy_id}.png")
    run("--mode=predict", f"--workdir={workdir}", f"--input={folder}", f"--output={output}", "--crop=40")
    table = tables.read(output)
    found = np.stack([table[c].to_numpy() for c in DECALS.columns], 1)
    assert labels.tree_violation(found, DECALS).max() < 1e-6
    run("--mode=mergers", f"--workdir={workdir}", f"--input={output}", "--answer=merging_merger")
    truth = float((votes[:, DECALS.index("merging_merger")] > 0.3).mean())
    for name in ("corrected", "calibrated"):
        found = json.loads((workdir / "mergers" / "metrics.json").read_text())["estimates"][name]
        assert found["high"] - found["low"] < 0.1, "the interval says nothing"
        assert abs(truth - found["value"]) < found["high"] - found["low"], "four standard deviations away"
    refused = subprocess.run(
        command("--mode=mergers", f"--workdir={workdir}", f"--input={output}", "--answer=Class8.6"),
        cwd=ROOT, env=environment(), capture_output=True, text=True,
    )  # fmt: skip
    assert "Galaxy Zoo DECaLS 5 has no answer 'Class8.6'" in refusal(refused)
