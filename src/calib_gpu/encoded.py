"""Spectra that are encoded on the device (setting ``codec=nvcomp_zstd``), tile by tile.

Each slot has a stream of its own for it, since one chunk keeps little of a device busy and many tiles must be encoded side
by side::

    compute        calibrate -> record computed
    slot's stream  upload table -> clear answers -> wait computed -> encode -> record encoded
    download       wait computed -> wait encoded -> download answers and frames -> download output -> record downloaded
    host                                                                       synchronize downloaded -> check, write

Every frame has a place of its own, as large as a frame can get, and all places come down in one copy with the sizes before
them: to learn the sizes first would make the host wait twice for a tile, and spectra hardly shrink, so that little of the
copy is wasted. The raw spectra come down as ever: QA samples them, and the host encodes them where a frame is not sound.

Nothing here decides that a scan fails. A frame that is not what it should be is not written: the host encodes that chunk,
to the same codecs (zstd, then crc32c), and the report counts it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from calib_gpu.backend.decoder import SUCCESS
from calib_gpu.backend.device import ALIGNMENT, Block, Device, Event, HostBlock, Stream, View
from calib_gpu.backend.encoder import Chunks, Encoder, chunk_table, frame_table, open_encoder
from calib_gpu.backend.tile import TileLayout
from calib_gpu.errors import ConfigError
from calib_gpu.fallbacks import Fallbacks
from calib_gpu.store import codecs
from calib_gpu.store.codecs import Compressor
from calib_gpu.store.frames import check_zstd_frame
from calib_gpu.store.guard import CodecError

CODEC: Final = "nvcomp_zstd"
MAX_CHUNK_BYTES: Final = 16_000_000
"""Largest chunk that nvCOMP encodes."""


def host_codec(codec: str) -> str:
    """The codec by which the host writes what a setting asks for: chunks of one array have one chain of codecs."""
    return "zstd_crc32c" if codec == CODEC else codec


@dataclass(frozen=True)
class Places:
    """Where the frames of a tile go: ``n`` of at most ``bound`` bytes each, behind the answers of the encoder."""

    n: int
    content: int
    bound: int

    @classmethod
    def of(cls, layout: TileLayout, encoder: Encoder) -> Places:
        """Those of a tile: one frame a block of dumps, pixel by pixel."""
        content = chunk_bytes(layout)
        return cls(layout.r * layout.a * layout.n_block, content, encoder.frame_bound(content))

    @property
    def answers(self) -> int:
        """Bytes of the answers."""
        return frame_table(self.n).nbytes

    @property
    def starts(self) -> NDArray[np.uint64]:
        """Offset of each frame."""
        room = -(-self.bound // ALIGNMENT) * ALIGNMENT
        return self.answers + room * np.arange(self.n + 1, dtype=np.uint64)

    @property
    def nbytes(self) -> int:
        """Bytes of answers and frames."""
        return int(self.starts[-1])


def chunk_bytes(layout: TileLayout) -> int:
    """Bytes of an inner chunk of spectra."""
    return layout.n_channel * layout.block * layout.spectra.itemsize


@dataclass(frozen=True)
class EncoderSlot:
    """What a slot has besides: ``table`` tells the encoder what to do, answers and ``frames`` come back to ``told``."""

    pinned_table: HostBlock
    table: Block
    scratch: Block
    frames: Block
    told: HostBlock
    stream: Stream
    encoded: Event

    @property
    def blocks(self) -> tuple[Block, ...]:
        """All its memory."""
        return self.pinned_table, self.table, self.scratch, self.frames, self.told


class Slot(Protocol):
    """What is used of a slot of :mod:`calib_gpu.stream`."""

    @property
    def device_out(self) -> Block:
        """Output on the device."""
        ...

    @property
    def computed(self) -> Event:
        """The output is there."""
        ...

    @property
    def encoding(self) -> EncoderSlot | None:
        """What it has for this."""
        ...


def _fallbacks() -> Fallbacks:
    return Fallbacks(f"codec={CODEC}", "chunks encoded on the host")


@dataclass
class TileEncoder:
    """Encodes the tiles of one scan; ``compressor`` is how the host does, ``fallbacks`` counts the chunks that it had to."""

    device: Device
    encoder: Encoder
    compressor: Compressor
    fallbacks: Fallbacks = field(default_factory=_fallbacks)

    def _needs(self, largest: TileLayout) -> tuple[int, int, int, int, int]:
        """Bytes of the blocks of a slot for tiles up to this one, in their order."""
        places = Places.of(largest, self.encoder)
        table, scratch = chunk_table(places.n).nbytes, self.encoder.scratch_bytes(places.n, places.content)
        return table, table, max(scratch, 1), places.nbytes, places.nbytes

    def device_bytes(self, largest: TileLayout) -> int:
        """Memory of the device that a slot takes besides, for tiles up to this one."""
        return sum(self._needs(largest)[1:4])

    def slot(self, largest: TileLayout, own: Callable[[Block], Block]) -> EncoderSlot:
        """Memory for a slot; ``own`` is told of each block as soon as it is there."""
        device, (n_table, _, n_scratch, n_frames, _) = self.device, self._needs(largest)
        pinned = device.pinned(n_table)
        own(pinned)
        table, scratch, frames = (own(device.empty(size)) for size in (n_table, n_scratch, n_frames))
        told = device.pinned(n_frames)
        own(told)
        return EncoderSlot(pinned, table, scratch, frames, told, device.stream("encode"), device.event())

    def fits(self, slot: EncoderSlot | None, largest: TileLayout) -> bool:
        """Whether a slot has what such tiles need."""
        if slot is None:
            return False
        return all(block.nbytes >= n for block, n in zip(slot.blocks, self._needs(largest), strict=True))

    def enqueue(self, slot: Slot, layout: TileLayout, downloads: Stream) -> None:
        """Encode the output of a slot once it is computed; from then on ``downloads`` fetches the frames."""
        device, own, places = self.device, slot.encoding, Places.of(layout, self.encoder)
        if own is None:
            raise ValueError("a slot without memory for frames")
        chunks = Chunks(places.n, places.content, slot.device_out, own.table, own.scratch, own.frames)
        n_table = self._fill_table(own, layout, places, slot.device_out)
        device.upload(own.table, own.pinned_table, n_table, own.stream)
        device.clear(View(own.frames, 0, (places.answers,), np.dtype(np.uint8)), own.stream)
        device.wait(own.stream, slot.computed)
        self.encoder.encode(chunks, own.stream)
        device.record(own.encoded, own.stream)
        device.wait(downloads, own.encoded)
        device.download(own.told, own.frames, places.nbytes, downloads)

    def _fill_table(self, own: EncoderSlot, layout: TileLayout, places: Places, source: Block) -> int:
        """Addresses and sizes; returns the bytes of the table. The last tile of the slot is done with it."""
        table, memory, n = chunk_table(places.n), own.pinned_table.write(), places.n
        first = self.encoder.address(source) + layout.output.offset("spectra")
        table.array("source", memory)[...] = first + places.content * np.arange(n, dtype=np.uint64)
        table.array("content", memory)[...] = places.content
        table.array("target", memory)[...] = self.encoder.address(own.frames) + places.starts[:-1]
        return table.nbytes

    def frames(self, slot: Slot, layout: TileLayout, spectra: NDArray[Any]) -> TileFrames:
        """The frames of a tile, after the download, and its ``spectra`` [R,A,B,C,d] that they hold."""
        if slot.encoding is None:
            raise ValueError("a slot without memory for frames")
        return TileFrames(self, Places.of(layout, self.encoder), slot.encoding.told.read(), spectra)

    def notes(self) -> list[str]:
        """How many chunks the host encoded after all."""
        return self.fallbacks.notes()


class TileFrames:
    """The chunks of a tile as they are to be written, as long as its slot is not given back."""

    def __init__(self, encoder: TileEncoder, places: Places, memory: NDArray[np.uint8], spectra: NDArray[Any]) -> None:
        self._encoder, self._places, self._memory = encoder, places, memory
        self._chunks = spectra.reshape(places.n, *spectra.shape[3:])
        self._per_pixel = spectra.shape[1:3]
        found = frame_table(places.n)
        self._sizes, self._statuses = (found.array(name, memory).tolist() for name in ("size", "status"))
        self._starts = places.starts.tolist()
        self._doubt = self._proof()

    def _proof(self) -> str:
        """Decode the last frame: empty if it holds its spectra, else why no frame of this tile is to be believed.

        Whether a frame is whole can be seen without decoding, not what it holds. One of each tile is enough to see an
        encoder, or an order of operations, that does not work; to decode all would cost what is to be saved.
        """
        last = self._places.n - 1
        try:
            frame, out = self._frame(last), np.empty(self._places.content, np.uint8)
        except CodecError:
            return ""  # that chunk alone is encoded by the host
        try:
            codecs.decode(("zstd",), frame, out)
        except CodecError as error:
            return f"a frame cannot be decoded: {error}"
        same = out.tobytes() == self._chunks[last].tobytes()
        return "" if same else "a frame holds other spectra than those of its tile"

    def pixel(self, i: int, j: int) -> list[bytes]:
        """The chunks of a pixel of the tile, in the order of its blocks of dumps: frame and crc32c."""
        a, b = self._per_pixel
        return [self._chunk(k) for k in range((i * a + j) * b, (i * a + j + 1) * b)]

    def _chunk(self, k: int) -> bytes:
        reason = self._doubt
        if not reason:
            try:
                return codecs.with_crc32c(self._frame(k))
            except CodecError as error:
                reason = str(error)
        self._encoder.fallbacks.add(reason)
        return self._encoder.compressor.encode(self._chunks[k])

    def _frame(self, k: int) -> bytes:
        """A frame that was checked."""
        size, status, start = self._sizes[k], self._statuses[k], self._starts[k]
        if status != SUCCESS:
            raise CodecError(f"the encoder gives up on a chunk (status {status})")
        if not 0 < size <= self._places.bound:
            raise CodecError("the encoder tells an impossible size of a frame")
        frame = self._memory[start : start + size].tobytes()
        check_zstd_frame(frame, self._places.content)
        return frame


class Encoders:
    """What the setting ``codec`` asks for on a device; opened once for all scans.

    Raises
    ------
    ConfigError
        The spectra are to be encoded on a GPU, and there is none, or no nvCOMP.
    """

    def __init__(self, codec: str, device: Device | None) -> None:
        self._device, self._encoder = device, None if codec != CODEC else _opened(device)

    def of(self, layout: TileLayout, compressor: Compressor) -> tuple[TileEncoder | None, list[str]]:
        """The encoder of a scan with such tiles, or None where the host encodes it; with notes for its report."""
        if self._encoder is None or self._device is None:
            return None, []
        size = chunk_bytes(layout)
        if size > MAX_CHUNK_BYTES:
            return None, [f"codec={CODEC}: encoded on the host, for chunks of {size} bytes, at most {MAX_CHUNK_BYTES}"]
        encoder = TileEncoder(self._device, self._encoder, compressor)
        return encoder, [f"codec={CODEC}: {self._encoder.describe()}"]


def _opened(device: Device | None) -> Encoder:
    if device is None:
        raise ConfigError(
            "needs a GPU", array="codec", value=CODEC, rule="with the CUDA backend",
            fix="use --backend cupy where there is a GPU, or --codec zstd",
        )  # fmt: skip
    return open_encoder(device)
