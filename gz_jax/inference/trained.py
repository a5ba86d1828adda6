"""A finished (or running) workdir, or a shared network, as a function from images to vote fractions."""

import functools
import os
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from gz_jax import fields, labels, resolve
from gz_jax.data import augment, look
from gz_jax.data.augment import View
from gz_jax.data.sight import Sight
from gz_jax.inference import shared
from gz_jax.inference.conformal import Calibration, Levels
from gz_jax.inference.shared import Network
from gz_jax.labels import Tree
from gz_jax.models import folding, pretrained
from gz_jax.runtime.errors import UserError
from gz_jax.training import checkpoint, state
from gz_jax.training import workdir as workdirs

# Fields of a config that decide, with the parameters and `Trained.sight`, what a network computes from an image.
COMPUTES = (
    "data.size",
    "model.activation",
    "model.dtype",
    "model.hidden",
    "model.name",
    "model.pooling",
    "model.preprocess",
    "model.variant",
)


class Trained(NamedTuple):
    """A network at its best epoch.

    Attributes:
      predict: a function of uint8 [b, S, S, 3], or [b, 2, S, S, 3] if `turned`, that returns float32
        [views, b, answers]. The first test-time view is the image as it is. b is any multiple of the number of devices;
        the function is compiled once for each b. With `once=True` no kernels are transformed for it (see `folding`),
        which takes up to 0.6 s and makes later batches faster.
      config: what it was trained with; tree: the decision tree that it answers.
      view: the pixels that are cut out for it in evaluation (S is `view.size`); sight: the square that it saw in
        training, and the settings of FITS; views: the number of test-time views over which it is averaged.
      workdir, run, step, info: the folder it was loaded from, the name of its run, the step of its checkpoint, and that
        epoch's row of the log.
      weights: fingerprint, 16 hex digits, of the parameters, the tree, `sight` and the config fields in `COMPUTES`.
      data: fingerprint of the galaxies it was trained on (`split.Dataset.fingerprint`).
      embed: like `predict`, but also returns the features after pooling (the module's `embed`), float32
        [views, b, width], and the concentrations of Dirichlet outputs, float32 [views, b, answers], which mean nothing
        for other networks.
      calibration: of a shared network's intervals (see `conformal`); None if it has none.
    """

    predict: Callable[..., np.ndarray]
    config: ConfigDict
    tree: Tree
    view: View
    sight: Sight
    views: int
    workdir: pathlib.Path
    run: str
    step: int
    info: dict[str, Any]
    weights: str
    data: str
    embed: Callable[..., tuple[np.ndarray, np.ndarray, np.ndarray]]
    calibration: Calibration | Levels | None = None

    @property
    def turned(self) -> bool:
        """Whether `predict` takes each image twice: as it is, and turned by 45 degrees (see `look.cutouts`)."""
        return self.views == 16

    @property
    def identity(self) -> dict[str, Any]:
        """Identifier of the network and its test-time views, stored in tables (see `manifest.same_networks`)."""
        return {
            "run": self.run,
            "epoch": shared.epoch_of(self.info),
            "validation_mse": self.info["val_loss"],
            "weights": self.weights,
            "views": self.views,
        }


def load(workdir: str | os.PathLike[str], *, views: int = 1) -> Trained:
    """The best epoch of a workdir, or a shared network: its folder, or 'hf-hub:owner/name@revision'.

    Args:
      views: 1, the image as it is; 8, the symmetries of the square; 16, these for the image and for the image turned by
        45 degrees, which is cut from the larger picture.

    Raises:
      UserError: another number of views; see `network_of`, `pretrained.local`.
    """
    if views not in (1, 8, 16):
        raise UserError(f"test-time views must be 1, 8 or 16, not {views}")
    workdir = pretrained.local(os.fspath(workdir))
    network = network_of(workdir)
    record, config = network.record, network.record.config
    sight, weights = resolve.seen(config), fingerprint(network)
    parts = resolve.parts(config, record.tree)
    mesh = state.make_mesh(jax.local_devices())
    whole = state.replicated(mesh)
    module, variables = folding.fold(parts.module, network.variables)
    variables = jax.device_put(variables, whole)
    activate = functools.partial(labels.activate, activation=config.model.activation, tree=record.tree)

    @functools.cache
    def transformed() -> Any:  # not for a few small images: it takes time and memory
        return folding.transformed(module, variables, config.data.size)

    def fractions(variables: Any, images: jax.Array) -> jax.Array:
        return activate(module.apply(variables, images))

    def embedding(variables: Any, images: jax.Array) -> tuple[jax.Array, ...]:
        logits, features = module.apply(variables, images, method="embed")
        return activate(logits), features, jnp.exp(labels.log_concentrations(logits))

    by_galaxy = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(None, "data"))

    def compiled(one: Callable[..., Any]) -> Callable[..., Any]:
        def of_views(variables: Any, shown: jax.Array) -> Any:
            each = functools.partial(one, variables)
            return jax.lax.map(each, shown) if views > 1 else jax.tree.map(lambda x: x[None], each(shown[0]))

        return jax.jit(of_views, in_shardings=(whole, by_galaxy), out_shardings=by_galaxy)

    def run(jitted: Callable[..., Any], images: np.ndarray, *, once: bool = False) -> Any:
        if images.ndim != (5 if views == 16 else 4):
            raise ValueError(f"images {list(images.shape)} have the wrong shape for {views} views")
        shown = np.moveaxis(images, 1, 0) if views == 16 else images[None]
        if views > 1:
            shown = np.stack([view for image in shown for view in look.symmetries(image)])
        ready = transformed() if folding.pays(shown.shape[1:]) and not once else variables
        return jax.tree.map(np.asarray, jitted(ready, shown))

    return Trained(
        predict=functools.partial(run, compiled(fractions)),
        config=config,
        tree=record.tree,
        view=augment.unaugmented(parts.view),
        sight=sight,
        views=views,
        workdir=workdir,
        run=network.run,
        step=network.step,
        info=network.info,
        weights=weights,
        data=record.data,
        embed=functools.partial(run, compiled(embedding)),
        calibration=network.calibration,
    )


def network_of(folder: pathlib.Path) -> Network:
    """The network of a workdir's best checkpoint, or of a shared folder.

    Raises:
      UserError: the folder is neither, has no checkpoint yet, or none that can be read, or has been changed.
    """
    record = workdirs.read(folder)
    if shared.is_shared(folder):
        module = resolve.parts(record.config, record.tree).module
        network = shared.read(folder, record, state.shapes(module, record.config.data.size))
        if (found := fingerprint(network)) != (said := shared.fingerprint_of(folder)):
            raise UserError(f"{folder} has been changed: its fingerprint is {found}, but config.json says {said[:16]}.")
        return network
    directory = folder / "checkpoints" / "best"
    manager = checkpoint.open_manager(directory, keep=1, read_only=True) if directory.is_dir() else None
    if manager is None or (best := checkpoint.load(manager, None)) is None:
        raise UserError(f"{folder} has no best checkpoint yet: its first epoch is not over. Train it first.")
    at, variables, info = best
    return Network(record, variables, at, info, folder.name, {})


def fingerprint(network: Network) -> str:
    """16 hex digits of all that decides what a network computes (see `Trained.weights`)."""
    flat, record = fields.flatten(network.record.config), network.record
    decides = {name: flat[name] for name in COMPUTES} | {"tree": labels.as_dict(record.tree)}
    return checkpoint.digest(network.variables, decides | {"sight": resolve.seen(record.config).values})[:16]
