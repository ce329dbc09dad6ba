"""The small files of a group, read once: its metadata, its small arrays, and the digest of them all."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from calib_gpu.errors import Unreadable
from calib_gpu.store import system

DOCUMENTS: Final = ("zarr.json", ".zarray", ".zattrs")
HELD_BYTES: Final = 64 * 1024 * 1024
"""Most bytes that are held of a group; what is beyond is digested block by block, and read again where it is needed."""


class GroupFiles:
    """Files below a folder, by the folder (array) that they lie in; of ``counts`` only the documents are read.

    Held are the group's own documents and the files of ``arrays``, up to a bound; what is not held is read again where it
    is needed. ``digest`` is the sha256 over names, sizes and bytes of all files; of the chunks of ``counts`` the bytes are
    left out.

    Raises
    ------
    Unreadable
        A file cannot be read, or is no regular file.
    """

    def __init__(self, folder: Path, counts: str = "", arrays: Container[str] = ()) -> None:
        self._held: dict[str, dict[str, bytes]] = {}
        digest, top, room = hashlib.sha256(), len(str(folder)) + 1, HELD_BYTES
        try:
            for path, size in _walk(str(folder)):
                relative = path[top:]
                digest.update(os.fsencode(f"{relative} {size}\n"))
                array, _, name = relative.partition("/") if "/" in relative else ("", "", relative)
                if array == counts and counts and os.path.basename(name) not in DOCUMENTS:
                    continue
                raw = _read(path, digest, room if not array or array in arrays else 0)
                if raw is not None:
                    room -= len(raw)
                    self._held.setdefault(array, {})[name] = raw
        except OSError as error:
            if isinstance(error, Unreadable):
                raise
            raise Unreadable(f"cannot be read: {error.strerror}", array=str(error.filename)) from None
        self.digest = digest.hexdigest()

    def of(self, array: str = "") -> Mapping[str, bytes]:
        """Files of an array by their names below its folder; without a name those of the group itself."""
        return self._held.get(array, {})


def _walk(folder: str) -> Iterator[tuple[str, int]]:
    """Path and size of all files, those of a folder before its folders, by name."""
    folders = []
    for entry in sorted(system.scandir(folder), key=lambda e: e.name):
        if entry.is_dir(follow_symlinks=False):
            folders.append(entry.path)
        elif not entry.is_dir():  # links to folders may lead in circles
            yield entry.path, entry.stat().st_size
    for path in folders:
        yield from _walk(path)


def _read(path: str, digest: Any, room: int) -> bytes | None:
    """Add a file to the digest; its bytes, None if they are more than ``room``."""
    handle = system.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a FIFO must not block
    try:
        if not stat.S_ISREG(system.fstat(handle).st_mode):
            raise Unreadable("not a regular file", array=path)
        held = bytearray()
        while block := system.read(handle, 1 << 20):
            digest.update(block)
            if len(held) <= room:
                held += block
        return bytes(held) if len(held) <= room else None
    finally:
        system.close(handle)


def tree_digest(folder: Path) -> str:
    """sha256 over names, sizes and bytes of all files below a folder."""
    return GroupFiles(folder).digest
