"""What a power loss leaves on a disk: every change that was not brought there may be kept, lost or garbled, each by itself.

The rules are those of POSIX, which promises less than most file systems keep: an fsync of a file saves its bytes, an fsync of
a folder the names in it, a syncfs all. Names point to files and folders by their numbers, so that a name can be lost while
what it stood for is kept, and the reverse. A rename is kept or lost as a whole.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from calib_gpu.testing.faulty_disk import Call

RECORD: Final = ("open", "create", "write", "mkdir", "rename", "exchange", "unlink", "rmdir", "fsync", "syncfs")
"""Calls that :class:`calib_gpu.testing.faulty_disk.FaultyDisk` must count for this."""

NEVER: Final = 1 << 62


@dataclass
class Change:
    """One change: of the bytes of file ``node``, or of names: those that vanish, then those that appear.

    ``at`` is when it was made, ``safe`` from when on it is on the disk: numbers of the recorded calls.
    """

    at: int
    node: int = -1
    offset: int = 0
    data: bytes = b""
    gone: tuple[tuple[int, str], ...] = ()
    new: tuple[tuple[int, str, int], ...] = ()
    safe: int = NEVER

    def in_folder(self, folder: int) -> bool:
        """True if it changes a name in this folder."""
        return any(entry[0] == folder for entry in (*self.gone, *self.new))


class PowerLoss:
    """The changes of a run, from the calls that were recorded on an empty folder.

    Parameters
    ----------
    root
        The folder; nothing was in it.
    log
        Calls named in :data:`RECORD` on paths below it, in their order.
    """

    def __init__(self, root: Path, log: Iterable[Call]) -> None:
        self.root = root
        self.n_calls = 0
        self._changes: list[Change] = []
        self._names: dict[int, dict[str, int]] = {0: {}}
        self._nodes = 1
        self._opened: dict[int, int] = {}
        for call in log:
            if call.done:
                self._take(call)
            self.n_calls += 1

    def _find(self, path: Path) -> int:
        """The number of what a path stands for; -1 if nothing."""
        node = 0
        for part in path.relative_to(self.root).parts:
            node = self._names.get(node, {}).get(part, -1)
        return node

    def _take(self, call: Call) -> None:
        name, path, now = call.name, call.path, self.n_calls
        if name in ("open", "create"):
            if self._find(path) < 0:
                self._add(path)
            self._opened[call.file] = self._find(path)
        elif name == "mkdir":
            self._names[self._add(path)] = {}
        elif name == "write":
            self._changes.append(Change(now, self._opened[call.file], call.offset, call.data))
        elif name in ("unlink", "rmdir"):
            self._rename(gone=[path], new=[])
        elif name == "rename" and call.target is not None:
            self._rename(gone=[path], new=[(call.target, self._find(path))])
        elif name == "exchange" and call.target is not None:
            self._rename(gone=[], new=[(call.target, self._find(path)), (path, self._find(call.target))])
        elif name == "syncfs":
            self._save(self._changes)
        elif name == "fsync":
            node = self._opened[call.file]
            self._save(c for c in self._changes if c.node == node or c.in_folder(node))

    def _add(self, path: Path) -> int:
        node, self._nodes = self._nodes, self._nodes + 1
        self._rename(gone=[], new=[(path, node)])
        return node

    def _rename(self, gone: list[Path], new: list[tuple[Path, int]]) -> None:
        vanish = tuple((self._find(path.parent), path.name) for path in gone)
        appear = tuple((self._find(path.parent), path.name, node) for path, node in new)
        self._changes.append(Change(self.n_calls, gone=vanish, new=appear))
        _change_names(self._names, self._changes[-1])

    def _save(self, changes: Iterable[Change]) -> None:
        for change in changes:
            change.safe = min(change.safe, self.n_calls)

    def image(self, call: int, rng: random.Random) -> dict[str, bytes | None]:
        """What is found after a power loss during a call: bytes of files and None for folders, by path."""
        keep = rng.choice((0.0, 0.5, 0.9, 1.0, rng.random()))
        garbled = rng.choice((0.0, 0.3, 1.0))
        names: dict[int, dict[str, int]] = {0: {}}
        files: dict[int, bytearray] = {}
        for change in self._changes:
            if change.at >= call:
                break
            safe = change.safe < call
            if not safe and rng.random() >= keep:
                continue
            if change.node < 0:
                _change_names(names, change)
                continue
            data = change.data if safe or rng.random() >= garbled else _garbled(change.data, rng)
            held = files.setdefault(change.node, bytearray())
            held.extend(bytes(max(0, change.offset - len(held))))  # a lost write before a kept one leaves zeros
            held[change.offset : change.offset + len(data)] = data
        return dict(self._walk(names, files, 0, ""))

    def _walk(
        self, names: dict[int, dict[str, int]], files: dict[int, bytearray], folder: int, prefix: str
    ) -> Iterable[tuple[str, bytes | None]]:
        for name, node in names.get(folder, {}).items():
            is_folder = node in self._names
            yield prefix + name, None if is_folder else bytes(files.get(node, b""))
            if is_folder:
                yield from self._walk(names, files, node, f"{prefix}{name}/")

    def is_safe(self, path: Path, call: int) -> bool:
        """True if the last change of a name was on the disk before a call."""
        last = [c for c in self._changes if c.at < call and any(n == path.name for _, n, _ in c.new)]
        return bool(last) and last[-1].safe < call


def _change_names(names: dict[int, dict[str, int]], change: Change) -> None:
    for folder, name in change.gone:
        names.get(folder, {}).pop(name, None)
    for folder, name, node in change.new:
        names.setdefault(folder, {})[name] = node


def _garbled(data: bytes, rng: random.Random) -> bytes:
    """The bytes cut short, turned to zeros, or turned to others."""
    kind = rng.randrange(3)
    if kind == 0:
        return data[: rng.randrange(len(data) + 1)]
    return bytes(len(data)) if kind == 1 else rng.randbytes(len(data))


def write_image(image: dict[str, bytes | None], folder: Path) -> Path:
    """Put an image on the disk."""
    folder.mkdir(parents=True)
    for name, data in image.items():
        path = folder / name
        os.makedirs(path if data is None else path.parent, exist_ok=True)
        if data is not None:
            path.write_bytes(data)
    return folder
