"""How a scan is cut into tiles, how many of them are on a device at a time, and what memory that takes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from calib_gpu.backend.tile import TileLayout
from calib_gpu.records import CountGroup, Tile
from calib_gpu.store.shards import dump_block
from calib_gpu.workers import CHANNEL_BYTES, Blocks

SPARE_SLOTS = 3
"""Slots beyond one for each worker: one in each of the three streams."""


@dataclass(frozen=True)
class TilePlan:
    """``blocks`` are the pixels of a tile; ``slots`` the tiles on a device at a time (0: on the host)."""

    source: CountGroup
    dtype: np.dtype[np.floating]
    blocks: Blocks
    slots: int = 0

    @classmethod
    def of(cls, source: CountGroup, dtype: str, tile_bytes: int, slots: int = 0) -> TilePlan:
        """Tiles of at most so many bytes of counts, spectra and flags; at least one pixel is taken."""
        kind = np.dtype(dtype)
        sample_bytes = source.counts.dtype.itemsize + kind.itemsize + 2
        return cls(source, kind, Blocks.plan(source, sample_bytes, tile_bytes, CHANNEL_BYTES), slots)

    def layout_of(self, r: int, a: int) -> TileLayout:
        """Places of the arrays of a tile of ``r`` x ``a`` pixels."""
        c, d, _, _, _ = self.source.shape
        block = dump_block(c, d, self.dtype.itemsize)
        return TileLayout(r, a, c, d, -(-d // block), block, self.source.counts.dtype, self.dtype)

    def layout(self, tile: Tile) -> TileLayout:
        """Places of the arrays of a tile."""
        return self.layout_of(tile.r.stop - tile.r.start, tile.a.stop - tile.a.start)

    @property
    def largest(self) -> TileLayout:
        """The layout of the largest tile."""
        _, _, n_r, n_a, _ = self.source.shape
        return self.layout_of(min(self.blocks.r, n_r), min(self.blocks.a, n_a))

    @property
    def slot_bytes(self) -> int:
        """Bytes of a slot on the device, and as many of page-locked memory on the host."""
        return self.largest.input.nbytes + self.largest.output.nbytes

    @property
    def device_bytes(self) -> int:
        """Device memory for the tiles of a scan."""
        return self.slots * self.slot_bytes

    def smaller(self) -> TilePlan | None:
        """The plan that takes half as much: tiles of half the pixels down to one, then half the slots; None at the end."""
        blocks, largest = self.blocks, self.largest
        if largest.a > 1:
            return replace(self, blocks=Blocks(1 if largest.r == 1 else largest.r, (largest.a + 1) // 2))
        if largest.r > 1:
            return replace(self, blocks=Blocks((largest.r + 1) // 2, blocks.a))
        return replace(self, slots=self.slots // 2) if self.slots > 1 else None

    def within(self, device_bytes: int) -> TilePlan:
        """The largest plan of this kind that fits so many bytes, or the smallest there is."""
        plan = self
        while plan.device_bytes > device_bytes and (smaller := plan.smaller()) is not None:
            plan = smaller
        return plan
