"""The exported ONNX model in ONNX Runtime: the same vote fractions as ours; and `--mode=export --formats=onnx`."""

import json
import sys

import hypothesis
import jax
import numpy as np
import pytest
from absl import flags
from flax.traverse_util import flatten_dict, unflatten_dict
from hypothesis import strategies as st
from random_trees import trees
from references import random_weights
from test_predict import SIZE, make_workdir

from gz_jax import labels, models
from gz_jax.data.inputs import list_inputs, read_batches
from gz_jax.data.sight import Sight
from gz_jax.inference import onnx_export, shared, trained
from gz_jax.inference.onnx_export import INPUT, MODEL, OUTPUT
from gz_jax.modes import (
    export,
    options,  # noqa: F401  # defines the flags
)
from gz_jax.runtime.errors import UserError

ACTIVATIONS = ("sigmoid", "divisive", "softmax", "dirichlet")
SEVERAL_PARENTS = [name for name in labels.names() if labels.load(name).joined]


@pytest.fixture
def run():
    """A function: what ONNX Runtime makes of a model and images."""
    runtime = pytest.importorskip("onnxruntime")
    checker = pytest.importorskip("onnx").checker

    def run(model: bytes, images: np.ndarray) -> np.ndarray:
        checker.check_model(model, full_check=True)
        (found,) = runtime.InferenceSession(model, providers=["CPUExecutionProvider"]).run([OUTPUT], {INPUT: images})
        return found

    return run


def network(name, size, count=37, seed=0, **how):
    """A module and random variables; every parameter and statistic of batch normalisation differs."""
    module, rng = models.create(name, num_outputs=count, **how), np.random.default_rng(seed)
    variables = module.init(jax.random.key(seed), np.zeros((1, size, size, 3), np.uint8))
    flat = flatten_dict(variables, sep="/")
    for path, value in flat.items():
        if path.endswith(("scale", "var")):
            flat[path] = rng.uniform(0.5, 1.5, value.shape).astype(np.float32)
        elif path.endswith(("bias", "mean")):
            flat[path] = rng.normal(0, 0.1, value.shape).astype(np.float32)
    variables = unflatten_dict(flat, sep="/")
    if name == "resnet50":
        body = random_weights(module.variant, seed=seed).body
        variables = {kind: {**variables[kind], "body": body[kind]} for kind in ("params", "batch_stats")}
    return module, variables


def scaled(module, variables, images):
    """The variables with a head whose logits have a standard deviation of 2, and these logits."""
    apply = jax.jit(lambda variables: module.apply(variables, images))
    factor = 2 / np.std(apply(variables))
    head = jax.tree.map(lambda x: x * factor, variables["params"]["head"])
    variables = {**variables, "params": {**variables["params"], "head": head}}
    return variables, apply(variables)


def galaxies(folder, size):
    """Eight real ones, uint8."""
    return next(read_batches(list_inputs(folder / "images_test_rev1.zip"), 8, size=size, sight=Sight(crop=204)))[
        "image"
    ]


NETWORKS = [("cnn", 68, {"hidden": hidden}) for hidden in ((128, 64), (20,), ())]
NETWORKS += [("cnn", 45, {"preprocess": how}) for how in ("keras", "torch")]
NETWORKS += [
    ("resnet50", size, {"variant": variant, "hidden": hidden, "pooling": pooling})
    for variant in ("keras", "torchvision")
    for hidden in ((), (20, 10))
    for pooling, size in (("flatten", 68), ("average", 75))
]
NETWORKS += [("resnet50", 64, {"variant": "torchvision", "preprocess": "unit"})]


@pytest.mark.peers
@pytest.mark.parametrize(("name", "size", "how"), NETWORKS, ids=str)
def test_onnx_runtime_predicts_the_same_of_real_galaxies(name, size, how, galaxy_zoo_sample, run):
    images = galaxies(galaxy_zoo_sample, size)
    module, variables = network(name, size, **how)
    variables, logits = scaled(module, variables, images)
    for activation in ACTIVATIONS:
        expected = labels.activate(logits, activation)
        model = onnx_export.build(module, variables, size, activation, labels.GALAXY_ZOO_2, {})
        assert model == onnx_export.build(module, variables, size, activation, labels.GALAXY_ZOO_2, {})
        found = run(model, images)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)
        np.testing.assert_allclose(run(model, images[:3]), expected[:3], atol=1e-5, rtol=0)
        assert np.std(expected, 0).max() > 3e-3  # what tells galaxies apart is far more than the tolerance


def check_tree(tree, activation, scale, run):
    """A tiny network of the tree, whose logits are about as large as `scale`."""
    images = np.random.default_rng(0).integers(0, 256, (4, 30, 30, 3), dtype=np.uint8)
    module = models.cnn.CNN(len(tree.columns), features=(2, 2, 2), hidden=())
    variables = module.init(jax.random.key(0), images)
    head = variables["params"]["head"]
    head["kernel"] = np.random.default_rng(1).normal(0, scale, head["kernel"].shape).astype(np.float32)
    expected = labels.activate(module.apply(variables, images), activation, tree)
    found = run(onnx_export.build(module, variables, 30, activation, tree, {}), images)
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)
    if activation != "sigmoid":
        assert labels.tree_violation(found, tree).max() < 1e-5


@pytest.mark.peers
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("name", [*SEVERAL_PARENTS, "galaxy_zoo_hubble", "galaxy_zoo_1", "rings"])
def test_shipped_trees(name, activation, run):
    check_tree(labels.load(name), activation, 1.0, run)


@pytest.mark.peers
@hypothesis.settings(suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture], max_examples=30)
@hypothesis.given(trees(), st.sampled_from(["divisive", "softmax"]), st.sampled_from([1.0, 1e3]))
def test_random_trees_and_extreme_logits(run, tree, activation, scale):
    check_tree(tree, activation, scale, run)


def begun(path, tree=labels.GALAXY_ZOO_2):
    """A CNN of random weights, as a shared folder with the score of an epoch."""
    network = trained.network_of(make_workdir(path / "run", tree=tree))
    network = network._replace(info={"epoch": 2, "val_loss": 0.1})
    shared.write(path / "shared", network, trained.fingerprint(network), {})
    return path / "shared"


def export_mode(workdir, output, **given):
    flags.FLAGS.unparse_flags()
    flags.FLAGS(["launch.py", f"--output={output}", *(f"--{k}={v}" for k, v in given.items())])
    return export.export(str(workdir), flags.FLAGS)


@pytest.mark.peers
def test_the_exported_file_says_what_it_is(tmp_path, run):
    import onnx

    tree = labels.load("galaxy_zoo_decals")
    workdir = begun(tmp_path, tree)
    first, second = tmp_path / "first", tmp_path / "second"
    assert export_mode(workdir, first, formats="onnx") == 0
    export_mode(first, second, formats="onnx")
    data = (first / MODEL).read_bytes()
    assert data == (second / MODEL).read_bytes()
    found = {entry.key: entry.value for entry in onnx.load_from_string(data).metadata_props}
    assert json.loads(found["columns"]) == list(tree.columns)
    assert labels.from_dict(json.loads(found["tree"]), "") == tree
    assert found["fingerprint"] == shared.fingerprint_of(first) == trained.load(workdir).weights
    assert found["sees"] == "The central square, 48.11 % of the shorter side, brought to 34 x 34 pixels; RGB, 0..255."
    assert MODEL in (first / "README.md").read_text()
    network = trained.load(first)
    images = np.random.default_rng(0).integers(0, 256, (4, SIZE, SIZE, 3), dtype=np.uint8)
    np.testing.assert_allclose(run(data, images), network.predict(images)[0], atol=1e-5, rtol=0)
    export_mode(workdir, first)
    assert not (first / MODEL).exists()  # lest it be another network's
    assert MODEL not in (first / "README.md").read_text()


@pytest.mark.peers
def test_a_network_that_is_too_large_for_one_file_is_refused(tmp_path, monkeypatch):
    pytest.importorskip("onnx")
    monkeypatch.setattr(onnx_export, "_MOST", 100_000)
    with pytest.raises(UserError, match=r"GiB of weights; a file of ONNX holds less than 2"):
        export_mode(begun(tmp_path), tmp_path / "out", formats="onnx")


def test_what_cannot_be_exported_is_said_in_one_line(tmp_path, monkeypatch):
    workdir = begun(tmp_path)
    with pytest.raises(UserError, match=r"--formats=csv: the only other format is onnx"):
        export_mode(workdir, tmp_path / "out", formats="csv,onnx")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UserError, match=r"--formats=onnx needs the package onnx: pip install onnx"):
        export_mode(workdir, tmp_path / "out", formats="onnx")
    assert not (tmp_path / "out").exists()
