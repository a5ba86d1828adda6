"""Read weights of ResNet50 from any of the usual files as Flax variables, or say what is wrong with the file.

    python -m gz_jax.models.imagenet WEIGHTS IMAGE... [--class_index=FILE]

prints the five most probable ImageNet classes of each photograph. WEIGHTS is a file, or a name of `DOWNLOADS`, with
ImageNet's classifier ("top"). These files can be read: Keras' `.h5` (layer names of both generations, with or without
top); torchvision's and timm's names, with any prefix, in `.safetensors` or, if PyTorch is installed, in `.pth` and
`.bin` (by its safe loader); and what `save_safetensors` wrote. The file decides the network's variant. The
preprocessing is known for the published ImageNet files and for our own. Nothing is unpickled.
"""

import argparse
import hashlib
import json
import os
import pathlib
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple, cast, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from gz_jax.models.imagenet_tables import HEAD, NESTED, NUM_CLASSES, Entry, Tensor, best, check, open_tensors, shapes
from gz_jax.models.layers import Preprocess
from gz_jax.models.resnet import PREPROCESS, ResNet50Classifier, Variant
from gz_jax.runtime.errors import UserError
from gz_jax.runtime.files import atomic

FORMAT = "gz_jax resnet50"
CLASS_INDEX = "imagenet_class_index.json"
CLASS_INDEX_URL = f"https://storage.googleapis.com/download.tensorflow.org/data/{CLASS_INDEX}"


class Weights(NamedTuple):
    """ResNet50's weights as float32 NumPy arrays.

    Attributes:
      body: {'params', 'batch_stats'} of `resnet.ResNet50`.
      top: {'kernel' [2048, 1000], 'bias' [1000]} of ImageNet's classifier, or None.
      variant: the network they belong to.
      preprocess: what they were trained with, see `layers.preprocess`; None if the file does not say.
      fingerprint: SHA-256 of the body's names, shapes and values: the same whatever file they came in.
      note: what was found out about the file's keys and its head, in words, or ''.
    """

    body: dict[str, Any]
    top: dict[str, np.ndarray] | None
    variant: Variant
    preprocess: Preprocess | None
    fingerprint: str
    note: str = ""


class Download(NamedTuple):
    """Where a named file is, the hash of the file, and of its body's values where no SHA-256 of it is known."""

    url: str
    file: str
    known_hash: str
    fingerprint: str | None


# Keras publishes only an MD5 of its file (keras/src/applications/resnet.py): it is checked after the
# download, and the SHA-256 of the body's values when they are read. The other is timm's copy of torchvision's
# IMAGENET1K_V1.
DOWNLOADS = {
    "imagenet-keras": Download(
        "https://storage.googleapis.com/tensorflow/keras-applications/resnet/"
        "resnet50_weights_tf_dim_ordering_tf_kernels.h5",
        "resnet50_weights_tf_dim_ordering_tf_kernels.h5",
        "md5:2cb95161c43110f7111970584f804107",
        "e00c7d6d6e9f5c3351067c4a9477634d34c36026c8c1a7c97df73fe0d3140bf8",
    ),
    "imagenet-torchvision": Download(
        "https://huggingface.co/timm/resnet50.tv_in1k/resolve/78f3ecfdb38e06d9b8397f662e7ab8fee96026fa/"
        "model.safetensors",
        "resnet50.tv_in1k.safetensors",
        "sha256:5d061a3c593d795bfe682d9b152bafbcf550579873492def3515b46db1189888",
        None,
    ),
}
# SHA-256 of the files that torchvision publishes, whose names begin with it, of weights IMAGENET1K_V1 and _V2, and of
# timm's copy of the first. (Keras' are known by the body's values.)
_TORCHVISION = {
    "0676ba61b6795bbe1773cffd859882e5e297624d384b6993f7c9e683e722fb8a",
    "11ad3fa62ca79e40addfd354a8ec4b7c75143b3038b8d2a807fbc68deab379ca",
    DOWNLOADS["imagenet-torchvision"].known_hash.removeprefix("sha256:"),
}


def load(source: str | os.PathLike) -> Weights:
    """Weights by a name of `DOWNLOADS`, fetched if need be, or by path. Raises what `_fetch` and `read_weights` do."""
    name = os.fspath(source)
    if name not in DOWNLOADS:
        return read_weights(os.path.expanduser(name))
    path = _fetch(name)
    weights = read_weights(path)
    if DOWNLOADS[name].fingerprint not in (None, weights.fingerprint):
        raise UserError(f"{path} does not hold the weights {name!r}: delete it, and run the command again")
    return weights


def _fetch(name: str) -> pathlib.Path:
    """The file of a name of `DOWNLOADS`, from pooch's cache or the network, its hash checked.

    Raises:
      UserError: no network (says which file to put where); wrong hash.
    """
    import pooch

    url, file, known_hash, _ = DOWNLOADS[name]
    cache = pooch.os_cache("gz_jax")
    pooch.get_logger().setLevel("WARNING")
    try:
        return pathlib.Path(pooch.retrieve(url, known_hash, file, cache, progressbar=True))
    except (OSError, ValueError) as error:  # no network, an unwritable cache; a wrong hash
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:120]
        raise UserError(
            f"cannot fetch {name!r} ({reason}). Download {url} elsewhere and put it at {cache / file}, or give "
            "the path of a weights file in place of the name"
        ) from error


def read_weights(path: str | os.PathLike) -> Weights:
    """Weights from a file of any kind named at the top of this module.

    Shapes are compared before anything is read, so that no file makes this allocate more than ResNet50 takes.

    Raises:
      UserError: no such file; not of these kinds, or truncated; not exactly ResNet50's tensors, in which case
        every unused key, unfilled parameter and differing shape is named.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise UserError(f"no weights file at {path}; known names are {', '.join(map(repr, DOWNLOADS))}")
    with open_tensors(path) as (tensors, metadata):
        variant, expected, prefix = _choose(path, tensors, metadata)
        heads = {key: entry for key, entry in expected.items() if entry.path.startswith(HEAD)}
        body_alone = {key: entry for key, entry in expected.items() if key not in heads}
        found = [tensors[key].shape for key in heads if key in tensors]
        classes = next((shape[0] for shape in found if len(shape) == 1), NUM_CLASSES)
        sized = {
            k: e._replace(shape=tuple(classes if n == NUM_CLASSES else n for n in e.shape)) for k, e in heads.items()
        }
        check(path, tensors, body_alone | (sized if found else {}))
        wanted = body_alone | (heads if found and classes == NUM_CLASSES else {})
        flat = {entry.path: _read(path, tensors[key], entry) for key, entry in wanted.items()}
    tree = unflatten_dict(flat, sep="/")
    body = {collection: tree[collection]["body"] for collection in ("params", "batch_stats")}
    notes = [f"its head of {classes} classes is left out" if found else "it has no head"]
    notes += [f"keys with the prefix {prefix!r}"] * bool(prefix)
    notes += [f"tensors under {metadata.get(NESTED)!r}"] * bool(metadata.get(NESTED))
    digest = fingerprint(body)
    how = _known(path, digest, metadata)
    return Weights(body, tree["params"].get("head"), variant, how, digest, ", ".join(notes))


def _known(path: pathlib.Path, digest: str, metadata: Mapping[str, str]) -> Preprocess | None:
    """The preprocessing: our own files say it, and the published ImageNet weights are known by values or file."""
    if metadata.get("format") == FORMAT and "preprocess" in metadata:
        return cast(Preprocess, metadata["preprocess"])
    if digest == DOWNLOADS["imagenet-keras"].fingerprint:
        return "keras"
    with path.open("rb") as file:
        return "torch" if hashlib.file_digest(file, "sha256").hexdigest() in _TORCHVISION else None


def _choose(
    path: pathlib.Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> tuple[Variant, dict[str, Entry], str]:
    """As `imagenet_tables.best`; our own files say their variant."""
    if metadata.get("format") == FORMAT:
        variant = metadata.get("variant")
        if variant not in PREPROCESS or metadata.get("preprocess", "unit") not in get_args(Preprocess):
            raise UserError(f"{path}: unknown variant or preprocessing in the metadata {dict(metadata)}")
        return cast(Variant, variant), {key: Entry(key, shape) for key, shape in shapes(variant).items()}, ""
    found = best(tensors)
    if found is None:
        hint = ""
        if any(key.startswith("layers/") for key in tensors):
            hint = ". Keras 3's .weights.h5 keeps no layer names: write the model with model.save('name.h5')"
        raise UserError(f"{path} holds no ResNet50: none of its {len(tensors)} tensors has a known name{hint}")
    return found


def _read(path: pathlib.Path, tensor: Tensor, entry: Entry) -> np.ndarray:
    value = np.asarray(tensor.read())
    if value.dtype.kind != "f" or not np.isfinite(value).all():
        raise UserError(f"{path}: {tensor.name} is not made of finite floating-point numbers")
    return np.ascontiguousarray(value.transpose(entry.axes) if entry.axes else value, np.float32)


def fingerprint(variables: Mapping[str, Any]) -> str:
    """SHA-256 of the names, shapes and values of {'params', 'batch_stats'} of NumPy arrays."""
    digest = hashlib.sha256()
    for name, value in sorted(flatten_dict(dict(variables), sep="/").items()):
        digest.update(f"{name} {value.shape}\n".encode())
        digest.update(value)
    return digest.hexdigest()


def save_safetensors(weights: Weights, path: str | os.PathLike) -> None:
    """Write weights under our own names, variant and preprocessing in the metadata. Raises UserError if it cannot."""
    from safetensors.numpy import save

    tree: dict[str, Any] = {collection: {"body": values} for collection, values in weights.body.items()}
    if weights.top is not None:
        tree["params"]["head"] = weights.top
    metadata = {"format": FORMAT, "variant": weights.variant}
    if weights.preprocess:
        metadata["preprocess"] = weights.preprocess
    try:
        with atomic(path, "wb") as file:
            file.write(save(flatten_dict(tree, sep="/"), metadata))
    except OSError as error:
        raise UserError(f"cannot write {path}: {error}") from error


def classifier(weights: Weights) -> tuple[ResNet50Classifier, dict[str, Any]]:
    """The ImageNet network and its variables; its logits are [B, 1000].

    Raises:
      UserError: the weights have no top, or their preprocessing is not known.
    """
    if weights.top is None:
        raise UserError("these weights have no classifier (top), so they cannot recognise ImageNet's classes")
    if weights.preprocess is None:
        raise UserError(
            "it is not known how these weights' images are preprocessed: say --preprocess=unit, keras or torch"
        )
    model = ResNet50Classifier(NUM_CLASSES, weights.variant, pooling="average", preprocess=weights.preprocess)
    params = {"body": weights.body["params"], "head": weights.top}
    return model, {"params": params, "batch_stats": {"body": weights.body["batch_stats"]}}


def read_photo(path: str | os.PathLike, size: int = 224) -> np.ndarray:
    """A photograph as uint8 [size, size, 3]: shorter side to size * 8 / 7 (256), then the central square.

    Raises:
      UserError: no such file, or not an image.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path, formats=("JPEG", "PNG")) as file:  # others run programs, Ghostscript for one
            image = ImageOps.exif_transpose(file).convert("RGB")
    except Exception as error:  # decoders raise anything on hostile bytes
        raise UserError(f"cannot read the image {path}: {error}") from error
    scale = size * 8 / 7 / min(image.size)
    width, height = (round(side * scale) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - size) // 2, (height - size) // 2
    return np.asarray(image.crop((left, top, left + size, top + size)))


def class_names(candidates: list[pathlib.Path]) -> dict[int, str]:
    """Names by index from the first of these files (Keras' class index JSON) that exists; {} if none does.

    Raises:
      UserError: the file is not such a JSON.
    """
    for path in filter(pathlib.Path.is_file, candidates):
        try:
            return {int(index): str(name) for index, (_, name) in json.loads(path.read_text()).items()}
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(f"{path} is not a class index such as Keras' {CLASS_INDEX}") from error
    return {}


def main(argv: list[str] | None = None) -> int:
    """The command line described at the top of this module; returns the exit code, 2 for bad input."""
    parser = argparse.ArgumentParser(prog="python -m gz_jax.models.imagenet", description=main.__doc__)
    parser.add_argument("weights", help=f"a file, or one of {', '.join(DOWNLOADS)}")
    path_of = lambda text: pathlib.Path(os.path.expanduser(text))  # noqa: E731
    parser.add_argument("images", nargs="+", type=path_of)
    parser.add_argument("--class_index", type=path_of, help=f"file with the classes' names: {CLASS_INDEX_URL}")
    parser.add_argument(
        "--preprocess", choices=get_args(Preprocess), help="of the images, if the weights do not say it"
    )
    args = parser.parse_args(argv)
    folders = (pathlib.Path(args.weights).parent, args.images[0].parent, pathlib.Path.home() / ".keras/models")
    try:
        if args.class_index and not args.class_index.is_file():
            raise UserError(f"no class index at {args.class_index}")
        names = class_names([args.class_index] if args.class_index else [f / CLASS_INDEX for f in folders])
        weights = load(args.weights)
        model, variables = classifier(weights._replace(preprocess=args.preprocess or weights.preprocess))
        variables = jax.device_put(variables)
        probabilities = jax.jit(lambda v, photos: jax.nn.softmax(jnp.asarray(model.apply(v, photos))))
        for path in args.images:
            p = np.asarray(probabilities(variables, read_photo(path)[None])[0])
            lines = [f"{p[i]:8.4f}  {i:4d}  {names.get(int(i), '')}".rstrip() for i in np.argsort(-p)[:5]]
            print(path.name, *lines, sep="\n", flush=True)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    if not names:
        print(
            "The classes are shown as numbers, since there is no file with their names. "
            f"Download {CLASS_INDEX_URL} and say --class_index={CLASS_INDEX}, or put it beside the weights.",
            file=sys.stderr,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
