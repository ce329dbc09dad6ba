"""How fast a device copies, calibrates, and does both at once: wall clock around work that ends in one synchronisation."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from calib_gpu.backend.device import Device, HostBlock
from calib_gpu.backend.kernels import KERNELS
from calib_gpu.backend.tile import TileLayout
from calib_gpu.physics.calibration import SampleRule
from calib_gpu.stream import DeviceTiles, Job, TileInput
from calib_gpu.tile_plan import SPARE_SLOTS
from calib_gpu.workers import Workers

REPEATS = 7
PIXELS = 32
SHAPE = (16384, 40)
"""Channels and dumps of the tiles: those of preset M."""
STREAMED_TILES = 64
STREAMED_PIXELS = 8
"""Pixels of a streamed tile: enough that the copies, not the host's calls, take the time."""


@dataclass(frozen=True)
class Rates:
    """What was measured; medians of 7.

    ``copy`` bytes read and written per second by a copy on the device, ``kernel`` the same for the tile kernel, ``upload``
    and ``download`` bytes per second alone, ``samples`` samples per second of the tile kernel, ``streamed`` those of tiles
    that are uploaded, calculated and downloaded, ``overlap`` the time of the three one after the other over the time that
    they took together.
    """

    copy: float
    kernel: float
    upload: float
    download: float
    samples: float
    streamed: float
    overlap: float

    @property
    def of_copy(self) -> float:
        """Bandwidth of the tile kernel over that of a copy."""
        return self.kernel / self.copy


class _Bench:
    """Blocks for a large tile, and the time of work on one stream."""

    def __init__(self, device: Device, layout: TileLayout) -> None:
        self.device, self.layout = device, layout
        self.stream, self.event = device.stream("rates"), device.event()
        self.host_in, self.host_out = device.pinned(layout.input.nbytes), device.pinned(layout.output.nbytes)
        self.source, self.target = device.empty(layout.input.nbytes), device.empty(layout.output.nbytes)
        self.spare = device.empty(layout.output.nbytes)
        fill(layout, self.host_in, seed=1)
        self.arguments = layout.arguments(self.source, self.target, SampleRule(-(2**31), None), layout.n_dump)
        self.upload()
        self.wait()

    def upload(self) -> None:
        self.device.upload(self.source, self.host_in, self.layout.input.nbytes, self.stream)

    def download(self) -> None:
        self.device.download(self.host_out, self.target, self.layout.output.nbytes, self.stream)

    def copy(self) -> None:
        self.device.copy(self.spare, self.target, self.layout.output.nbytes, self.stream)

    def kernel(self) -> None:
        blocks = {"reads": (self.source, self.target), "writes": (self.target,)}
        self.device.launch(KERNELS["calibrate_tile"], self.layout.size, self.arguments, self.stream, **blocks)

    def wait(self) -> None:
        self.device.record(self.event, self.stream)
        self.device.synchronize(self.event)

    def seconds(self, work: Callable[[], None], times: int) -> float:
        """Median time of one piece of work, of seven rounds of so many after one to warm up."""
        found = []
        for k in range(REPEATS + 1):
            begin = time.perf_counter()
            for _ in range(times):
                work()
            self.wait()
            if k:
                found.append((time.perf_counter() - begin) / times)
        return statistics.median(found)

    def close(self) -> None:
        for block in (self.host_in, self.host_out, self.source, self.target, self.spare):
            self.device.release(block)


def fill(layout: TileLayout, block: HostBlock, seed: int) -> None:
    """Random counts, references and factors, without anything to flag."""
    rng, memory = np.random.default_rng(seed), block.write()
    layout.input.array("counts", memory)[...] = rng.integers(1_000_000, 2_000_000, (layout.r, layout.a, *SHAPE))
    layout.input.array("ref", memory)[...] = rng.uniform(1e6, 2e6, (layout.r, layout.a, SHAPE[0]))
    layout.input.array("factor", memory)[...] = rng.uniform(1e-3, 2e-3, (layout.r, layout.a, SHAPE[0]))
    layout.input.array("base", memory)[...] = 0
    layout.input.array("quantum", memory)[...] = 0.0


def tile_layout(pixels: int) -> TileLayout:
    """A tile of preset M: int32 counts, float64 spectra."""
    return TileLayout(1, pixels, *SHAPE, 5, 8, np.dtype(np.int32), np.dtype(np.float64))


def measure_rates(device: Device) -> Rates:
    """All rates, in a few seconds on a data-centre GPU."""
    layout = tile_layout(PIXELS)
    n_samples = PIXELS * SHAPE[0] * SHAPE[1]
    bench = _Bench(device, layout)
    try:
        copy = 2.0 * layout.output.nbytes / bench.seconds(bench.copy, 20)
        t_kernel = bench.seconds(bench.kernel, 20)
        t_up, t_down = bench.seconds(bench.upload, 2), bench.seconds(bench.download, 2)
    finally:
        bench.close()
    t_tile = _stream_tiles(device) / STREAMED_TILES
    apart = (t_up + t_kernel + t_down) * STREAMED_PIXELS / PIXELS
    moved = layout.input.nbytes + layout.output.nbytes
    return Rates(
        copy, moved / t_kernel, layout.input.nbytes / t_up, layout.output.nbytes / t_down, n_samples / t_kernel,
        n_samples * STREAMED_PIXELS / PIXELS / t_tile, apart / t_tile,
    )  # fmt: skip


def _stream_tiles(device: Device) -> float:
    """Seconds for tiles through the slots of the tile loop, no codec on either side."""
    layout, workers = tile_layout(STREAMED_PIXELS), Workers(1)
    tiles = DeviceTiles(device, workers)
    try:
        tiles.allocate(layout, 2 * SPARE_SLOTS)
        begin = 0.0
        for round_ in range(2):  # the first round fills the buffers, and warms up
            begin = time.perf_counter()
            _through(tiles, layout, STREAMED_TILES, fresh=round_ == 0)
        return time.perf_counter() - begin
    finally:
        tiles.free()
        workers.close()


def _through(tiles: DeviceTiles, layout: TileLayout, count: int, *, fresh: bool) -> None:
    """Send tiles through; a slot is used again as soon as its result is there."""
    channels = (1, layout.a, SHAPE[0])
    tile = TileInput(
        np.full(channels, 1e6), np.full(channels, 1e-3), np.zeros(channels, np.uint16), np.zeros((1, layout.a)),
        SampleRule(-(2**31), None), layout.n_dump,
    )  # fmt: skip
    in_flight: list[Job] = []
    for _ in range(count):
        while (job := tiles.job(layout, wait=False)) is None:
            oldest = in_flight.pop(0)
            oldest.finish()
            oldest.release()
        if fresh:
            job.counts[...] = 1_500_000
        job.start(tile)
        in_flight.append(job)
    for job in in_flight:
        job.finish()
        job.release()
