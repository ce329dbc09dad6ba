"""Reading regions of arrays chunk by chunk, into buffers that the caller owns.

Plain and sharded layouts of bytes + one compressor are decoded here, straight into the caller's buffer where a chunk
lies contiguously in it; anything else is refused. A missing, short or corrupt chunk is an error that names it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from calib_gpu.errors import BadType, Unreadable
from calib_gpu.records import Region
from calib_gpu.store import codecs, guard, reads, small_chunks, system
from calib_gpu.store.buffers import Scratch
from calib_gpu.store.documents import decode_strings
from calib_gpu.store.guard import DEFAULT_LIMITS, CodecError, Limits
from calib_gpu.store.metadata import ArrayMeta, Layout, array_meta

MAX_VALUES_BYTES: Final = 1 << 30


MISSING: Final = "chunk is missing"
NOTHING_HELD: Final[Mapping[str, bytes]] = MappingProxyType({})
KEEP_BYTES: Final = 16 * 1024 * 1024
_scratch = Scratch(KEEP_BYTES)


class ChunkedArray:
    """One array of a store, opened for reading. A night keeps one for each load set, so that it is small.

    Parameters
    ----------
    path
        Folder of the array.
    label
        Name used in errors, e.g. ``source/data_5d``.
    absent_is_fill
        Whether a chunk without a file means its fill value (else it is an error).
    held
        Files of the folder that were read before, by name.
    limits
        What is refused.
    """

    __slots__ = ("_held", "_indices", "_limits", "absent_is_fill", "label", "meta", "n_absent", "path")

    def __init__(
        self, path: Path | str, label: str, *, absent_is_fill: bool, held: Mapping[str, bytes] = NOTHING_HELD,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:  # fmt: skip
        self.path, self.label, self.absent_is_fill, self._held = str(path), label, absent_is_fill, held
        self.meta: ArrayMeta = array_meta(self.path, held, limits)
        self._limits = limits
        self._indices: dict[str, NDArray[np.uint64] | None] = {}
        self.n_absent = 0
        if limits.require_checksum and not self.has_checksum:
            raise Unreadable(
                "has no checksum, so that damage would not be seen", array=label, rule="require_checksum",
                fix="write zstd with checksum, or crc32c behind it; or leave --require-checksum out",
            )  # fmt: skip

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array."""
        return self.meta.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """NumPy dtype, native byte order."""
        if self.meta.dtype is None:
            raise BadType("not a numeric array", array=self.label, rule="integer or floating point")
        return self.meta.dtype

    @property
    def layout(self) -> Layout:
        """How the chunks lie on disk; an error that says why where they cannot be read."""
        if self.meta.layout is None:
            kind = Unreadable if self.meta.dtype is not None or self.meta.is_string else BadType
            rule = f"numbers or strings, with codecs {', '.join(guard.CODECS)}"
            raise kind(f"cannot be read: {self.meta.problem}", array=self.label, rule=rule)
        return self.meta.layout

    @property
    def has_checksum(self) -> bool:
        """Whether damaged bytes of any chunk are seen, as the metadata tell."""
        return self.meta.layout is not None and self.meta.layout.checked

    @property
    def read_chunk(self) -> tuple[int, ...]:
        """Shape of what one decode gives."""
        return self.layout.inner

    def read(self, region: Region, out: NDArray[Any]) -> int:
        """Read a region (slices of step 1 within the shape) into ``out``; returns the bytes read from disk.

        ``out`` has the shape of the region and any strides.
        """
        layout = self.layout
        usual = self.meta.is_string or self._limits.require_checksum
        row = None if usual else small_chunks.row_axis(layout, region, out)
        if row is not None:
            return small_chunks.read_rows(self.path, layout, row, region, out, self._decode_whole)
        total = 0
        inner = layout.inner
        for coords in _overlapping(region, inner):
            origin = tuple(c * n for c, n in zip(coords, inner, strict=True))
            target = tuple(
                slice(max(s.start, o) - s.start, min(s.stop, o + n) - s.start)
                for s, o, n in zip(region, origin, inner, strict=True)
            )
            part = tuple(
                slice(t.start + s.start - o, t.stop + s.start - o)
                for t, s, o in zip(target, region, origin, strict=True)
            )
            total += self._decode_into(layout, coords, part, out[(*target, ...)])  # type: ignore[arg-type]  # ... keeps 0-d a view
        return total

    def chunk(self, layout: Layout, coords: tuple[int, ...]) -> memoryview | None:
        """A chunk as it lies on disk, until this thread reads another one; None if it is absent."""
        return self._chunk_bytes(layout, coords)[0]

    def place(self, layout: Layout, coords: tuple[int, ...]) -> tuple[str, int, int] | None:
        """File, offset and size of a chunk; None if it is absent."""
        name, _, span = self._place(layout, coords)
        if span is None:
            return None
        nothing, length = self._file_bytes(name, span[0], 0)
        return None if nothing is None else (name, span[0], length if span[1] is None else span[1])

    def part(self, name: str, offset: int, size: int) -> bytes:
        """Some bytes of a file of the array."""
        return bytes(self._file_bytes(name, offset, size)[0] or b"")

    def close(self) -> None:
        """Forget the indices of shards, which are read again where they are needed."""
        self._indices.clear()

    def values(self) -> NDArray[Any]:
        """The whole array; for small ones. Strings come as an object array."""
        _ = self.layout
        region = tuple(slice(0, n) for n in self.shape)
        dtype = np.dtype(object) if self.meta.is_string or self.meta.dtype is None else self.meta.dtype
        if math.prod(self.shape) * dtype.itemsize > MAX_VALUES_BYTES:
            raise Unreadable(
                "too large to be read whole", array=self.label, value=self.shape, rule=f"<= {MAX_VALUES_BYTES} bytes"
            )
        out: NDArray[Any] = np.empty(self.shape, dtype)
        self.read(region, out)
        return out

    # --- direct decoding

    def _decode_whole(self, coords: tuple[int, ...], out: NDArray[Any]) -> int:
        layout = self.layout
        return self._decode_into(layout, coords, tuple(slice(0, n) for n in layout.inner), out)

    def _decode_into(self, layout: Layout, coords: tuple[int, ...], part: Region, out: NDArray[Any]) -> int:
        raw, name = self._chunk_bytes(layout, coords)
        if raw is None:
            if not self.absent_is_fill:
                raise Unreadable(
                    MISSING,
                    array=self.label,
                    value=name,
                    rule="every chunk must be there",
                    fix="copy the store again",
                )
            self.n_absent += 1
            out[...] = 0 if self.meta.fill_value is None else self.meta.fill_value  # null in Zarr v2
            return 0
        try:
            self._check_checksum(layout, raw)
            if layout.stored_dtype.kind == "O":
                chunk = self._decode_strings(layout, raw)
            else:
                whole = all(p.start == 0 and p.stop == n for p, n in zip(part, layout.inner, strict=True))
                plain = layout.order == tuple(range(len(layout.order))) and out.dtype == layout.stored_dtype
                if whole and plain and out.flags.c_contiguous:
                    codecs.decode(layout.chain, raw, out.reshape(-1).view(np.uint8))
                    return len(raw)
                chunk = self._decode_scratch(layout, raw)
        except (CodecError, ValueError) as error:
            raise Unreadable(
                f"chunk is cut short or corrupt: {error}", array=self.label, value=name, fix="copy the store again"
            ) from None
        except MemoryError:
            raise Unreadable(
                "chunk does not fit in memory", array=self.label, value=f"{name}, shape {layout.inner}"
            ) from None
        out[...] = chunk[part]
        return len(raw)

    def _decode_scratch(self, layout: Layout, raw: memoryview) -> NDArray[Any]:
        size = math.prod(layout.inner) * layout.stored_dtype.itemsize
        decoded = _scratch.get("decoded", size)
        codecs.decode(layout.chain, raw, decoded)
        return self._in_order(layout, decoded.view(layout.stored_dtype))

    @staticmethod
    def _in_order(layout: Layout, flat: NDArray[Any]) -> NDArray[Any]:
        stored = flat.reshape(tuple(layout.inner[axis] for axis in layout.order))
        return stored.transpose(np.argsort(layout.order))

    def _check_checksum(self, layout: Layout, raw: memoryview) -> None:
        """Where checksums are required, a zstd frame must have the one that the metadata announce."""
        wanted = self._limits.require_checksum and layout.chain == ("zstd",)
        if wanted and not guard.zstd_has_checksum(raw):
            raise CodecError("no checksum in the frame, though the metadata announce one (require_checksum)")

    def _decode_strings(self, layout: Layout, raw: memoryview) -> NDArray[Any]:
        flat = decode_strings(codecs.decode_unsized(layout.chain, raw, guard.MAX_STRING_BYTES))
        if flat.size != math.prod(layout.inner):
            raise CodecError(f"{flat.size} strings where {math.prod(layout.inner)} are expected")
        return self._in_order(layout, flat)

    def _most_bytes(self, layout: Layout) -> int:
        """Most bytes that one encoded chunk may take in its file."""
        if layout.stored_dtype.kind == "O":
            return guard.encoded_limit(guard.MAX_STRING_BYTES)
        return guard.encoded_limit(math.prod(layout.inner) * layout.stored_dtype.itemsize)

    def _chunk_bytes(self, layout: Layout, coords: tuple[int, ...]) -> tuple[memoryview | None, str]:
        name, label, span = self._place(layout, coords)
        if span is None:
            return None, label
        if span[1] is None and name in self._held:
            return memoryview(self._held[name]), name
        return self._file_bytes(name, *span, most=self._most_bytes(layout))[0], label

    def _place(self, layout: Layout, coords: tuple[int, ...]) -> tuple[str, str, tuple[int, int | None] | None]:
        """File of a chunk, its name in errors, and where it lies in the file: offset and size (None: all of it).

        No place for an inner chunk that the shard does not hold.
        """
        if not layout.sharded:
            name = layout.key(coords)
            return name, name, (0, None)
        per_shard = tuple(c // i for c, i in zip(layout.chunk, layout.inner, strict=True))
        shard = tuple(c // n for c, n in zip(coords, per_shard, strict=True))
        within = tuple(c % n for c, n in zip(coords, per_shard, strict=True))
        name = layout.key(shard)
        label = f"{name} inner chunk {within}"
        index = self.shard_index(layout, name, per_shard)
        if index is None:
            return name, label, None
        offset, size = (int(v) for v in index[within])
        if offset == guard.ABSENT and size == guard.ABSENT:
            return name, label, None
        if size > self._most_bytes(layout):
            raise Unreadable("chunk has more bytes than its content can take", array=self.label, value=label)
        return name, label, (offset, size)

    def shard_index(self, layout: Layout, name: str, per_shard: tuple[int, ...]) -> NDArray[np.uint64] | None:
        """Offset and size of each chunk inside a shard, ``[*per_shard, 2]``, after a check; None without the file."""
        if name in self._indices:
            return self._indices[name]
        n_bytes = math.prod(per_shard) * 16
        total = n_bytes + (4 if layout.index_crc else 0)
        raw, length = self._file_bytes(name, -total if layout.index_at_end else 0, total)
        if raw is None:
            self._indices[name] = None
            return None
        try:
            body = codecs.strip_crc32c(raw) if layout.index_crc else raw
            index = np.frombuffer(bytes(body), "<u8").reshape(*per_shard, 2)
            first, last = (0, length - total) if layout.index_at_end else (total, length)
            guard.check_index(index, first, last)
        except CodecError as error:
            raise Unreadable(
                f"shard index is corrupt: {error}", array=self.label, value=name, fix="copy the store again"
            ) from None
        self._indices[name] = index
        return index

    def _file_bytes(
        self, name: str, offset: int = 0, size: int | None = None, most: int = 1 << 62
    ) -> tuple[memoryview | None, int]:
        """Bytes of a file, or of a range of it, in this thread's buffer, and its length; None if there is no such file.

        A negative offset counts from the end.
        """
        with reads.noted(f"{self.path}/{name}"):
            return self._read_file(name, offset, size, most)

    def _read_file(self, name: str, offset: int, size: int | None, most: int) -> tuple[memoryview | None, int]:
        try:
            handle, length = guard.open_file(f"{self.path}/{name}", self.label, name, "chunk")
        except FileNotFoundError:
            return None, 0
        except OSError as error:
            if isinstance(error, Unreadable):
                raise
            raise reads.failure(error, "chunk cannot be read", array=self.label, value=name) from None
        try:
            offset = length + offset if offset < 0 else offset
            size = length - offset if size is None else size
            if offset < 0 or offset + size > length:
                raise Unreadable(
                    "chunk is cut short", array=self.label, value=f"{name}: {length} bytes", fix="copy the store again"
                )
            if size > most:
                raise Unreadable(
                    "chunk has more bytes than its content can take", array=self.label, value=f"{name}: {length} bytes"
                )
            buffer = _scratch.get("compressed", size)
            view = buffer.data
            done = 0
            while done < size:
                n = system.preadv(handle, [view[done:]], offset + done)
                if n == 0:
                    raise Unreadable("chunk is cut short", array=self.label, value=name)
                done += n
            return view, length
        except OSError as error:
            if isinstance(error, Unreadable):
                raise
            raise reads.failure(error, "chunk cannot be read", array=self.label, value=name) from None
        finally:
            system.close(handle)


def _overlapping(region: Region, chunk: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Grid coordinates of the chunks that a region touches, in C order."""
    if any(s.stop <= s.start for s in region):
        return iter(())
    ranges = (range(s.start // n, (s.stop - 1) // n + 1) for s, n in zip(region, chunk, strict=True))
    return itertools.product(*ranges)
