"""The names that each source of ResNet50 weights gives to its tensors, and readers of its files.

There is one table for each source; `entries` makes the list of keys from it.
"""

import functools
import pathlib
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from gz_jax.models.resnet import ResNet50Classifier, Variant
from gz_jax.runtime.errors import UserError

NUM_CLASSES = 1000
HEAD = "params/head/"
_ANCHORS = ("params/body/stem_conv/kernel", "batch_stats/body/stem_bn/var")  # a prefix is found by either of them
_LARGEST_CHUNK = 64 << 20  # bytes; HDF5 unpacks chunks whole, and the largest tensor has 10 MB

# Leaves with other names than ours; `shift` is the bias of a batch normalisation.
_KERAS_LEAVES = {"scale": "gamma", "shift": "beta", "mean": "moving_mean", "var": "moving_variance"}
_TORCH_LEAVES = {"kernel": "weight", "scale": "weight", "shift": "bias", "mean": "running_mean", "var": "running_var"}


def _keras_layer(kind: str, stage: int, block: int, place: int) -> str:
    return f"conv{stage + 1}_block{block}_{place}_{kind}" if stage else f"conv1_{kind}"


def _old_keras_layer(kind: str, stage: int, block: int, place: int) -> str:
    if not stage:
        return "conv1" if kind == "conv" else "bn_conv1"
    branch = f"2{'abc'[place - 1]}" if place else "1"
    return f"{'res' if kind == 'conv' else 'bn'}{stage + 1}{'abcdef'[block - 1]}_branch{branch}"


def _torch_layer(kind: str, stage: int, block: int, place: int) -> str:
    """torchvision's names, and timm's for resnet50."""
    if not stage:
        return f"{kind}1"
    return f"layer{stage}.{block - 1}." + (f"{kind}{place}" if place else f"downsample.{int(kind == 'bn')}")


class Table(NamedTuple):
    """A source's names, as layer + separator + leaf. `torch` says that kernels are stored as PyTorch does.

    `layer` takes 'conv' or 'bn', the stage from 1 (0 is the stem), the block from 1, and the convolution's place in its
    block from 1 (0 is the shortcut); `head` is the classifier's name.
    """

    variant: Variant
    head: str
    layer: Callable[[str, int, int, int], str]
    leaves: Mapping[str, str]
    separator: str
    torch: bool


TABLES: tuple[Table, ...] = (
    Table("keras", "predictions", _keras_layer, _KERAS_LEAVES, "/", torch=False),
    Table("keras", "fc1000", _old_keras_layer, _KERAS_LEAVES, "/", torch=False),
    Table("torchvision", "fc", _torch_layer, _TORCH_LEAVES, ".", torch=True),
)


class Entry(NamedTuple):
    """Where a tensor goes: our path, its shape in the file, and the axes to transpose it by."""

    path: str
    shape: tuple[int, ...]
    axes: tuple[int, ...] | None = None


@functools.cache
def shapes(variant: Variant) -> dict[str, tuple[int, ...]]:
    """Shape by path, 'params/body/stem_conv/kernel' to 'params/head/bias', of ResNet50 with ImageNet's top."""
    model = ResNet50Classifier(variant=variant, pooling="average", num_outputs=NUM_CLASSES)
    key = jax.eval_shape(lambda: jax.random.key(0))
    variables = jax.eval_shape(model.init, key, jax.ShapeDtypeStruct((1, 32, 32, 3), np.uint8))
    return {path: leaf.shape for path, leaf in flatten_dict(variables, sep="/").items()}


def entries(table: Table) -> dict[str, Entry]:
    """Every key that a file of this source has, with those of its top."""
    result = {}
    for path, shape in shapes(table.variant).items():
        *_, block, layer, leaf = path.split("/")
        place, _, kind = layer.partition("_")
        numbers = *(re.findall(r"\d", block) or "00"), place if place.isdecimal() else "0"
        theirs = table.layer(kind, *map(int, numbers)) if kind else table.head
        leaf = "shift" if (kind, leaf) == ("bn", "bias") else leaf
        key = theirs + table.separator + table.leaves.get(leaf, leaf)
        axes = None
        if table.torch and leaf == "kernel":
            # (out, in, height, width) there, (height, width, in, out) here; (out, in) there, (in, out) here.
            axes = (2, 3, 1, 0) if len(shape) == 4 else (1, 0)
            shape = shape[::-1] if len(shape) == 2 else (shape[3], shape[2], shape[0], shape[1])
        result[key] = Entry(path, shape, axes)
    return result


class Tensor(NamedTuple):
    """A tensor of a file, not read yet."""

    name: str
    shape: tuple[int, ...]
    read: Callable[[], Any]


def best(tensors: Mapping[str, Tensor]) -> tuple[Variant, dict[str, Entry], str] | None:
    """Variant and entries of the source that has most of the tensors' keys, and the prefix of the keys in the file.

    The prefix is '' or a text such as 'module.encoder.'; the entries' keys have it too. None: no key is known.
    """
    found: list[tuple[int, tuple[Variant, dict[str, Entry], str]]] = []
    for table in TABLES:
        expected = entries(table)
        anchors = [key for key, entry in expected.items() if entry.path in _ANCHORS]
        before = {key.removesuffix(anchor) for anchor in anchors for key in tensors if key.endswith(anchor)}
        for prefix in sorted(before | {""}, key=lambda text: (len(text), text))[:20]:  # longer: of blocks within
            count = sum(prefix + key in tensors for key in expected)
            keys = {prefix + key: entry for key, entry in expected.items()}
            found.append((count, (table.variant, keys, prefix)))
    count, result = max(found, key=lambda pair: pair[0])
    return result if count else None


def check(path: pathlib.Path, tensors: Mapping[str, Tensor], expected: Mapping[str, Entry]) -> None:
    """Raise one UserError that names every key that is missing, not used, or of another shape."""
    problems = [f"missing {key} {entry.shape}" for key, entry in expected.items() if key not in tensors]
    for key, tensor in tensors.items():
        if key not in expected and not key.endswith(".num_batches_tracked"):
            problems.append(f"unused {tensor.name[:100]}")
        elif key in expected and tensor.shape != expected[key].shape:
            problems.append(f"{tensor.name} has shape {tensor.shape}, not {expected[key].shape}")
    if problems:
        more = f"; and {len(problems) - 20} more" if len(problems) > 20 else ""
        raise UserError(f"{path} does not hold exactly a ResNet50: {'; '.join(problems[:20])}{more}")


@contextmanager
def open_tensors(path: pathlib.Path) -> Iterator[tuple[dict[str, Tensor], Mapping[str, str]]]:
    """The file's tensors by key and its metadata; tensors can be read while the context lasts.

    Raises:
      UserError: not a file of a known kind, damaged (found now or when reading), or PyTorch is needed and
        absent.
    """
    suffix = path.suffix.lower()
    readers = {".safetensors": _safetensors, ".h5": _hdf5, ".hdf5": _hdf5}
    readers |= dict.fromkeys((".pth", ".pt", ".bin"), _torch)
    if suffix not in readers:
        raise UserError(f"{path}: weights are read from files named {', '.join(readers)}")
    try:
        with readers[suffix](path) as found:
            yield found
    except UserError:
        raise
    except Exception as error:  # each library has its own errors for a broken file
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} is truncated, damaged or not a {suffix} file: {reason}") from error


@contextmanager
def _safetensors(path: pathlib.Path):
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        shape = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
        found = {key: Tensor(key, shape[key], functools.partial(file.get_tensor, key)) for key in shape}
        yield found, file.metadata() or {}


# Entries in which scripts store the tensors beside other things; the metadata name them, as NESTED.
_NESTED = ("state_dict", "model_state_dict", "model")
NESTED = "nested in"


@contextmanager
def _torch(path: pathlib.Path):
    try:
        import torch
    except ImportError as error:
        raise UserError(f"reading {path} needs PyTorch (pip install torch); .safetensors and .h5 do not") from error
    state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    nested: list[str] = []
    while (
        isinstance(state, dict)
        and len(nested) < 3
        and (inner := [n for n in _NESTED if isinstance(state.get(n), dict)])
    ):
        state, nested = state[inner[0]], [*nested, inner[0]]
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise UserError(f"{path} holds no state_dict of tensors")

    def read(tensor: Any) -> np.ndarray:
        return tensor.float().numpy()

    found = {k: Tensor(k, tuple(v.shape), functools.partial(read, v)) for k, v in state.items()}
    yield found, {NESTED: ".".join(nested)}


# Keras 1 called the variance 'running_std'.
_KERAS_1 = {"W": "kernel", "b": "bias", "running_mean": "moving_mean", "running_std": "moving_variance"}


@contextmanager
def _hdf5(path: pathlib.Path):
    """Keras' tensors as layer/leaf: 'conv1/conv1_W_1:0' and 'conv1/conv1/kernel:0' are both 'conv1/kernel'."""
    import h5py

    found: dict[str, Tensor] = {}

    def visit(name: str, item) -> None:
        if isinstance(item, h5py.Dataset):
            layer, _, rest = name.partition("/")
            chunk = np.prod(item.chunks or (0,), dtype=object) * item.dtype.itemsize
            if item.external or item.is_virtual or item.dtype.kind != "f" or chunk > _LARGEST_CHUNK:
                raise UserError(f"{path}: {name} is not an array of floating-point numbers in this file")
            leaf = rest.rpartition("/")[2].removesuffix(":0").removeprefix(f"{layer}_").removesuffix("_1")
            key = f"{layer}/{_KERAS_1.get(leaf, leaf)}"
            found[name if key in found else key] = Tensor(name, item.shape, lambda: item[()])

    with h5py.File(path, "r") as file:
        if isinstance(file.get("model_weights", getlink=True), h5py.ExternalLink | h5py.SoftLink):
            raise UserError(f"{path}: model_weights is a link to another place")
        file.get("model_weights", file).visititems(visit)
        yield found, {}
