"""Every field of a config: its default, its allowed values and its meaning. The files in `configs/` change some."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict, config_dict

from gz_jax.runtime.errors import UserError


class Field(NamedTuple):
    """A field: its default, its type, and its allowed values, in words (`wanted`) and as a test (`fits`).

    free: whether its value may change when a run is continued.
    """

    default: Any
    kind: type
    wanted: str
    fits: Callable[[Any], bool]
    free: bool = False


def one_of(*values: Any, free: bool = False) -> Field:
    """One of these, the first by default."""
    wanted = f"one of {', '.join(map(repr, values))}"
    return Field(values[0], type(values[0]), wanted, lambda x: any(type(x) is type(v) and x == v for v in values), free)


def whole(default: int | None, low: int, high: int = 10**9, free: bool = False) -> Field:
    """A whole number from low to high; None as well where that is the default."""
    wanted = f"a whole number from {low} to {high:g}"
    return Field(
        default, int, wanted, lambda x: default is None if x is None else type(x) is int and low <= x <= high, free
    )


def real(default: float | None, low: float, high: float, ends: bool = True, free: bool = False) -> Field:
    """A number from low to high; strictly between them if `ends` is False."""
    wanted = f"a number {'from' if ends else 'between'} {low} {'to' if ends else 'and'} {high:g}"

    def fits(x: Any) -> bool:
        if x is None:
            return default is None
        return type(x) in (int, float) and low <= x <= high and (ends or x not in (low, high))

    return Field(default, float, wanted, fits, free)


def text(default: str | None = None, free: bool = False) -> Field:
    """A text; None as well where that is the default."""
    return Field(
        default, str, "a text", lambda x: default is None if x is None else isinstance(x, str) and "\0" not in x, free
    )


def choice(*values: str) -> Field:
    """One of these texts, or None, the default."""
    return Field(None, str, f"one of {', '.join(map(repr, values))}", lambda x: x is None or x in values)


def widths() -> Field:
    """Widths of dense layers."""

    def fits(x: Any) -> bool:
        return isinstance(x, list | tuple) and len(x) <= 20 and all(type(n) is int and 1 <= n <= 100_000 for n in x)

    return Field((), tuple, "a tuple of at most 20 whole numbers from 1 to 100000", fits)


FIELDS: dict[str, Field] = {
    "seed": whole(0, 0, 2**32 - 1),  # of the initial weights, the order, the augmentation and the dropout
    "tree": text("galaxy_zoo_2", free=True),  # decision tree: a name of gz_jax/trees/, or a TOML file
    "num_epochs": whole(100, 1, free=True),  # at most; early stopping usually ends the training sooner
    "batch_size": whole(128, 1),  # over all devices together
    "learning_rate": real(1e-3, 0, 1e38, ends=False),  # of Adam, at the start
    "weight_decay": real(0.0, 0, 1e38),  # of kernels, multiplied by the learning rate (AdamW)
    # 'mse' is the squared error. The others are minus the logarithm of the likelihood, the probability of the votes
    # that were cast: 'binomial' (each answer alone), 'multinomial' (needs outputs that obey the tree) or 'dirichlet'
    # (needs model.activation=dirichlet). In these a galaxy with more votes has more weight, if the number is known.
    "loss": one_of("mse", "binomial", "multinomial", "dirichlet"),
    # Of the learning rate. 'plateau': lowered when the validation error stops falling; 'cosine': falls to 0 over
    # num_epochs, without early stopping
    "schedule": one_of("plateau", "cosine"),
    "warmup_epochs": real(0.0, 0, 1e9),  # of 'cosine'
    # Keras' ReduceLROnPlateau on the validation MSE
    "plateau.patience": whole(6, 1),  # epochs without an improvement of min_delta, then ...
    "plateau.factor": real(0.5, 0, 1, ends=False),  # ... the rate is multiplied by this
    "plateau.cooldown": whole(0, 0),
    "plateau.min_delta": real(1e-4, 0, 1e38),  # absolute, in MSE
    "plateau.min_rate": real(0.0, 0, 1e38),
    "early_stop_patience": whole(20, 1),  # epochs without a new best validation loss, then stop
    #
    # Kaggle's files, synthetic galaxies (whose true fractions are known), or a table of your own images and labels
    "data.source": one_of("galaxy_zoo", "synthetic", "catalogue"),
    "data.dir": text(free=True),  # where Kaggle's files are: one zip, its inner zips, or extracted
    # For 'catalogue' (gz_jax/data/README.md): the table (CSV, Parquet or FITS), and the folder or zip with its image
    # files; None: they are beside the table
    "data.catalogue": text(free=True),
    "data.images": text(free=True),
    # What the label columns hold: votes for each answer, fractions of those who were asked, fractions of all
    # volunteers, or the name of an answer
    "data.labels": choice("counts", "conditional", "joint", "class"),
    "data.columns": text(""),  # columns whose names differ from those in the tree: 'answer=column, ...'
    "data.suffix": text(""),  # ending of the table's columns of answers after the tree's names, e.g. '_debiased'
    "data.nominal_votes": real(44.0, 1e-3, 1e9),  # number of votes that is assumed where it is not known
    "data.id_column": text("id"),
    "data.file_column": text("file"),
    "data.file_columns": text(""),  # three columns instead, one per band: 'red,green,blue'
    "data.store": text(free=True),  # where the prepared data set goes; None: TFDS' own folder
    "data.seed": whole(0, 0, 2**32 - 1),  # of the split, and of the synthetic galaxies
    "data.validation_fraction": real(0.2, 0, 1, ends=False),  # split by a hash of the GalaxyID and data.seed
    # Or a split into K = `folds` parts, of which part `fold` (0 to K - 1) is for validation, so that each galaxy is
    # held out from one of K networks. --mode=mergers uses all K networks. 0 folds: one split, by the fraction above.
    "data.folds": whole(0, 0, 100),
    "data.fold": whole(0, 0, 99),
    "data.on_bad": one_of("fail", "skip"),  # 'skip': leave broken images and rows out, and list them in skipped.csv
    "data.image_size": whole(424, 1, 7_000),  # side of Kaggle's images in pixels
    # Side of the central square that the network sees, in pixels of the image. None: 204 pixels of Kaggle's images, all
    # of a catalogue's
    "data.crop": whole(None, 1, 7_000),
    "data.share": real(None, 1e-6, 4),  # instead, for 'catalogue': as a part of the image's shorter side ...
    "data.field": real(None, 0, 1e9, ends=False),  # ... or in arcsec, with ...
    "data.pixel_scale": text(),  # ... arcsec per pixel: a number, or a column of the catalogue
    "data.size": whole(68, 1, 7_000),  # side to which the square is resized for the network, in pixels
    # How FITS data become a picture (for 'catalogue'; several values with commas between)
    "fits.planes": text(""),  # of a cube, shown as red, green, blue: '2,1,0' for g, r, i; '': the first three
    "fits.scales": text(""),  # their factors: '0.85,1,1.4' for fluxes in i, r, g
    "fits.extension": text(""),  # with the image, by name or number ...
    "fits.extensions": text(""),  # ... or three of them: 'red,green,blue'
    "fits.sky": text(""),  # level of the sky, one number or three; '': measured in each image
    "fits.noise": text(""),  # noise of the sky, likewise
    "fits.q": real(6.0, 1e-3, 100),  # of the asinh stretch (Lupton et al. 2004) ...
    "fits.softening": real(25.0, 0, 1e9, ends=False),  # ... in units of the noise
    # 'stream': tf.data decodes and augments while training; 'memory': Pillow decodes once into a memory-mapped file
    # (unaugmented 68 px cutouts of all of Kaggle's training galaxies: 0.9 GB); 'device': the content of that file is
    # kept in the memory of the devices, which also augment it, and TensorFlow is not needed.
    "data.pipeline": one_of("stream", "memory", "device", free=True),
    # With 'device', the number of steps that run per launch; 0: 1 on CPU, 32 elsewhere
    "data.steps_per_dispatch": whole(0, 0, free=True),
    "data.num_galaxies": whole(3_000, 1),  # how many synthetic galaxies
    "data.merger_fraction": real(0.04, 0, 1),  # of the synthetic galaxies
    # Augmentation of the training galaxies; all off in the paper's first two models
    "augment.rotate": one_of(False, True),  # any angle, before downsizing (paper section 4.2)
    "augment.flip": one_of(False, True),
    "augment.zoom": real(1.0, 1, 4),  # log-uniform in 1/zoom..zoom; the memory for it grows with its square
    "augment.shift": real(0.0, 0, 7_000),  # at most this many pixels of the image (synthetic galaxies: of the cutout)
    #
    "model.name": one_of("cnn", "resnet50"),
    "model.activation": one_of("sigmoid", "divisive", "softmax", "dirichlet"),  # all but the first obey the tree
    "model.dtype": one_of("float32", "bfloat16"),  # of the computation; parameters stay float32
    "model.momentum": real(None, 0, 1),  # of batch normalisation; None: 0.99, v1.5 0.9
    "model.variant": one_of("keras", "torchvision"),  # of ResNet50: v1 (the paper's) or v1.5
    "model.hidden": widths(),  # of dense layers before the last one
    "model.dropout": real(0.1, 0, 1),  # after each of them
    "model.pooling": one_of("flatten", "average"),  # 'flatten' is the paper's
    # Weights from which training starts: None, a workdir or a shared network, a weights file or timm's folder of a
    # ResNet50, 'imagenet-keras', 'imagenet-torchvision', or 'hf-hub:owner/name@revision'. They determine the variant.
    # The name may change when a run is continued, because the weights' fingerprint is compared instead.
    "model.pretrained": text(free=True),
    # The pixels that the network sees: 0..1 ('unit'), or normalised as Keras or PyTorch do for ImageNet. None: as for
    # the pretrained weights; without them as the variant's ('unit' for the CNN). Needed if the weights' file does not
    # say it.
    "model.preprocess": choice("unit", "keras", "torch"),
    # Factor of the learning rate, and of the weight decay with it, from each layer to the one below it, from the head
    # down to the first convolution: ResNet50 has 16 blocks and a stem, the CNN three convolutions. 1: the same for all.
    "model.layer_decay": real(1.0, 0.01, 1),
    # For this many epochs, train only the head (dense layers and outputs); such an epoch takes a third of the time. The
    # body's weights are not changed, and Adam starts for them afterwards. Its batch normalisation still uses the
    # statistics of the batches (see frozen_statistics).
    "model.frozen_epochs": whole(0, 0),
    "model.frozen_statistics": one_of(False, True),  # normalise by the body's running statistics in training too
    # Checkpoints of the latest state; the best epoch is always kept
    "checkpoint.every_seconds": real(60.0, 0, float("inf"), free=True),
    "checkpoint.every_steps": whole(0, 0, free=True),  # 0: by time alone
    "tensorboard": one_of(False, True, free=True),  # also write TensorBoard events
}
CROP = 204  # pixels of Kaggle's 424 that are looked at (paper section 3)
OF_CATALOGUE = ("catalogue", "images", "labels", "share", "field", "pixel_scale")
# Fields that have no meaning for the CNN: they must have their defaults.
OF_RESNET50 = ("hidden", "dropout", "pooling", "variant", "frozen_statistics")


def default() -> ConfigDict:
    """A config with every field at its default: what the paper's models have in common."""
    empty = {name: config_dict.placeholder(f.kind) if f.default is None else f.default for name, f in FIELDS.items()}
    return nested(empty)


def nested(flat: Mapping[str, Any]) -> ConfigDict:
    """A config from its fields by dotted name. Raises ValueError: a name is both a field and a group of fields."""
    config: dict[str, Any] = {}
    for name, value in flat.items():
        *groups, last = name.split(".")
        node = config
        for group in groups:
            node = node.setdefault(group, {})
            if not isinstance(node, dict):
                raise ValueError(f"{group} is a field and a group of fields")
        node[last] = value
    return ConfigDict(config)


def flatten(config: ConfigDict | dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Fields by dotted name, JSON-ready."""
    flat = {}
    for name, value in sorted(config.items(), key=str):  # a name from the command line may be a number
        if isinstance(value, ConfigDict | dict):
            flat.update(flatten(value, f"{prefix}{name}."))
        else:
            flat[f"{prefix}{name}"] = list(value) if isinstance(value, tuple) else value
    return flat


def names(text: str) -> list[str]:
    """The names in the value of a field, with commas between."""
    return [name.strip() for name in text.split(",") if name.strip()]


def check(config: ConfigDict) -> None:
    """Check that a config has every field, that each value is allowed, and that the values fit together.

    Raises:
      UserError: names the field, its value and what it may be.
    """
    flat = flatten(config)
    for name, field in FIELDS.items():
        if name not in flat:
            raise UserError(f"the config has no field {name}; gz_jax/fields.py lists them all.")
        if not field.fits(flat[name]):
            raise UserError(f"--config.{name}={flat[name]!r} must be {field.wanted}.")
    d = config.data
    if d.folds == 1 or d.fold >= max(d.folds, 1):
        raise UserError(
            f"--config.data.fold={d.fold} of --config.data.folds={d.folds}: take 2 folds or more, and one from 0 to "
            "folds - 1; 0 folds are one split by --config.data.validation_fraction."
        )
    if d.source == "catalogue":
        _check_catalogue(d)
    elif d.source == "galaxy_zoo" and (given := [name for name in OF_CATALOGUE if d[name] is not None]):
        raise UserError(f"--config.data.{given[0]} is for --config.data.source=catalogue; this is {d.source!r}.")
    elif (crop := d.crop or CROP) > d.image_size:
        raise UserError(
            f"--config.data.crop={crop} is more than the images' side, --config.data.image_size={d.image_size}."
        )
    if config.model.name == "cnn":
        for name in OF_RESNET50:
            value = config.model[name]
            if (tuple(value) if name == "hidden" else value) != FIELDS[f"model.{name}"].default:
                raise UserError(f"--config.model.{name} is for --config.model.name=resnet50 alone.")
        if config.data.size < 30:
            raise UserError(
                f"the CNN needs images of 30 x 30 pixels or more, not --config.data.size={config.data.size}."
            )
    if (config.loss == "dirichlet") != (config.model.activation == "dirichlet"):
        raise UserError("--config.loss=dirichlet and --config.model.activation=dirichlet belong together: set both.")
    if config.loss == "multinomial" and config.model.activation == "sigmoid":
        raise UserError(
            "--config.loss=multinomial needs outputs that obey the tree: --config.model.activation=softmax or divisive."
        )


def _check_catalogue(data: ConfigDict) -> None:
    """Check what must be given for a catalogue, before its table is read."""
    if not data.catalogue:
        raise UserError(
            "--config.data.source=catalogue needs --config.data.catalogue=FILE, a table of ids, image files and "
            "labels: CSV, Parquet or FITS. See gz_jax/data/README.md."
        )
    if data.labels is None:
        raise UserError(
            "what do the label columns hold? --config.data.labels=counts (votes for each answer), conditional "
            "(fractions of those who were asked), joint (fractions of all volunteers) or class (an answer's name)."
        )
