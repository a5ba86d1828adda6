"""A lock that lets one process at a time use a folder. The kernel frees it when that process ends, even by a crash."""

import contextlib
import fcntl
import os
import pathlib
import socket
import sys
import time
from collections.abc import Iterator
from typing import IO, BinaryIO

from gz_jax.runtime import files
from gz_jax.runtime.errors import UserError


@contextlib.contextmanager
def held(path: str | os.PathLike[str], what: str) -> Iterator[None]:
    """Hold the lock file `path`, which names this process and is removed at the end. Its folder is made if needed.

    No lock can be stale: the kernel drops a `flock` when the process that held it ends, also after kill -9 or a power
    cut. Process numbers and times are never compared. NFS (Linux since 2.6.12) and Lustre with `-o flock` share the
    lock with other machines. If a file system does not ('nolock', 'localflock'), it works within one machine only.

    Args:
      what: what is locked, for messages: the flag's name and its value, e.g. 'workdir runs/demo'.

    Raises:
      UserError: another process holds it (the message names the process), or the folder cannot be written.
    """
    path = pathlib.Path(path)
    made = not path.parent.exists()
    with contextlib.ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(_locked(path, what))
            files.unfinished.add(os.fspath(path))
            stack.callback(_remove, path, made)  # before the lock is freed, so no other process holds this file
            _sign(file, what)
        except OSError as error:
            raise UserError(
                f"{what} cannot be used ({error}): make room, or choose another with --{what.split()[0]}."
            ) from error
        yield


@contextlib.contextmanager
def waited_for(directory: pathlib.Path) -> Iterator[None]:
    """Hold a lock on a folder of prepared data, which is made if needed; if another process holds it, wait.

    Raises:
      UserError: the folder cannot be written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        file = (directory / ".lock").open("w")
    except OSError as error:
        raise UserError(f"cannot write prepared data to {directory}: {error.strerror}") from error
    with file:
        if not _taken(file, directory):
            _say(f"another process is preparing {directory.name}; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _taken(file: IO, what: object) -> bool:
    """Take the lock on an open file; False if another process has it. Where files cannot be locked, warn and go on."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        _say(f"cannot lock {file.name} ({error.strerror}): make sure yourself that no other process uses {what}")
    return True


def _locked(path: pathlib.Path, what: str) -> BinaryIO:
    """The open, locked file."""
    while True:
        file = path.open("a+b", buffering=0)
        if not _taken(file, what):
            with file:
                holder = _holder(file) or "another process"
            raise UserError(
                f"{what} is in use by {holder}. Wait for it or stop it (it saves on SIGTERM), or choose another with "
                f"--{what.split()[0]}."
            )
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        file.close()  # the process that held it has just removed it


def _sign(file: BinaryIO, what: str) -> None:
    """Write this process's number into the lock file, and report a process whose number was left there."""
    if holder := _holder(file):
        _say(f"{what} was left behind by {holder}, which is gone: taking it over")
    file.truncate(0)
    since = time.strftime("%Y-%m-%d %H:%M:%S %Z")
    file.write(f"process {os.getpid()} on {socket.gethostname()} (since {since})\n".encode())


def _holder(file: BinaryIO) -> str:
    file.seek(0)
    return file.read(1000).decode(errors="replace").strip()


def _remove(path: pathlib.Path, folder_too: bool) -> None:
    with contextlib.suppress(OSError):
        path.unlink()
        if folder_too:
            path.parent.rmdir()  # fails if something was written there
    files.unfinished.discard(os.fspath(path))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
