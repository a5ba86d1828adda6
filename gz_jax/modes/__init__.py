"""What each `--mode` of the command does. These modules read configs and workdirs, write files and print."""

import os
import pathlib
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from gz_jax.runtime import files, memory
from gz_jax.runtime.errors import UserError


def run(mode: str, config: ConfigDict | None, workdir: str | None, arguments: Sequence[str], flags: Any) -> int:
    """Carry out one command; returns the exit status.

    Args:
      config: the config with the fields that flags have set, or None.
      workdir: the folder that was given, or named after the config, or None.
      arguments: those that are not flags (the workdirs of 'compare'); flags: the other flags as attributes.

    Raises:
      UserError: something that the mode needs is missing, or there is any other mistake of the user.
    """
    workdir, arguments = workdir and files.with_home(workdir), list(map(files.with_home, arguments))
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if mode != "train":  # training does this later, after it has prepared its data
        memory.keep_freed_memory()
    from gz_jax.runtime import compilation_cache

    compilation_cache.enable()
    if arguments and mode != "compare":
        raise UserError(f"unknown argument {arguments[0]!r}: every flag begins with --; see --help.")
    from gz_jax.runtime import distributed

    asked = distributed.arguments(flags.distributed, flags.coordinator, flags.num_processes, flags.process_id)
    with distributed.session(asked):
        try:
            return _run(mode, config, workdir, arguments, flags)
        except OSError as error:
            if error.errno is None:
                raise
            raise UserError(
                f"{error}. Files that were written before are complete: solve this, then run the same command again."
            ) from error
        except (MemoryError, RuntimeError, ValueError) as error:
            found = memory.exhausted(error)
            if found is None:
                raise
            raise UserError(f"not enough memory ({found}). {_less_memory(mode, config, workdir or '')}") from error


def _less_memory(mode: str, config: ConfigDict | None, workdir: str) -> str:
    """What to do if a mode ran out of memory."""
    import jax

    from gz_jax.training import workdir as workdirs

    advice = "Stop other programs that use this memory, or use a machine with more."
    if config is not None and mode == "train" and workdirs.is_claimed(pathlib.Path(workdir)):
        advice = (
            f"The run in {workdir} keeps its batch size, {config.batch_size}. Continue it on more devices or where "
            "there is more memory, or start another with a smaller --config.batch_size in a new --workdir."
        )
    elif config is not None and mode in ("train", "benchmark"):
        advice = f"Choose a smaller batch: --config.batch_size={config.batch_size} is too large here."
    elif mode == "evaluate":
        batch_size = workdirs.read(workdir).config.batch_size
        advice = f"Galaxies are evaluated {batch_size} at a time, as they were trained. {advice}"
    if config is not None and config.data.pipeline == "device":
        advice += " With --config.data.pipeline=stream the galaxies are not kept in the device's memory."
    if jax.default_backend() == "gpu":
        advice += " XLA_CLIENT_MEM_FRACTION=0.95 lets JAX use more of the GPU's memory than its usual 0.75."
    return advice


def _run(mode: str, config: ConfigDict | None, workdir: str | None, arguments: Sequence[str], flags: Any) -> int:
    if mode in ("train", "explore", "benchmark") and config is None:
        raise UserError(f"which config? For example: --mode={mode} --config=demo (--help explains all modes)")
    if mode in ("evaluate", "predict", "mergers", "export") and workdir is None:
        raise UserError(f"which run? --mode={mode} needs --workdir of a trained network, e.g. --workdir=runs/demo")
    if mode not in ("predict", "similar", "export") and str(workdir).startswith("hf-hub:"):
        raise UserError(
            f"--mode={mode} writes into its workdir: make a folder of {workdir} first, "
            f"--mode=export --workdir={workdir} --output=FOLDER"
        )
    if mode == "train":
        from gz_jax.modes.training import train

        return train(config, str(workdir))
    if mode == "benchmark":
        from gz_jax.modes.benchmark import benchmark

        outdir, sizes = flags.output or f"{workdir}/benchmark", flags.batch_sizes
        return benchmark(config, outdir, peers=flags.peers, repeats=flags.repeats, batch_sizes=sizes)
    if mode == "export":
        from gz_jax.modes.export import export

        return export(str(workdir), flags)
    if mode == "similar":
        from gz_jax.modes.similar import similar

        return similar(workdir, flags)
    if mode in ("predict", "mergers"):
        from gz_jax.modes import science

        return (science.predict if mode == "predict" else science.mergers)(str(workdir), flags)
    from gz_jax.modes import reports

    if mode == "compare":
        return reports.compare_mode(arguments, flags.output or "runs/comparison")
    if mode == "explore":
        return reports.explore_mode(config, str(workdir))
    data_dir = flags.data_dir or (config and config.data.dir)
    where = {"data_dir": data_dir, "images": flags.images}
    return reports.evaluate_mode(str(workdir), **where, views=flags.views, other_data=flags.other_data)
