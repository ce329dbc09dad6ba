"""Tiles driven through a device by several threads, and what the NumPy backend makes of the same tiles."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np

from calib_gpu import stream
from calib_gpu.backend.base import TileResult
from calib_gpu.backend.numpy_ import NumpyBackend
from calib_gpu.backend.tile import TileLayout
from calib_gpu.encoded import TileEncoder, TileFrames
from calib_gpu.physics.calibration import SampleRule
from calib_gpu.store import codecs
from calib_gpu.testing.host import SeenLock, run_threads
from calib_gpu.testing.schedule import Schedule
from calib_gpu.testing.sim import SimDevice
from calib_gpu.workers import Workers

STREAMS = ("upload", "compute", "download")
FILL = -(2**31)
RULE = SampleRule(FILL, 10_000.0)


@dataclass(frozen=True)
class Case:
    """One tile: where it lies, counts, what it is calibrated with, and the bytes that it must give."""

    layout: TileLayout
    counts: np.ndarray
    tile: stream.TileInput
    spectra: bytes
    flags: bytes
    result: TileResult


def case(seed: int, r: int = 1, a: int = 2, n_channel: int = 7, n_dump: int = 5, block: int = 3) -> Case:
    """A tile of random counts, some of them missing, dead or saturated; no two seeds give the same."""
    rng = np.random.default_rng(seed)
    n_block = -(-n_dump // block)
    layout = TileLayout(r, a, n_channel, n_dump, n_block, block, np.dtype(np.int32), np.dtype(np.float64))
    counts = rng.integers(1, 9_000, (r, a, n_channel, n_dump)).astype(np.int32)
    odd = rng.random(counts.shape) < 0.1
    counts[odd] = rng.choice([0, -7, FILL, 10_000], int(odd.sum()))
    shape = (r, a, n_channel)
    base = np.where(rng.random(shape) < 0.1, 1, 0).astype(np.uint16)
    quantum = rng.choice([0.0, 2.0**-7], (r, a))
    tile = stream.TileInput(
        rng.uniform(1e3, 9e3, shape), rng.uniform(0.01, 0.02, shape), base, quantum, RULE, n_dump - seed % 2
    )
    out = (r, a, n_block, n_channel, block)
    spectra, flags = np.empty(out), np.empty(out, np.uint16)
    result = NumpyBackend().calibrate_tile(
        counts, tile.ref, tile.factor, tile.base, tile.quantum, tile.rule, tile.n_dump, spectra, flags
    )
    return Case(layout, counts, tile, spectra.tobytes(), flags.tobytes(), result)


CASES = [[case(100 * lane + i, a=1 + (i + lane) % 2, n_dump=4 + i % 2) for i in range(4)] for lane in range(3)]
"""Tiles of three lanes, of several sizes."""


@contextlib.contextmanager
def tiles_on(
    device: SimDevice, slots: int, module: ModuleType = stream, encoder: TileEncoder | None = None
) -> Iterator[Any]:
    """DeviceTiles whose locks the checker sees."""
    workers = Workers(1)
    tiles = module.DeviceTiles(device, workers)
    tiles._changed = module.threading.Condition(SeenLock(device))
    tiles._order = SeenLock(device)
    layouts = [c.layout for lane in CASES for c in lane]
    try:
        tiles.allocate(max(layouts, key=lambda layout: layout.output.nbytes), slots, None, encoder)
        yield tiles
    finally:
        workers.close()


class LaneFails(Exception):
    """What a lane is told to fail with."""


def run_lane(tiles: Any, lane: list[Case], wrong: list[str], fail_after: int | None = None) -> None:
    """One lane as the engine runs it: some tiles in flight, finished in order; it may fail after so many were begun."""
    flight: deque[tuple[Case, Any]] = deque()

    def finish() -> None:
        c, job = flight[0]
        out = job.finish()
        if out.spectra.tobytes() != c.spectra or out.flags.tobytes() != c.flags or not same(out.result, c.result):
            wrong.append(f"a tile of {c.layout} differs")
        if out.frames is not None and decoded(out.frames, c.layout) != c.spectra:
            wrong.append(f"the frames of a tile of {c.layout} hold something else")
        flight.popleft()[1].release()

    try:
        for i, c in enumerate(lane):
            if i == fail_after:
                raise LaneFails
            while (job := tiles.job(c.layout, wait=not flight)) is None:
                finish()
            flight.append((c, job))
            job.counts[...] = c.counts
            job.start(c.tile)
            if len(flight) == tiles.ahead:
                finish()
        while flight:
            finish()
    finally:
        for _, job in flight:
            job.release()


def decoded(frames: TileFrames, layout: TileLayout) -> bytes:
    """What the chunks of a tile hold, as any reader finds it, pixel by pixel."""
    out, chunk = b"", np.empty(layout.n_channel * layout.block * layout.spectra.itemsize, np.uint8)
    for i, j in np.ndindex(layout.r, layout.a):
        for data in frames.pixel(i, j):
            codecs.decode(("zstd", "crc32c"), data, chunk)
            out += chunk.tobytes()
    return out


def same(a: TileResult, b: TileResult) -> bool:
    return all(
        np.array_equal(getattr(a, name), getattr(b, name)) for name in ("flag_counts", "invalid", "dump_present")
    )


def run_tiles(
    schedule: Schedule, slots: int, n_lane: int, *, check: str = "raise", module: ModuleType = stream,
    fail_after: int | None = None, encoder: Callable[[SimDevice], TileEncoder] | None = None,
) -> list[str]:  # fmt: skip
    """All lanes, each in a thread of its own; what is wrong, in words. The first lane may fail; the others go on."""
    device = SimDevice(schedule, check=check, threads=True)
    wrong: list[str] = []
    with tiles_on(device, slots, module, None if encoder is None else encoder(device)) as tiles:
        limits = [fail_after] + [None] * (n_lane - 1)
        lanes = [partial(run_lane, tiles, lane, wrong, n) for lane, n in zip(CASES, limits, strict=False)]
        with contextlib.suppress(LaneFails):
            run_threads(device, lanes)
        tiles.free()
    device.close()
    return wrong + device.order_faults + [f"not given back: {block}" for block in device.live_blocks]
