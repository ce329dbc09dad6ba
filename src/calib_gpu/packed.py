"""Counts that go to the device compressed and are decoded there (setting ``gpu_reader``), tile by tile.

Each slot has a stream of its own for it, since one frame keeps little of a device busy and many tiles must be decoded side
by side::

    slot's stream   upload table and frames -> [crc32c -> download] -> copy the rest of the input -> decode -> record uploaded
    compute                                                                                     wait uploaded -> ...
    host                                    [synchronize, compare]

The step in brackets is that of kvikio, whose frames the host has not seen. From ``uploaded`` on all goes as with counts that
were decoded on the host (:mod:`calib_gpu.stream`).

Nothing here decides that an input is wrong. A tile whose frames are not what they should be is declined, or decoded again
on the host: that gives the same numbers, or the same error, as without a device.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from calib_gpu.backend.decoder import (
    SUCCESS,
    Batch,
    Decoder,
    DeviceFiles,
    Span,
    found_layout,
    open_decoder,
    open_files,
    table_layout,
)  # fmt: skip
from calib_gpu.backend.device import Block, Device, Event, HostBlock, Stream, View
from calib_gpu.backend.tile import TileLayout
from calib_gpu.errors import ConfigError, Unreadable
from calib_gpu.fallbacks import Fallbacks
from calib_gpu.records import Counts, Tile
from calib_gpu.store.frames import FRAME_ALIGNMENT, FrameSource, frame_source
from calib_gpu.store.guard import CodecError

NOT_PRECISE: Final = "the setting precision counts the dumps of each pixel on the host"


class Declined(Exception):
    """A tile that the host decodes; the message says why."""


@dataclass(frozen=True)
class PackedSlot:
    """What a slot has besides: ``frames`` takes what is uploaded, ``found`` and ``told`` what the decoder says of it."""

    frames: Block
    scratch: Block
    found: Block
    told: HostBlock
    stream: Stream
    checked: Event

    @property
    def blocks(self) -> tuple[Block, ...]:
        """All its memory."""
        return self.frames, self.scratch, self.found, self.told


class Slot(Protocol):
    """What is used of a slot of :mod:`calib_gpu.stream`."""

    @property
    def pinned_in(self) -> HostBlock:
        """Page-locked input."""
        ...

    @property
    def device_in(self) -> Block:
        """Input on the device."""
        ...

    @property
    def uploaded(self) -> Event:
        """The input is there."""
        ...

    @property
    def packed(self) -> PackedSlot | None:
        """What it has for this."""
        ...


@dataclass(frozen=True)
class PackedTile:
    """A tile whose frames were read: ``nbytes`` of the input are uploaded, ``n_read`` were read from disk.

    ``crc32c`` are those that the frames must have on the device; none if the host has tested them.
    """

    reader: PackedReader
    own: PackedSlot
    batch: Batch
    nbytes: int
    n_read: int
    crc32c: tuple[int, ...] = ()

    def upload(self, slot: Slot) -> bool:
        """Upload what was read, and test what the host has not seen: false if the host must decode the tile."""
        device, own, found = self.reader.device, self.own, found_layout(self.batch.n)
        device.upload(own.frames, slot.pinned_in, self.nbytes, own.stream)
        device.clear(View(own.found, 0, (found.nbytes,), np.dtype(np.uint8)), own.stream)
        if not self.crc32c:
            return True
        self.reader.decoder.checksums(self.batch, own.stream)
        device.download(own.told, own.found, found.nbytes, own.stream)
        device.record(own.checked, own.stream)
        device.synchronize(own.checked)
        if tuple(found.array("crc32c", own.told.read()).tolist()) == self.crc32c:
            return True
        self.reader.decline("crc32c does not match what was read to the device")
        return False

    def decode(self, slot: Slot) -> None:
        """Bring the input into its place; ends with the event ``uploaded`` of the slot."""
        device, own = self.reader.device, self.own
        device.copy(slot.device_in, own.frames, self.batch.table_at, own.stream)
        self.reader.decoder.decode(self.batch, own.stream)
        device.record(slot.uploaded, own.stream)

    def download(self, stream: Stream) -> None:
        """Fetch what the decoder says of the frames; the stream comes after the decoding."""
        self.reader.device.download(self.own.told, self.own.found, found_layout(self.batch.n).nbytes, stream)

    def decoded(self) -> bool:
        """Whether all frames gave what they should, after the download; if not, the host must decode the tile."""
        found, memory = found_layout(self.batch.n), self.own.told.read()
        status, content = found.array("status", memory), found.array("content", memory)
        wrong = (status != SUCCESS) | (content != self.batch.content)
        if not wrong.any():
            return True
        k = int(np.argmax(wrong))
        self.reader.decline(f"the decoder gives up on a frame (status {status[k]}, {content[k]} bytes)")
        return False


@dataclass
class PackedReader:
    """Reads the tiles of one scan; ``declined`` counts those that the host decoded."""

    device: Device
    decoder: Decoder
    files: DeviceFiles | None
    source: FrameSource
    declined: Fallbacks = field(default_factory=lambda: Fallbacks("gpu_reader", "tiles decoded on the host"))

    def device_bytes(self, largest: TileLayout) -> int:
        """Memory of the device that a slot takes besides, for tiles up to this one."""
        n = self._frames_of(largest)
        scratch = self.decoder.scratch_bytes(n, self.source.frame_bytes)
        return largest.input.nbytes + scratch + found_layout(n).nbytes

    def slot(self, largest: TileLayout, own: Callable[[Block], Block]) -> PackedSlot:
        """Memory for a slot; ``own`` is told of each block as soon as it is there."""
        device, n = self.device, self._frames_of(largest)
        scratch = max(self.decoder.scratch_bytes(n, self.source.frame_bytes), 1)
        found = found_layout(n).nbytes
        frames, space, answers = (own(device.empty(size)) for size in (largest.input.nbytes, scratch, found))
        told = device.pinned(found)
        own(told)
        return PackedSlot(frames, space, answers, told, device.stream("decode"), device.event())

    def fits(self, slot: PackedSlot | None, largest: TileLayout) -> bool:
        """Whether a slot has what such tiles need."""
        if slot is None:
            return False
        n = self._frames_of(largest)
        needed = (self.decoder.scratch_bytes(n, self.source.frame_bytes), found_layout(n).nbytes)
        held = (slot.scratch.nbytes, slot.found.nbytes)
        return slot.frames.nbytes >= largest.input.nbytes and all(h >= k for h, k in zip(held, needed, strict=True))

    def _frames_of(self, layout: TileLayout) -> int:
        return layout.r * layout.a * self.source.per_pixel

    def read(self, slot: Slot, layout: TileLayout, tile: Tile, memory: NDArray[np.uint8]) -> PackedTile | None:
        """Put the frames of a tile into the place of its counts in ``memory``, or on the device; None if it is declined.

        Raises nothing of what may be wrong with them: the host will, when it decodes the tile.
        """
        try:
            return None if slot.packed is None else self._read(slot, slot.packed, layout, tile, memory)
        except (CodecError, Declined, Unreadable, OSError) as error:
            self.decline(error.what if isinstance(error, Unreadable) else str(error))
            return None

    def decline(self, reason: str) -> None:
        """Count a tile that the host decodes."""
        self.declined.add(reason)

    def _read(
        self, slot: Slot, own: PackedSlot, layout: TileLayout, tile: Tile, memory: NDArray[np.uint8]
    ) -> PackedTile:
        n, content = self._frames_of(layout), self.source.frame_bytes
        at, table = layout.input.offset("counts"), table_layout(n)
        room = _Room(at + table.nbytes, layout.input.nbytes)
        crcs: tuple[int, ...] = ()
        if self.files is None:
            for chunk in self.source.chunks(tile):
                frame = self.source.frame(chunk)
                where = room.take(len(frame))
                memory[where : where + len(frame)] = np.frombuffer(frame, np.uint8)
            nbytes = room.end
        else:
            places = [self.source.place(chunk) for chunk in self.source.chunks(tile)]
            spans = [Span(place.offset, place.size, room.take(place.size)) for place in places]
            for file, group in itertools.groupby(zip(places, spans, strict=True), key=lambda pair: pair[0].file):
                self.files.read(file, [span for _, span in group], own.frames)
            crcs, nbytes = tuple(place.crc32c for place in places), at + table.nbytes
        first = self.decoder.address(slot.device_in) + at
        rows = {
            "source": np.array(room.places, np.uint64) + np.uint64(self.decoder.address(own.frames)), "size": room.sizes,
            "target": np.uint64(first) + np.arange(n, dtype=np.uint64) * np.uint64(content), "content": content,
        }  # fmt: skip
        for name, values in rows.items():
            table.array(name, memory[at : at + table.nbytes])[...] = values
        batch = Batch(n, content, own.frames, at, slot.device_in, own.scratch, own.found)
        return PackedTile(self, own, batch, nbytes, sum(room.sizes), crcs)

    def notes(self) -> list[str]:
        """Which tiles the host decoded after all, for the most frequent reasons."""
        return self.declined.notes()


class _Room:
    """Places for frames, one behind the other, between two offsets of a block."""

    def __init__(self, start: int, stop: int) -> None:
        self.end, self.stop = start, stop
        self.places, self.sizes = list[int](), list[int]()

    def take(self, size: int) -> int:
        """The place of the next frame."""
        place = self.end
        if place + size > self.stop:
            raise Declined("the frames are hardly smaller than the counts")
        self.places.append(place)
        self.sizes.append(size)
        self.end = -(-(place + size) // FRAME_ALIGNMENT) * FRAME_ALIGNMENT
        return place


class PackedReaders:
    """What the setting ``gpu_reader`` asks for on a device; opened once for all scans."""

    def __init__(self, kind: str, device: Device | None) -> None:
        self.device = device
        self._decoder: Decoder | None = None
        self._files: DeviceFiles | None = None
        self.notes: list[str] = []
        if kind == "host":
            return
        if device is None:
            self.notes.append(f"gpu_reader={kind}: decoded on the host, for there is no GPU in use")
            return
        self._open(kind, device)

    def _open(self, kind: str, device: Device) -> None:
        try:
            self._decoder = open_decoder(device)
        except ConfigError as error:
            self.notes.append(f"gpu_reader={kind}: decoded on the host ({error})")
            return
        if kind == "kvikio":
            try:
                self._files = open_files(device)
            except ConfigError as error:
                self.notes.append(f"gpu_reader={kind}: read by the host, decoded on the GPU ({error})")
        parts = [p.describe() for p in (self._files, self._decoder) if p is not None]
        self.notes.append(f"gpu_reader={kind}: {', '.join(parts)}")

    def of(self, counts: Counts, *, precise: bool) -> tuple[PackedReader | None, list[str]]:
        """The reader of a scan, or None where the host decodes it; with notes for its report."""
        if self._decoder is None or self.device is None:
            return None, self.notes
        source = frame_source(counts)
        why = NOT_PRECISE if precise else source if isinstance(source, str) else ""
        if why or isinstance(source, str):
            return None, [f"gpu_reader: decoded on the host, for {why}"]
        return PackedReader(self.device, self._decoder, self._files, source), self.notes
