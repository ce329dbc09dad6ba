"""Counts whose chunks hold several subscans, or more pixels than a tile: every chunk is decoded once, into tile order.

A tile is some pixels of one subscan. Where that cuts through chunks, each would be decoded for every tile that it
touches. Instead the counts are written anew, uncompressed, to a file without a name: chunk by chunk in pieces of
channels that are transposed in the cache, ``[S, R, A, C, D]`` in each.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from calib_gpu.records import CountGroup, Counts, Region
from calib_gpu.store.buffers import Scratch
from calib_gpu.store.scratch import ScratchFile

PIECE_BYTES: Final = 1024 * 1024

Coords = tuple[int, ...]
Run = Callable[[Callable[[list[Coords]], int], list[list[Coords]]], list[int]]

_scratch = Scratch()


class TileOrderCounts:
    """Counts in a file, in pieces; read like a :class:`calib_gpu.store.chunks.ChunkedArray`."""

    def __init__(self, counts: Counts, file: ScratchFile) -> None:
        self.shape, self.dtype, self._file = counts.shape, counts.dtype, file
        self._chunk = tuple(min(k, n) for k, n in zip(counts.read_chunk, self.shape, strict=True))
        c, *others = self._chunk
        self._step = min(c, max(1, PIECE_BYTES // (math.prod(others) * self.dtype.itemsize)))
        self._pixel_bytes = self._step * self._chunk[1] * self.dtype.itemsize
        self._piece_bytes = self._pixel_bytes * math.prod(self._chunk[2:])
        self._grid = tuple(-(-n // k) for n, k in zip(self.shape, self._chunk, strict=True))
        self._per_chunk = -(-c // self._step)

    @property
    def read_chunk(self) -> Coords:
        """One pixel of one subscan."""
        return (*self.shape[:2], 1, 1, 1)

    def chunks(self) -> list[Coords]:
        """Grid coordinates of all chunks."""
        return list(itertools.product(*(range(n) for n in self._grid)))

    def _offset(self, coords: Coords, piece: int) -> int:
        return (int(np.ravel_multi_index(coords, self._grid)) * self._per_chunk + piece) * self._piece_bytes

    def region_of(self, coords: Coords) -> Region:
        """What a chunk covers of the array."""
        return tuple(slice(i * k, min((i + 1) * k, n)) for i, k, n in zip(coords, self._chunk, self.shape, strict=True))

    def take(self, coords: Coords, decoded: NDArray[Any]) -> None:
        """Write a chunk: ``decoded`` as in the store, cut at the end of the array."""
        _, d, r, a, s = self._chunk
        piece = np.empty((s, r, a, self._step, d), self.dtype)
        _, n_d, n_r, n_a, n_s = decoded.shape
        for k in range(self._per_chunk):
            part = decoded[k * self._step : (k + 1) * self._step]
            piece[:n_s, :n_r, :n_a, : part.shape[0], :n_d] = part.transpose(4, 2, 3, 0, 1)
            self._file.write(self._offset(coords, k), piece.data)

    def read(self, region: Region, out: NDArray[Any]) -> int:
        """Read a region into ``out``; no bytes are read from the store."""
        ranges = [range(s.start // k, (s.stop - 1) // k + 1) for s, k in zip(region, self._chunk, strict=True)]
        for coords in itertools.product(*ranges):
            inside = [
                slice(max(s.start, w.start), min(s.stop, w.stop))
                for s, w in zip(region, self.region_of(coords), strict=True)
            ]
            target = out[tuple(slice(i.start - s.start, i.stop - s.start) for i, s in zip(inside, region, strict=True))]
            origin = [i * k for i, k in zip(coords, self._chunk, strict=True)]
            part = [range(i.start - o, i.stop - o) for i, o in zip(inside, origin, strict=True)]
            for index in np.ndindex(target.shape[2:]):
                pixel = [p[i] for p, i in zip(part[2:], index, strict=True)]
                self._read_pixel(coords, pixel, part[0], part[1], target[(..., *index)])
        return 0

    def _read_pixel(self, coords: Coords, pixel: list[int], c: range, d: range, out: NDArray[Any]) -> None:
        """Some channels and dumps ``[C, D]`` of a pixel and subscan; all numbers count within the chunk."""
        buffer = _scratch.get("piece", self._pixel_bytes)
        values = buffer.view(self.dtype).reshape(self._step, self._chunk[1])
        r, a, s = pixel
        place = ((s * self._chunk[2] + r) * self._chunk[3] + a) * self._pixel_bytes
        for k in range(c.start // self._step, (c.stop - 1) // self._step + 1):
            self._file.read(self._offset(coords, k) + place, buffer.data)
            first = k * self._step
            low, high = max(c.start, first), min(c.stop, first + self._step)
            out[low - c.start : high - c.start] = values[low - first : high - first, d.start : d.stop]

    def close(self) -> None:
        """Give the file back; nothing can be read any more."""
        self._file.close()


def cuts_chunks(group: CountGroup, pixels: int) -> bool:
    """True if tiles of at most ``pixels`` pixels of a subscan would decode chunks more than once."""
    _, _, r, a, s = group.counts.read_chunk
    return (s > 1 and len(group.subscans) > 1) or r * a > max(1, pixels)


def in_tile_order(counts: Counts, file: ScratchFile, parts: int, run: Run) -> tuple[TileOrderCounts, int]:
    """Decode every chunk once; the counts in tile order, and the bytes read.

    ``run`` maps a task over ``parts`` lists of chunks; so many chunks may be in memory at a time.
    """
    laid_out = TileOrderCounts(counts, file)

    def task(mine: list[Coords]) -> int:
        n_read = 0
        for coords in mine:
            region = laid_out.region_of(coords)
            decoded = np.empty([s.stop - s.start for s in region], counts.dtype)
            n_read += counts.read(region, decoded)
            laid_out.take(coords, decoded)
        return n_read

    chunks = laid_out.chunks()
    return laid_out, sum(run(task, [chunks[k::parts] for k in range(min(parts, len(chunks)))]))
