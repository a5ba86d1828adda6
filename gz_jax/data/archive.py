"""Read files by name from a folder, a zip, or a zip inside a zip. Nothing is unpacked to disk.

Kaggle's one big zip contains further zips. Some are stored without compression: these are read in place. Others are
deflated. For these, a copy of the decompressor's state is kept every 4 MiB, and reading starts from the nearest copy.
So files can be read in any order with little memory. Making the copies takes one pass over the file when it is opened.
"""

import functools
import io
import os
import pathlib
import re
import struct
import types
import zipfile
import zlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

from gz_jax.data import listing
from gz_jax.runtime.errors import UserError

_BLOCK = 4 << 20  # bytes between two kept states of a decompressor; each state takes some 50 kB
_MAX_READ = 256 << 20  # bytes at once: of an entry, or of a zip's directory (3 million names)
_MAX_RATIO = 50  # largest allowed compression of an inner zip; Kaggle's shrink by a few per cent
READ_ERRORS = (
    OSError,
    EOFError,
    RuntimeError,
    MemoryError,
    OverflowError,
    ValueError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)


class Source(NamedTuple):
    """Files at one place: `where` for messages, `sizes` in bytes by name; `read(name)` is safe in threads.

    `checksums` are the CRC-32 by name, of a zip.
    """

    where: str
    sizes: dict[str, int]
    read: Callable[[str], bytes]
    checksums: Mapping[str, int] = types.MappingProxyType({})


class _Window(io.RawIOBase):
    """`size` bytes of a file, from `start` on, as a file of its own that can be read from any position.

    It refuses to read more than `_MAX_READ` bytes at once.
    """

    def __init__(self, file: io.FileIO, start: int, size: int):
        self.file, self.size, self._start, self._at = file, size, start, 0

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = max(0, offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self.size}[whence])
        return self._at

    def pread(self, count: int, at: int) -> bytes:
        return os.pread(self.file.fileno(), max(0, min(count, self.size - at)), self._start + at)

    def read(self, size: int = -1, /) -> bytes:
        if size > _MAX_READ:
            raise zipfile.BadZipFile(f"it asks for {size} bytes at once")
        return super().read(size)

    def readinto(self, buffer) -> int:
        filled, view = 0, memoryview(buffer)
        while filled < len(view) and (data := self.pread(len(view) - filled, self._at)):
            view[filled : filled + len(data)] = data
            filled, self._at = filled + len(data), self._at + len(data)
        return filled


class _Inflated(_Window):
    """The same for a deflated file: `size` bytes, which are inflated from the window `packed`."""

    def __init__(self, packed: _Window, size: int):
        super().__init__(packed.file, 0, size)
        self._packed = packed
        self._states = [(0, zlib.decompressobj(-zlib.MAX_WBITS))]  # (packed offset, state) of every block
        self._block = functools.lru_cache(maxsize=4)(self._inflate)

    def pread(self, count: int, at: int) -> bytes:
        if at >= self.size:
            return b""
        number, skip = divmod(at, _BLOCK)
        while len(self._states) <= number:
            self._inflate(len(self._states) - 1)
        return self._block(number)[skip : skip + count]

    def _inflate(self, number: int) -> bytes:
        position, state = self._states[number]
        wanted, state, out = min(_BLOCK, self.size - number * _BLOCK), state.copy(), bytearray()
        while len(out) < wanted:
            data = self._packed.pread(
                1 << 14, position
            )  # small, since a kept state keeps the part of it that was not used
            out += (new := state.decompress(data, wanted - len(out)))
            position += len(data) - len(state.unconsumed_tail)
            if not new and (state.eof or not data):
                raise EOFError("the deflated data end early")
        if number + 1 == len(self._states):
            self._states.append((position, state))
        return bytes(out)


def _open(file: pathlib.Path | _Window, where: str) -> tuple[_Window, zipfile.ZipFile, list[zipfile.ZipInfo]]:
    """A zip, and its entries without hidden ones. All paths are checked to be safe."""
    try:
        window = file if isinstance(file, _Window) else _Window(io.FileIO(file), 0, os.path.getsize(file))
        archive = zipfile.ZipFile(window)
        infos = archive.infolist()
        if (
            infos and min(info.header_offset for info in infos) != 0
        ):  # the end of an inner zip was taken for that of the outer
            raise zipfile.BadZipFile("its end is missing")
        if sum(info.compress_size for info in infos) > window.size:
            raise zipfile.BadZipFile("its entries overlap: a zip bomb")
    except PermissionError as error:
        raise UserError(f"cannot read {where}: {error.strerror}") from error
    except READ_ERRORS as error:
        raise UserError(f"{where} is not a zip file or is truncated ({error}): download it again") from error
    for info in infos:
        if ".." in re.split(r"[/\\]", info.filename) or re.match(r"[/\\]|[A-Za-z]:", info.filename):
            raise UserError(f"{where} holds an unsafe path, {info.filename!r}: this is not Kaggle's zip")
        if info.flag_bits & 1:
            raise UserError(f"{where} is encrypted ({info.filename}): this is not Kaggle's zip")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others inflate without a limit
            raise UserError(
                f"{where}: {info.filename} is compressed by method {info.compress_type}, only deflate is known"
            )
    return window, archive, [info for info in infos if not listing.ignored(info.filename)]


def _nested(outer: _Window, info: zipfile.ZipInfo, where: str) -> _Window:
    """The zip `info` inside the zip `outer` as a seekable file."""
    header = outer.pread(30, info.header_offset) if info.header_offset >= 0 else b""
    if len(header) < 30 or header[:4] != b"PK\x03\x04":
        raise UserError(f"{where} is damaged at {info.filename}: download it again")
    start = info.header_offset + 30 + sum(struct.unpack("<HH", header[26:]))
    window = _Window(outer.file, start, info.compress_size)
    if info.compress_type == zipfile.ZIP_STORED:
        return window
    if info.file_size > _MAX_RATIO * info.compress_size:
        raise UserError(f"{where}: {info.filename} says it inflates to {info.file_size} bytes: a zip bomb")
    return _Inflated(window, info.file_size)


def from_folder(folder: pathlib.Path, suffix: str) -> Source:
    """The files below a folder that end in `suffix` (lower case); names are relative to its parent."""
    names = (f"{folder.name}/{name}" for name, why in listing.walk(folder) if not why and name.lower().endswith(suffix))
    sizes = {name: (folder.parent / name).stat().st_size for name in names}
    return Source(str(folder), sizes, lambda name: (folder.parent / name).read_bytes())


def from_zip(path: pathlib.Path, suffix: str, inner: str | None = None) -> Source:
    """The files of a zip that end in `suffix`; with `inner`, only those of that zip or folder in it.

    Raises:
      UserError: no zip, truncated, encrypted, or an entry with an absolute path or '..'.
    """
    where = str(path)
    window, archive, infos = _open(path, where)
    if inner is not None:
        nested = next((i for i in infos if i.filename.rsplit("/", 1)[-1] == f"{inner}.zip"), None)
        infos = [i for i in infos if inner in i.filename.split("/")[:-1] or i.filename.endswith(f"{inner}{suffix}")]
        if nested:
            where = f"{path}/{nested.filename}"
            _, archive, infos = _open(_nested(window, nested, str(path)), where)
    chosen = {info.filename: info for info in infos if info.filename.lower().endswith(suffix)}
    sizes = {name: info.file_size for name, info in chosen.items()}

    def read(name: str) -> bytes:
        if sizes[name] > _MAX_READ:
            raise zipfile.BadZipFile(f"more than {_MAX_READ >> 20} MiB")
        with archive.open(chosen[name]) as file:  # without a size, read() would inflate any amount of data
            return file.read(sizes[name])

    return Source(where, sizes, read, {name: info.CRC for name, info in chosen.items()})
