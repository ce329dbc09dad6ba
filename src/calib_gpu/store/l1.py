"""Writing one scan of L1 into its staging folder: sharded arrays streamed, small ones at once, the group last."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from calib_gpu import schema
from calib_gpu.store import disk
from calib_gpu.store.codecs import Compressor, encode_all
from calib_gpu.store.documents import array_document, chunk_key, dump_json, group_document, sealed
from calib_gpu.store.shards import ShardWriter, dump_block, pixel_block
from calib_gpu.store.small import write_array

UNCORRECTED: Final = "antenna temperature, single sideband, not corrected for the atmosphere; NaN where flagged"
UNCORRECTED_T_SYS: Final = "system temperature at the reference position, not corrected for the atmosphere"
ROWS: Final = {row.name: row for row in schema.L1_ARRAYS}


@dataclass(frozen=True)
class Lane:
    """A block of pixels of one ON subscan: one shard each of spectra, flags and T_sys, written in order by one worker."""

    on: int
    r: slice
    a: slice


class ScanWriter:
    """The arrays of one scan (or band) on their way into a staging folder.

    Parameters
    ----------
    folder
        Staging folder, which becomes the scan group.
    shape
        (C, D, R, A, S_on).
    dtype
        Type of the spectra: float64 or float32.
    compressor
        How the spectra are written.
    level
        zstd level of everything else.
    """

    def __init__(
        self, folder: Path, shape: tuple[int, int, int, int, int], dtype: str, compressor: Compressor, level: int = -1
    ) -> None:
        self.folder, self.shape, self.dtype = folder, shape, np.dtype(dtype)
        self.compressor, self.plain = compressor, Compressor("zstd", level)
        c, d, r, a, _ = shape
        self.dump_block = dump_block(c, d, self.dtype.itemsize)
        self.n_block = -(-d // self.dump_block)
        self.pixels = pixel_block((r, a), c * self.n_block * self.dump_block * self.dtype.itemsize)
        self.manifest: dict[str, tuple[int, int]] = {}
        self._lock = threading.Lock()
        disk.make_dirs(folder)

    @property
    def bytes_written(self) -> int:
        """Bytes of all finished files."""
        return sum(size for size, _ in self.manifest.values())

    def lanes(self) -> Iterator[Lane]:
        """All lanes, subscan by subscan."""
        _, _, n_r, n_a, n_on = self.shape
        step_r, step_a = self.pixels
        for on, r, a in itertools.product(range(n_on), range(0, n_r, step_r), range(0, n_a, step_a)):
            yield Lane(on, slice(r, min(r + step_r, n_r)), slice(a, min(a + step_a, n_a)))

    def record(self, name: str, entry: tuple[int, int]) -> None:
        """Note size and crc32c of a finished file."""
        with self._lock:
            self.manifest[name] = entry

    def write(
        self, name: str, values: NDArray[Any], axes: tuple[str, ...], attributes: dict[str, Any] | None = None
    ) -> None:
        """Write an array whole, as one chunk."""
        row = ROWS[name]
        typed = values.astype(object if row.dtype == "str" else row.dtype)
        files = write_array(f"{self.folder}/{name}", typed, axes, _attributes(name, attributes), self.plain)
        for file, entry in files.items():
            self.record(f"{name}/{file}", entry)

    def write_pixels(
        self, name: str, values: Callable[[int, int], NDArray[Any]], attributes: dict[str, Any] | None = None
    ) -> None:
        """Write an array ``[C, R, A]``, one inner chunk a pixel; ``values(r, a)`` gives the ``[C]`` of one."""
        row, (c, _, n_r, n_a, _) = ROWS[name], self.shape
        shape = (c, n_r, n_a)
        self._document(name, shape, row.dtype, shape, ("C", "R", "A"), (c, 1, 1), attributes)
        key = f"{name}/{chunk_key(0, 0, 0)}"
        shard = ShardWriter(f"{self.folder}/{key}", (1, n_r, n_a), self.plain)
        try:
            for r, a in np.ndindex(n_r, n_a):
                shard.append((0, r, a), np.ascontiguousarray(values(r, a), dtype=row.dtype))
            self.record(key, shard.close())
        except BaseException:
            shard.abandon()
            raise

    def write_streamed_documents(self, *, corrected: bool, bits: int | None = None) -> None:
        """The metadata of spectra, flags and T_sys.

        ``corrected`` tells whether the transmission was divided out, ``bits`` how many bits are kept below the noise.
        """
        c, d, r, a, n_on = self.shape
        step_r, step_a = self.pixels
        for name, dtype in (("spectra", self.dtype.name), ("flags", "uint16")):
            chunk = (c, self.n_block * self.dump_block, step_r, step_a, 1)
            extra = flag_attributes() if name == "flags" else _spectra_attributes(corrected, bits)
            self._document(
                name, (c, d, r, a, n_on), dtype, chunk, schema.COUNT_AXES, (c, self.dump_block, 1, 1, 1), extra
            )
        about = {} if corrected else {"long_name": UNCORRECTED_T_SYS}
        axes, pixel_chunk = ("C", "R", "A", "S"), (c, step_r, step_a, 1)
        self._document("t_sys", (c, r, a, n_on), "float64", pixel_chunk, axes, (c, 1, 1, 1), about)

    def _document(
        self, name: str, shape: tuple[int, ...], dtype: str, chunk: tuple[int, ...], axes: tuple[str, ...],
        inner: tuple[int, ...] | None, attributes: dict[str, Any] | None,
    ) -> None:  # fmt: skip
        attrs = _attributes(name, attributes)
        dims = set(axes)
        coords = [n for n in schema.L1_COORDINATES if n != name and any(set(o) <= dims for o in ROWS[n].axes)]
        if name in ("spectra", "flags", "t_sys"):
            attrs["coordinates"] = " ".join(coords)
        compressor = self.compressor if name == "spectra" else self.plain
        doc = array_document(shape, dtype, chunk, axes, attrs, inner=inner, compressor=compressor)
        key = f"{name}/zarr.json"
        self.record(key, disk.write_file(f"{self.folder}/{key}", dump_json(doc)))

    def finish(self, attributes: dict[str, Any]) -> str:
        """Write the group's ``zarr.json`` with the digests of all files, last; returns the scan's digest.

        Publishing makes the files durable.
        """
        files = {name: f"{size}:{crc:08x}" for name, (size, crc) in sorted(self.manifest.items())}
        document, digest = sealed(group_document({**attributes, "files": files}))
        self.record("zarr.json", disk.write_file(self.folder / "zarr.json", dump_json(document)))
        return digest


def _attributes(name: str, more: dict[str, Any] | None) -> dict[str, Any]:
    """Attributes of an array: its row of the table, and what is given besides."""
    row = ROWS[name]
    return {"long_name": row.meaning, **({"units": row.unit} if row.unit else {}), **(more or {})}


def _spectra_attributes(corrected: bool, bits: int | None) -> dict[str, Any]:
    attributes = {} if corrected else {"long_name": UNCORRECTED}
    if bits is not None:
        rule = f"rounded to multiples of quantum[R,A,S], a power of two <= 2^-{bits} of the radiometer noise of a dump"
        attributes["precision"] = rule
    return attributes


def flag_attributes() -> dict[str, Any]:
    """CF attributes that name the flag bits."""
    bits = list(schema.Flag)
    return {
        "flag_masks": [int(b) for b in bits],
        "flag_meanings": " ".join(str(b.name).lower() for b in bits),
        "flag_descriptions": [schema.FLAG_MEANINGS[b] for b in bits],
    }


class LaneWriter:
    """The three shards of a lane, open for appending; inner chunks go in pixel by pixel, dump block by dump block."""

    def __init__(self, scan: ScanWriter, lane: Lane) -> None:
        self._scan, self._lane = scan, lane
        step_r, step_a = scan.pixels
        r, a = lane.r.start // step_r, lane.a.start // step_a
        self._keys = {
            "spectra": f"spectra/{chunk_key(0, 0, r, a, lane.on)}",
            "flags": f"flags/{chunk_key(0, 0, r, a, lane.on)}",
            "t_sys": f"t_sys/{chunk_key(0, r, a, lane.on)}",
        }
        grids = {"spectra": (1, scan.n_block, step_r, step_a, 1), "t_sys": (1, step_r, step_a, 1)}
        grids["flags"] = grids["spectra"]
        self._shards: dict[str, ShardWriter] = {}
        try:
            for name, key in self._keys.items():
                compressor = scan.compressor if name == "spectra" else scan.plain
                self._shards[name] = ShardWriter(f"{scan.folder}/{key}", grids[name], compressor)
        except BaseException:
            self.abandon()
            raise

    def append(
        self, r: int, a: int, spectra: NDArray[Any], flags: NDArray[np.uint16], t_sys: NDArray[np.float64],
        encoded: Sequence[bytes] | None = None,
    ) -> None:  # fmt: skip
        """Encode and write one pixel: ``spectra`` and ``flags`` in blocks of dumps [B, C, d], ``t_sys`` [C].

        ``encoded`` are the blocks of spectra where they are encoded already, with the compressor of the spectra.
        """
        where = (r - self._lane.r.start, a - self._lane.a.start)
        blocks: list[tuple[int, ...]] = [(0, k, *where, 0) for k in range(len(spectra))]
        parts: list[tuple[ShardWriter, list[tuple[int, ...]], list[NDArray[Any]]]] = [
            (self._shards["flags"], blocks, list(flags)),
            (self._shards["t_sys"], [(0, *where, 0)], [t_sys]),
        ]
        if encoded is None:
            parts.insert(0, (self._shards["spectra"], blocks, list(spectra)))
        else:
            self._shards["spectra"].append_encoded(blocks, encoded)
        data = encode_all([(shard.compressor, chunk) for shard, _, chunks in parts for chunk in chunks])
        for shard, places, chunks in parts:
            shard.append_encoded(places, data[: len(chunks)])
            del data[: len(chunks)]

    def close(self) -> None:
        """Finish the three files and note them in the scan's list."""
        for name, shard in self._shards.items():
            self._scan.record(self._keys[name], shard.close())

    def abandon(self) -> None:
        """Close after a failure."""
        for shard in self._shards.values():
            shard.abandon()
