"""Checkpoints on disk, through orbax: `latest` to continue from, `best` to predict with.

A checkpoint is a pytree of arrays and a JSON of plain numbers (`Progress`). Writing is asynchronous, to a temporary
name that is renamed when the checkpoint is complete, so a killed process leaves the previous checkpoint unchanged.
Tensorstore keeps no checksum of the arrays' bytes, so the JSON has one. Several processes all hold the same state:
process 0 writes it, and each process reads it. The number of processes is not stored.
"""

import contextlib
import errno
import gc
import hashlib
import json
import logging
import os
import pathlib
import shutil
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from gz_jax.runtime.errors import UserError, first_line
from gz_jax.training.schedule import EarlyStop, Plateau
from gz_jax.training.state import PyTree

Row = dict[str, float]


class Progress(NamedTuple):
    """Progress of a run, stored beside the arrays; exact in JSON.

    `step_in_epoch` steps of the current `epoch` (0-based) are done; `history` has a row for each finished epoch;
    `seconds` is the time that this epoch took so far, including that before interruptions.
    """

    epoch: int
    step_in_epoch: int
    plateau: Plateau
    early_stop: EarlyStop
    history: tuple[Row, ...] = ()
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        return self._asdict() | {"plateau": self.plateau._asdict(), "early_stop": self.early_stop._asdict()}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Progress":
        states = {"plateau": Plateau(**data["plateau"]), "early_stop": EarlyStop(**data["early_stop"])}
        return cls(**{**data, **states, "history": tuple(data["history"])})


def open_manager(directory: pathlib.Path, keep: int, *, read_only: bool = False) -> ocp.CheckpointManager:
    """Orbax's manager of one folder that keeps the newest `keep` checkpoints."""
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # orbax prints warnings, and tracebacks of its errors
    me = jax.process_index()
    options = ocp.CheckpointManagerOptions(
        max_to_keep=keep,
        create=False,
        read_only=read_only,
        cleanup_tmp_directories=not read_only,  # left by killed processes
        enable_async_checkpointing=True,
        multiprocessing_options=ocp.options.MultiprocessingOptions(primary_host=me, active_processes={me}),
    )
    with contextlib.nullcontext() if read_only else _writing(directory):
        if not read_only:
            directory.mkdir(parents=True, exist_ok=True)
        return ocp.CheckpointManager(directory.absolute(), options=options)


def save(manager: ocp.CheckpointManager, step: int, tree: PyTree, info: dict[str, Any]) -> None:
    """Begin to write checkpoint `step` of a replicated tree; an existing one of that step is replaced.

    Raises:
      UserError: this checkpoint, or the previous one, could not be written.
    """
    # NumPy, since for jax.Array orbax expects every process to take part; copies, since the next step donates arrays.
    tree = jax.tree.map(lambda x: np.array(x.addressable_data(0) if isinstance(x, jax.Array) else x), tree)
    saved = {"info": info, "sha256": digest(tree, info)}
    with _writing(manager.directory):
        free, needed = shutil.disk_usage(manager.directory).free, sum(x.nbytes for x in jax.tree.leaves(tree))
        if free < needed:  # orbax's threads would fill the screen with errors
            raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}: {free:,} of {needed:,} bytes")
        if step in manager.all_steps():
            manager.wait_until_finished()
            manager.delete(step)
        manager.save(
            step,
            args=ocp.args.Composite(tree=ocp.args.StandardSave(tree), info=ocp.args.JsonSave(saved)),
            force=True,
        )


def discard(manager: ocp.CheckpointManager, step: int | None) -> None:
    """Wait until all is on disk, and delete checkpoint `step` if there is one. Raises UserError: see `save`."""
    with _writing(manager.directory):
        manager.wait_until_finished()
        if step in manager.all_steps():
            manager.delete(step)


def newest(workdir: pathlib.Path) -> pathlib.Path | None:
    """A workdir's newest complete checkpoint, from `latest` if it has one, else from `best`; None if there is none."""
    for which in ("latest", "best"):
        found = [path for path in (workdir / "checkpoints" / which).glob("*") if path.name.isdecimal()]
        if found:
            return max(found, key=lambda path: int(path.name))
    return None


def close(manager: ocp.CheckpointManager) -> None:
    """Wait until all is on disk. Raises UserError: see `save`."""
    with _writing(manager.directory):
        manager.wait_until_finished()
        manager.close()


@contextlib.contextmanager
def _writing(directory: Any) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # orbax, tensorstore and OS errors share no base class
        raise UserError(
            f"cannot write a checkpoint to {directory} ({first_line(error)[:300]}). The earlier ones are "
            "complete: make room, then start the same command again to continue from the last of them."
        ) from error


def digest(tree: PyTree, info: dict[str, Any]) -> str:
    """SHA-256 of a tree of arrays and of plain values beside it. The kinds of the tree's containers do not matter."""
    parts = [json.dumps(info, sort_keys=True).encode()]
    for array in map(np.asarray, jax.tree.leaves(tree)):
        head = hashlib.sha256(f"{array.dtype} {array.shape}".encode())
        head.update(np.ascontiguousarray(array).tobytes())
        parts.append(head.digest())
    return hashlib.sha256(b"".join(sorted(parts))).hexdigest()


def load(manager: ocp.CheckpointManager, like: PyTree | None) -> tuple[int, PyTree, dict[str, Any]] | None:
    """The newest checkpoint that can be read: (step, tree, info), or None where there is none.

    Args:
      like: arrays, or shapes with shardings, that the tree must match; None restores NumPy arrays as they were saved.

    Raises:
      UserError: there are checkpoints, and none can be read.
    """

    def abstract(leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None))

    failures = []
    target = ocp.args.StandardRestore(None if like is None else jax.tree.map(abstract, like))
    for step in sorted(manager.all_steps(), reverse=True):
        with _hushed():
            try:
                restored = manager.restore(step, args=ocp.args.Composite(tree=target, info=ocp.args.JsonRestore()))
                tree, saved = restored["tree"], restored["info"]
                if saved["sha256"] != digest(tree, saved["info"]):
                    raise ValueError("its content does not match its checksum")
                return step, tree, saved["info"]
            except Exception as error:
                failures.append(f"step {step}: {first_line(error)[:300]}")
                logging.warning("checkpoint %s cannot be read; trying the one before", manager.directory / str(step))
    if failures:
        raise UserError(
            f"none of the checkpoints in {manager.directory} can be read ({'; '.join(failures)}). "
            "Move that folder away to start again, or restore it from a backup."
        )
    return None


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
    """Print no tracebacks of a failed read: orbax leaves coroutines behind, and each would print one when collected."""
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    logger = logging.getLogger("asyncio")
    disabled, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        gc.collect()
        sys.unraisablehook, logger.disabled = hook, disabled
