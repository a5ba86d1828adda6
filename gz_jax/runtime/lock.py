"""One process at a time in a folder: a lock that the kernel frees when its holder ends, however it ends."""

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
    """Hold the lock file `path` (its folder is made if need be), which says who does; removed at the end.

    Whether a lock is stale is no guess: `flock` is gone with the process that held it, after kill -9 and power cuts
    too, and a pid or a clock is never compared. NFS (Linux since 2.6.12) and Lustre with `-o flock` pass it on to the
    other machines; where a file system keeps it to one machine ('nolock', 'localflock'), only that one is protected.

    Args:
      what: is locked, for the messages: the flag's name and its value, e.g. 'workdir runs/demo'.

    Raises:
      UserError: another process holds it (it is named), or the folder cannot be written.
    """
    path = pathlib.Path(path)
    made = not path.parent.exists()
    with contextlib.ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(_locked(path, what))
            files.unfinished.add(os.fspath(path))
            stack.callback(_remove, path, made)  # before it is freed: nobody else holds this file
            _sign(file, what)
        except OSError as error:
            raise UserError(
                f"{what} cannot be used ({error}): make room, or choose another with --{what.split()[0]}."
            ) from error
        yield


@contextlib.contextmanager
def waited_for(directory: pathlib.Path) -> Iterator[None]:
    """Hold a lock on a folder (made if need be) of prepared data; where another process has it, wait.

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
    """Take the lock on an open file, unless another process has it (then False); without one where there are none."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        _say(f"cannot lock {file.name} ({error.strerror}): see to it yourself that no other process uses {what}")
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
        file.close()  # its last holder removed it just now


def _sign(file: BinaryIO, what: str) -> None:
    """Write this process's name, and say whose was there."""
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
            path.parent.rmdir()  # only where nothing was written
    files.unfinished.discard(os.fspath(path))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
