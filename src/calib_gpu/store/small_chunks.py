"""Reading arrays of many small files, such as chunks of (1024, 1, 1, 1, 1): there the calls cost more than the bytes.

The files of some rows of chunks along one axis are read into one buffer, decoded by one call, and each row is transposed into
place at once. That is for rows in perfect order; where a chunk is missing, short, odd or corrupt they go the usual way,
chunk by chunk, which knows what to say of it.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import numcodecs.zstd
import numpy as np
import zstandard
from numpy.typing import NDArray

from calib_gpu.records import Region
from calib_gpu.store import reads, system
from calib_gpu.store.buffers import Scratch
from calib_gpu.store.codecs import SMALL_BYTES
from calib_gpu.store.guard import OPEN_FLAGS
from calib_gpu.store.metadata import Layout

BATCH_BYTES: Final = 1024 * 1024
"""Decoded size of what is read at a time."""
BATCH_FILES: Final = 2048

_Row = tuple[tuple[int, ...], range]
"""Coordinates of a row of chunks (any along its axis), and the numbers along that axis."""

_MARK: Final = 0xA7
"""The last byte of a batch until it is decoded; where that is what the counts have, the usual way reads them."""
_scratch: Final = Scratch()


class _Turns:
    """One thread opens files at a time: threads that hand the interpreter to each other at every call need longer than one.

    Not so where a file takes long to come, as on a network file system: there threads wait better side by side. So one
    batch of :data:`ALONE_OF` is read alone and timed, and tells how the others are. Decoding is one call for a batch and
    does not need the interpreter.
    """

    SLOW_FILE_S: Final = 200e-6
    ALONE_OF: Final = 16

    def __init__(self) -> None:
        self._lock, self._begun, self.slow = threading.Lock(), itertools.count(), False

    @contextlib.contextmanager
    def next(self, files: int) -> Iterator[None]:
        """The block reads so many files."""
        if self.slow and next(self._begun) % self.ALONE_OF:
            yield
            return
        with self._lock:
            begin = time.monotonic()
            yield
            self.slow = time.monotonic() - begin > files * self.SLOW_FILE_S


_turns: Final = _Turns()


def row_axis(layout: Layout, region: Region, out: NDArray[Any]) -> int | None:
    """The axis along which a row of chunks is read here; None where the usual way is as good."""
    size = math.prod(layout.inner) * layout.stored_dtype.itemsize
    plain = not layout.sharded and layout.chain == ("zstd",) and layout.order == tuple(range(len(layout.order)))
    wide = [axis for axis, s in enumerate(region) if s.stop - s.start > 1]
    if not plain or size > SMALL_BYTES or not wide:
        return None
    innermost = min(wide, key=lambda axis: abs(out.strides[axis]))
    candidates = [innermost, *(axis for axis in wide if axis != innermost)]
    return next((axis for axis in candidates if layout.inner[axis] == 1), None)


class _Names:
    """Names of the files of some rows; its text is the path of the one that is being read, for ``reads.noted``."""

    def __init__(self, folder: str, layout: Layout, axis: int, rows: list[_Row]) -> None:
        self._folder, self.at, self.all = folder, 0, list[str]()
        for coords, numbers in rows:
            before, behind = layout.key_around(coords, axis)
            self.all += [f"{before}{k}{behind}" for k in numbers]

    def __str__(self) -> str:
        return f"{self._folder}/{self.all[self.at]}"


def read_rows(
    folder: str, layout: Layout, axis: int, region: Region, out: NDArray[Any],
    usual: Callable[[tuple[int, ...], NDArray[Any]], int],
) -> int:  # fmt: skip
    """Read a region into ``out``, some rows at a time; returns the bytes read.

    ``usual(coords, chunk)`` reads a single chunk whole, or raises what is wrong with it.
    """
    inner = layout.inner
    size = math.prod(inner) * layout.stored_dtype.itemsize
    total = 0
    try:
        with reads.noted(folder):
            handle = system.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        handle = -1  # no file can be opened there: the usual way says why
    try:
        for rows in _batches(region, inner, axis, max(1, min(BATCH_BYTES // size, BATCH_FILES))):
            names = _Names(folder, layout, axis, rows)
            decoded = _scratch.get("decoded", len(names.all) * size)
            chunks = decoded.view(layout.stored_dtype).reshape(len(names.all), *inner)
            with _turns.next(len(names.all)):
                raw = _read_files(handle, names, size)
            if raw is None or not _decode(raw, decoded):
                each = [(*coords[:axis], k, *coords[axis + 1 :]) for coords, numbers in rows for k in numbers]
                total += sum(usual(coords, chunk) for coords, chunk in zip(each, chunks, strict=True))
            else:
                total += len(raw)
            done = 0
            for coords, numbers in rows:
                _place(chunks[done : done + len(numbers)], axis, coords, numbers, region, out)
                done += len(numbers)
    finally:
        if handle >= 0:
            system.close(handle)
    return total


def _batches(region: Region, inner: tuple[int, ...], axis: int, most: int) -> Iterator[list[_Row]]:
    """All rows of a region, or parts of them, together at most ``most`` chunks at a time."""
    grids = [range(s.start // n, (s.stop - 1) // n + 1) for s, n in zip(region, inner, strict=True)]
    parts = [grids[axis][k : k + most] for k in range(0, len(grids[axis]), most)]
    grids[axis] = range(1)
    rows = list(itertools.product(itertools.product(*grids), parts))
    per_batch = most // len(parts[0])
    return (rows[k : k + per_batch] for k in range(0, len(rows), per_batch))


def _read_files(folder: int, names: _Names, size: int) -> memoryview | None:
    """The bytes of all files, one behind the other, in this thread's buffer; None if anything about one is unusual.

    Each is one frame or more, the first of which declares the size of a chunk.
    """
    most = 2 * size + 1024
    buffer, end = _scratch.get("raw", len(names.all) * most).data, 0
    with reads.noted(names) as reading:
        for k, name in enumerate(names.all):
            names.at = k
            if k:
                reading.again()
            try:
                handle = system.open(name, OPEN_FLAGS, dir_fd=folder)
            except OSError:
                return None
            try:
                n = system.readv(handle, (buffer[end : end + most],))
                if n == most or zstandard.frame_content_size(buffer[end : end + n]) != size:
                    return None
            except (OSError, zstandard.ZstdError):
                return None
            finally:
                system.close(handle)
            end += n
    return buffer[:end]


def _decode(raw: memoryview, out: NDArray[np.uint8]) -> bool:
    """Decode frames that stand one behind the other; True if they fill ``out``, to its last byte.

    numcodecs refuses more bytes than ``out`` holds, but not fewer: the mark at the end must be gone.
    """
    out[-1] = _MARK
    try:
        numcodecs.zstd.decompress(raw, out)
    except (RuntimeError, ValueError):
        return False
    return bool(out[-1] != _MARK)


def _place(
    chunks: NDArray[Any], axis: int, coords: tuple[int, ...], numbers: range, region: Region, out: NDArray[Any]
) -> None:
    """Copy a row of chunks ``[row, *inner]`` to its place in ``out``."""
    target, part = [], []
    for k, (s, c, n) in enumerate(zip(region, coords, chunks.shape[1:], strict=True)):
        low, high = max(s.start, c * n), min(s.stop, (c + 1) * n)
        if k == axis:
            target.append(slice(numbers.start - s.start, numbers.stop - s.start))
            part.append(slice(0, 1))
        else:
            target.append(slice(low - s.start, high - s.start))
            part.append(slice(low - c * n, high - c * n))
    out[tuple(target)] = np.moveaxis(chunks[(slice(None), *part)], 0, axis + 1).squeeze(axis)
