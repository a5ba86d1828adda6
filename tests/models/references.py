"""Random ResNet50 weights, files of each source that hold them, and comparison of two sets of arrays."""

import h5py
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors.numpy import save_file

from gz_jax.models import imagenet
from gz_jax.models.imagenet_tables import TABLES, entries, shapes


def random_weights(variant, top=True, seed=0):
    """Weights whose activations neither vanish nor explode; every batch-norm parameter and statistic differs."""
    rng = np.random.default_rng(seed)

    def draw(path, shape):
        if path.endswith("kernel"):
            return rng.normal(0, np.sqrt(1 / np.prod(shape[:-1])), shape)
        if path.endswith(("scale", "var")):
            return rng.uniform(0.5, 1.5, shape) * (0.2 if path.endswith("3_bn/scale") else 1)
        return rng.normal(0, 0.1, shape)

    flat = {path: np.float32(draw(path, shape)) for path, shape in shapes(variant).items()}
    tree = unflatten_dict(flat, sep="/")
    body = {collection: tree[collection]["body"] for collection in ("params", "batch_stats")}
    head = tree["params"]["head"] if top else None
    return imagenet.Weights(body, head, variant, imagenet.PREPROCESS[variant], imagenet.fingerprint(body))


def named(weights, table_index):
    """The weights' arrays by key of a source (0: Keras, 1: old Keras, 2: torchvision), stored as it stores them."""
    tree = {collection: {"body": values} for collection, values in weights.body.items()}
    if weights.top is not None:
        tree["params"] = tree["params"] | {"head": weights.top}
    flat = flatten_dict(tree, sep="/")
    return {
        key: flat[entry.path].transpose(np.argsort(entry.axes)) if entry.axes else flat[entry.path]
        for key, entry in entries(TABLES[table_index]).items()
        if entry.path in flat
    }


def write_h5(arrays, path):
    """layer/leaf -> layer/layer/leaf:0, the layout of Keras' own weights files."""
    with h5py.File(path, "w") as file:
        for key, value in arrays.items():
            layer, leaf = key.split("/")
            file[f"{layer}/{layer}/{leaf}:0"] = value
    return path


def write_old_h5(arrays, path):
    """As Keras 1 named them: conv1/conv1_W_1:0, bn_conv1/bn_conv1_running_std_1:0 (which holds the variance)."""
    old = {"kernel": "W", "moving_mean": "running_mean", "moving_variance": "running_std"}
    with h5py.File(path, "w") as file:
        for key, value in arrays.items():
            layer, leaf = key.split("/")
            leaf = "b" if leaf == "bias" else old.get(leaf, leaf)
            file[f"{layer}/{layer}_{leaf}_1:0"] = value
    return path


def write_safetensors(arrays, path):
    save_file({key: np.ascontiguousarray(value) for key, value in arrays.items()}, path)
    return path


def same(a, b):
    """Whether two `Weights` hold the same values, bit for bit."""
    flat_a, flat_b = (flatten_dict({**w.body, "top": w.top or {}}, sep="/") for w in (a, b))
    return flat_a.keys() == flat_b.keys() and all(np.array_equal(flat_a[k], flat_b[k]) for k in flat_a)


def relative_norm(ours, theirs):
    """Norm of the difference over the norm of the reference."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


def relative_error(ours, theirs):
    """Largest difference over the reference's largest magnitude."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())
