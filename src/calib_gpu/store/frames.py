"""Counts that stay compressed: whole zstd frames of a tile for a decoder elsewhere, and what is checked before it gets them.

A decoder on a GPU does not survive damaged input (what it does then is undefined). So it gets only bytes that a crc32c
vouches for, in one frame that says how much it holds; all else is decoded on the host, which names what is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import zstandard

from calib_gpu.records import Counts, Tile
from calib_gpu.store import codecs, guard
from calib_gpu.store.chunks import ChunkedArray
from calib_gpu.store.guard import CodecError
from calib_gpu.store.metadata import Layout

MAX_FRAME_BYTES: Final = 2**31 - 1
"""Largest frame, compressed or not, that nvCOMP takes."""
FRAME_ALIGNMENT: Final = 16
"""Frames and their contents begin at multiples of this: nvCOMP may load and store 16 bytes at a time."""
_HEAD, _CRC = 18, 4
"""Bytes of the longest zstd frame header, and of a crc32c."""

_RLE, _RESERVED = 1, 3
"""Kinds of blocks of a frame: one byte that is repeated, and one that does not exist yet."""


def check_zstd_header(head: guard.Buffer, content: int) -> None:
    """Refuse a zstd frame that does not say that it holds so many bytes, or that needs a dictionary.

    ``head`` are at least the first 18 bytes of the frame, or all of it.
    """
    size = guard.zstd_content_size(head)
    if size is None:
        raise CodecError("zstd frame does not declare its content size")
    guard.expect_size(size, content)
    if memoryview(head)[4] & 3:
        raise CodecError("zstd frame needs a dictionary")


def check_zstd_frame(frame: guard.Buffer, content: int) -> None:
    """Refuse what is not one zstd frame of so many bytes of content, whole and with nothing behind it.

    Nothing is decoded: the header and the sizes of the blocks are looked at (RFC 8878, 3.1.1). What the blocks hold is for a
    checksum to vouch for.
    """
    check_zstd_header(frame, content)
    position, size, last = zstandard.frame_header_size(frame), len(frame), False
    while not last:
        if position + 3 > size:
            raise CodecError("zstd frame is cut short")
        block = int.from_bytes(frame[position : position + 3], "little")
        last, kind, block_size = bool(block & 1), block >> 1 & 3, block >> 3
        if kind == _RESERVED:
            raise CodecError("zstd frame has a block of a reserved kind")
        position += 3 + (1 if kind == _RLE else block_size)
    position += 4 if guard.zstd_has_checksum(frame) else 0
    if position != size:
        raise CodecError(f"zstd frame of {position} bytes in {size}")


@dataclass(frozen=True)
class FramePlace:
    """Where a frame lies in a file, without the crc32c behind it, and the crc32c that it should have."""

    file: Path
    offset: int
    size: int
    crc32c: int


class FrameSource:
    """The counts of a scan as frames; made by :func:`frame_source`."""

    def __init__(self, counts: ChunkedArray, layout: Layout) -> None:
        self._counts, self._layout = counts, layout
        self.frame_bytes = math.prod(layout.inner) * counts.dtype.itemsize
        self.per_pixel = counts.shape[0] // layout.inner[0]

    def chunks(self, tile: Tile) -> Iterator[tuple[int, ...]]:
        """Chunks of a tile in the order of its counts [R,A,C,D]: each goes right behind the one before."""
        for r in range(tile.r.start, tile.r.stop):
            for a in range(tile.a.start, tile.a.stop):
                for c in range(self.per_pixel):
                    yield c, 0, r, a, tile.subscan

    def frame(self, chunk: tuple[int, ...]) -> memoryview:
        """A frame that was checked, until this thread reads another one.

        Raises
        ------
        CodecError, Unreadable
            It is absent or not what it should be.
        """
        raw = self._counts.chunk(self._layout, chunk)
        if raw is None:
            raise CodecError("a chunk is absent")
        frame = codecs.strip_crc32c(raw)
        check_zstd_frame(frame, self.frame_bytes)
        return frame

    def place(self, chunk: tuple[int, ...]) -> FramePlace:
        """Where a frame lies, for those who read it themselves and test its crc32c; its header was checked.

        Raises
        ------
        CodecError, OSError
            It is absent or not what it should be.
        """
        place = self._counts.place(self._layout, chunk)
        if place is None:
            raise CodecError("a chunk is absent")
        name, offset, stored = place
        size = stored - _CRC
        if size <= 0:
            raise CodecError("a chunk is cut short")
        check_zstd_header(self._counts.part(name, offset, min(_HEAD, size)), self.frame_bytes)
        crc = int.from_bytes(self._counts.part(name, offset + size, _CRC), "little")
        return FramePlace(Path(self._counts.path) / name, offset, size, crc)


def frame_source(counts: Counts) -> FrameSource | str:
    """The counts as frames, or why they cannot be taken so."""
    if not isinstance(counts, ChunkedArray):
        return "the counts were laid out anew"
    layout = counts.meta.layout
    if layout is None or layout.chain != ("zstd", "crc32c"):
        chain = "other codecs" if layout is None else " + ".join(layout.chain) or "no compressor"
        return f"the counts are stored with {chain}, not with zstd + crc32c"
    c, d, _, _, _ = counts.shape
    if layout.order != tuple(range(5)) or layout.stored_dtype != counts.dtype:
        return "the counts are stored in another order of axes or bytes"
    if layout.inner[1:] != (d, 1, 1, 1) or c % layout.inner[0]:
        return f"chunks {layout.inner} are not whole channels of one pixel and subscan"
    source = FrameSource(counts, layout)
    if source.frame_bytes > MAX_FRAME_BYTES or source.frame_bytes % FRAME_ALIGNMENT:
        return f"chunks of {source.frame_bytes} bytes: at most {MAX_FRAME_BYTES}, and a multiple of {FRAME_ALIGNMENT}"
    return source
