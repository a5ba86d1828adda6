import errno
import os
import pathlib
import subprocess
import sys
from unittest import mock

import pytest

from gz_jax.runtime import lock
from gz_jax.runtime.errors import UserError

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCRIPT = """
import sys
from gz_jax.runtime import lock
with lock.held(sys.argv[1], "workdir run"):
    print("held", flush=True)
    sys.stdin.read()
"""


def start(path):
    command = [sys.executable, "-c", SCRIPT, str(path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"held\n"
    return process


def test_another_process_is_refused_by_name_until_it_is_gone(tmp_path, capsys):
    path = tmp_path / "run" / ".lock"
    with start(path) as other:
        for _ in range(2):  # a refusal leaves the lock as it is
            with pytest.raises(UserError, match=rf"workdir run is in use by process {other.pid} on .* \(since "):
                lock.held(path, "workdir run").__enter__()
        other.kill()
    with lock.held(path, "workdir run"):
        assert f"left behind by process {other.pid}" in capsys.readouterr().err
    assert not path.exists()


def test_a_lock_is_of_a_process_and_not_of_a_number(tmp_path):
    """The pid in a stale lock may be another process's by now, or of another machine."""
    path = tmp_path / ".lock"
    for holder in (f"process {os.getppid()} on {os.uname().nodename}", "process 1 on elsewhere", ""):
        path.write_text(holder)
        with lock.held(path, "workdir run"):
            assert f"process {os.getpid()} on" in path.read_text()
        assert not path.exists()


def test_a_folder_made_for_nothing_is_removed_again(tmp_path):
    with lock.held(tmp_path / "run" / ".lock", "workdir run"):
        pass
    assert not (tmp_path / "run").exists()
    with lock.held(tmp_path / "run" / ".lock", "workdir run"):
        (tmp_path / "run" / "log.csv").touch()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["log.csv"]
    (tmp_path / "empty").mkdir()
    with lock.held(tmp_path / "empty" / ".lock", "workdir run"):
        pass
    assert (tmp_path / "empty").exists()


def test_a_file_system_without_locks_is_said_and_used_all_the_same(tmp_path, capsys):
    refused = OSError(errno.ENOLCK, "No locks available")
    with mock.patch("fcntl.flock", side_effect=refused), lock.waited_for(tmp_path / "store"):
        assert "cannot lock" in capsys.readouterr().err
