"""Training that starts from a network of ours: a workdir, or a shared folder."""

import csv
import json
import shutil
import types

import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors.numpy import load_file, save_file
from test_predict import make_workdir

from configs import demo
from gz_jax import resolve
from gz_jax.inference import trained
from gz_jax.inference.shared import write
from gz_jax.labels import GALAXY_ZOO_2
from gz_jax.models.layers import preprocessing
from gz_jax.modes import training
from gz_jax.modes.export import export
from gz_jax.runtime.errors import UserError

HEAD = ("dense1", "dense2", "head")


def config_of(**model):
    config = demo.get_config()
    config.data.update({"num_galaxies": 120, "size": 34, "pipeline": "memory"})
    config.update({"num_epochs": 1, "batch_size": 32, "learning_rate": 1e-3})
    config.model.update({"momentum": 0.8, **model})
    return config


def still(source, **model):
    """A config whose training changes nothing: steps that vanish in rounding, and statistics that keep their values."""
    config = config_of(pretrained=str(source), momentum=1.0, **model)
    config.update({"learning_rate": 1e-30, "seed": 5})
    return config


def run(config, path):
    assert training.train(config, str(path)) == 0
    with open(path / "log.csv") as file:
        return [float(row["val_loss"]) for row in csv.DictReader(file)]


def variables(folder):
    return flatten_dict(trained.network_of(folder).variables)


def start(config):
    return resolve.weights(config, resolve.tree(config), trained.network_of)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """An untrained network whose pixels are not the CNN's own."""
    path = make_workdir(tmp_path_factory.mktemp("runs") / "source", source="synthetic")
    record = json.loads((path / "config.json").read_text())
    record["config"]["model.preprocess"] = "torch"
    (path / "config.json").write_text(json.dumps(record))
    return path


@pytest.fixture(scope="module")
def shared(workdir, tmp_path_factory):
    folder, network = tmp_path_factory.mktemp("shared") / "net", trained.network_of(workdir)
    pixels = preprocessing(network.record.config.model, network.record.config.data.size)
    write(folder, network, trained.fingerprint(network), pixels)
    return folder


@pytest.fixture(autouse=True)
def log_alone(monkeypatch):
    monkeypatch.setattr(training, "_report", lambda path, dataset: None)


@pytest.mark.parametrize("kind", ["workdir", "shared"])
def test_with_the_same_tree_the_whole_network_is_taken(kind, request):
    source = request.getfixturevalue(kind)
    config = still(source)
    found = start(config)
    assert found.text == f"starting from {source}: the whole network; pixels 'torch', as the network's"
    assert config.model.preprocess == "torch"
    old, new = variables(source), flatten_dict(found.variables)
    assert old.keys() == new.keys()
    assert all(np.array_equal(old[name], new[name]) for name in old)


@pytest.mark.slow
def test_training_goes_on_where_the_source_stood(tmp_path, capsys):
    """The first validation loss is the source's, of a workdir and of its export; with another tree the body is kept."""
    source, folder = tmp_path / "source", tmp_path / "shared"
    losses = run(config_of(preprocess="torch"), source)
    export(str(source), types.SimpleNamespace(output=str(folder), formats=[], hub=None))
    for place in (source, folder):
        path = tmp_path / f"from_{place.name}"
        assert run(still(place), path) == losses
        assert f"starting from {place}: the whole network" in capsys.readouterr().out
        assert trained.network_of(path).record.weights == start(still(source)).fingerprint
    config = still(source)
    config.tree = "galaxy_zoo_decals"
    assert run(config, tmp_path / "other") != losses
    assert f"starting from {source}: the body alone (the question " in capsys.readouterr().out
    old, new = variables(source), variables(tmp_path / "other")
    for name in new:
        kept = new[name].shape == old[name].shape and np.allclose(old[name], new[name], rtol=0, atol=1e-28)
        assert kept == (name[1] not in HEAD), name


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"model.activation": "divisive"}, "outputs were softmax and are now divisive"),
        ({"data.size": 40}, "the layers after the body differ"),
    ],
)
def test_with_another_head_the_body_goes_on(change, reason, workdir):
    config = still(workdir)
    config.update_from_flattened_dict(change)
    found = start(config)
    assert f"the body alone ({reason})" in found.text
    assert set(found.variables["params"]) == {"conv1", "bn1", "conv2", "conv3"}
    assert set(found.variables["batch_stats"]) == {"bn1"}


def test_a_shared_network_that_was_changed_is_refused(shared, tmp_path):
    folder = shutil.copytree(shared, tmp_path / "changed")
    tensors = load_file(folder / "model.safetensors")
    tensors["params/conv1/kernel"][0, 0, 0, 0] += 1e-6
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"has been changed: params/conv1/kernel\.$"):
        start(still(folder))
    shutil.copy(shared / "model.safetensors", folder)
    about = json.loads((folder / "config.json").read_text())
    about["config"]["model.preprocess"] = "unit"
    (folder / "config.json").write_text(json.dumps(about))
    with pytest.raises(UserError, match="has been changed: its fingerprint is"):
        start(still(folder))


def test_training_does_not_write_into_a_shared_network(shared):
    before = {path.name: path.read_bytes() for path in shared.iterdir()}
    with pytest.raises(UserError, match=r"is a shared network: to start from it, train in another --workdir"):
        training.train(still(shared), str(shared))
    assert {path.name: path.read_bytes() for path in shared.iterdir()} == before


def test_start_pixels_may_be_asked_for(workdir):
    config = still(workdir, preprocess="unit")
    assert "pixels 'unit', as asked for (the source: as the network's" in start(config).text
    assert config.model.preprocess == "unit"


def test_a_network_of_another_kind_is_refused(workdir, tmp_path):
    config = still(workdir)
    config.model.name = "resnet50"
    with pytest.raises(UserError, match=r"is a cnn: add --config\.model\.name=cnn"):
        start(config)
    (tmp_path / "config.json").write_text(json.dumps({"config": {}}))
    config.model.pretrained = str(tmp_path)
    with pytest.raises(UserError, match="tree"):
        start(config)


def test_preprocessing_is_part_of_what_a_network_computes(workdir, shared):
    """A shared folder says it and predicts as the workdir does; with other pixels it is another network."""
    about = json.loads((shared / "config.json").read_text())
    assert about["pretrained_cfg"]["mean"] == [0.485, 0.456, 0.406]
    images = np.random.default_rng(0).integers(0, 256, (4, 34, 34, 3), np.uint8)
    here, there = trained.load(workdir), trained.load(shared)
    np.testing.assert_array_equal(here.predict(images), there.predict(images))
    network = trained.network_of(workdir)
    network.record.config.model.preprocess = "unit"
    assert trained.fingerprint(network) != here.weights
    module = resolve.parts(network.record.config, GALAXY_ZOO_2).module
    normalised = (images / np.float32(255) - np.float32([0.485, 0.456, 0.406])) / np.float32([0.229, 0.224, 0.225])
    expected = module.apply(network.variables, normalised)  # 'unit' leaves floating point as it is
    network.record.config.model.preprocess = "torch"
    module = resolve.parts(network.record.config, GALAXY_ZOO_2).module
    np.testing.assert_allclose(module.apply(network.variables, images), expected, atol=1e-3)  # of logits up to 50
