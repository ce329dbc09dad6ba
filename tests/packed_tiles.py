"""Tiles whose counts lie compressed in a store, driven through a simulated device that decodes them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from calib_gpu import packed, stream
from calib_gpu.backend.numpy_ import NumpyBackend
from calib_gpu.backend.tile import TileLayout
from calib_gpu.records import Tile
from calib_gpu.store.chunks import ChunkedArray
from calib_gpu.store.codecs import Compressor
from calib_gpu.store.frames import FrameSource, frame_source
from calib_gpu.store.l0_write import CountsWriter
from calib_gpu.testing.host import SeenLock, run_threads
from calib_gpu.testing.schedule import Schedule
from calib_gpu.testing.sim import SimDevice
from calib_gpu.testing.sim_decoder import SimDecoder, SimFiles
from calib_gpu.workers import Workers
from device_tiles import RULE

C, D, R, A, S = 96, 16, 2, 2, 3
"""One lane a subscan; a lane has a tile of one pixel and one of three."""
TILES = [
    [Tile(s, s, slice(0, 1), slice(0, 1)), Tile(s, s, slice(0, 1), slice(1, 2)), Tile(s, s, slice(1, 2), slice(0, 2))]
    for s in range(S)
]


@dataclass(frozen=True)
class PackedCase:
    """A tile, what it is calibrated with, and the bytes that it must give."""

    tile: Tile
    layout: TileLayout
    given: stream.TileInput
    spectra: bytes
    flags: bytes


@cache
def counts() -> np.ndarray:
    """Counts [C,D,R,A,S] that compress well; no two tiles are alike."""
    rng = np.random.default_rng(3)
    return (5000 + rng.integers(0, 4, (C, D, R, A, S)) + 100 * np.arange(R * A * S).reshape(R, A, S)).astype(np.int32)


def write_counts(folder: Path, channels: int = C) -> Path:
    """The counts as zstd + crc32c, in chunks of so many channels."""
    writer = CountsWriter(folder / "data_5d", (C, D, R, A, S), np.dtype(np.int32), {}, Compressor("zstd_crc32c", 1))
    writer.channels, writer.n_inner = channels, C // channels
    document = folder / "data_5d" / "zarr.json"
    document.write_text(
        document.read_text().replace(
            f'"chunk_shape": [{C}, {D}, 1, 1, 1]', f'"chunk_shape": [{channels}, {D}, 1, 1, 1]'
        )
    )
    writer.write_all(counts())
    return folder / "data_5d"


def open_counts(path: Path) -> tuple[ChunkedArray, FrameSource]:
    """The array, and its frames."""
    array = ChunkedArray(path, "source/data_5d", absent_is_fill=False)
    source = frame_source(array)
    assert isinstance(source, FrameSource)
    return array, source


@cache
def cases() -> list[list[PackedCase]]:
    """All tiles, lane by lane."""
    return [[_case(tile) for tile in lane] for lane in TILES]


def _case(tile: Tile) -> PackedCase:
    rng = np.random.default_rng([tile.on, tile.r.start, tile.a.start])
    r, a = tile.r.stop - tile.r.start, tile.a.stop - tile.a.start
    layout = TileLayout(r, a, C, D, 4, 5, np.dtype(np.int32), np.dtype(np.float64))
    base = np.where(rng.random((r, a, C)) < 0.1, 1, 0).astype(np.uint16)
    given = stream.TileInput(
        rng.uniform(1e3, 9e3, (r, a, C)), rng.uniform(0.01, 0.02, (r, a, C)), base, np.zeros((r, a)), RULE, D
    )
    on = np.ascontiguousarray(counts()[:, :, tile.r, tile.a, tile.subscan].transpose(2, 3, 0, 1))
    spectra, flags = np.empty((r, a, 4, C, 5)), np.empty((r, a, 4, C, 5), np.uint16)
    NumpyBackend().calibrate_tile(on, given.ref, given.factor, given.base, given.quantum, given.rule, D, spectra, flags)
    return PackedCase(tile, layout, given, spectra.tobytes(), flags.tobytes())


@dataclass
class Result:
    """What is wrong, in words; the notes; frames decoded on the device and spans read to it."""

    wrong: list[str]
    notes: list[str] = field(default_factory=list)
    decoded: int = 0
    read: int = 0


class _Group:
    """What :func:`calib_gpu.workers.read_counts` needs of a group."""

    def __init__(self, array: ChunkedArray) -> None:
        self.counts, self.shape = array, array.shape


def run_packed(
    path: Path, schedule: Schedule, *, slots: int = 2, n_lane: int = S, kvikio: bool = False,
    answer: Callable[[int, int], int] | None = None, spoil: Callable[[bytes], bytes] | None = None, check: str = "raise",
    module: ModuleType = packed, order: ModuleType = stream,
) -> Result:  # fmt: skip
    """All lanes, each in a thread of its own; ``answer`` and ``spoil`` as in :mod:`calib_gpu.testing.sim_decoder`."""
    array, source = open_counts(path)
    device = SimDevice(schedule, check=check, threads=True)
    decoder = SimDecoder(device) if answer is None else SimDecoder(device, answer)
    files = (SimFiles(device) if spoil is None else SimFiles(device, spoil)) if kvikio else None
    reader = module.PackedReader(device, decoder, files, source)
    result, workers = Result([]), Workers(1)
    tiles = order.DeviceTiles(device, workers)
    tiles._changed, tiles._order = order.threading.Condition(SeenLock(device)), SeenLock(device)
    largest = max((c.layout for lane in cases() for c in lane), key=lambda layout: layout.input.nbytes)
    try:
        tiles.allocate(largest, slots, reader)
        group: Any = _Group(array)
        lanes = [lambda lane=lane: _lane(tiles, group, lane, result.wrong) for lane in cases()[:n_lane]]
        run_threads(device, lanes)
        tiles.free()
        device.close()
    finally:
        workers.close()
    result.wrong += device.order_faults + [f"not given back: {block}" for block in device.live_blocks]
    result.notes, result.decoded, result.read = reader.notes(), decoder.n_frame, 0 if files is None else files.n_read
    return result


def _lane(tiles: Any, group: Any, lane: list[PackedCase], wrong: list[str]) -> None:
    flight: list[tuple[PackedCase, Any]] = []

    def finish() -> None:
        c, job = flight[0]
        out = job.finish()
        if out.spectra.tobytes() != c.spectra or out.flags.tobytes() != c.flags:
            wrong.append(f"{c.tile} differs")
        flight.pop(0)
        job.release()

    try:
        for c in lane:
            job = None
            while job is None:
                job = tiles.job(c.layout, wait=not flight)
                if job is None or len(flight) == tiles.ahead:
                    finish()
            try:
                job.read(group, c.tile)
                job.start(c.given)
            except BaseException:
                job.release()
                raise
            flight.append((c, job))
        while flight:
            finish()
    finally:
        for _, job in flight:
            job.release()
