"""What is drawn of the spectra: means, envelopes, binned dumps, integrated intensity and a map; one pass over L1."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from calib_gpu.physics.atmosphere import bin_starts
from calib_gpu.physics.frequency import SPEED_OF_LIGHT
from calib_gpu.qa.products import ScanProducts
from calib_gpu.qa.ripple import stands_out
from calib_gpu.records import Floats

CELL_BYTES: Final = 64 * 1024 * 1024
"""Memory for the binned dumps of all pixels of a scan; larger scans are binned more coarsely in time."""
MAX_BINS: Final = 128
SMOOTHING: Final = np.array([0.25, 0.5, 0.25])
"""Gridding kernel along each axis, in cells: fills single empty cells between rows."""


def envelope(values: NDArray[Any], n_bin: int) -> tuple[Floats, Floats, Floats]:
    """Least, mean and largest valid value in each of ``n_bin`` bins of the channels ``[C]``; NaN where a bin has none."""
    n_bin = min(n_bin, values.size)
    starts = bin_starts(values.size, n_bin)
    good = np.isfinite(values)
    sums = np.add.reduceat(np.where(good, values, 0.0), starts)
    count = np.add.reduceat(good.astype(np.float64), starts)
    masked = np.where(good, values, np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.fmin.reduceat(masked, starts), sums / count, np.fmax.reduceat(masked, starts)


def bin_mean(values: NDArray[Any], n_bin: int) -> Floats:
    """Mean of the valid values in each bin of the last axis; NaN where a bin has none."""
    starts = bin_starts(values.shape[-1], min(n_bin, values.shape[-1]))
    good = np.isfinite(values)
    count = np.add.reduceat(good.astype(np.float64), starts, axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.add.reduceat(np.where(good, values, 0.0), starts, axis=-1) / count)


@dataclass(frozen=True)
class Binning:
    """Cells of a scan: ``n_bin`` channel bins by groups of ``dumps`` consecutive dumps of one ON subscan."""

    n_channel: int
    n_dump: int
    n_on: int
    n_bin: int
    dumps: int

    @classmethod
    def of(cls, products: ScanProducts) -> Binning:
        """The finest that fits :data:`CELL_BYTES` for all pixels."""
        c, d, r, a, s = products.shape
        n_bin = min(MAX_BINS, c)
        per_group = 4 * n_bin * r * a * s
        groups = max(1, min(d, CELL_BYTES // per_group))
        return cls(c, d, s, n_bin, math.ceil(d / groups))

    @property
    def per_subscan(self) -> int:
        """Groups in a subscan."""
        return math.ceil(self.n_dump / self.dumps)

    def group_mean(self, values: Floats) -> Floats:
        """Mean of ``[D, S]`` in each group, ``[S * groups]``, subscan by subscan."""
        starts = np.arange(0, self.n_dump, self.dumps)
        count = np.diff(np.append(starts, self.n_dump))[:, None]
        return np.asarray((np.add.reduceat(values, starts, axis=0) / count).T.ravel())


def read_pixel(products: ScanProducts, r: int, a: int, binning: Binning) -> tuple[Floats, NDArray[np.float32]]:
    """One pass over a pixel: its mean spectrum ``[C]`` and the cells ``[groups of dumps, channel bins]``; both K."""
    starts = bin_starts(binning.n_channel, binning.n_bin)
    widths = np.diff(np.append(starts, binning.n_channel)).astype(np.float64)[:, None]
    total, valid = np.zeros(binning.n_channel), np.zeros(binning.n_channel)
    shape = (binning.n_on * binning.per_subscan, binning.n_bin)
    sums, counts = np.zeros(shape), np.zeros(shape)
    for s, first, block in products.blocks(r, a):
        good = np.isfinite(block)
        whole = good.all()
        filled = block if whole else np.where(good, block, 0.0)
        total += filled.sum(axis=1, dtype=np.float64)
        valid += block.shape[1] if whole else np.count_nonzero(good, axis=1)
        channel_sums = np.add.reduceat(filled, starts, axis=0, dtype=np.float64)
        channel_counts = (
            np.broadcast_to(widths, channel_sums.shape)
            if whole
            else np.add.reduceat(good, starts, axis=0, dtype=np.int64)
        )
        group = s * binning.per_subscan + (first + np.arange(block.shape[1])) // binning.dumps
        np.add.at(sums, group, channel_sums.T)
        np.add.at(counts, group, channel_counts.T)
    with np.errstate(invalid="ignore", divide="ignore"):
        return total / valid, (sums / counts).astype(np.float32)


def line_bins(spectrum: Floats) -> NDArray[np.bool_]:
    """Channel bins of the strongest line: the run around the bin farthest from the median, one bin wider on each side.

    A bin is in a line where it is more than 5 robust sigma from the median; none is, where nothing stands out.
    """
    out = np.zeros(spectrum.size, bool)
    distance = np.abs(spectrum - np.nanmedian(spectrum))
    high = stands_out(spectrum)
    if not high.any():
        return out
    first = last = int(np.nanargmax(distance))
    while first > 0 and high[first - 1]:
        first -= 1
    while last < high.size - 1 and high[last + 1]:
        last += 1
    out[max(first - 1, 0) : last + 2] = True
    return np.asarray(out & np.isfinite(spectrum))


@dataclass(frozen=True)
class LineWindow:
    """The bins that are integrated ``[F]``, whether a line was found in them, and their frequency range, Hz."""

    bins: NDArray[np.bool_]
    found: bool
    low: float
    high: float

    @classmethod
    def of(cls, spectrum: Floats, frequency: Floats) -> LineWindow:
        """From the binned mean spectrum of the array; the whole band where no line stands out."""
        bins = line_bins(spectrum) if np.isfinite(spectrum).any() else np.zeros(spectrum.size, bool)
        found = bool(bins.any()) and int(bins.sum()) <= 0.5 * bins.size
        if not found:
            bins = np.isfinite(spectrum) if np.isfinite(spectrum).any() else np.ones(spectrum.size, bool)
        inside = bin_mean(frequency, spectrum.size)[bins]
        half = 0.5 * abs(float(frequency[-1] - frequency[0])) / max(spectrum.size, 1)
        return cls(bins, found, float(inside.min()) - half, float(inside.max()) + half)


def integrated_intensity(cells: NDArray[np.float32], window: LineWindow, frequency: Floats) -> Floats:
    """Integrated intensity of cells ``[..., F]``, K km/s.

    T_A* over the window, less the median of the bins outside it where a line was found; the width of a bin in velocity
    is c dnu / nu at the window's centre.
    """
    width = abs(float(frequency[-1] - frequency[0])) / max(frequency.size - 1, 1) * frequency.size / window.bins.size
    velocity = SPEED_OF_LIGHT / 1e3 * width / (0.5 * (window.low + window.high))
    inside = cells[..., window.bins].astype(np.float64)
    usable = np.isfinite(inside).mean(axis=-1) > 0.5
    level = np.zeros(cells.shape[:-1])
    outside = cells[..., ~window.bins]
    if window.found and outside.shape[-1]:
        good = np.asarray(np.isfinite(outside).any(axis=-1))
        level = np.where(good, np.nanmedian(np.where(good[..., None], outside, 0.0), axis=-1), np.nan)
    mean = np.nansum(inside, axis=-1) / np.maximum(np.isfinite(inside).sum(axis=-1), 1)
    return np.where(usable, (mean - level) * int(window.bins.sum()) * velocity, np.nan)


@dataclass(frozen=True)
class SkyMap:
    """A map on the sky offsets: ``values`` and ``hits`` ``[y, x]``; the edges of the axes in arcsec; the cell in arcsec."""

    values: Floats
    hits: NDArray[np.int64]
    x: tuple[float, float]
    y: tuple[float, float]
    cell: float


def grid_map(lon: Floats, lat: Floats, values: Floats, max_cells: int) -> SkyMap | None:
    """Grid values at offsets [deg] on at most ``max_cells`` cells a side; None for fewer than four separate points.

    Cells hold about two spectra; sums and weights are smoothed with the same small kernel, so that the scale of the
    intensity is kept.
    """
    good = np.isfinite(lon) & np.isfinite(lat) & np.isfinite(values)
    x, y, v = 3600.0 * lon[good], 3600.0 * lat[good], values[good]
    if np.unique(np.round(np.stack([x, y]), 3), axis=1).shape[1] < 4:
        return None
    span_x, span_y = float(np.ptp(x)), float(np.ptp(y))
    longest = max(span_x, span_y)
    area = max(span_x, 0.05 * longest) * max(span_y, 0.05 * longest)
    cell = max(math.sqrt(2.0 * area / v.size), longest / max(max_cells - 1, 1))
    n_x, n_y = int(span_x / cell) + 1, int(span_y / cell) + 1
    edge_x, edge_y = x.min() - 0.5 * (n_x * cell - span_x), y.min() - 0.5 * (n_y * cell - span_y)
    column = np.clip(((x - edge_x) / cell).astype(int), 0, n_x - 1)
    row = np.clip(((y - edge_y) / cell).astype(int), 0, n_y - 1)
    hits, sums = np.zeros((n_y, n_x), np.int64), np.zeros((n_y, n_x))
    np.add.at(hits, (row, column), 1)
    np.add.at(sums, (row, column), v)
    weight, smooth = _smoothed(hits.astype(np.float64)), _smoothed(sums)
    with np.errstate(invalid="ignore", divide="ignore"):
        gridded = np.where(weight >= 0.25, smooth / weight, np.nan)
    return SkyMap(gridded, hits, (edge_x, edge_x + n_x * cell), (edge_y, edge_y + n_y * cell), cell)


def _smoothed(values: Floats) -> Floats:
    for axis in (0, 1):
        if values.shape[axis] > 2:
            values = np.apply_along_axis(lambda v: np.convolve(v, SMOOTHING, mode="same"), axis, values)
    return values
