"""Stage 5, calibrate: ON tiles in, T_A* and flags out, lane by lane; nothing couples tiles."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from calib_gpu.backend.base import Backend
from calib_gpu.qa.sample import DumpSample
from calib_gpu.schema import Flag
from calib_gpu.stages.prepare import Factors
from calib_gpu.store.l1 import Lane, LaneWriter, ScanWriter
from calib_gpu.workers import CHANNEL_BYTES, Blocks, Workers, read_tile


@dataclass
class TileTotals:
    """What the tiles of a scan add up to: exact counts, so that the order does not matter.

    ``flag_counts`` [R,A,16], ``invalid`` [R,A] samples, ``present`` [S_on,D] dumps that hold any sample,
    ``quantum`` [R,A,S_on] K,
    ``seconds`` of thread time spent reading, calculating and writing.
    """

    flag_counts: NDArray[np.int64]
    invalid: NDArray[np.int64]
    present: NDArray[np.bool_]
    quantum: NDArray[np.float64]
    bytes_read: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(("read", "compute", "write"), 0.0))

    def by_flag(self) -> dict[str, int]:
        """Samples with each of the flags that occur."""
        counts = self.flag_counts.sum(axis=(0, 1))
        return {
            str(flag.name): int(counts[int(flag).bit_length() - 1])
            for flag in Flag
            if counts[int(flag).bit_length() - 1]
        }


def calibrate_scan(
    factors: Factors, writer: ScanWriter, backend: Backend, workers: Workers, tile_bytes: int, sample: DumpSample,
    on_tile: Callable[[int], None],
) -> TileTotals:  # fmt: skip
    """Stream all ON tiles of a scan through the backend into L1.

    Parameters
    ----------
    tile_bytes
        Bound on the buffers of a tile (counts, spectra and flags); at least one pixel is taken.
    on_tile
        Called with the number of samples of each finished tile, from any worker.
    """
    source = factors.scan.source
    _, d, n_r, n_a, _ = source.shape
    n_on = len(factors.pairing.on)
    sample_bytes = source.counts.dtype.itemsize + writer.dtype.itemsize + 2
    blocks = Blocks.plan(source, sample_bytes, tile_bytes, CHANNEL_BYTES)
    totals = TileTotals(
        np.zeros((n_r, n_a, 16), np.int64),
        np.zeros((n_r, n_a), np.int64),
        np.zeros((n_on, d), bool),
        np.zeros((n_r, n_a, n_on)),
    )
    lock = threading.Lock()

    def run_lane(lane: Lane) -> None:
        shards = LaneWriter(writer, lane)
        try:
            for tile in blocks.tiles(lane, int(factors.pairing.on[lane.on])):
                workers.check()
                begin = time.perf_counter()
                counts, n_read = read_tile(workers, source, tile.subscan, tile.r, tile.a)
                read = time.perf_counter()
                k = factors.of_tile(tile)
                quantum = factors.quantum(tile, k.t_sys, counts)
                shape = (*counts.shape[:2], writer.n_block, counts.shape[2], writer.dump_block)
                spectra = workers.buffer("spectra", shape, writer.dtype)
                flags = workers.buffer("flags", shape, np.uint16)
                n_dump = source.subscans[tile.subscan].n_dump
                result = backend.calibrate_tile(
                    counts,
                    k.ref,
                    k.factor,
                    k.base,
                    quantum,
                    source.rule,
                    d if n_dump is None else n_dump,
                    spectra,
                    flags,
                )
                factors.release(tile)
                sample.observe(tile, spectra, k.t_sys)
                computed = time.perf_counter()
                for i, j in np.ndindex(shape[:2]):
                    shards.append(tile.r.start + i, tile.a.start + j, spectra[i, j], flags[i, j], k.t_sys[i, j])
                written = time.perf_counter()
                with lock:
                    totals.flag_counts[tile.r, tile.a] += result.flag_counts
                    totals.invalid[tile.r, tile.a] += result.invalid
                    totals.quantum[tile.r, tile.a, tile.on] = quantum
                    totals.present[tile.on] |= result.dump_present
                    totals.bytes_read += n_read
                    for name, seconds in zip(
                        ("read", "compute", "write"), (read - begin, computed - read, written - computed), strict=True
                    ):
                        totals.seconds[name] += seconds
                on_tile(counts.size)
            begin = time.perf_counter()
            shards.close()
            with lock:
                totals.seconds["write"] += time.perf_counter() - begin
        except BaseException:
            shards.abandon()
            raise

    n_bytes = n_on * math.prod(source.shape[:4]) * source.counts.dtype.itemsize
    workers.map(run_lane, writer.lanes(), n_bytes)
    return totals
