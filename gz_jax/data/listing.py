"""Files below a folder, or those that match a glob. Symbolic links are followed, and loops of links end."""

import collections
import glob
import os
import pathlib
import re
from collections.abc import Iterator


def ignored(name: str) -> bool:
    """Whether a path names a folder ('a/'), is hidden, or lies in a hidden folder or in macOS' __MACOSX."""
    parts = re.split(r"[/\\]", name)
    hidden = any(part.startswith(".") and part.strip(".") for part in parts)
    return not parts[-1] or hidden or "__MACOSX" in parts


def fault(path: str) -> str:
    """'' for a file (also through links), else what it is."""
    if os.path.isfile(path):
        return ""
    return "broken link" if os.path.islink(path) and not os.path.exists(path) else "pipe or device"


def walk(folder: str | os.PathLike[str], *, folders: bool = False) -> Iterator[tuple[str, str]]:
    """Files below a folder in a fixed order, links to folders followed, without what is `ignored`.

    Each folder is entered once, even if several links lead to it, so that loops end and no image is listed twice. A
    folder's own path comes before links to it.

    Args:
      folders: give the folders that are entered instead of the files; the first is ''.

    Yields:
      (path relative to `folder`, with '/'; '' or why it is not a file, or a folder that is not entered).
    """
    entered: set[tuple[int, int]] = set()
    waiting, links = collections.deque([""]), collections.deque[str]()
    while waiting or links:
        relative = (waiting or links).popleft()
        path = os.path.join(folder, relative)
        try:
            status = os.stat(path)
            if (status.st_dev, status.st_ino) in entered:
                yield relative, "link to a folder that is listed already"
                continue
            entered.add((status.st_dev, status.st_ino))
            with os.scandir(path) as entries:  # tells files from folders without a call for each
                inside = sorted(
                    (e.name, e.is_dir(follow_symlinks=False), e.is_file(follow_symlinks=False)) for e in entries
                )
        except OSError as error:
            yield relative, f"folder that cannot be read ({error.strerror})"
            continue
        if folders:
            yield relative, ""
        for name, is_folder, is_file in inside:
            if ignored(name):
                continue
            below = f"{relative}/{name}" if relative else name
            if is_folder:
                waiting.append(below)
            elif not is_file and os.path.isdir(os.path.join(path, name)):
                links.append(below)
            elif not folders:
                yield below, "" if is_file else fault(os.path.join(path, name))


def matches(pattern: str) -> list[str]:
    """Paths that a glob matches. '**' goes where `walk` does; Python's own would follow loops of links."""
    found, parts = [""], pathlib.PurePath(pattern).parts
    for part in (*parts, "*") if parts[-1:] == ("**",) else parts:
        if part == "**":
            below = ((path, *entry) for path in found for entry in walk(path or ".", folders=True))
            found = sorted({os.path.join(path, name) if name else path for path, name, why in below if not why})
        elif glob.has_magic(part):
            found = [os.path.join(path, name) for path in found for name in glob.glob(part, root_dir=path or None)]
        else:
            found = [joined for path in found if os.path.lexists(joined := os.path.join(path, part))]
    return found
