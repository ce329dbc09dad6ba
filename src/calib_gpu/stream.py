"""How tiles pass through a backend: at once on the host, or through slots and streams of a device.

A slot is all that a tile needs on a device: page-locked input, device input, device output, page-locked output, and the
events between them. Slots are allocated once. Host threads decode into a slot and encode from it; while one tile is
uploaded another one is calculated and a third one downloaded. Free slots wait in a queue: when it is empty the threads
wait, so that memory is bounded.

Three events a slot keep the order::

    stream upload      upload -> record uploaded
    stream compute                    wait uploaded -> clear, calibrate -> record computed
    stream download                                                               wait computed -> download -> record downloaded
    host               fill                                                                    synchronize downloaded -> encode

A free slot needs no wait before it is filled again: its last user has waited for ``downloaded``, which comes after all else.
Counts that go up compressed take another way to ``uploaded``: :mod:`calib_gpu.packed`. Spectra that are encoded there come
down before ``downloaded``, too: :mod:`calib_gpu.encoded`.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from calib_gpu.backend.base import Backend, TileResult
from calib_gpu.backend.device import Device
from calib_gpu.backend.kernels import KERNELS
from calib_gpu.backend.tile import TileLayout, load_kernel
from calib_gpu.encoded import TileEncoder, TileFrames
from calib_gpu.errors import DeviceLost, OutOfDeviceMemory
from calib_gpu.packed import PackedReader, PackedTile
from calib_gpu.physics.calibration import SampleRule
from calib_gpu.records import CountGroup, Floats, Tile
from calib_gpu.slot import Slot, make_slot
from calib_gpu.workers import STOP_LATENCY_S, Workers, read_counts

DEVICE_TILES_AHEAD: Final = 2
"""Tiles of a lane in flight: while one is on the device the next one is decoded."""


@dataclass(frozen=True)
class TileInput:
    """What a tile needs beside its counts: see :meth:`calib_gpu.backend.base.Backend.calibrate_tile`."""

    ref: Floats
    factor: Floats
    base: NDArray[np.uint16]
    quantum: Floats
    rule: SampleRule
    n_dump: int


@dataclass(frozen=True)
class TileOutput:
    """``spectra`` and ``flags`` [R,A,B,C,d] until the job is released, and what the tile adds to the totals.

    ``frames`` are the spectra as the device has encoded them, where it does.
    """

    spectra: NDArray[Any]
    flags: NDArray[np.uint16]
    result: TileResult
    frames: TileFrames | None = None


class Job(Protocol):
    """One tile: fill ``counts`` [R,A,C,D] or read them, start it, finish it, release it."""

    counts: NDArray[Any]

    def read(self, source: CountGroup, tile: Tile) -> int:
        """Read the counts, which may leave them compressed: then ``counts`` hold something else. The bytes read for it."""
        ...

    def start(self, tile: TileInput) -> None:
        """Begin the calculation; ``counts`` must not be touched any more."""
        ...

    def finish(self) -> TileOutput:
        """Wait for the result."""
        ...

    def release(self) -> None:
        """Give the buffers back; also on the way out of a failure."""
        ...


class Tiles(Protocol):
    """Where tiles are calculated. ``ahead`` is the number of tiles that a lane has in flight at most."""

    ahead: int

    def job(self, layout: TileLayout, *, wait: bool) -> Job | None:
        """Buffers for a tile; None if there are none now and ``wait`` is false."""
        ...


class HostTiles:
    """Tiles on the host: in the buffers of the calling thread, at once."""

    ahead = 1

    def __init__(self, backend: Backend, workers: Workers) -> None:
        self.backend, self.workers = backend, workers

    def job(self, layout: TileLayout, *, wait: bool) -> Job:
        """Never waits."""
        return _HostJob(self, layout)


class _HostJob:
    def __init__(self, tiles: HostTiles, layout: TileLayout) -> None:
        self._tiles, self._layout = tiles, layout
        shape = (layout.r, layout.a, layout.n_channel, layout.n_dump)
        self.counts = tiles.workers.buffer("counts", shape, layout.counts)

    def read(self, source: CountGroup, tile: Tile) -> int:
        return read_counts(source, tile.subscan, tile.r, tile.a, self.counts)

    def start(self, tile: TileInput) -> None:
        layout, workers = self._layout, self._tiles.workers
        shape = (layout.r, layout.a, layout.n_block, layout.n_channel, layout.block)
        spectra = workers.buffer("spectra", shape, layout.spectra)
        flags = workers.buffer("flags", shape, np.uint16)
        result = self._tiles.backend.calibrate_tile(
            self.counts, tile.ref, tile.factor, tile.base, tile.quantum, tile.rule, tile.n_dump, spectra, flags
        )
        self._output = TileOutput(spectra, flags, result)

    def finish(self) -> TileOutput:
        return self._output

    def release(self) -> None:
        """The buffers belong to the thread."""


class DeviceTiles:
    """Tiles on a device: three streams, and slots that are allocated once, for the largest tile.

    Parameters
    ----------
    device
        Where they run.
    workers
        Looked at for the signal to stop while a thread waits for a slot.
    """

    ahead = DEVICE_TILES_AHEAD

    def __init__(self, device: Device, workers: Workers) -> None:
        self.device, self.workers = device, workers
        self.upload, self.compute, self.download = (device.stream(name) for name in ("upload", "compute", "download"))
        self._slots: list[Slot] = []
        self._free: deque[Slot] = deque()
        self._changed = threading.Condition()
        self._order = threading.Lock()
        self._failed: BaseException | None = None
        self.packed: PackedReader | None = None
        self.encoder: TileEncoder | None = None

    def allocate(
        self, largest: TileLayout, count: int, packed: PackedReader | None = None, encoder: TileEncoder | None = None
    ) -> None:
        """``count`` slots for tiles up to this one; what fits already is kept.

        ``packed`` reads the tiles and ``encoder`` encodes their spectra, if not the host.

        Raises
        ------
        OutOfDeviceMemory
            They do not fit; there are none then.
        """
        n_in, n_out = largest.input.nbytes, largest.output.nbytes
        self.packed, self.encoder = packed, encoder
        fits = all(s.pinned_in.nbytes >= n_in and s.pinned_out.nbytes >= n_out for s in self._slots)
        fits = fits and (packed is None or all(packed.fits(s.packed, largest) for s in self._slots))
        fits = fits and (encoder is None or all(encoder.fits(s.encoding, largest) for s in self._slots))
        if fits and len(self._slots) == len(self._free) == count:
            return
        self.free()
        try:
            load_kernel(self.device, largest)  # now, and not when the slots have taken the memory
            for _ in range(count):
                self._slots.append(make_slot(self.device, largest, packed, encoder))
        except BaseException:
            self.free()
            raise
        self._free.extend(self._slots)

    def free(self) -> None:
        """Give all slots back; no tile may be in flight."""
        with contextlib.suppress(DeviceLost):  # then there is nothing to give back
            for slot in self._slots:
                for block in slot.blocks:
                    self.device.release(block)
        self._slots.clear()
        self._free.clear()

    def job(self, layout: TileLayout, *, wait: bool) -> Job | None:
        """A free slot; raises :class:`Stopped` if the run is to end while it waits."""
        with self._changed:
            while not self._free:
                if self._failed is not None:
                    raise DeviceLost("a tile failed on the device", value=str(self._failed), fix="run again")
                if not wait:
                    return None
                self._changed.wait(STOP_LATENCY_S)
                self.workers.check()
            return _DeviceJob(self, self._free.popleft(), layout)

    def give(self, slot: Slot) -> None:
        """Put a slot back into the queue."""
        with self._changed:
            self._free.append(slot)
            self._changed.notify()

    def send(self, slot: Slot, packed: PackedTile) -> bool:
        """Upload a packed tile; false if the host must decode it."""
        with self._noting_failure():
            return packed.upload(slot)

    def enqueue(
        self, slot: Slot, layout: TileLayout, rule: SampleRule, n_dump: int, packed: PackedTile | None = None
    ) -> None:
        """Send a filled slot through the three streams; tiles keep their order in all of them.

        A ``packed`` tile is uploaded already: it is decoded instead.

        A failure half-way leaves the device in a state that nobody knows: the slot is not used again, nor is the device.
        """
        device = self.device
        with self._order, self._noting_failure():
            if packed is None:
                device.upload(slot.device_in, slot.pinned_in, layout.input.nbytes, self.upload)
                device.record(slot.uploaded, self.upload)
            else:
                packed.decode(slot)
            device.wait(self.compute, slot.uploaded)
            device.clear(layout.sums(slot.device_out), self.compute)
            device.launch(
                KERNELS["calibrate_tile"], layout.size, layout.arguments(slot.device_in, slot.device_out, rule, n_dump),
                self.compute, reads=(slot.device_in, slot.device_out), writes=(slot.device_out,),
            )  # fmt: skip
            device.record(slot.computed, self.compute)
            device.wait(self.download, slot.computed)
            if packed is not None:
                packed.download(self.download)
            if self.encoder is not None:
                self.encoder.enqueue(slot, layout, self.download)
            device.download(slot.pinned_out, slot.device_out, layout.output.nbytes, self.download)
            device.record(slot.downloaded, self.download)

    def synchronize(self, slot: Slot) -> None:
        """Wait until the result of a slot is there."""
        with self._noting_failure():
            self.device.synchronize(slot.downloaded)

    @contextlib.contextmanager
    def _noting_failure(self) -> Iterator[None]:
        """Slots of tiles that fail do not come back: threads that wait for one must hear of it."""
        try:
            yield
        except OutOfDeviceMemory as error:  # half-way: what has run of the tile, nobody knows
            self._failed = DeviceLost("out of GPU memory in the middle of a tile", value=str(error), fix="run again")
            raise self._failed from None
        except BaseException as error:
            self._failed = error
            raise


class _DeviceJob:
    def __init__(self, tiles: DeviceTiles, slot: Slot, layout: TileLayout) -> None:
        self._tiles, self._slot, self._layout = tiles, slot, layout
        self._memory = slot.pinned_in.write()
        self._state = "idle"
        self._packed: PackedTile | None = None
        self.counts = layout.input.array("counts", self._memory)

    def read(self, source: CountGroup, tile: Tile) -> int:
        self._read_on_host = partial(read_counts, source, tile.subscan, tile.r, tile.a, self.counts)
        if self._tiles.packed is not None:
            self._packed = self._tiles.packed.read(self._slot, self._layout, tile, self._memory)
        return self._read_on_host() if self._packed is None else self._packed.n_read

    def start(self, tile: TileInput) -> None:
        for name in ("ref", "factor", "base", "quantum"):
            self._layout.input.array(name, self._memory)[...] = getattr(tile, name)
        self._rule, self._n_dump = tile.rule, tile.n_dump
        self._begin()

    def _begin(self) -> None:
        self._state = "lost"
        if self._packed is not None and not self._tiles.send(self._slot, self._packed):
            self._state = "idle"
            self._unpack()
            self._state = "lost"
        self._tiles.enqueue(self._slot, self._layout, self._rule, self._n_dump, self._packed)
        self._state = "in flight"

    def _unpack(self) -> None:
        """Let the host decode the counts after all; the device is done with the slot."""
        self._packed, self._memory = None, self._slot.pinned_in.write()
        self._read_on_host()

    def finish(self) -> TileOutput:
        self._tiles.synchronize(self._slot)
        self._state = "idle"
        if self._packed is not None and not self._packed.decoded():
            self._unpack()
            self._begin()
            return self.finish()
        layout, memory, encoder = self._layout, self._slot.pinned_out.read(), self._tiles.encoder
        spectra, flags = (layout.output.array(name, memory) for name in ("spectra", "flags"))
        frames = None if encoder is None else encoder.frames(self._slot, layout, spectra)
        return TileOutput(spectra, flags, layout.result(memory), frames)

    def release(self) -> None:
        if self._state == "in flight":  # a failure elsewhere in the lane: the device may still be at work on the slot
            self._state = "lost"
            self._tiles.synchronize(self._slot)
            self._state = "idle"
        if self._state == "idle":
            self._tiles.give(self._slot)
