"""Stage 5, calibrate: ON tiles in, T_A* and flags out, lane by lane; nothing couples tiles."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from calib_gpu.qa.sample import DumpSample
from calib_gpu.records import Floats, Tile
from calib_gpu.schema import Flag
from calib_gpu.stages.prepare import Factors
from calib_gpu.store.l1 import Lane, LaneWriter, ScanWriter
from calib_gpu.stream import Job, TileInput, TileOutput, Tiles
from calib_gpu.tile_plan import TilePlan
from calib_gpu.workers import Workers


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


@dataclass(frozen=True)
class _InFlight:
    """A tile that was started: its job, its quantum [R,A] and T_sys [R,A,C] (K)."""

    tile: Tile
    job: Job
    quantum: Floats
    t_sys: Floats


class _Lane:
    """One lane from end to end: tiles are started in their order, and written in it."""

    def __init__(self, scan: ScanTiles, lane: Lane) -> None:
        self.scan, self.lane = scan, lane
        self.shards = LaneWriter(scan.writer, lane)
        self.in_flight: deque[_InFlight] = deque()

    def run(self) -> None:
        """All tiles; whatever fails, no buffer stays taken."""
        scan = self.scan
        try:
            for tile in scan.plan.blocks.tiles(self.lane, int(scan.factors.pairing.on[self.lane.on])):
                scan.workers.check()
                self._start(tile, self._job(tile))
                if len(self.in_flight) == scan.tiles.ahead:
                    self._finish()
            while self.in_flight:
                self._finish()
            with scan.timed("write"):
                self.shards.close()
        except BaseException:
            self.shards.abandon()
            for begun in self.in_flight:
                begun.job.release()
            raise

    def _job(self, tile: Tile) -> Job:
        """Buffers for a tile. A lane that holds some finishes with them before it waits for those of other lanes."""
        layout = self.scan.plan.layout(tile)
        while (job := self.scan.tiles.job(layout, wait=not self.in_flight)) is None:
            self._finish()
        return job

    def _start(self, tile: Tile, job: Job) -> None:
        """Read a tile and send it on its way."""
        scan, factors, source = self.scan, self.scan.factors, self.scan.factors.scan.source
        try:
            with scan.timed("read"):
                n_read = job.read(source, tile)
            with scan.timed("compute"):
                k = factors.of_tile(tile)
                quantum = factors.quantum(tile, k.t_sys, job.counts)
                n_dump = source.subscans[tile.subscan].n_dump
                n_dump = source.shape[1] if n_dump is None else n_dump
                job.start(TileInput(k.ref, k.factor, k.base, quantum, source.rule, n_dump))
                factors.release(tile)
        except BaseException:
            job.release()
            raise
        scan.add_read(n_read)
        self.in_flight.append(_InFlight(tile, job, quantum, k.t_sys))

    def _finish(self) -> None:
        """Write the oldest tile in flight."""
        scan, begun = self.scan, self.in_flight[0]
        tile = begun.tile
        with scan.timed("compute"):
            output = begun.job.finish()
            scan.sample.observe(tile, output.spectra, begun.t_sys)
        with scan.timed("write"):
            for i, j in np.ndindex(output.spectra.shape[:2]):
                pixel = (output.spectra[i, j], output.flags[i, j], begun.t_sys[i, j])
                encoded = None if output.frames is None else output.frames.pixel(i, j)
                self.shards.append(tile.r.start + i, tile.a.start + j, *pixel, encoded)
        scan.add(begun, output)
        self.in_flight.popleft().job.release()
        scan.on_tile(tile_samples(output))


def tile_samples(output: TileOutput) -> int:
    """Samples of a tile, without the padding of its last block."""
    r, a, _, c, _ = output.flags.shape
    return math.prod((r, a, c, output.result.dump_present.size))


class ScanTiles:
    """What the lanes of a scan share.

    Parameters
    ----------
    plan
        How the scan is cut into tiles.
    tiles
        Where they are calculated.
    on_tile
        Called with the number of samples of each finished tile, from any worker.
    """

    def __init__(
        self, factors: Factors, writer: ScanWriter, plan: TilePlan, tiles: Tiles, workers: Workers, sample: DumpSample,
        on_tile: Callable[[int], None],
    ) -> None:  # fmt: skip
        self.factors, self.writer, self.plan, self.tiles, self.workers = factors, writer, plan, tiles, workers
        self.sample, self.on_tile = sample, on_tile
        _, d, n_r, n_a, _ = factors.scan.source.shape
        n_on = len(factors.pairing.on)
        self.totals = TileTotals(
            np.zeros((n_r, n_a, 16), np.int64),
            np.zeros((n_r, n_a), np.int64),
            np.zeros((n_on, d), bool),
            np.zeros((n_r, n_a, n_on)),
        )
        self._lock = threading.Lock()

    def run(self) -> TileTotals:
        """Stream all ON tiles of a scan through the backend into L1."""
        source = self.factors.scan.source
        n_bytes = len(self.factors.pairing.on) * math.prod(source.shape[:4]) * source.counts.dtype.itemsize
        self.workers.map(lambda lane: _Lane(self, lane).run(), self.writer.lanes(), n_bytes)
        return self.totals

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add to the thread time of reading, calculating or writing."""
        begin = time.perf_counter()
        yield
        with self._lock:
            self.totals.seconds[name] += time.perf_counter() - begin

    def add_read(self, n_bytes: int) -> None:
        """Count bytes read."""
        with self._lock:
            self.totals.bytes_read += n_bytes

    def add(self, begun: _InFlight, output: TileOutput) -> None:
        """Add the counts of a tile."""
        tile, totals = begun.tile, self.totals
        with self._lock:
            totals.flag_counts[tile.r, tile.a] += output.result.flag_counts
            totals.invalid[tile.r, tile.a] += output.result.invalid
            totals.quantum[tile.r, tile.a, tile.on] = begun.quantum
            totals.present[tile.on] |= output.result.dump_present
