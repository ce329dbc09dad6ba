"""What a tile needs on a device: buffers and events, made once and used again (:mod:`calib_gpu.stream`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from calib_gpu.backend.device import Block, Device, Event, HostBlock
from calib_gpu.backend.tile import TileLayout
from calib_gpu.encoded import EncoderSlot, TileEncoder
from calib_gpu.packed import PackedReader, PackedSlot

T = TypeVar("T", bound=Block)


@dataclass(frozen=True)
class Slot:
    """Buffers and events of one tile on its way through a device; ``packed`` and ``encoding`` where zstd runs there, too."""

    pinned_in: HostBlock
    device_in: Block
    device_out: Block
    pinned_out: HostBlock
    uploaded: Event
    computed: Event
    downloaded: Event
    packed: PackedSlot | None = None
    encoding: EncoderSlot | None = None

    @property
    def blocks(self) -> tuple[Block, ...]:
        """All its memory."""
        more = [block for part in (self.packed, self.encoding) if part is not None for block in part.blocks]
        return self.pinned_in, self.device_in, self.device_out, self.pinned_out, *more


def make_slot(device: Device, largest: TileLayout, packed: PackedReader | None, encoder: TileEncoder | None) -> Slot:
    """A slot for tiles up to this one.

    Raises
    ------
    OutOfDeviceMemory
        It does not fit; nothing of it is kept.
    """
    n_in, n_out, blocks = largest.input.nbytes, largest.output.nbytes, list[Block]()

    def own(block: T) -> T:
        blocks.append(block)
        return block

    try:
        return Slot(
            own(device.pinned(n_in)), own(device.empty(n_in)), own(device.empty(n_out)), own(device.pinned(n_out)),
            device.event(), device.event(), device.event(), None if packed is None else packed.slot(largest, own),
            None if encoder is None else encoder.slot(largest, own),
        )  # fmt: skip
    except BaseException:
        for block in blocks:
            device.release(block)
        raise
