"""The small files of a group, read once: its metadata, its small arrays, and the digest of them all."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Container, Iterator, Mapping
from operator import attrgetter
from pathlib import Path
from typing import Any, Final

from calib_gpu.errors import Unreadable
from calib_gpu.store import guard, reads, system

DOCUMENTS: Final = ("zarr.json", ".zarray", ".zattrs", ".zgroup")
HELD_BYTES: Final = 64 * 1024 * 1024
"""Most bytes that are held of a group; what is beyond is digested block by block, and read again where it is needed."""


class GroupFiles:
    """Files below a folder, by the folder (array) that they lie in; of ``counts`` only the documents are read.

    Held are the group's own documents and the files of ``arrays``, up to a bound; what is not held is read again where it
    is needed. ``digest`` is the sha256 over names and sizes of all files, and the bytes of documents and of ``arrays``
    (None: of all files but the chunks of ``counts``). ``state`` tells whether any file of ``counts`` changed meanwhile: they
    are read last.

    Raises
    ------
    Unreadable
        A file cannot be read, is no regular file, has a name that no writer gives, or is too large.
    """

    def __init__(self, folder: Path, counts: str = "", arrays: Container[str] | None = None) -> None:
        self._held: dict[str, dict[str, bytes]] = {}
        digest, state, top, room, left = (
            hashlib.sha256(), hashlib.sha256(), len(str(folder)) + 1, HELD_BYTES, guard.SMALL_FILES_BYTES,
        )  # fmt: skip
        for path, status in _walk(str(folder)):
            relative = path[top:]
            digest.update(f"{relative} {status.st_size}\n".encode())
            array, inside, name = relative.partition("/")
            array, name = (array, name) if inside else ("", relative)
            if counts and array == counts:
                state.update(_state_of(relative, status))
            is_document = name.rpartition("/")[2] in DOCUMENTS
            wanted = not array or arrays is None or array in arrays
            if not is_document and (not wanted or (counts and array == counts)):
                continue
            left -= status.st_size
            if left < 0 or (is_document and status.st_size > guard.MAX_DOCUMENT_BYTES):
                rule = f"a document <= {guard.MAX_DOCUMENT_BYTES} bytes, small arrays <= {guard.SMALL_FILES_BYTES} together"
                raise Unreadable("too large", array=path, value=f"{status.st_size} bytes", rule=rule)
            with reads.noted(path):
                raw = _read(path, status.st_size, digest, room if wanted else 0)
            if raw is not None:
                room -= len(raw)
                self._held.setdefault(array, {})[name] = raw
        self.digest, self.state = digest.hexdigest(), state.digest()

    def of(self, array: str = "") -> Mapping[str, bytes]:
        """Files of an array by their names below its folder; without a name those of the group itself."""
        return self._held.get(array, {})


def _walk(folder: str) -> Iterator[tuple[str, os.stat_result]]:
    """Path and status of all files, those of a folder before its folders, by name."""
    waiting = [(folder, 0)]  # no recursion: every file would pass through a generator for each folder above it
    while waiting:
        path, depth = waiting.pop()
        if depth > guard.MAX_FOLDERS_DEEP:
            raise Unreadable("folders too deep", array=path, rule=f"<= {guard.MAX_FOLDERS_DEEP}")
        files, folders = _listed(path)
        yield from files
        waiting += [(inner, depth + 1) for inner in reversed(folders)]


def _listed(folder: str) -> tuple[list[tuple[str, os.stat_result]], list[str]]:
    """Path and status of the files of a folder, and the folders in it, by name."""
    files, folders = [], []
    try:
        with reads.noted(folder), system.scandir(folder) as entries:
            for entry in sorted(entries, key=attrgetter("name")):
                guard.check_entry(entry, folder)
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                else:
                    files.append((entry.path, entry.stat(follow_symlinks=False)))
    except OSError as error:
        if isinstance(error, Unreadable):
            raise
        raise reads.failure(error, "cannot be read", array=str(error.filename or folder)) from None
    return files, folders


def _read(path: str, size: int, digest: Any, room: int) -> bytes | None:
    """Add a file to the digest; its bytes, None if they are more than ``room``."""
    try:
        handle, _ = guard.open_file(path, path)
        try:
            held, done = bytearray(), 0
            while done < size and (block := system.read(handle, min(1 << 20, size - done))):
                digest.update(block)
                done += len(block)
                if len(held) <= room:
                    held += block
        finally:
            system.close(handle)
    except OSError as error:
        if isinstance(error, Unreadable):
            raise
        raise reads.failure(error, "cannot be read", array=path) from None
    if done != size:
        raise Unreadable("changed while it was read", array=path)
    return bytes(held) if len(held) <= room else None


def _state_of(relative: str, status: os.stat_result) -> bytes:
    return f"{relative} {status.st_size} {status.st_mtime_ns}\n".encode()


def counts_state(folder: Path, counts: str) -> bytes:
    """What :class:`GroupFiles` has as ``state``, found anew: equal as long as no file of the counts was changed."""
    state, top = hashlib.sha256(), len(str(folder)) + 1
    for path, status in _walk(f"{folder}/{counts}"):
        state.update(_state_of(path[top:], status))
    return state.digest()


def tree_digest(folder: Path) -> str:
    """sha256 over names, sizes and bytes of all files below a folder."""
    return GroupFiles(folder).digest
