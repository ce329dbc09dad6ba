"""How counts lie on disk, and what that costs a run."""

from __future__ import annotations

import math
from typing import Final

from calib_gpu.inspection.tables import size_text
from calib_gpu.records import Counts
from calib_gpu.store.chunks import ChunkedArray

SMALL_CHUNK: Final = 64_000
MANY_CHUNKS: Final = 256
"""Fewer small chunks than this are read in no time."""
LARGE_CHUNK: Final = 64_000_000


def layout_line(counts: Counts) -> str:
    """Size, number of files, and what one file and one decode hold."""
    if not isinstance(counts, ChunkedArray):
        return "laid out anew in tile order"
    shape, layout = counts.shape, counts.layout
    files = layout.chunk
    n_files = math.prod(-(-n // c) for n, c in zip(shape, files, strict=True))
    size, piece = (math.prod(v) * counts.dtype.itemsize for v in (shape, counts.read_chunk))
    chain = " + ".join(layout.chain)
    inner = "" if files == counts.read_chunk else f", decoded in chunks of {_axes(counts.read_chunk)}"
    return (
        f"{size_text(size)} of {counts.dtype} counts in {n_files} file(s) of {_axes(files)}{inner} = "
        f"{size_text(piece)}; {chain or 'not compressed'}"
    )


def layout_warnings(counts: Counts) -> list[str]:
    """What makes reading these counts slow or unsafe; empty if nothing does."""
    if not isinstance(counts, ChunkedArray):
        return []
    chunk, found = counts.read_chunk, []
    size = math.prod(chunk) * counts.dtype.itemsize
    n_chunks = math.prod(-(-n // c) for n, c in zip(counts.shape, chunk, strict=True))
    if size < SMALL_CHUNK and n_chunks > MANY_CHUNKS:
        found.append(
            f"{n_chunks} small chunks of {size_text(size)}: finding them takes longer than decoding; "
            f"{size_text(SMALL_CHUNK)} or more are better (all channels and dumps of a pixel and subscan)"
        )
    if size > LARGE_CHUNK:
        found.append(f"large chunks of {size_text(size)}: every worker holds one decoded, beyond --memory")
    if chunk[4] > 1 and counts.shape[4] > 1:
        n = min(chunk[4], counts.shape[4])
        found.append(
            f"{n} subscans in a chunk: the counts are first laid out anew in a file beside the output, as large as they"
        )
    if not counts.has_checksum:
        found.append("no checksum: damaged counts are not seen; write zstd with checksum, or crc32c behind it")
    return found


def _axes(shape: tuple[int, ...]) -> str:
    return "[" + ",".join(map(str, shape)) + "]"
