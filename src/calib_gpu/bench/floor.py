"""The floor: what reading, decoding, one subtraction and one product, flags, encoding and writing cost without an engine.

What it reads: every byte of counts that the engine reads, once (ON and OFF subscans, and the loads of the scan's load
set), from the same files. OFF and load subscans are read and decoded, nothing more.

What it does with each ON sample: ``(on - ref) * factor`` in float64, rounded where the engine rounds, and a flag word
(missing, dead or saturated, bad channel, no reference, opaque), NaN where one is set. Factors and references are given
(:mod:`calib_gpu.bench.plan`).

What it writes: ``spectra`` and ``flags`` in the same inner chunks, with the same codec and level, in shard files of the
same names as the engine's store, and brings them to the disk in the same way, scan by scan. The spectra are those of the
engine, bit for bit; a test holds them together.

What it leaves out: the averages of loads and OFFs, the PWV fit, all metadata, QA, T_sys, all other arrays of L1, resume,
and every check of the input except the codec's own.

How: as many threads as the engine has workers, each with its own buffers that are allocated once; ``preadv`` into
them, numcodecs from and into them, NumPy with ``out=`` in pieces that stay in the cache.
"""

from __future__ import annotations

import itertools
import json
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import numcodecs.blosc
import numcodecs.zstd
import numpy as np
from numpy.typing import NDArray

from calib_gpu.bench.plan import ScanPlan
from calib_gpu.errors import ConfigError
from calib_gpu.schema import Flag
from calib_gpu.store import disk
from calib_gpu.store.codecs import with_crc32c

PIECE: Final = 64 * 1024
"""Samples worked on at a time: 512 KiB of float64; the fastest of the sizes tried."""


class Buffers(threading.local):
    """Buffers of a thread, by name; allocated once."""

    def __init__(self) -> None:
        self.held: dict[str, NDArray[np.uint8]] = {}

    def get(self, name: str, shape: tuple[int, ...], dtype: Any = np.uint8) -> NDArray[Any]:
        """A buffer of that shape; its content is undefined."""
        kind = np.dtype(dtype)
        size = int(np.prod(shape)) * kind.itemsize
        held = self.held.get(name)
        if held is None or held.size < size:
            held = self.held[name] = np.empty(size, np.uint8)
        found: NDArray[Any] = held[:size].view(kind).reshape(shape)
        return found


class Counts:
    """``data_5d`` of one group: chunks of one pixel and one subscan, plain or sharded, with one compressor.

    Raises
    ------
    ConfigError
        The chunks hold several pixels or subscans, or have other codecs: the floor has no bare loop for those.
    """

    def __init__(self, folder: Path, buffers: Buffers) -> None:
        import zarr

        array: Any = zarr.open_array(str(folder), mode="r")
        self.folder, self.shape, self.dtype, self.chunk = folder, array.shape, array.dtype, array.chunks
        self.shard, self._key, self._buffers = array.shards, array.metadata.encode_chunk_key, buffers
        self._indices: dict[str, NDArray[np.uint64]] = {}
        codecs = [c.codec_name if hasattr(c, "codec_name") else type(c).__name__ for c in array.compressors]
        names = [name.lower().removeprefix("numcodecs.") for name in codecs]
        if array.filters or len(names) > 1 or any("zstd" not in n and "blosc" not in n for n in names):
            raise _no_floor(folder, f"codecs {names}")
        if self.chunk[2:] != (1, 1, 1):
            raise _no_floor(folder, f"chunks {self.chunk}")
        decoders = {"zstd": numcodecs.zstd.decompress, "blosc": numcodecs.blosc.decompress}
        self._decode = next((d for k, d in decoders.items() if names and k in names[0]), None)

    def read(self, r: int, a: int, s: int, out: NDArray[Any]) -> int:
        """Counts ``[C, D]`` of a pixel and subscan; returns the bytes read."""
        (n_c, n_d), (step_c, step_d), total = self.shape[:2], self.chunk[:2], 0
        for c0, d0 in itertools.product(range(0, n_c, step_c), range(0, n_d, step_d)):
            raw = self._bytes((c0 // step_c, d0 // step_d, r, a, s))
            total += len(raw)
            target = out[c0 : c0 + step_c, d0 : d0 + step_d]
            if target.shape == (step_c, step_d) and step_d == n_d:
                self._undo(raw, target.reshape(-1).view(np.uint8))
                continue
            scratch = self._buffers.get("chunk", (step_c, step_d), self.dtype)
            self._undo(raw, scratch.reshape(-1).view(np.uint8))
            target[...] = scratch[: target.shape[0], : target.shape[1]]
        return total

    def _undo(self, raw: memoryview, out: NDArray[np.uint8]) -> None:
        if self._decode is None:
            out[:] = np.frombuffer(raw, np.uint8)
        else:
            self._decode(raw, out)

    def _bytes(self, coords: tuple[int, ...]) -> memoryview:
        if self.shard is None:
            return self._preadv(self._key(coords), 0, None)
        grid = tuple(n // i for n, i in zip(self.shard, self.chunk, strict=True))
        name = self._key(tuple(c // n for c, n in zip(coords, grid, strict=True)))
        if name not in self._indices:
            size = 16 * int(np.prod(grid))
            raw = self._preadv(name, -size - 4, size)
            self._indices[name] = np.frombuffer(bytes(raw), "<u8").reshape(*grid, 2)
        offset, size = self._indices[name][tuple(c % n for c, n in zip(coords, grid, strict=True))]
        return self._preadv(name, int(offset), int(size))

    def _preadv(self, name: str, offset: int, size: int | None) -> memoryview:
        handle = os.open(self.folder / name, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if size is None or offset < 0:
                length = os.fstat(handle).st_size
                offset, size = (length + offset if offset < 0 else offset), length if size is None else size
            view: memoryview = self._buffers.get("compressed", (size,)).data
            done = 0
            while done < size:
                n = os.preadv(handle, [view[done:]], offset + done)
                if n == 0:
                    raise EOFError(f"{self.folder / name} is cut short")
                done += n
            return view
        finally:
            os.close(handle)


def _no_floor(folder: Path, value: str) -> ConfigError:
    return ConfigError(
        "the floor has no loop for this layout", array=str(folder), value=value,
        rule="chunks of one pixel and one subscan, zstd or blosc", fix="leave out the cases floor, precision and overhead",
    )  # fmt: skip


class Output:
    """One of the two arrays that are written: its shards, inner chunks and codec as its document says."""

    def __init__(self, folder: Path, document: str) -> None:
        import zarr

        disk.make_dirs(folder)
        (folder / "zarr.json").write_text(document, encoding="utf-8")
        array: Any = zarr.open_array(str(folder), mode="r")
        self.folder, self.dtype, self.inner, self.shard = folder, array.dtype, array.chunks, array.shards
        self.key = array.metadata.encode_chunk_key
        self.grid = tuple(n // i for n, i in zip(self.shard, self.inner, strict=True))
        chain = json.loads(document)["codecs"][0]["configuration"]["codecs"]
        names, options = [c["name"] for c in chain], chain[1].get("configuration", {})
        self.encode: Callable[[NDArray[Any]], bytes]
        if names == ["bytes", "zstd"]:
            self.encode = lambda data: numcodecs.zstd.compress(data, options["level"], options["checksum"])
        elif names == ["bytes", "blosc", "crc32c"] and options["shuffle"] == "bitshuffle":
            how = options["cname"].encode(), options["clevel"], numcodecs.blosc.BITSHUFFLE, options["blocksize"]
            self.encode = lambda data: with_crc32c(numcodecs.blosc.compress(data, *how))
        else:
            raise ConfigError("the floor does not know these codecs of L1", array=str(folder), value=names)


class Shard:
    """A shard file: encoded chunks one after the other, the index last."""

    def __init__(self, output: Output, coords: tuple[int, ...]) -> None:
        self._encode, self._file = output.encode, disk.OutputFile(output.folder / output.key(coords))
        self._index = np.full((*output.grid, 2), np.uint64(2**64 - 1), "<u8")

    def append(self, where: tuple[int, ...], chunk: NDArray[Any]) -> None:
        """Encode a chunk and write it."""
        data = self._encode(chunk)
        self._index[where] = (self._file.size, len(data))
        self._file.append(data)

    def close(self) -> int:
        """Write the index; returns the size."""
        raw = self._index.tobytes()
        self._file.append(with_crc32c(raw))
        return self._file.close()[0]


class Floor:
    """The bare loop over one scan."""

    def __init__(self, plan: ScanPlan, out: Path, buffers: Buffers) -> None:
        self.plan, self.folder, self.buffers = plan, out / plan.name, buffers
        self.counts, self.loads = Counts(plan.counts, buffers), Counts(plan.loads, buffers)
        self.spectra, self.flags = (Output(self.folder / name, plan.documents[name]) for name in ("spectra", "flags"))

    @property
    def other_samples(self) -> int:
        """Samples that are read and not calibrated."""
        pairs = ((self.counts, self.plan.others), (self.loads, self.plan.load_subscans))
        return sum(int(np.prod(array.shape[:4])) * len(subscans) for array, subscans in pairs)

    def others(self) -> list[Callable[[], int]]:
        """Jobs that read and decode what is not calibrated; each returns the bytes read."""
        jobs: list[Callable[[], int]] = []
        for array, subscans in ((self.counts, self.plan.others), (self.loads, self.plan.load_subscans)):
            for s, r, a in itertools.product(subscans, range(array.shape[2]), range(array.shape[3])):

                def job(array: Counts = array, where: tuple[int, int, int] = (r, a, s)) -> int:
                    return array.read(*where, self.buffers.get("counts", array.shape[:2], array.dtype))

                jobs.append(job)
        return jobs

    def lanes(self) -> list[Callable[[], int]]:
        """Jobs that calibrate and write one shard each of spectra and flags; each returns the bytes read and written."""
        _, _, n_r, n_a, _ = self.counts.shape
        step_r, step_a = self.spectra.shard[2:4]
        corners = itertools.product(range(len(self.plan.on)), range(0, n_r, step_r), range(0, n_a, step_a))
        return [lambda on=on, r=r, a=a: self._lane(on, r, a) for on, r, a in corners]  # type: ignore[misc]

    def _lane(self, on: int, r0: int, a0: int) -> int:
        _, _, n_r, n_a, _ = self.counts.shape
        step_r, step_a = self.spectra.shard[2:4]
        coords = (0, 0, r0 // step_r, a0 // step_a, on)
        shards, total = [Shard(output, coords) for output in (self.spectra, self.flags)], 0
        for r, a in itertools.product(range(r0, min(r0 + step_r, n_r)), range(a0, min(a0 + step_a, n_a))):
            counts = self.buffers.get("counts", self.counts.shape[:2], self.counts.dtype)
            total += self.counts.read(r, a, int(self.plan.on[on]), counts)
            for shard, blocks in zip(shards, self._calibrate(counts, on, r, a), strict=True):
                for k, block in enumerate(blocks):
                    shard.append((0, k, r - r0, a - a0, 0), block)
        return total + sum(shard.close() for shard in shards)

    def _calibrate(self, counts: NDArray[Any], on: int, r: int, a: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """Spectra and flags of one pixel ``[block, C, dumps of a block]``, in this thread's buffers."""
        plan, (n_c, n_d), step = self.plan, counts.shape, self.spectra.inner[1]
        n_block = -(-n_d // step)
        spectra = self.buffers.get("spectra", (n_block, n_c, step), self.spectra.dtype)
        flags = self.buffers.get("flags", (n_block, n_c, step), np.uint16)
        if n_block * step > n_d:
            spectra[-1, :, n_d - n_block * step :], flags[-1, :, n_d - n_block * step :] = np.nan, 0
        with np.errstate(divide="ignore", over="ignore"):
            factor = plan.factor[r, a] / plan.transmission[on]
        quantum = float(plan.quantum[r, a, on])
        factor = factor / quantum if quantum else factor  # exact: a power of two
        ref = self._reference(on, r, a)
        base = plan.bad[r, a] * np.uint16(Flag.BAD_CHANNEL) | plan.opaque[on] * np.uint16(Flag.OPAQUE)
        base |= np.isnan(ref) * np.uint16(Flag.NO_REFERENCE)
        rows = max(1, PIECE // n_d)
        for c in range(0, n_c, rows):
            piece = counts[c : c + rows]
            out, marks = self.buffers.get("work", piece.shape, np.float64), base[c : c + rows, None]
            np.subtract(piece, ref[c : c + rows, None], out=out, casting="unsafe", dtype=np.float64)
            with np.errstate(invalid="ignore"):  # dead pixels
                np.multiply(out, factor[c : c + rows, None], out=out)
                if quantum:
                    np.multiply(np.rint(out, out=out), quantum, out=out)
            if self._clean(piece):
                if marks.any():
                    out[marks[:, 0] != 0] = np.nan
            else:
                marks = self._marks(piece, marks)
                out[marks != 0] = np.nan
            for k in range(n_block):
                d = slice(k * step, min((k + 1) * step, n_d))
                spectra[k, c : c + rows, : d.stop - d.start] = out[:, d]
                flags[k, c : c + rows, : d.stop - d.start] = marks if marks.shape[1] == 1 else marks[:, d]
        return spectra, flags

    def _reference(self, on: int, r: int, a: int) -> NDArray[np.float64]:
        (i, j), (u, v) = self.plan.slots[on], self.plan.weights[on]
        if v == 0.0:
            return np.asarray(self.plan.references[i, r, a])
        return np.asarray(u * self.plan.references[i, r, a] + v * self.plan.references[j, r, a])

    def _clean(self, piece: NDArray[Any]) -> bool:
        """True if no sample is missing, dead or saturated: two passes without a temporary (NaN compares false)."""
        low, high, fill = piece.min(), piece.max(), self.plan.fill
        below = high < (np.inf if self.plan.saturation is None else self.plan.saturation)
        return bool(low > 0 and below and (fill is None or not low <= fill <= high))

    def _marks(self, piece: NDArray[Any], base: NDArray[np.uint16]) -> NDArray[np.uint16]:
        missing = np.isnan(piece) if piece.dtype.kind == "f" else piece == self.plan.fill
        dead = (piece <= 0) | (piece >= (np.inf if self.plan.saturation is None else self.plan.saturation))
        invalid = dead & ~missing
        return np.asarray(base | missing * np.uint16(Flag.FILL_VALUE) | invalid * np.uint16(Flag.INVALID_COUNT))


def run_floor(plans: Sequence[ScanPlan], out: Path, workers: int) -> dict[str, Any]:
    """Run the floor over some scans into ``out``; seconds, and those of its parts.

    ``others_s`` is the time for what is only read (OFFs and loads), ``tiles_s`` that for the ON samples, ``disk_s`` that
    until all is on the disk. Opening arrays and writing their documents is not timed.
    """
    buffers = Buffers()
    floors = [Floor(plan, out, buffers) for plan in plans]
    parts = dict.fromkeys(("others_s", "tiles_s", "disk_s"), 0.0)
    n_bytes = samples = 0
    with ThreadPoolExecutor(workers) as pool:

        def all_of(jobs: list[Callable[[], int]]) -> int:
            waiting = deque(jobs)  # one task a thread, which takes jobs until none is left

            def work() -> int:
                total = 0
                while True:
                    try:
                        job = waiting.popleft()
                    except IndexError:
                        return total
                    total += job()

            return sum(f.result() for f in [pool.submit(work) for _ in range(workers)])

        begin = time.perf_counter()
        for floor in floors:
            times = [time.perf_counter()]
            n_bytes += all_of(floor.others())
            times.append(time.perf_counter())
            n_bytes += all_of(floor.lanes())
            times.append(time.perf_counter())
            disk.make_durable(floor.folder)
            times.append(time.perf_counter())
            for name, first, last in zip(parts, times, times[1:], strict=False):
                parts[name] += last - first
            c, d, r, a, _ = floor.counts.shape
            samples += c * d * r * a * len(floor.plan.on)
        seconds = time.perf_counter() - begin
    other_samples = sum(floor.other_samples for floor in floors)
    itemsize = floors[0].counts.dtype.itemsize
    found: dict[str, Any] = {"seconds": seconds, "samples": samples, "bytes": n_bytes, "other_samples": other_samples}
    return found | {"itemsize": itemsize, **parts}
