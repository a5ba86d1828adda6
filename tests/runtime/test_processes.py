"""Several processes as one run: real ones, on this machine, over Gloo."""

import contextlib
import csv
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile

import catalogue_files
import jax
import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image

from gz_jax.data import synthetic
from gz_jax.runtime import distributed, last_words
from gz_jax.runtime.errors import UserError

ROOT = pathlib.Path(__file__).resolve().parents[2]
TIMES = ("epoch_seconds", "images_per_second")
# 201 training and 49 validation galaxies: both leave a last batch of 12 that is not full, of validation just one.
SMALL = (
    "--config=configs/default.py",
    "--config.data.source=synthetic",
    "--config.model.activation=divisive",
    "--config.model.momentum=0.9",
    "--config.data.num_galaxies=250",
    "--config.data.size=30",
    "--config.batch_size=12",
    "--config.num_epochs=4",
    "--config.learning_rate=0.0001",  # at 0.0003 rounding grows to 1e-4, with several devices in one process too
    "--config.plateau.patience=1",
    "--config.plateau.min_delta=0.02",
    "--config.checkpoint.every_steps=7",
)
CACHE = tempfile.TemporaryDirectory()  # compiled once for all tests of one number of processes
PATIENCE = distributed.HEARTBEAT_SECONDS + 240  # for survivors, in seconds


class Processes:
    """`count` processes of one command; their output as text in `out` and `err` once `wait` has returned."""

    def __init__(self, count, *flags):
        with socket.socket() as free:
            free.bind(("", 0))
            port = free.getsockname()[1]
        own = [] if count == 1 else [f"--coordinator=localhost:{port}", f"--num_processes={count}"]
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "", "JAX_COMPILATION_CACHE_DIR": CACHE.name}
        environment |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.3"}
        self.all = []
        for i in range(count):
            rest = [f"--process_id={i}"] if own else []
            command = [sys.executable, str(ROOT / "launch.py"), *flags, *own, *rest]
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "bufsize": 1}
            self.all.append(subprocess.Popen(command, cwd=ROOT, env=environment, **pipes))

    def until(self, text):
        for line in self.all[0].stdout:
            if text in line:
                return
        pytest.fail(f"{text!r} never came: {self.all[0].stderr.read()}")

    def wait(self, timeout=900):
        """Exit statuses; none is left running. Both pipes are read to their end, which `last_words` may reach last."""
        try:
            said = [p.communicate(timeout=timeout) for p in self.all]
        finally:
            for process in self.all:
                process.kill()
        self.out, self.err = map(list, zip(*said, strict=True))
        return [p.returncode for p in self.all]


@contextlib.contextmanager
def started(*arguments):
    processes = Processes(*arguments)
    try:
        yield processes
    finally:
        for process in processes.all:
            process.kill()
            process.wait()


def launch(count, *flags):
    with started(count, *flags) as processes:
        assert processes.wait() == [0] * count, processes.err
    return processes


def log_rows(workdir):
    with open(workdir / "log.csv") as file:
        return [{k: float(v) for k, v in row.items() if k not in TIMES} for row in csv.DictReader(file)]


def assert_same_log(a, b, epochs=4):
    rows_a, rows_b = log_rows(a), log_rows(b)
    assert len(rows_a) == len(rows_b) == epochs
    for one, other in zip(rows_a, rows_b, strict=True):
        assert one == pytest.approx(other, abs=1e-5, rel=0)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The run in one process."""
    workdir = tmp_path_factory.mktemp("alone") / "run"
    launch(1, *SMALL, f"--workdir={workdir}")
    with open(workdir / "report" / "validation.parquet", "rb") as file:
        assert pyarrow.parquet.read_metadata(file).num_rows % 12 == 1
    rates = {row["learning_rate"] for row in log_rows(workdir)}
    assert len(rates) > 1  # the plateau's rule has something to say in this run
    return workdir


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_several_processes_log_what_one_does(alone, tmp_path, count):
    workdir = tmp_path / "run"
    processes = launch(count, *SMALL, f"--workdir={workdir}")
    assert_same_log(workdir, alone)
    assert "best epoch" in processes.out[0]
    assert processes.out[1:] == [""] * (count - 1)
    assert processes.err[1:] == [""] * (count - 1)
    assert (workdir / "report" / "report.html").exists()


@pytest.mark.slow
def test_a_run_stopped_killed_and_continued_by_other_numbers_of_processes(alone, tmp_path):
    flags = (*SMALL, f"--workdir={tmp_path}/run")
    with started(2, *flags) as two:
        two.until("epoch   1/4")
        two.all[1].send_signal(signal.SIGTERM)  # reaches one process; both save and stop
        assert two.wait(PATIENCE) == [75, 75], two.err
    with started(2, *flags) as two:
        two.until("continuing")
        two.until("epoch   2/4")
        two.all[1].kill()
        assert two.wait(PATIENCE)[0] not in (0, 75)
        assert two.err[0].count(f"error: {last_words.LOST}") == 1
        assert "Traceback" not in two.err[0]
        assert "stack trace" not in two.err[0]
    with started(3, *flags) as three:
        three.until("epoch   3/4")
        three.all[0].kill()  # the one that writes, and that the others talk to
        assert not {0, 75} & set(three.wait(PATIENCE))
        for error in three.err[1:]:
            assert error.startswith(f"error: {last_words.LOST}")
            assert error.count("\n") == 1
    launch(1, *flags)
    assert_same_log(tmp_path / "run", alone)


@pytest.mark.slow
def test_two_processes_prepare_one_store_and_leave_a_broken_image_out(tmp_path):
    files = tmp_path / "files"
    synthetic.write_kaggle_files(files, 60, seed=0, num_test=4, layout="folders")
    broken = sorted((files / "images_training_rev1").glob("*.jpg"))[7]
    broken.write_bytes(broken.read_bytes()[:1000])
    flags = ("--config=configs/cnn.py", f"--config.data.dir={files}", "--config.data.on_bad=skip")
    flags += ("--config.augment.rotate=True", "--config.batch_size=16", "--config.num_epochs=1")
    for name, count in (("one", 1), ("two", 2)):
        store, workdir = f"--config.data.store={tmp_path}/{name}_store", f"--workdir={tmp_path}/{name}"
        processes = launch(count, *flags, store, workdir)
        assert broken.stem in (tmp_path / name / "skipped.csv").read_text()
        assert "1 galaxies left out" in processes.out[0]
    assert_same_log(tmp_path / "two", tmp_path / "one", epochs=1)


@pytest.mark.slow
def test_a_catalogue_trains_alike_in_several_processes_and_after_an_interrupt(tmp_path):
    """Of texts, with partly unknown labels, and a broken image that is left out and listed."""
    galaxies, files = catalogue_files.sample(130, 40), catalogue_files.named(range(130), ".png")
    rng = np.random.default_rng(0)
    for answers in galaxies.tree.slices[1:]:
        galaxies.counts[rng.random(130) < 0.3, answers] = 0
    images = dict(zip(files, map(catalogue_files.png, galaxies.images), strict=True))
    images[files[7]] = images[files[7]][:200]
    columns = {"id": [f"J{i:03}" for i in range(130)], "file": files, **catalogue_files.counted(galaxies)}
    table = catalogue_files.write(tmp_path / "table" / "galaxies.parquet", columns, images)
    how = {"batch_size": 12, "num_epochs": 4, "loss": "binomial", "augment__rotate": True, "data__on_bad": "skip"}

    def flags(name):
        config = catalogue_files.config_of(table, **how, data__store=str(tmp_path / f"store_{name}"))
        return *catalogue_files.flags_of(config), "--config.checkpoint.every_steps=3", f"--workdir={tmp_path / name}"

    for name, count in (("one", 1), ("two", 2)):
        processes = launch(count, *flags(name))
        assert "1 galaxies left out" in processes.out[0]
        (row,) = csv.DictReader((tmp_path / name / "skipped.csv").read_text().splitlines())
        assert (row["galaxy_id"], row["file"]) == ("J007", files[7])
        assert "image: " in row["reason"]
    assert_same_log(tmp_path / "two", tmp_path / "one")
    with started(1, *flags("stopped")) as one:
        one.until("epoch   1/4")
        one.all[0].send_signal(signal.SIGTERM)
        assert one.wait(PATIENCE) == [75], one.err
    launch(1, *flags("stopped"))
    assert log_rows(tmp_path / "stopped") == log_rows(tmp_path / "one")


@pytest.mark.slow
def test_two_processes_predict_what_one_does(alone, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    noise = np.random.default_rng(0)
    for i in range(300):  # three shards, the last one short
        Image.fromarray(noise.integers(0, 256, (40, 40, 3), np.uint8)).save(images / f"{i}.jpg")
    flags = ("--mode=predict", f"--workdir={alone}", f"--input={images}", "--shard_size=128", "--formats=parquet,csv")
    for count in (1, 2):
        launch(count, *flags, f"--output={tmp_path}/{count}")
    parts = sorted(path.name for path in (tmp_path / "1").glob("part-*.parquet"))
    assert len(parts) == 3
    for name in (*parts, "predictions.csv"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()


@pytest.mark.slow
def test_a_mistake_ends_all_processes_with_a_line_each(tmp_path):
    with started(2, *SMALL, f"--workdir={tmp_path}/run", "--config.batch_size=15") as two:
        assert 0 not in two.wait(PATIENCE)
    said = [f"process {i}: --config.batch_size=15 does not divide over 2 devices: use 14 or 16." for i in range(2)]
    lost = f"error: {last_words.LOST}\n"
    for error, text in zip(two.err, said, strict=True):
        assert error in (f"error: {text}\n", lost)  # the other may have been faster
    assert two.err != [lost, lost]
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_no_cluster_to_detect_is_said_at_once(tmp_path, monkeypatch):
    slurm(monkeypatch)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with started(1, *SMALL, f"--workdir={tmp_path}/run", "--distributed=auto") as one:
        assert one.wait(PATIENCE) == [2]
    assert one.err[0].startswith("error: the processes cannot connect (coordinator_address should be defined.)")
    assert one.err[0].count("\n") == 1


def test_explicit_processes_are_what_jax_is_told():
    expected = {"coordinator_address": "node1:9876", "num_processes": 4, "process_id": 3}
    assert distributed.arguments("off", "node1:9876", 4, 3).items() >= expected.items()


@pytest.mark.parametrize(
    ("given", "part"),
    [
        (("off", "node1:9876", None, 0), "--num_processes is missing"),
        (("off", None, 2, None), "--coordinator, --process_id is missing"),
        (("auto", "node1:9876", 2, 0), "finds them by itself"),
        (("off", "node1", 2, 0), "host:port"),
        (("off", "node1:99999", 2, 0), "host:port"),
        (("off", "node1:9876", 2, 2), "0 to 1"),
        (("off", "node1:9876", 2, -1), "0 to 1"),
    ],
)
def test_explicit_flags_must_make_sense(given, part):
    with pytest.raises(UserError, match=part):
        distributed.arguments(*given)


def slurm(monkeypatch, **variables):
    for name in [name for name in os.environ if name.startswith(("SLURM_", "OMPI_"))]:
        monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(f"SLURM_{name}", value)


def test_a_cluster_is_looked_for_only_when_asked(monkeypatch):
    slurm(monkeypatch, JOB_ID="7", NTASKS="4", STEP_NUM_TASKS="4", PROCID="1", LOCALID="0")
    assert distributed.arguments("off", None, None, None) is None
    assert distributed.arguments("auto", None, None, None) == {}


@pytest.mark.parametrize("step", [{}, {"STEP_NUM_TASKS": "1"}], ids=["batch script", "interactive step"])
def test_an_allocation_without_srun_is_refused_at_once(monkeypatch, step):
    slurm(monkeypatch, JOB_ID="7", NTASKS="4", PROCID="0", LOCALID="0", STEP_NODELIST="node1", **step)
    with pytest.raises(UserError, match="start it with srun"):
        distributed.arguments("auto", None, None, None)


def test_a_batch_of_votes_in_one_process_is_its_own():
    votes = distributed.Votes()
    assert votes(1, True, False, after=None) == (True, False)
    assert votes(2, False, True, after=None) == (False, True)


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        (b"a warning\n", "a warning\n"),
        (last_words.FATAL + b"\nstack\ntrace\n", f"error: {last_words.LOST}\n"),
        (last_words.FATAL + b"\nRegisterTask\n", f"error: {last_words.NOT_MET}\n"),
        (last_words.own("error: two\nlines") + last_words.FATAL + b"\n", "error: two\nlines\n"),
        (last_words.FATAL + b"\nstack\n" + last_words.own("error: mine") + b"trace\n", "error: mine\n"),
        (last_words.PRELUDE + b": \n" + last_words.FATAL + b"\n", f"error: {last_words.LOST}\n"),
        (last_words.own("Köln \udc80"), "Köln \\udc80\n"),
        (last_words.OWN + b"{broken\n", "gz_jax: {broken\n"),
    ],
)
def test_what_is_shown_of_native_stderr(written, shown):
    command = [sys.executable, "-S", last_words.__file__]
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    assert subprocess.run(command, input=written, stdout=subprocess.PIPE, env=environment).stdout.decode() == shown


GLOO = (
    "Gloo AllGather failed: [external/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [10.0.0.1]:19842"
)
SYSTEM = "unhandled system error (run with NCCL_DEBUG=INFO for details). Last NCCL warning 'Accept failed'."
JaxRuntimeError = jax.errors.JaxRuntimeError


@pytest.mark.parametrize(
    "error",
    [
        JaxRuntimeError(f"UNKNOWN: {GLOO}"),
        ValueError(f"UNKNOWN: {GLOO}"),  # of np.asarray
        JaxRuntimeError("INTERNAL: Buffer Definition Event: " + "Error dispatching computation: " * 99 + GLOO),
        JaxRuntimeError(
            "UNKNOWN: Gloo context initialization failed: DEADLINE_EXCEEDED: GetKeyValue() timed out with key: "
            "cpu:gloo/0,2048/1 and duration: 30s [type.googleapis.com/tensorflow.CoordinationServiceError='']"
        ),
        JaxRuntimeError(
            "INTERNAL: external/xla/xla/service/gpu/nccl_utils.cc:216: NCCL operation async_err failed: "
            "remote process exited or there was a network error"
        ),
        JaxRuntimeError(
            "INTERNAL: Failed to execute XLA Runtime executable: run time error: custom call 'xla.gpu.all_reduce' "
            f"failed: NCCL operation ncclCommInitRank(&comm, nranks, id, rank) failed: {SYSTEM}"
        ),
    ],
)
def test_that_another_process_has_gone_is_known_by_what_jax_says(error):
    assert distributed.lost_another(error)


@pytest.mark.parametrize(
    "error",
    [
        OSError("cannot read interconnections.csv"),
        ValueError("cannot read interconnections.csv"),
        RuntimeError("gloo, nccl, coordination, socket, connection"),
        RuntimeError(f"UNKNOWN: {GLOO}"),
        KeyError("connection"),
        ConnectionRefusedError(111, "Connection refused", "/gvfs/nccl/socket.jpg"),
        ConnectionResetError(104, "Connection reset by peer"),
        UserError("--input=gloo.zip: no socket connection"),
        ValueError("INTERNAL: no connection to /data/Gloo"),
        JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 48914573312 bytes for connection."),
        JaxRuntimeError("INTERNAL: NCCL operation ncclAllReduce(a, b) failed: unhandled cuda error"),
        JaxRuntimeError("UNKNOWN: Gloo AllGather failed: [enforce fail at allgather.cc:20] sizes differ"),
        JaxRuntimeError("INVALID_ARGUMENT: Executable expected parameter 0 of the connection"),
    ],
)
def test_an_error_of_its_own_is_not_another_processes(error):
    assert not distributed.lost_another(error)


def test_of_what_jax_repeats_one_line_is_shown():
    error = JaxRuntimeError("INTERNAL: " + "Error dispatching computation: " * 99 + f"UNKNOWN: {GLOO}\nsecond line")
    assert distributed._first_line(error) == f"INTERNAL: Error dispatching computation: UNKNOWN: {GLOO}"


MEETING = """
import os, signal, sys
os.environ["JAX_PLATFORMS"] = "cpu"
import jax, jax.numpy as jnp
from gz_jax.runtime import distributed
from gz_jax.runtime.errors import UserError
distributed.HEARTBEAT_SECONDS = 10
port, count, me, what = sys.argv[1:]
with distributed.session(distributed.arguments("off", f"localhost:{port}", int(count), int(me))):
    exec(what)
"""


@contextlib.contextmanager
def meeting(*what):
    """A process for each piece of code, which run in one session."""
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "XLA_FLAGS": "", "JAX_COMPILATION_CACHE_DIR": CACHE.name}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    command = [sys.executable, "-c", MEETING, str(port), str(len(what))]
    started = [subprocess.Popen([*command, str(i), code], env=environment, **pipes) for i, code in enumerate(what)]
    try:
        yield started
    finally:
        for process in started:
            process.kill()
            process.wait()


@pytest.mark.parametrize(
    ("code", "status", "first", "last"),
    [
        ("raise ValueError('cannot read interconnections.csv')", 1, "Traceback", "ValueError: cannot read inter"),
        ("raise OSError('NCCL coordination')", 1, "Traceback", "OSError: NCCL coordination"),
        ("raise ConnectionRefusedError(111, 'Connection refused')", 1, "Traceback", "ConnectionRefusedError: [Errno"),
        ("jnp.zeros(2**50).block_until_ready()", 1, "Traceback", "jax.errors.JaxRuntimeError: RESOURCE_EXHAUSTED"),
        ("raise UserError('no such socket')", 2, "error: process 0: no such", "error: process 0: no such"),
    ],
)
def test_a_process_of_several_says_what_it_died_of_itself(code, status, first, last):
    with meeting(code) as (one,):
        _, error = one.communicate(timeout=PATIENCE)
    assert one.returncode == status
    assert "another process" not in error
    lines = [line for line in error.splitlines() if not line.startswith("-----") and "JAX_TRACEBACK" not in line]
    assert lines[0].startswith(first)
    assert lines[-1].startswith(last)


KILLED = "; os.kill(os.getpid(), signal.SIGKILL)"
STEPS = """
mesh = jax.sharding.Mesh(jax.devices(), ("all",))
spec = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("all"))
g = jax.jit(lambda x: x.sum() + x, out_shardings=spec)
x = jax.make_array_from_process_local_data(spec, __import__("numpy").ones((1, 9), "float32"))
print("stepping", flush=True)
while True:
    x = g(x)
    x.block_until_ready()
"""


@pytest.mark.slow
@pytest.mark.parametrize("victim", [1, 0])
@pytest.mark.parametrize(
    ("survivor", "seen"),
    [
        ("distributed.gather(1)", "ValueError: UNKNOWN: Gloo AllGather failed"),
        ("[distributed.gather(1) for _ in iter(int, 1)]", "Gloo AllGather failed"),
        (STEPS, "Gloo all-reduce failed"),
        ("import time; time.sleep(600)", ""),
        ("pass", ""),  # waits in the shutdown
    ],
    ids=["a collective", "many", "a step", "no JAX at all", "shutdown"],
)
def test_a_killed_peer_is_told_from_an_own_fault_in_every_phase(survivor, seen, victim):
    code = [survivor, survivor]
    code[victim] = "print('met', flush=True)" + KILLED
    if survivor == STEPS:
        code[victim] = "import threading; threading.Timer(3, os.kill, (os.getpid(), signal.SIGKILL)).start()" + STEPS
    with meeting(*code) as processes:
        _, error = processes[1 - victim].communicate(timeout=PATIENCE)
        assert processes[1 - victim].returncode not in (0, 1, 2)
    assert error.count(f"error: {last_words.LOST}") == 1
    assert "Traceback" not in error
    assert seen in error or victim == 0  # JAX ends it itself when the first has gone, and may be faster


@pytest.mark.slow
def test_two_processes_that_diverge_say_so_in_a_line_each(tmp_path):
    with started(2, *SMALL, f"--workdir={tmp_path}/run", "--config.learning_rate=1e30") as two:
        assert 0 not in two.wait(PATIENCE)
    for i, error in enumerate(two.err):
        own = f"error: process {i}: the update is not finite at step 0 (epoch 1, batch 1). There is no checkpoint yet."
        lines = [line for line in error.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1
        assert lines[0].startswith((own, f"error: {last_words.LOST}"))
    assert any("not finite at step 0" in error for error in two.err)
