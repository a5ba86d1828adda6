"""Checkpoints on disk, through orbax: `latest` to continue from, `best` to predict with.

A checkpoint is a pytree of arrays and a JSON of plain numbers (`Progress`). Writing is asynchronous, to a temporary
name that is renamed when whole, so a killed process leaves the previous checkpoint as it was.
"""

import dataclasses
import logging
import pathlib
from typing import Any

import jax
import orbax.checkpoint as ocp

from gz_jax.errors import UserError
from gz_jax.training.schedule import EarlyStop, Plateau
from gz_jax.training.state import PyTree

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
    options = ocp.CheckpointManagerOptions(
        max_to_keep=keep, create=not read_only, read_only=read_only, enable_async_checkpointing=True
    )
    return ocp.CheckpointManager(directory.absolute(), options=options)


def save(manager: ocp.CheckpointManager, step: int, tree: PyTree, info: dict[str, Any]) -> None:
    """Begin to write checkpoint `step`; one of that step that exists already is replaced."""
    if step in manager.all_steps():
        manager.wait_until_finished()
        manager.delete(step)
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
