"""Looking through the chunks of an array before anything is calibrated: which are missing, cut or corrupt."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib_gpu.errors import ReadFailed, Unreadable
from calib_gpu.store import guard, reads, system
from calib_gpu.store.buffers import Scratch
from calib_gpu.store.chunks import MISSING, ChunkedArray
from calib_gpu.store.guard import CodecError
from calib_gpu.store.metadata import Layout

Coords = tuple[int, ...]
Map = Callable[[Callable[[Coords], list[str]], list[Coords]], list[list[str]]]

_scratch = Scratch()


def chunk_problems(array: ChunkedArray, *, decode: bool, run: Map) -> list[str]:
    """What is wrong with the chunks of an array, one line each, in the order of the files.

    With ``decode`` every chunk is decoded; without, only names, sizes, headers and shard indices are looked at, which does
    not see a chunk of zstd or deflate that is cut, nor turned bits. ``run`` maps a task over the files, in order.
    """
    layout = array.layout
    grid = [range(-(-n // c)) for n, c in zip(array.shape, layout.chunk, strict=True)]
    look = _decoded if decode else _looked_at

    def task(coords: Coords) -> list[str]:
        return list(look(array, layout, coords))

    found = run(task, list(itertools.product(*grid)))
    return [*itertools.chain.from_iterable(found), *_surplus(array, layout, grid)]


def _inner(array: ChunkedArray, layout: Layout, coords: Coords) -> Iterator[Coords]:
    """Grid coordinates of the chunks inside a file that hold any sample of the array."""
    per_file = [c // i for c, i in zip(layout.chunk, layout.inner, strict=True)]
    ends = [-(-n // i) for n, i in zip(array.shape, layout.inner, strict=True)]
    ranges = (range(c * p, min((c + 1) * p, end)) for c, p, end in zip(coords, per_file, ends, strict=True))
    return itertools.product(*ranges)


def _decoded(array: ChunkedArray, layout: Layout, coords: Coords) -> Iterator[str]:
    for inner in _inner(array, layout, coords):
        region = tuple(
            slice(i * n, min((i + 1) * n, e)) for i, n, e in zip(inner, layout.inner, array.shape, strict=True)
        )
        shape = [s.stop - s.start for s in region]
        out: NDArray[Any] = np.empty(shape, object) if array.meta.is_string else _buffer(shape, array.dtype)
        try:
            array.read(region, out)
        except Unreadable as error:
            missing = layout.sharded and error.what == MISSING and _index(array, layout, coords) is None
            yield str(Unreadable(MISSING, array=array.label, value=layout.key(coords)) if missing else error)
            if missing or "shard index" in error.what or isinstance(error, ReadFailed):
                return  # of the file as a whole: one line, not one for each chunk in it


def _index(array: ChunkedArray, layout: Layout, coords: Coords) -> NDArray[np.uint64] | None:
    """The index of a shard; None if there is no such file."""
    per_shard = tuple(c // i for c, i in zip(layout.chunk, layout.inner, strict=True))
    return array.shard_index(layout, layout.key(coords), per_shard)


def _buffer(shape: list[int], dtype: np.dtype[Any]) -> NDArray[Any]:
    return _scratch.get("checked", math.prod(shape) * dtype.itemsize).view(dtype).reshape(shape)


def _looked_at(array: ChunkedArray, layout: Layout, coords: Coords) -> Iterator[str]:
    try:
        if layout.sharded:
            yield from _shard_looked_at(array, layout, coords)
        elif layout.stored_dtype.kind != "O":
            _header_looked_at(array, layout, layout.key(coords))
    except Unreadable as error:
        yield str(error)


def _shard_looked_at(array: ChunkedArray, layout: Layout, coords: Coords) -> Iterator[str]:
    per_shard = tuple(c // i for c, i in zip(layout.chunk, layout.inner, strict=True))
    index = _index(array, layout, coords)
    for inner in _inner(array, layout, coords):
        within = tuple(i % p for i, p in zip(inner, per_shard, strict=True))
        if not array.absent_is_fill and (index is None or int(index[within][0]) == guard.ABSENT):
            name = layout.key(coords) if index is None else f"{layout.key(coords)} inner chunk {within}"
            yield str(Unreadable(MISSING, array=array.label, value=name))
            if index is None:
                return


def _header_looked_at(array: ChunkedArray, layout: Layout, name: str) -> None:
    """Refuse a file that is missing, or that says of itself another size than the metadata."""
    try:
        with reads.noted(f"{array.path}/{name}"):
            head, tail, length = _ends(array, name)
    except FileNotFoundError:
        if not array.absent_is_fill:
            raise Unreadable(MISSING, array=array.label, value=name) from None
        return
    try:
        _check_header(layout, head, tail, length)
    except CodecError as error:
        raise Unreadable(f"chunk is cut short or corrupt: {error}", array=array.label, value=name) from None


def _ends(array: ChunkedArray, name: str) -> tuple[bytes, bytes, int]:
    """The first 18 bytes of a file, its last four, and its length."""
    handle, length = guard.open_file(f"{array.path}/{name}", array.label, name, "chunk")
    try:
        return system.pread(handle, 18, 0), system.pread(handle, 4, max(0, length - 4)), length
    except OSError as error:
        raise reads.failure(error, "chunk cannot be read", array=array.label, value=name) from None
    finally:
        system.close(handle)


def _check_header(layout: Layout, head: bytes, tail: bytes, length: int) -> None:
    expected = math.prod(layout.inner) * layout.stored_dtype.itemsize
    checksums = 4 * layout.chain.count("crc32c")
    name = next((codec for codec in layout.chain if codec != "crc32c"), "")
    if not name:
        guard.expect_size(length - checksums, expected)
    elif name == "zstd":
        guard.expect_size(guard.zstd_content_size(head), expected)
    elif name == "blosc":
        guard.expect_size(guard.blosc_content_size(head, length - checksums), expected)
    elif name == "gzip" and not checksums:
        guard.expect_size(int.from_bytes(tail, "little") if length >= 18 else 0, expected)


def _surplus(array: ChunkedArray, layout: Layout, grid: list[range]) -> Iterator[str]:
    """Files in the array's folder that are no chunk of it: left over from another shape, or strange."""
    documents = {"zarr.json", ".zarray", ".zattrs"}
    n_chunks = math.prod(len(r) for r in grid)
    names = {layout.key(coords) for coords in itertools.product(*grid)} if n_chunks <= 1_000_000 else None
    for parent, _, files in os.walk(array.path):
        for file in files:
            name = os.path.relpath(os.path.join(parent, file), array.path)
            if names is not None and name not in documents and name not in names:
                yield str(Unreadable("no chunk of this array", array=array.label, value=guard.shown(name)))
