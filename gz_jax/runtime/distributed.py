"""Several processes as one run: how they meet, agree and part. With one process every function here is trivial.

JAX finds the others (`jax.distributed`), and splits arrays over all devices; what is left is to decide together when to
save or stop, and to leave with one clear line when one of them dies.
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

MEETING_SECONDS = 300  # to wait for all processes at the start
HEARTBEAT_SECONDS = 60  # a process that was not heard of for so long is dead, and the others end
VOTE_SECONDS = 1.0  # about how often the processes ask one another
EXIT_LOST = 69  # EX_UNAVAILABLE: another process has gone

# What XLA says when another process has gone: its status code first, then one of these. Gloo's are of XLA's
# backends/cpu/collectives ("[enforce fail" is this process's own fault), NCCL's the texts that ncclGetErrorString has
# for ncclRemoteError and ncclSystemError, and the last two of the service through which the processes meet.
_STATUS = re.compile("(UNKNOWN|INTERNAL|UNAVAILABLE|ABORTED|CANCELLED|DEADLINE_EXCEEDED|FAILED_PRECONDITION): ")
_LOST = re.compile(
    r"\bGloo [\w -]+ (failed|timed out): (?!\[enforce fail)"
    r"|\bNCCL operation .* failed: (remote process exited or there was a network error|unhandled system error)"
    r"|\[type\.googleapis\.com/tensorflow\.CoordinationServiceError="
    r"|/xla\.coordination\.CoordinationService/"
)


def arguments(method: str, coordinator: str | None, num_processes: int | None, process_id: int | None) -> dict | None:
    """What `jax.distributed.initialize` is to be told; None for a run in one process, which never calls it.

    Args:
      method: 'off', or 'auto' to detect the cluster (SLURM, Open MPI, Kubernetes, TPU).
      coordinator, num_processes, process_id: 'host:port' of process 0, how many, and which this one is.

    Raises:
      UserError: some of the three are missing or make no sense, or 'auto' in a SLURM allocation but not under srun,
        where JAX would wait for processes that nobody starts.
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
    """A block that runs in all processes together; `initialize` None (see `arguments`) changes nothing.

    Process 0 alone prints. A process whose block raises says why and leaves at once, since the others cannot go on
    without it and it cannot wait for them.
    """
    if initialize is None:
        yield
        return
    try:
        _start(initialize)
        yield
        sys.stdout.flush()
        jax.distributed.shutdown()  # waits until process 0 is through with its report
    except BaseException as error:
        _leave(error)


def _start(initialize: dict[str, Any]) -> None:
    _divert_native_stderr()
    jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM away from the training loop
    try:
        jax.distributed.initialize(
            **initialize,
            initialization_timeout=MEETING_SECONDS,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=24 * 3600,
        )
        devices, processes = jax.device_count(), jax.process_count()
    except Exception as error:  # ValueError, KeyError, RuntimeError: whatever a detected cluster lacks
        raise UserError(
            f"the processes cannot meet ({_first_line(error)}). Outside SLURM, Open MPI, Kubernetes and TPU pods give "
            "--coordinator=host:port, --num_processes and --process_id."
        ) from error
    if devices != processes * jax.local_device_count():
        raise UserError(
            f"{devices} devices in {processes} processes, {jax.local_device_count()} of them here: every process must "
            "have the same number."
        )
    if jax.process_index():
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Gloo prints too
    gather(0)  # Gloo connects at the first collective, and gives up if one process comes half a minute late


def _divert_native_stderr() -> None:
    """Let `last_words` read what C++ writes to stderr; Python goes on writing to it itself."""
    sys.stderr.flush()
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, errors="backslashreplace")
    # Not a fork: JAX may have threads already.
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
    """Whether JAX raised this because another process has gone, and not because of what this one did.

    JAX raises JaxRuntimeError, but a plain ValueError where a result is made a NumPy array (0.10 to 0.12), each with
    XLA's status code in front.
    """
    of_jax = isinstance(error, jax.errors.JaxRuntimeError) or type(error) is ValueError
    return of_jax and bool(_STATUS.match(str(error)) and _LOST.search(str(error)))


def _first_line(error: BaseException) -> str:
    """The first line of its text; what XLA repeats in it once for each step under way stands there once."""
    return ": ".join(part for part, _ in itertools.groupby(first_line(error).split(": ")))[:500]


@functools.cache
def _gatherer() -> tuple[jax.sharding.NamedSharding, Any]:
    # Over all devices, as training is: another group of them would be connected anew.
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("all",))
    split, whole = (jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes)) for axes in (("all",), ()))
    return split, jax.jit(lambda x: x, out_shardings=whole)


def gather(*values: int) -> np.ndarray:
    """What every process says: int32 [processes, len(values)]. It waits for all of them."""
    said = np.asarray([values], np.int32)
    if jax.process_count() == 1:
        return said
    split, identity = _gatherer()
    mine = jax.make_array_from_process_local_data(split, np.repeat(said, jax.local_device_count(), 0))
    by_process = np.argsort([device.process_index for device in jax.devices()], kind="stable")
    return np.asarray(identity(mine))[by_process[:: jax.local_device_count()]]


@contextlib.contextmanager
def lead_first(needed: bool = True) -> Iterator[None]:
    """Process 0 carries out the block, then all the others do; together where it is not `needed`.

    Gloo, so CPUs, wait no longer than half an hour.
    """
    if needed and jax.process_index():
        gather(0)
    yield
    if needed and not jax.process_index():
        gather(0)


class Votes:
    """Decisions that all processes take at the same step, about once in VOTE_SECONDS: each vote drains the devices."""

    def __init__(self) -> None:
        self.next_step, self.last_step, self.last_time = 0, 0, time.monotonic()

    def __call__(self, step: int, stop: bool, save: bool, *, after: jax.Array, now: bool = False) -> tuple[bool, bool]:
        """(whether any process wants to stop, whether process 0 wants to save), the same in all of them.

        Args:
          step: of the run, the same in all processes; stop, save: what this process wants.
          after: the last thing under way on the devices, which is waited for; now: do not put the vote off.
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
