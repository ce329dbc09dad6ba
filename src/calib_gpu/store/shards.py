"""Writing one shard of a sharded array chunk by chunk, the index last (Zarr v3, codec sharding_indexed)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from calib_gpu.store import codecs
from calib_gpu.store.codecs import SMALL_BYTES, Compressor, Encoded
from calib_gpu.store.disk import OutputFile

MAX_SHARD_BYTES: Final = 256 * 1024 * 1024
CHUNK_BYTES: Final = 1024 * 1024
_ABSENT: Final = np.uint64(2**64 - 1)


class ShardWriter:
    """A shard that grows by whole encoded inner chunks; it never has to fit in memory.

    Parameters
    ----------
    path
        File of the shard.
    grid
        Number of inner chunks per axis; chunks never appended are marked absent.
    compressor
        How the inner chunks are written.
    """

    def __init__(self, path: Path | str, grid: tuple[int, ...], compressor: Compressor) -> None:
        self._file = OutputFile(path)
        self._index = np.full((*grid, 2), _ABSENT, dtype="<u8")
        self.compressor = compressor

    def append(self, where: tuple[int, ...], chunk: NDArray[Any]) -> None:
        """Encode one inner chunk (C-contiguous, full inner shape) and write it."""
        self.append_encoded([where], [self.compressor.encode(chunk)])

    def append_encoded(self, places: Sequence[tuple[int, ...]], chunks: Sequence[Encoded]) -> None:
        """Write inner chunks that are encoded already, one behind the other."""
        start = self._file.size
        for where, data in zip(places, chunks, strict=True):
            self._index[where] = (start, len(data))
            start += len(data)
        if start - self._file.size <= SMALL_BYTES:
            chunks = [b"".join(chunks)]
        for data in chunks:  # not by writev: the same bytes took the system twice as long
            self._file.append(data)

    def close(self) -> tuple[int, int]:
        """Write the index; returns size and crc32c of the file."""
        raw = self._index.tobytes()
        self._file.append(raw + codecs.crc32c(raw).to_bytes(4, "little"))
        return self._file.close()

    def abandon(self) -> None:
        """Close after a failure; the file stays unfinished in the staging folder, which is removed."""
        self._file.abandon()


def dump_block(n_channel: int, n_dump: int, itemsize: int) -> int:
    """Dumps in an inner chunk of whole spectra: about 1 MiB, the blocks as equal as can be."""
    at_most = max(1, CHUNK_BYTES // (n_channel * itemsize))
    blocks = -(-n_dump // at_most)
    return -(-n_dump // blocks)


def pixel_block(shape: tuple[int, int], pixel_bytes: int) -> tuple[int, int]:
    """Pixels (R, A) in a shard of at most 256 MiB: all, or whole rows of R, or a part of one row."""
    n_r, n_a = shape
    at_most = max(1, MAX_SHARD_BYTES // pixel_bytes)
    if at_most >= n_r * n_a:
        return n_r, n_a
    if at_most >= n_a:
        rows = at_most // n_a
        return -(-n_r // -(-n_r // rows)), n_a
    return 1, -(-n_a // -(-n_a // at_most))
