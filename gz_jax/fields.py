"""What each field of a config may be; `configs/default.py` says what they mean."""

from collections.abc import Mapping
from typing import Any

from gz_jax.runtime.errors import UserError

ONE_OF = {
    "data.source": ("galaxy_zoo", "synthetic"),
    "data.on_bad": ("fail", "skip"),
    "data.pipeline": ("stream", "memory", "device"),
    "loss": ("mse", "binomial", "multinomial"),
    "schedule": ("plateau", "cosine"),
    "model.name": ("cnn", "resnet50"),
    "model.activation": ("sigmoid", "divisive", "softmax"),
    "model.dtype": ("float32", "bfloat16"),
    "model.variant": ("keras", "torchvision"),
    "model.pooling": ("flatten", "average"),
    "augment.rotate": (False, True),
    "augment.flip": (False, True),
    "model.frozen_statistics": (False, True),
    "tensorboard": (False, True),
}
_MANY = 10**9
WHOLE = {  # from, to
    "seed": (0, 2**32 - 1),
    "data.seed": (0, 2**32 - 1),
    "num_epochs": (1, _MANY),
    "batch_size": (1, _MANY),
    "plateau.patience": (1, _MANY),
    "plateau.cooldown": (0, _MANY),
    "early_stop_patience": (1, _MANY),
    "data.image_size": (1, 7_000),  # 49 million pixels
    "data.crop": (1, 7_000),
    "data.size": (1, 7_000),
    "data.num_galaxies": (1, _MANY),
    "data.steps_per_dispatch": (0, _MANY),
    "model.frozen_epochs": (0, _MANY),
    "checkpoint.every_steps": (0, _MANY),
}
REAL = {  # from, to; the ends of `INSIDE` are left out
    "learning_rate": (0, 1e38),
    "weight_decay": (0, 1e38),
    "average": (0, 0.999999),
    "warmup_epochs": (0, 1e9),
    "plateau.factor": (0, 1),
    "plateau.min_delta": (0, 1e38),
    "plateau.min_rate": (0, 1e38),
    "data.validation_fraction": (0, 1),
    "data.merger_fraction": (0, 1),
    "augment.zoom": (1, 4),  # memory for the warp grows with its square
    "augment.shift": (0, 7_000),
    "model.momentum": (0, 1),
    "model.dropout": (0, 1),
    "model.body_rate": (0, 1e38),
    "checkpoint.every_seconds": (0, float("inf")),
}
INSIDE = ("learning_rate", "plateau.factor", "data.validation_fraction")
TEXT = ("data.dir", "data.store", "model.pretrained")
OPTIONAL = (*TEXT, "model.momentum")


def check(flat: Mapping[str, Any]) -> None:
    """Refuse a config whose fields, by dotted name, are not all there and each what it may be.

    Raises:
      UserError: names the field, its value and what it may be.
    """
    for field in (*ONE_OF, *WHOLE, *REAL, *TEXT, "model.hidden"):
        if field not in flat:
            raise UserError(f"the config has no field {field}; configs/default.py lists them all.")
        if wanted := _wanted(field, flat[field]):
            raise UserError(f"--config.{field}={flat[field]!r} must be {wanted}.")


def _wanted(field: str, value: Any) -> str:
    """What the field may be; '' where the value is that."""
    if value is None and field in OPTIONAL:
        return ""
    if field in ONE_OF:
        same = any(type(value) is type(allowed) and value == allowed for allowed in ONE_OF[field])
        return "" if same else f"one of {', '.join(map(repr, ONE_OF[field]))}"
    if field in TEXT:
        return "" if isinstance(value, str) and "\0" not in value else "a text"
    if field == "model.hidden":
        widths = isinstance(value, list | tuple) and len(value) <= 20
        widths = widths and all(type(width) is int and 1 <= width <= 100_000 for width in value)
        return "" if widths else "a tuple of at most 20 whole numbers from 1 to 100000"
    low, high = (WHOLE if field in WHOLE else REAL)[field]
    number = type(value) is int or (field in REAL and type(value) is float)
    if number and low <= value <= high and not (field in INSIDE and value in (low, high)):
        return ""
    kind = "whole number" if field in WHOLE else "number"
    return f"a {kind} {'between' if field in INSIDE else 'from'} {low} {'and' if field in INSIDE else 'to'} {high:g}"
