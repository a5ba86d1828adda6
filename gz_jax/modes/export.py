"""`--mode=export`: writes a trained network into a folder that other people can use."""

import json
import pathlib
from typing import Any

from gz_jax.inference import card, conformal, onnx_export, shared, tables, trained
from gz_jax.inference.manifest import networks_of, same_networks
from gz_jax.inference.tables import read_validation
from gz_jax.models import hub, pretrained
from gz_jax.models.layers import preprocessing
from gz_jax.runtime.errors import UserError
from gz_jax.runtime.files import atomic

FIGURE, PAGE = "predicted.png", "README.md"


def export(workdir: str, flags: Any) -> int:
    """Write the network of `workdir` into `--output`: weights, config.json, a page about it and, if asked for, ONNX.

    With `--hub=owner/name` these files are then sent to the hub, as one commit.

    Args:
      workdir: folder of a run, whose best epoch is written, or of a shared network (see `trained.load`).

    Raises:
      UserError: there is no such network or format; the folder holds other files or cannot be written; or the files
        cannot be sent.
    """
    if not flags.output:
        raise UserError("--mode=export needs --output, the folder to write.")
    if unknown := sorted(set(flags.formats) - {"onnx"}):
        raise UserError(f"--mode=export --formats={unknown[0]}: the only other format is onnx.")
    if flags.hub:
        hub.check(flags.hub)
    path, folder = pretrained.local(workdir), pathlib.Path(flags.output)
    if folder.exists() and any(folder.iterdir()) and not shared.is_shared(folder):
        raise UserError(f"{folder} holds other files: choose an empty folder, or one with a shared network.")
    network = trained.network_of(path)
    fingerprint = trained.fingerprint(network)
    report = path / "report"
    own = _is_of(report / "validation.parquet", fingerprint)
    if own:
        network = network._replace(
            scores=_scores(report / "metrics.json"), calibration=_calibration(report / "validation.parquet", network)
        )
    config = network.record.config
    made = {
        FIGURE: _figure(report / "validation.parquet", network) if own else _kept(path),
        onnx_export.MODEL: onnx_export.model(network, fingerprint) if flags.formats else b"",
    }
    for name in made:
        (folder / name).unlink(missing_ok=True)  # they may belong to an earlier network
    shared.write(folder, network, fingerprint, preprocessing(config.model, config.data.size))
    figure, onnx = FIGURE if made[FIGURE] else "", bool(made[onnx_export.MODEL])
    made[PAGE] = card.text(network, fingerprint, figure, onnx).encode()
    for name, data in made.items():
        if data:
            with atomic(folder / name, "wb") as file:
                file.write(data)
    print(folder)
    if flags.hub:
        sent = [shared.WEIGHTS, shared.CONFIG, *(name for name, data in made.items() if data)]
        print(hub.send(flags.hub, folder, sent, f"{network.run}, fingerprint {fingerprint}"))
    return 0


def _is_of(table: pathlib.Path, fingerprint: str) -> bool:
    """Whether the table exists and was made by this network."""
    if not table.is_file():
        return False
    return same_networks(networks_of(tables.manifest(table)), [{"weights": fingerprint, "views": 1}])


def _calibration(table: pathlib.Path, network: shared.Network) -> conformal.Calibration | conformal.Levels | None:
    """The calibration of the network's intervals, from its table of validation galaxies."""
    if network.record.config.model.activation == "dirichlet":
        return tables.levels_of(table)
    _, truth, predicted = tables.read_validation(table)
    return conformal.calibrate(truth, predicted, network.record.tree)


def _scores(metrics: pathlib.Path) -> dict[str, Any]:
    """See `shared.scores_of`. Raises UserError: the file cannot be read."""
    try:
        found = json.loads(metrics.read_text(encoding="utf-8"))
        return shared.scores_of(found) if isinstance(found, dict) else {}
    except (OSError, ValueError) as error:
        raise UserError(f"{metrics} cannot be read ({error}): --mode=evaluate writes it again.") from error


def _kept(path: pathlib.Path) -> bytes:
    """The figure of a shared network that is exported again; b'' if there is none."""
    return (path / FIGURE).read_bytes() if shared.is_shared(path) and (path / FIGURE).is_file() else b""


def _figure(table: pathlib.Path, network: shared.Network) -> bytes:
    """Predicted against true vote fractions of the validation galaxies, as PNG."""
    from gz_jax.analysis import evaluate, plots, plots_predictions

    _, truth, predicted = read_validation(table)
    tree = network.record.tree
    sums = evaluate.galaxy_sums(truth, predicted, tree)
    rmse = evaluate.scores({name: values.sum(0) for name, values in sums.items()}, tree)["answer_rmse"]
    return plots.save(plots_predictions.predicted_vs_true(evaluate.density(truth, predicted), rmse, tree), "png")
