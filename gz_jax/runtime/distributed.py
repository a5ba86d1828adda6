"""Run several processes together: connect them, decide together, end together. With one process all this is trivial.

JAX connects the processes (`jax.distributed`) and splits arrays over all devices. This module lets them decide together
when to save or stop, and lets them end with one clear line if one of them dies.
"""

import contextlib
import functools
import itertools
import os
import re
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from gz_jax.runtime import last_words
from gz_jax.runtime.errors import UserError, first_line

MEETING_SECONDS = 300  # how long a process waits for all others at the start
HEARTBEAT_SECONDS = 60  # a process without a heartbeat for so long counts as dead, and the others end
VOTE_SECONDS = 1.0  # about how often the processes exchange whether to stop or save
EXIT_LOST = 69  # EX_UNAVAILABLE: another process has ended

# XLA's errors when another process has ended: a status code, then one of the texts in _LOST. Gloo's are from XLA's
# backends/cpu/collectives ("[enforce fail" is an error of this process itself), NCCL's from ncclGetErrorString for
# ncclRemoteError and ncclSystemError, and the last two from the service through which the processes connect.
_STATUS = re.compile("(UNKNOWN|INTERNAL|UNAVAILABLE|ABORTED|CANCELLED|DEADLINE_EXCEEDED|FAILED_PRECONDITION): ")
_LOST = re.compile(
    r"\bGloo [\w -]+ (failed|timed out): (?!\[enforce fail)"
    r"|\bNCCL operation .* failed: (remote process exited or there was a network error|unhandled system error)"
    r"|\[type\.googleapis\.com/tensorflow\.CoordinationServiceError="
    r"|/xla\.coordination\.CoordinationService/"
)


def arguments(method: str, coordinator: str | None, num_processes: int | None, process_id: int | None) -> dict | None:
    """Arguments for `jax.distributed.initialize`; None for a run in one process, which does not call it.

    Args:
      method: 'off', or 'auto' to detect the cluster (SLURM, Open MPI, Kubernetes, TPU).
      coordinator, num_processes, process_id: 'host:port' of process 0, the number of processes, and the number of this
        one, from 0.

    Raises:
      UserError: some of the three are missing or invalid; or 'auto' in a SLURM allocation but not under srun, where JAX
        would wait for processes that are never started.
    """
    given = {"--coordinator": coordinator, "--num_processes": num_processes, "--process_id": process_id}
    missing = [name for name, value in given.items() if value is None]
    if len(missing) < len(given):
        if coordinator is None or num_processes is None or process_id is None or method != "off":
            wrong = f"{', '.join(missing)} is missing" if missing else "--distributed=auto finds them by itself"
            raise UserError(f"--coordinator, --num_processes and --process_id belong together: {wrong}.")
        if not re.fullmatch(r".+:\d+", coordinator) or not 0 < int(coordinator.rpartition(":")[2]) < 2**16:
            raise UserError(f"--coordinator={coordinator} must be process 0's host:port, e.g. node1:9876.")
        if not 0 <= process_id < num_processes:
            raise UserError(f"--process_id={process_id} must be one of 0 to {num_processes - 1} (--num_processes - 1).")
        return {
            "coordinator_address": coordinator,
            "num_processes": num_processes,
            "process_id": process_id,
            "cluster_detection_method": "deactivate",
        }
    if method == "off":
        return None
    slurm = "SLURM_JOB_ID" in os.environ and "OMPI_COMM_WORLD_SIZE" not in os.environ
    if slurm and os.environ.get("SLURM_STEP_NUM_TASKS") != os.environ.get("SLURM_NTASKS", ""):
        raise UserError("--distributed=auto: this is a SLURM allocation, but not one of its tasks: start it with srun.")
    return {}


@contextlib.contextmanager
def session(initialize: dict[str, Any] | None) -> Iterator[None]:
    """Run a block in all processes together; if `initialize` (see `arguments`) is None, only in this process.

    Only process 0 prints to stdout. If the block raises in a process, that process prints why and exits at once: the
    others cannot continue without it, and it cannot wait for them.
    """
    if initialize is None:
        yield
        return
    try:
        _start(initialize)
        yield
        sys.stdout.flush()
        jax.distributed.shutdown()  # waits until process 0 has written its report
    except BaseException as error:
        _leave(error)


def _start(initialize: dict[str, Any]) -> None:
    _divert_native_stderr()
    jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM from the training loop
    try:
        jax.distributed.initialize(
            **initialize,
            initialization_timeout=MEETING_SECONDS,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=24 * 3600,
        )
        devices, processes = jax.device_count(), jax.process_count()
    except Exception as error:  # ValueError, KeyError or RuntimeError, by what the detected cluster lacks
        raise UserError(
            f"the processes cannot connect ({_first_line(error)}). Outside SLURM, Open MPI, Kubernetes and TPU pods, "
            "set --coordinator=host:port, --num_processes and --process_id."
        ) from error
    if devices != processes * jax.local_device_count():
        raise UserError(
            f"{devices} devices in {processes} processes, {jax.local_device_count()} of them here: every process must "
            "have the same number of devices."
        )
    if jax.process_index():
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the file descriptor, since Gloo prints too
    gather(0)  # Gloo connects at the first collective operation; it fails if a process is half a minute late


def _divert_native_stderr() -> None:
    """Send what C++ code writes to stderr through `last_words`; Python still writes to stderr directly."""
    sys.stderr.flush()
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, errors="backslashreplace")
    # A new program and not a fork, since JAX may have started threads already.
    read_end, write_end = os.pipe()
    reader = subprocess.Popen([sys.executable, "-S", last_words.__file__], stdin=read_end, stdout=sys.stderr)
    os.dup2(write_end, 2)
    os.close(read_end)
    os.close(write_end)
    reader.returncode = 0  # it outlives this process, and is not waited for


def _leave(error: BaseException) -> None:
    where = f"process {jax.process_index()}: " if jax.distributed.is_initialized() else ""
    text, code = "", 1
    if isinstance(error, UserError):
        text, code = f"error: {where}{error}", 2
    elif isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else 1
    elif lost_another(error):
        seen = f"{type(error).__name__}: {_first_line(error)}"
        text, code = f"error: {last_words.LOST} ({where}{seen})", EXIT_LOST
    else:
        text = "".join(traceback.format_exception(error)).rstrip()
    if text:
        os.write(2, last_words.own(text))
    sys.stdout.flush()
    os._exit(code)


def lost_another(error: BaseException) -> bool:
    """Whether JAX raised this error because another process has ended, not because of an error in this one.

    JAX raises JaxRuntimeError, but a plain ValueError where a result is converted to a NumPy array (JAX 0.10 to 0.12).
    Both texts begin with XLA's status code.
    """
    of_jax = isinstance(error, jax.errors.JaxRuntimeError) or type(error) is ValueError
    return of_jax and bool(_STATUS.match(str(error)) and _LOST.search(str(error)))


def _first_line(error: BaseException) -> str:
    """The first line of the error's text. Parts that XLA repeats, once for each running step, are kept once."""
    return ": ".join(part for part, _ in itertools.groupby(first_line(error).split(": ")))[:500]


@functools.cache
def _gatherer() -> tuple[jax.sharding.NamedSharding, Any]:
    # Over all devices, as in training: another group of devices would need new connections.
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("all",))
    split, whole = (jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes)) for axes in (("all",), ()))
    return split, jax.jit(lambda x: x, out_shardings=whole)


def gather(*values: int) -> np.ndarray:
    """The values of every process, int32 [processes, len(values)]. Waits for all processes."""
    said = np.asarray([values], np.int32)
    if jax.process_count() == 1:
        return said
    split, identity = _gatherer()
    mine = jax.make_array_from_process_local_data(split, np.repeat(said, jax.local_device_count(), 0))
    by_process = np.argsort([device.process_index for device in jax.devices()], kind="stable")
    return np.asarray(identity(mine))[by_process[:: jax.local_device_count()]]


@contextlib.contextmanager
def lead_first(needed: bool = True) -> Iterator[None]:
    """Run the block in process 0 first, then in all the others; if this is not `needed`, in all at once.

    On CPUs the others wait for half an hour at most (Gloo's limit).
    """
    if needed and jax.process_index():
        gather(0)
    yield
    if needed and not jax.process_index():
        gather(0)


class Votes:
    """Decisions that all processes take at the same step.

    They vote about once in VOTE_SECONDS, because each vote waits until the devices have finished.
    """

    def __init__(self) -> None:
        self.next_step, self.last_step, self.last_time = 0, 0, time.monotonic()

    def __call__(self, step: int, stop: bool, save: bool, *, after: jax.Array, now: bool = False) -> tuple[bool, bool]:
        """(whether any process wants to stop, whether process 0 wants to save), the same in all processes.

        Between two votes both are False.

        Args:
          step: the run's step, the same in all processes; stop, save: whether this process wants to.
          after: the latest result that the devices compute; a vote waits for it. now: vote at this step in any case.
        """
        if jax.process_count() == 1:
            return stop, save
        if step < self.next_step and not now:
            return False, False
        seconds = time.monotonic() - self.last_time
        pace = int((step - self.last_step) / max(seconds, 1e-3) * VOTE_SECONDS)
        after.block_until_ready()
        said = gather(stop, save, min(max(pace, 1), 1000))
        self.next_step, self.last_step, self.last_time = step + int(said[0, 2]), step, time.monotonic()
        return bool(said[:, 0].any()), bool(said[0, 1])
