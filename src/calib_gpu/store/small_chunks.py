"""Reading arrays of many small files, such as chunks of (1024, 1, 1, 1, 1): there the calls cost more than the bytes.

A row of chunks along one axis is decoded side by side and transposed into place at once. Only what is in perfect order
is read here; any other chunk (missing, short, odd, corrupt) goes the usual way, which knows what to say of it.
"""

from __future__ import annotations

import itertools
import math
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import zstandard
from numpy.typing import NDArray

from calib_gpu.records import Region
from calib_gpu.store import reads, system
from calib_gpu.store.codecs import SMALL_BYTES, decode_small_zstd
from calib_gpu.store.guard import OPEN_FLAGS, CodecError, zstd_content_size
from calib_gpu.store.metadata import Layout


class _Thread(threading.local):
    """The buffer that a thread reads files into."""

    def __init__(self) -> None:
        self.raw = memoryview(bytearray(2 * SMALL_BYTES))


_thread: Final = _Thread()
_turn: Final = threading.Lock()
"""One row at a time: threads that hand the interpreter to each other at every call need longer than one alone."""


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


def read_rows(
    folder: Path, layout: Layout, axis: int, region: Region, out: NDArray[Any],
    usual: Callable[[tuple[int, ...], NDArray[Any]], int],
) -> int:  # fmt: skip
    """Read a region into ``out`` row by row; returns the bytes read.

    ``usual(coords, chunk)`` reads a single chunk whole, or raises what is wrong with it.
    """
    n_row, inner = region[axis].stop - region[axis].start, layout.inner
    size = math.prod(inner) * layout.stored_dtype.itemsize
    row = memoryview(bytearray(n_row * size))
    chunks = np.frombuffer(row, layout.stored_dtype).reshape(n_row, *inner)
    grids = [range(s.start // n, (s.stop - 1) // n + 1) for s, n in zip(region, inner, strict=True)]
    grids[axis] = range(1)
    total = 0
    try:
        with reads.noted(folder):
            handle = system.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        handle = -1  # no file can be opened there: the usual way says why
    try:
        for coords in itertools.product(*grids):
            before, behind = layout.key_around(coords, axis)
            with _turn:
                for k in range(n_row):
                    name = f"{before}{region[axis].start + k}{behind}"
                    with reads.noted(f"{folder}/{name}"):
                        n = _read_chunk(handle, name, row[k * size : (k + 1) * size])
                    total += n or usual((*coords[:axis], region[axis].start + k, *coords[axis + 1 :]), chunks[k])
            _place(chunks, axis, coords, region, inner, out)
    finally:
        if handle >= 0:
            system.close(handle)
    return total


def _read_chunk(folder: int, name: str, out: memoryview) -> int:
    """Bytes read of a chunk that was decoded into ``out``; 0 if anything about it is unusual."""
    try:
        handle = system.open(name, OPEN_FLAGS, dir_fd=folder)
    except OSError:
        return 0
    try:
        n = system.readv(handle, (_thread.raw,))
        raw = _thread.raw[:n]
        if n == len(_thread.raw) or zstd_content_size(raw) != len(out):
            return 0
        out[:] = decode_small_zstd(raw)
    except (OSError, CodecError, zstandard.ZstdError):
        return 0
    finally:
        system.close(handle)
    return n


def _place(
    chunks: NDArray[Any], axis: int, coords: tuple[int, ...], region: Region, inner: tuple[int, ...], out: NDArray[Any]
) -> None:
    """Copy a row of chunks ``[row, *inner]`` to its place in ``out``."""
    target, part = [], []
    for k, (s, c, n) in enumerate(zip(region, coords, inner, strict=True)):
        low, high = max(s.start, c * n), min(s.stop, (c + 1) * n)
        target.append(slice(None) if k == axis else slice(low - s.start, high - s.start))
        part.append(slice(0, 1) if k == axis else slice(low - c * n, high - c * n))
    out[tuple(target)] = np.moveaxis(chunks[(slice(None), *part)], 0, axis + 1).squeeze(axis)
