"""How a scan is cut into tiles, how many of them are on a device at a time, and what memory that takes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from calib_gpu.backend.tile import TileLayout
from calib_gpu.records import CountGroup, Tile
from calib_gpu.settings import Settings
from calib_gpu.store.shards import dump_block
from calib_gpu.workers import CHANNEL_BYTES, Blocks

SPARE_SLOTS: Final = 3
"""Slots beyond one for each worker: one in each of the three streams."""
TILE_BYTES: Final = 12 * 1024 * 1024
"""Most bytes of a tile: more leaves the caches and is a third slower; copies of a megabyte fill the bus to a GPU."""
MOST_PIXELS: Final = 65535
"""Pixels of a tile: those of a launch lie along an axis of the grid that has no more places."""
SCAN_ARRAYS: Final = 8
"""Arrays [C,R,A] of a scan beside its OFFs: HOT, COLD, SKY, gain, gamma, T_rec, and the sums of QA."""
MEMORY_PER_ARRAY: Final = 32
"""Arrays larger than this part of the memory are mapped from files."""


def tile_bytes(memory: int, shape: tuple[int, ...], offs: Sequence[int], parts: int, scans: int, workers: int) -> int:
    """Bytes for the buffers of a tile: what the arrays of the scans in memory leave of it, in so many parts.

    Parameters
    ----------
    memory
        The setting of that name.
    shape
        (C, D, R, A, S) of a scan.
    offs
        Bytes of its arrays of OFF spectra.
    parts
        Tiles that are held at a time.
    scans
        Scans that are held at a time: up to 3, while the next one is loaded and the one before is written.
    workers
        Number of workers; each has a quarter of its share in any case.
    """
    c, _, r, a, _ = shape
    held = sum(size for size in [8 * c * r * a] * SCAN_ARRAYS + list(offs) if size <= memory // MEMORY_PER_ARRAY)
    left = max(0, memory - scans * held) // parts
    return min(max(left, memory // 4 // max(workers, parts)), TILE_BYTES)


def device_plan(
    source: CountGroup, settings: Settings, offs: Sequence[int], scans: int, workers: int,
    beside: Callable[[TileLayout], int] | None = None, *, encoded: bool = False,
) -> TilePlan:  # fmt: skip
    """How a scan is cut for a device; parameters as those of :func:`tile_bytes` and :class:`TilePlan`.

    A slot is as large in page-locked memory as on the device, and holds the spectra once more if they come down ``encoded``,
    too. Where the smallest tile is large there are fewer slots than
    workers ask for, so that ``memory`` holds, but no less than one for each stream and one to fill.
    """
    slots = settings.slots or workers + SPARE_SLOTS
    budget = tile_bytes(settings.memory, source.shape, offs, slots, scans, workers)
    plan = TilePlan.of(source, settings.dtype, budget, slots, beside, encoded=encoded)
    if not settings.slots:
        pinned = plan.slot_bytes + (plan.largest.spectra_bytes if encoded else 0)
        plan = replace(plan, slots=min(slots, max(SPARE_SLOTS + 1, settings.memory // pinned)))
    return plan.within(settings.device_memory or sys.maxsize)


@dataclass(frozen=True)
class TilePlan:
    """``blocks`` are the pixels of a tile; ``slots`` the tiles on a device at a time (0: on the host).

    ``beside`` tells what a slot takes on the device beside the input and output of the largest tile.
    """

    source: CountGroup
    dtype: np.dtype[np.floating]
    blocks: Blocks
    slots: int = 0
    beside: Callable[[TileLayout], int] | None = None

    @classmethod
    def of(
        cls, source: CountGroup, dtype: str, tile_bytes: int, slots: int = 0,
        beside: Callable[[TileLayout], int] | None = None, *, encoded: bool = False,
    ) -> TilePlan:  # fmt: skip
        """Tiles of at most so many bytes of counts, spectra (once more if ``encoded``) and flags; at least one pixel."""
        kind = np.dtype(dtype)
        sample_bytes = source.counts.dtype.itemsize + kind.itemsize * (2 if encoded else 1) + 2
        plan = cls(source, kind, Blocks.plan(source, sample_bytes, tile_bytes, CHANNEL_BYTES), slots, beside)
        while plan.largest.size[1] > MOST_PIXELS and (smaller := plan.smaller()) is not None:
            plan = smaller
        return plan

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
        """Bytes of input and output of a slot on the device, and as many of page-locked memory on the host."""
        return self.largest.input.nbytes + self.largest.output.nbytes

    @property
    def device_bytes(self) -> int:
        """Device memory for the tiles of a scan."""
        beside = 0 if self.beside is None else self.beside(self.largest)
        return self.slots * (self.slot_bytes + beside)

    def smaller(self) -> TilePlan | None:
        """The plan that takes half as much: tiles of half the pixels down to one, then half the slots; None at the end."""
        largest = self.largest
        if largest.r > 1:
            return replace(self, blocks=Blocks((largest.r + 1) // 2, largest.a))
        if largest.a > 1:
            return replace(self, blocks=Blocks(1, (largest.a + 1) // 2))
        return replace(self, slots=self.slots // 2) if self.slots > 1 else None

    def within(self, device_bytes: int) -> TilePlan:
        """The largest plan of this kind that fits so many bytes, or the smallest there is."""
        plan = self
        while plan.device_bytes > device_bytes and (smaller := plan.smaller()) is not None:
            plan = smaller
        return plan
