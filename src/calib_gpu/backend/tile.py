"""A tile in the memory of a device: what is uploaded, what comes back, and what the tile kernel is told."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib_gpu.backend.base import TileResult
from calib_gpu.backend.device import Argument, Block, Device, Layout, View
from calib_gpu.backend.kernels import KERNELS, QUAD
from calib_gpu.physics.calibration import SampleRule

N_TOTALS = 17
"""Counts of each of the 16 flag bits, and of samples with any."""


def rule_arguments(rule: SampleRule, n_dump: int) -> tuple[np.generic, ...]:
    """The sample rule as kernels take it: fill, has_fill, floor, saturation, n_dump."""
    fill = 0 if rule.fill is None else rule.fill & (2**64 - 1)
    saturation = math.inf if rule.saturation is None else rule.saturation
    floor = 0.0 if rule.positive else -math.inf
    has_fill = np.int32(rule.fill is not None)
    return np.uint64(fill), has_fill, np.float64(floor), np.float64(saturation), np.int32(n_dump)


def load_kernel(device: Device, layout: TileLayout) -> None:
    """Run the tile kernel of these types once on a single sample: from then on it is compiled and loaded.

    Raises
    ------
    OutOfDeviceMemory
        There is no room for it.
    """
    one = replace(layout, r=1, a=1, n_channel=1, n_dump=1, n_block=1, block=1)
    stream, done, blocks = device.stream("load"), device.event(), list[Block]()
    try:
        for part in (one.input, one.output):
            blocks.append(device.empty(part.nbytes))
        source, target = blocks
        arguments = one.arguments(source, target, SampleRule(None, None), 1)
        device.launch(KERNELS["calibrate_tile"], one.size, arguments, stream, reads=(source, target), writes=(target,))
        device.record(done, stream)
        device.synchronize(done)
    finally:
        for block in blocks:
            device.release(block)


@dataclass(frozen=True)
class TileLayout:
    """Places of the arrays of a tile of ``r`` x ``a`` pixels.

    ``ref``, ``factor``, ``base`` [R,A,C]; ``quantum`` [R,A]; ``counts`` [R,A,C,D] go up, ``spectra``, ``flags``
    [R,A,B,C,d], ``totals`` [R,A,17] and ``present`` [D] come back. ``n_block`` is B and ``block`` d.
    """

    r: int
    a: int
    n_channel: int
    n_dump: int
    n_block: int
    block: int
    counts: np.dtype[Any]
    spectra: np.dtype[Any]

    @cached_property
    def input(self) -> Layout:
        """What is uploaded; the counts last, so that they may be left out."""
        pixel = (self.r, self.a)
        channels = (*pixel, self.n_channel)
        layout = Layout().add("ref", channels, np.float64).add("factor", channels, np.float64)
        layout.add("base", channels, np.uint16).add("quantum", pixel, np.float64)
        return layout.add("counts", (*channels, self.n_dump), self.counts)

    @cached_property
    def output(self) -> Layout:
        """What is downloaded."""
        shape = (self.r, self.a, self.n_block, self.n_channel, self.block)
        layout = Layout().add("spectra", shape, self.spectra).add("flags", shape, np.uint16)
        return layout.add("totals", (self.r, self.a, N_TOTALS), np.uint64).add("present", (self.n_dump,), np.uint8)

    @property
    def spectra_bytes(self) -> int:
        """Bytes of the spectra."""
        return self.r * self.a * self.n_block * self.n_channel * self.block * self.spectra.itemsize

    @property
    def size(self) -> tuple[int, int]:
        """Threads of the tile kernel for each pixel, and pixels."""
        return self.n_channel * self.n_block * -(-self.block // QUAD), self.r * self.a

    def sums(self, block: Block) -> View:
        """The part of the output that the kernel adds to: cleared before."""
        start = self.output.offset("totals")
        return View(block, start, (self.output.nbytes - start,), np.dtype(np.uint8))

    def arguments(self, source: Block, target: Block, rule: SampleRule, n_dump: int) -> tuple[Argument, ...]:
        """Arguments of the kernel ``calibrate_tile``, strides in elements."""
        c, d, b, block = self.n_channel, self.n_dump, self.n_block, self.block
        arrays = [self.input.view(name, source) for name in ("counts", "ref", "factor", "base", "quantum")]
        arrays += [self.output.view(name, target) for name in ("spectra", "flags", "totals", "present")]
        shape = (np.int64(c), np.int32(d), np.int32(b), np.int32(block))
        strides = (c * d, d, 1, b * c * block, c * block, block, 1)
        return (*arrays, *shape, *map(np.int64, strides), *rule_arguments(rule, n_dump))

    def result(self, memory: NDArray[np.uint8]) -> TileResult:
        """Counts of flags and dumps, from the downloaded bytes."""
        totals = self.output.array("totals", memory).astype(np.int64)
        return TileResult(totals[..., :16], totals[..., 16], self.output.array("present", memory) != 0)
