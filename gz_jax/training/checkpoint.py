"""Checkpoints on disk, through orbax: `latest` to continue from, `best` to predict with.

A checkpoint is a pytree of arrays and a JSON of plain numbers (`Progress`). Writing is asynchronous, to a temporary
name that is renamed when whole, so a killed process leaves the previous checkpoint as it was. Of several processes,
which all hold the same state, process 0 writes and every one reads for itself: no number of processes is remembered.
"""

import dataclasses
import logging
import pathlib
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from gz_jax.errors import UserError
from gz_jax.training.schedule import EarlyStop, Plateau
from gz_jax.training.state import PyTree, TrainState

Row = dict[str, float]


@dataclasses.dataclass(frozen=True)
class Progress:
    """Where a run stands, beside the arrays: exact in JSON.

    `epoch` (0-based) is under way with `step_in_epoch` steps done; `history` has a row for each finished epoch;
    `seconds` is what this epoch took so far, over all the processes that worked on it.
    """

    epoch: int
    step_in_epoch: int
    plateau: Plateau
    early_stop: EarlyStop
    history: tuple[Row, ...] = ()
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        return {
            **dataclasses.asdict(self),
            "plateau": self.plateau._asdict(),
            "early_stop": self.early_stop._asdict(),
            "history": list(self.history),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Progress":
        return cls(
            **{
                **data,
                "plateau": Plateau(**data["plateau"]),
                "early_stop": EarlyStop(**data["early_stop"]),
                "history": tuple(data["history"]),
            }
        )


def open_manager(directory: pathlib.Path, keep: int, *, read_only: bool = False) -> ocp.CheckpointManager:
    """Orbax's manager of one folder that keeps the newest `keep` checkpoints."""
    logging.getLogger("absl").setLevel(logging.ERROR)  # orbax warns of what was asked for
    me = jax.process_index()
    options = ocp.CheckpointManagerOptions(
        max_to_keep=keep,
        create=False,
        read_only=read_only,
        enable_async_checkpointing=True,
        multiprocessing_options=ocp.options.MultiprocessingOptions(primary_host=me, active_processes={me}),
    )
    if not read_only:
        directory.mkdir(parents=True, exist_ok=True)
    return ocp.CheckpointManager(directory.absolute(), options=options)


def save(manager: ocp.CheckpointManager, step: int, tree: PyTree, info: dict[str, Any]) -> None:
    """Begin to write checkpoint `step` of a replicated tree; one of that step that exists already is replaced."""
    if step in manager.all_steps():
        manager.wait_until_finished()
        manager.delete(step)
    # As NumPy: for jax.Array orbax expects every process to take part. A copy: the next step donates the arrays.
    tree = jax.tree.map(lambda x: np.array(x.addressable_data(0)), tree)
    manager.save(
        step,
        args=ocp.args.Composite(tree=ocp.args.StandardSave(tree), info=ocp.args.JsonSave(info)),
        force=True,
    )


def load(manager: ocp.CheckpointManager, like: PyTree | None) -> tuple[int, PyTree, dict[str, Any]] | None:
    """The newest checkpoint that can be read: (step, tree, info), or None where there is none.

    Args:
      like: arrays, or shapes with shardings, that the tree must match; None restores NumPy arrays as they were saved.

    Raises:
      UserError: there are checkpoints, and none can be read.
    """
    failures = []
    for step in sorted(manager.all_steps(), reverse=True):
        try:
            tree_args = ocp.args.StandardRestore(None if like is None else jax.tree.map(_abstract, like))
            restored = manager.restore(step, args=ocp.args.Composite(tree=tree_args, info=ocp.args.JsonRestore()))
            return step, restored["tree"], restored["info"]
        except Exception as error:  # orbax, tensorstore and OS errors share no base class
            failures.append(f"step {step}: {str(error).splitlines()[0] if str(error) else type(error).__name__}")
            logging.warning("checkpoint %s in %s cannot be read; trying the one before", step, manager.directory)
    if failures:
        raise UserError(
            f"none of the checkpoints in {manager.directory} can be read ({'; '.join(failures)}). "
            "Move that folder away to start again, or restore it from a backup."
        )
    return None


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None))


def best_tree(state: TrainState) -> PyTree:
    """What the best checkpoint holds: enough to predict with, not the optimiser."""
    return {"params": state.params, "batch_stats": state.batch_stats}
