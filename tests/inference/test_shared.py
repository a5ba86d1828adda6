"""A network as a folder for others: the same predictions, the same bytes, and what is refused."""

import json
import shutil
import types

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from test_predict import QUIET, SIZE, contents, encode, make_workdir, picture

from configs import resnet50
from gz_jax import labels, resolve
from gz_jax.inference import trained
from gz_jax.inference.predict import predict_arrays, predict_catalogue, write_validation
from gz_jax.labels import GALAXY_ZOO_2
from gz_jax.modes.export import FIGURE, PAGE, export
from gz_jax.runtime.errors import UserError
from gz_jax.training import checkpoint, workdir

IMAGES = np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE, 3), np.uint8)


def exported(source, folder):
    assert export(str(source), types.SimpleNamespace(output=str(folder), formats=[], hub=None)) == 0
    return folder


def edited(folder, **values):
    """A copy of a shared folder whose config.json has other values."""
    copy = shutil.copytree(folder, folder.with_name(f"{folder.name}_edited"), dirs_exist_ok=True)
    about = json.loads((copy / "config.json").read_text()) | values
    (copy / "config.json").write_text(json.dumps({key: value for key, value in about.items() if value is not None}))
    return copy


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return make_workdir(tmp_path_factory.mktemp("runs") / "one")


@pytest.fixture
def folder(source, tmp_path):
    return exported(source, tmp_path / "shared")


def test_predictions_from_a_shared_folder_are_those_of_the_workdir_bit_for_bit(source, folder, tmp_path):
    (tmp_path / "images").mkdir()
    for i in range(5):
        (tmp_path / "images" / f"{i}.jpg").write_bytes(encode(picture(i), "JPEG"))
    outputs = [
        predict_catalogue(str(tmp_path / "images"), tmp_path / name, [trained.load(where)], batch_size=4, **QUIET)
        for name, where in {"workdirs": source, "shareds": folder}.items()
    ]
    assert contents(outputs[0]) == contents(outputs[1])


@pytest.mark.slow
def test_a_resnets_tensors_have_timms_names_and_predict_the_same(tmp_path):
    config = resnet50.get_config()
    config.data.size = SIZE
    config.model.update({"pretrained": None, "variant": "torchvision", "pooling": "average", "hidden": ()})
    variables = resolve.parts(config, GALAXY_ZOO_2).module.init(jax.random.key(0), IMAGES[:1], train=False)
    path = workdir.claim(tmp_path / "net", workdir.Record(config, GALAXY_ZOO_2, "none", None))
    manager = checkpoint.open_manager(path / "checkpoints" / "best", 1)
    checkpoint.save(manager, 7, dict(variables), {"val_loss": 0.1, "epoch": 3})
    checkpoint.close(manager)
    folder = exported(path, tmp_path / "shared")
    tensors = load_file(folder / "model.safetensors")
    kernel = variables["params"]["body"]["stem_conv"]["kernel"]
    np.testing.assert_array_equal(tensors["conv1.weight"], np.transpose(kernel, (3, 2, 0, 1)))
    assert {"layer4.2.bn3.running_var", "fc.weight"} <= tensors.keys()
    one, other = (predict_arrays(IMAGES, str(where)) for where in (path, folder))
    np.testing.assert_array_equal(one[1].fractions, other[1].fractions)
    assert "Validation MSE 0.1 (epoch 3)." in (folder / PAGE).read_text()


def test_a_network_is_written_the_same_each_time_and_from_its_shared_folder(source, folder, tmp_path):
    again = [exported(source, tmp_path / "again"), exported(folder, tmp_path / "from_shared"), exported(folder, folder)]
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert sorted(files) == [PAGE, "config.json", "model.safetensors"]
    for other in again:
        assert {path.name: path.read_bytes() for path in other.iterdir()} == files


@pytest.mark.parametrize(
    ("start", "name"), [("/home/me/start", "start"), ("hf-hub:owner/name@main", "hf-hub:owner/name@main")]
)
def test_no_path_of_the_person_who_trained_is_in_it(start, name, tmp_path):
    path = make_workdir(tmp_path / "net", dir="/home/me/data", store="/home/me/store")
    record = json.loads((path / "config.json").read_text())
    record["config"]["model.pretrained"] = start
    (path / "config.json").write_text(json.dumps(record))
    folder = exported(path, tmp_path / "shared")
    texts = [(folder / file).read_text() for file in ("config.json", PAGE)]
    assert "/home" not in "".join(texts)
    assert f"from the weights {name}, by" in texts[1]
    assert json.loads(texts[0])["config"]["model.pretrained"] == name


def test_the_page_has_the_reports_scores_and_figure_and_keeps_them(tmp_path):
    source = make_workdir(tmp_path / "net", source="synthetic")
    network, rng = trained.load(source), np.random.default_rng(0)
    truth = np.array(labels.joint(rng.random((20, 37)).astype(np.float32), GALAXY_ZOO_2))
    score = {"value": 0.0123, "low": 0.0111, "high": 0.0135}
    (source / "report").mkdir()
    metrics = {"mse": score, "galaxies": 20, "rmse": {"value": 1}, "context": {"command": "python /home/me/launch.py"}}
    (source / "report" / "metrics.json").write_text(json.dumps(metrics))
    table = source / "report" / "validation.parquet"
    write_validation(table, np.arange(20), truth, truth, GALAXY_ZOO_2, [network.identity], "none")
    folder = exported(source, tmp_path / "shared")
    page = (folder / PAGE).read_text()
    assert "| mse | 0.0123 [0.0111, 0.0135] |" in page
    assert f"({FIGURE})" in page
    assert "rmse" not in page  # which has no interval
    assert json.loads((folder / "config.json").read_text())["scores"] == {"galaxies": 20, "mse": score}
    assert (folder / FIGURE).read_bytes() == (exported(folder, tmp_path / "again") / FIGURE).read_bytes()
    table.unlink()  # as of another epoch than the network's
    assert f"({FIGURE})" not in (exported(source, folder) / PAGE).read_text()
    assert not (folder / FIGURE).exists()


def test_the_epoch_is_left_out_where_the_log_does_not_say_it(source, folder):
    assert "Validation MSE 0.1.\n" in (folder / PAGE).read_text()
    assert trained.load(folder).identity["epoch"] is None
    assert trained.load(folder).identity == trained.load(source).identity


def test_another_folder_is_not_written_into(source, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="holds other files"):
        exported(source, tmp_path)


def test_a_changed_tensor_is_refused_by_name(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors["params/conv2/bias"][3] += 1e-6
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"model\.safetensors has been changed: params/conv2/bias\.$"):
        trained.network_of(folder)
    del tensors["params/conv2/bias"]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"missing params/conv2/bias \("):
        trained.network_of(folder)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"version": 2}, r"of format 'gz_jax network', version 2; this gz_jax reads 'gz_jax network', version 1"),
        ({"format": None}, r"of format 'None', version 1"),
        ({"fingerprint": "0" * 16}, r"has been changed: its fingerprint is [0-9a-f]{16}, but config.json says 0{16}"),
        ({"tensors": None}, r"lacks the tensors' digests"),
        ({"log": {"epoch": 3}}, r"its log must be a row of numbers with val_loss"),
        ({"log": {"val_loss": "low"}}, r"its log must be a row of numbers with val_loss"),
        ({"step": None}, r"lacks the log, the scores or the step"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(folder, values, message):
    with pytest.raises(UserError, match=message):
        trained.network_of(edited(folder, **values))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("model.activation", "divisive", "has been changed: its fingerprint"),
        ("data.crop", 100, "has been changed: its fingerprint"),
        ("data.size", 68, r"params/dense1/kernel has shape"),
        ("model.name", "vit", r"model\.name='vit' must be one of"),
    ],
)
def test_a_changed_setting_is_refused(folder, field, value, message):
    about = json.loads((folder / "config.json").read_text())
    with pytest.raises(UserError, match=message):
        trained.network_of(edited(folder, config=about["config"] | {field: value}))
