"""Weights from which training may start: names, files, folders, and repositories of the Hugging Face hub.

A folder is a network of ours (a workdir or a shared network) or of timm: `config.json` beside the weights
`model.safetensors` or `pytorch_model.bin`. A repository is such a folder, which is downloaded. Nothing in it is run.
"""

import json
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from gz_jax.models import hub, imagenet
from gz_jax.models.hub import CONFIG, FILES
from gz_jax.models.imagenet import Weights
from gz_jax.models.layers import NORMALS, Preprocess
from gz_jax.runtime.errors import UserError, first_line

_LONGEST = 1 << 22  # characters of a config.json
# Arguments of timm's models that leave the body as it is.
_HARMLESS = ("num_classes", "global_pool", "drop_rate", "drop_path_rate", "pretrained")


class Start(NamedTuple):
    """What training starts from.

    Attributes:
      variables: {'params', 'batch_stats'} of NumPy arrays, whole or some of the parts at their top level.
      fingerprint: SHA-256 of them; text: what they are, in one line.
    """

    variables: Mapping[str, Any]
    fingerprint: str
    text: str


class Place(NamedTuple):
    """A folder with its config.json; or a file, or a name of `imagenet.DOWNLOADS`, with None."""

    path: pathlib.Path
    config: dict[str, Any] | None

    @property
    def is_network(self) -> bool:
        """Whether it is a folder of ours."""
        return self.config is not None and isinstance(self.config.get("config"), dict)


def locate(source: str) -> Place:
    """The place that `source` names, downloaded if it is on the hub.

    Raises:
      UserError: it cannot be fetched, or is a folder without a config.json that can be read.
    """
    path = local(source)
    if source in imagenet.DOWNLOADS or not path.is_dir():
        return Place(path, None)
    try:
        with open(path / CONFIG, encoding="utf-8") as file:
            text = file.read(_LONGEST + 1)
        config = json.loads(text) if len(text) <= _LONGEST else None
        if not isinstance(config, dict):
            raise ValueError("it describes no network")
    except (OSError, ValueError, RecursionError) as error:
        reason = f"its {CONFIG} cannot be read ({first_line(error)[:200]})"
        raise UserError(f"{path} is not a workdir, a shared network or a folder of timm's: {reason}") from error
    return Place(path, config)


def local(source: str) -> pathlib.Path:
    """The path that a text names; of 'hf-hub:owner/name@revision' the folder in the hub's cache, fetched if need be.

    Raises:
      UserError: the repository's config.json and weights cannot be fetched.
    """
    return hub.fetch(source) if source.startswith(hub.HUB) else pathlib.Path(source).expanduser()


def read(place: Place, told: Preprocess | None) -> tuple[Weights, Preprocess, str]:
    """ResNet50's weights from timm's folder, a file or a name; their preprocessing; and what was found, in words.

    Args:
      told: the preprocessing that the user asks for, which is used whatever the source says.

    Raises:
      UserError: they cannot be read (see `imagenet.load`), or neither they nor the user say what the preprocessing is.
    """
    path, config = place
    said, why = _timm(path, config) if config is not None else (None, "")
    if why:
        settle(path, said, why, told)  # refused before the weights are read
    if config is not None:
        path = next((path / name for name in FILES if (path / name).is_file()), path / FILES[0])
    weights = imagenet.load(path)
    if not why and weights.preprocess:
        said, why = weights.preprocess, "which these weights are known to have seen"
    how, text = settle(path, said, why, told)
    return weights, how, f"{weights.note}; {text}"


def _timm(folder: pathlib.Path, config: Mapping[str, Any]) -> tuple[Preprocess | None, str]:
    """The preprocessing that timm's config.json says, None if it is another; and in words, '' if it says none.

    Raises:
      UserError: a network that has ResNet50's tensors and computes something else ('resnetblur50', a dilated one).
    """
    name, arguments, inner = (config.get(key) for key in ("architecture", "model_args", "pretrained_cfg"))
    pairs = arguments.items() if isinstance(arguments, dict) else ()
    other = [f"{k}={v!r}"[:100] for k, v in pairs if k not in _HARMLESS and (k, v) != ("in_chans", 3)]
    if str(name or "resnet50").partition(".")[0] not in ("resnet50", "tv_resnet50") or other:
        found = ", ".join([repr(name)[:100], *other])
        raise UserError(f"{folder / CONFIG}: the architecture is {found}; only an unchanged 'resnet50' can be read")
    about = inner if isinstance(inner, dict) else config
    both: Any = [about.get("mean"), about.get("std")]
    try:
        said = tuple(tuple(map(float, values)) for values in both)
    except (TypeError, ValueError, OverflowError):
        said = ()
    words = f"mean {str(both[0])[:100]} and std {str(both[1])[:100]} in {CONFIG}" if any(both) else ""
    return next((how for how, normal in NORMALS.items() if said == normal), None), words


def settle(path: object, said: Preprocess | None, why: str, told: Preprocess | None) -> tuple[Preprocess, str]:
    """The preprocessing to use: what the user asks for, else what the source says; and words about it.

    Args:
      said: what the source says, None if nothing or something unknown; why: its reason, or what is unknown.

    Raises:
      UserError: neither the user nor the source says it.
    """
    how = told or said
    if how is None:
        raise UserError(
            f"{path}: {f'{why} are not known here' if why else 'it does not say which pixels it was trained on'}"
            ". The tensors cannot tell: torchvision's ResNet50 saw pixels normalised by ImageNet's mean and standard "
            "deviation, and Zoobot's, of the same names, 0..1. Look it up where the weights are from, and say "
            "--config.model.preprocess=unit (0..1), torch (normalised so) or keras (BGR 0..255 minus ImageNet's mean)."
        )
    return how, f"pixels {how!r}, {why if how == said else 'as asked for' + (why and f' (the source: {why})')}"
