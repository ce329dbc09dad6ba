"""Writing L0 stores: for the simulator, for ingest of other formats and for tests. Every chunk is written."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import DTypeLike, NDArray

from calib_gpu import schema
from calib_gpu.records import ScanId
from calib_gpu.store import disk
from calib_gpu.store.codecs import Compressor
from calib_gpu.store.documents import array_document, chunk_key, dump_json
from calib_gpu.store.kinds import L0_FORMAT
from calib_gpu.store.shards import MAX_SHARD_BYTES, ShardWriter
from calib_gpu.store.small import write_array, write_group

FORMAT_VERSION: Final = "1.0"
CHUNK_CHANNELS: Final = 4096
COMPRESSOR: Final = Compressor("zstd", 1)


class L0Writer:
    """A new L0 store. ``path`` must not exist, or be an empty folder; else :class:`calib_gpu.errors.OutputError`.

    ``counts`` is how the counts are written.
    """

    def __init__(self, path: Path, attrs: Mapping[str, Any], counts: Compressor = COMPRESSOR) -> None:
        self.path, self._counts = path, counts
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise disk.not_empty(path)
        disk.make_dirs(path)
        write_group(path, {"format": L0_FORMAT, "format_version": FORMAT_VERSION, **attrs})

    def scan(self, scan: ScanId, attrs: Mapping[str, Any]) -> None:
        """Create a scan group (and the group of its band) with its attributes."""
        top = self.path / f"scan_{scan.number:06d}"
        if scan.band and not (top / "zarr.json").exists():
            write_group(top, {"scan_number": scan.number})
        write_group(self.path / scan.path, {"scan_number": scan.number, **attrs})

    def group(
        self, scan: ScanId, name: str, arrays: Mapping[str, Any], shape: tuple[int, int, int, int, int],
        dtype: DTypeLike = np.int32, attrs: Mapping[str, Any] | None = None,
    ) -> CountsWriter:  # fmt: skip
        """Create ``source`` or ``calibration`` with its small arrays; the counts are written by what is returned.

        ``arrays`` maps names of :mod:`calib_gpu.schema` to values; their axes follow from the table and the shape.
        """
        folder = self.path / scan.path / name
        write_group(folder, {})
        table = {row.name: row for row in (schema.L0_SOURCE if name == "source" else schema.L0_CALIBRATION)}
        sizes = dict(zip(schema.COUNT_AXES, shape, strict=True))
        for key, given in arrays.items():
            values = np.asarray(given, dtype=object if table[key].dtype == "str" else None)
            axes = next(o for o in table[key].axes if tuple(sizes[x] for x in o) == values.shape)
            row = table[key]
            about = {"units": row.unit, "long_name": row.meaning} if row.unit else {"long_name": row.meaning}
            write_array(folder / key, values, axes, about, COMPRESSOR)
        return CountsWriter(folder / "data_5d", shape, np.dtype(dtype), dict(attrs or {}), self._counts)


class CountsWriter:
    """Writes ``data_5d`` shard by shard: one pixel and a block of subscans each, so that it is never held in memory.

    Shards are independent of each other: different ones may be written by different threads.
    """

    def __init__(
        self, folder: Path, shape: tuple[int, int, int, int, int], dtype: np.dtype[Any], attrs: dict[str, Any],
        compressor: Compressor = COMPRESSOR,
    ) -> None:  # fmt: skip
        c, d, _, _, s = shape
        self.folder, self.shape, self.dtype, self.compressor = folder, shape, dtype, compressor
        self.channels = min(c, CHUNK_CHANNELS)
        at_most = max(1, MAX_SHARD_BYTES // (c * d * dtype.itemsize))
        self.block = -(-s // -(-s // at_most))
        missing: Any = "NaN" if dtype.kind == "f" else 0
        if dtype.kind == "i":
            attrs = {"fill": int(np.iinfo(dtype).min), **attrs}
        self.n_inner = -(-c // self.channels)
        shard = (self.n_inner * self.channels, d, 1, 1, self.block)
        doc = array_document(
            shape, dtype.name, shard, schema.COUNT_AXES, {"units": "counts", **attrs},
            inner=(self.channels, d, 1, 1, 1), fill_value=missing, compressor=compressor,
        )  # fmt: skip
        disk.write_file(folder / "zarr.json", dump_json(doc))

    def blocks(self) -> list[tuple[int, int, range]]:
        """(r, a, subscans) of every shard."""
        _, _, n_r, n_a, n_s = self.shape
        spans = [range(s, min(s + self.block, n_s)) for s in range(0, n_s, self.block)]
        return [(r, a, span) for r in range(n_r) for a in range(n_a) for span in spans]

    def open(self, r: int, a: int, subscans: range) -> PixelShard:
        """Start the shard of one of :meth:`blocks`."""
        key = chunk_key(0, 0, r, a, subscans.start // self.block)
        return PixelShard(self, ShardWriter(self.folder / key, (self.n_inner, 1, 1, 1, self.block), self.compressor))

    def write_all(self, counts: NDArray[Any]) -> None:
        """Write a whole array ``[C, D, R, A, S]`` that is in memory."""
        for r, a, span in self.blocks():
            shard = self.open(r, a, span)
            for s in span:
                shard.append(counts[:, :, r, a, s])
            shard.close()


class PixelShard:
    """One shard: subscans of one pixel, appended in order."""

    def __init__(self, counts: CountsWriter, shard: ShardWriter) -> None:
        self._counts, self._shard, self._next = counts, shard, 0

    def append(self, counts: NDArray[Any]) -> None:
        """Write the next subscan ``[C, D]``."""
        c, d = counts.shape
        step = self._counts.channels
        for k in range(math.ceil(c / step)):
            piece = counts[k * step : (k + 1) * step]
            if len(piece) < step:
                fill = self._counts.dtype.type(0)
                piece = np.concatenate([piece, np.full((step - len(piece), d), fill, self._counts.dtype)])
            self._shard.append((k, 0, 0, 0, self._next), np.ascontiguousarray(piece, dtype=self._counts.dtype))
        self._next += 1

    def close(self) -> None:
        """Write the index and make the file durable."""
        self._shard.close()

    def abandon(self) -> None:
        """Close after a failure; the file stays unfinished."""
        self._shard.abandon()
