"""What is drawn of a scan, in few bytes: down-sampled curves, small images, the map.

Curves keep least, mean and largest value of every channel bin, so that a narrow spike is never lost; how many bins
there are follows from the bytes that a scan may take.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from calib_gpu.qa import quicklook
from calib_gpu.qa.products import ScanProducts
from calib_gpu.qa.report import pack
from calib_gpu.qa.sky_check import reference_subscans, sky_of
from calib_gpu.records import Floats

MAX_BINS: Final = 256
MAX_REFERENCES: Final = 4
MAX_TRACK: Final = 240


@dataclass(frozen=True)
class Sizes:
    """Sizes of what is drawn of a scan: channel bins of curves, sky and image, rows of the image, cells of the map."""

    curve: int
    sky: int
    rows: int
    columns: int
    cells: int

    @classmethod
    def of(cls, budget: int, n_pixel: int, n_channel: int) -> Sizes:
        """The largest whose arrays take about ``budget`` bytes in base64; three quarters of it go to the pixels' curves."""
        raw = 0.72 * budget - 120.0 * n_pixel - 3000.0
        curve = int(np.clip(0.6 * raw / (19 * n_pixel), 8, MAX_BINS))
        sky = int(np.clip(0.1 * raw / (4 * MAX_REFERENCES + 4), 16, MAX_BINS))
        side = int(np.clip(math.sqrt(0.2 * raw / 1.5), 16, 128))
        rows = int(np.clip(min(side, 0.05 * raw / n_pixel), 12, 128))
        return cls(
            min(curve, n_channel), min(sky, n_channel), rows, min(side, n_channel), int(np.clip(side * 0.45, 12, 64))
        )


def drawn(products: ScanProducts, sizes: Sizes) -> dict[str, Any]:
    """Curves, sky, images and map: the one pass over the spectra."""
    binning = quicklook.Binning.of(products)
    n_pixel, n_group = len(products.pixels), binning.n_on * binning.per_subscan
    cells = np.full((n_pixel, n_group, binning.n_bin), np.nan, np.float32)
    curves = {name: np.full((3, n_pixel, sizes.curve), np.nan) for name in ("trec", "tsys", "spectrum")}
    bad = np.zeros((n_pixel, sizes.curve))
    sky = SkyCurves(products, sizes.sky)
    for k, (r, a) in enumerate(products.pixels):
        flagged, t_rec, t_sys = (products.pixel(name, r, a) for name in ("bad_channels", "trec", "t_sys"))
        mean, cells[k] = quicklook.read_pixel(products, r, a, binning)
        t_rec = np.where(flagged, np.nan, t_rec)
        for name, values in (("trec", t_rec), ("tsys", np.nanmean(t_sys, axis=1)), ("spectrum", mean)):
            curves[name][:, k] = quicklook.envelope(values, sizes.curve)
        bad[k] = quicklook.bin_mean(flagged, sizes.curve)
        sky.add(r, a, t_rec, t_sys)
    frequency = products.whole("frequency_signal")
    out: dict[str, Any] = {
        "curves": {name: _curve(values) for name, values in curves.items()}, "bad": pack.pack(bad, 8), "sky": sky.record(),
    }  # fmt: skip
    return out | _images(cells, binning, sizes) | _map(products, cells, binning, sizes, frequency)


def _curve(values: Floats) -> dict[str, Any]:
    """Envelope of all pixels; ``view`` is a range of the vertical axis that single spikes do not set."""
    low, mean, high = values
    view = [0.0, 1.0]
    if np.isfinite(mean).any():
        typical = np.nanmedian(mean, axis=0)  # over pixels: a line is in most of them, interference in one
        view = [
            min(np.nanpercentile(low, 1.0), np.nanmin(typical)), max(np.nanpercentile(high, 99.0), np.nanmax(typical)),
        ]  # fmt: skip
    return {
        "low": pack.pack(low), "mean": pack.pack(mean), "high": pack.pack(high), "view": [pack.number(v) for v in view]
    }  # fmt: skip


class SkyCurves:
    """Observed and fitted sky of a few references, mean over the pixels, and the transmission of both bands."""

    def __init__(self, products: ScanProducts, n_bin: int) -> None:
        self.products, self.n_bin = products, n_bin
        self.sky = sky_of(products)
        self.on = reference_subscans(products, MAX_REFERENCES)
        self.sums, self.count = np.zeros((2, len(self.on), n_bin)), np.zeros((len(self.on), n_bin))
        self.residual: list[float] = []

    def add(self, r: int, a: int, t_rec: Floats, t_sys: Floats) -> None:
        """Take one pixel: ``t_rec`` [C] with NaN in bad channels, ``t_sys`` [C, S]."""
        if isinstance(self.sky, str):
            return
        rest = []
        for k, on in enumerate(self.on):
            observed = self.sky.observed(r, a, on, t_sys[:, on], t_rec)
            fitted = np.where(np.isfinite(observed), self.sky.fitted(r, a, on), np.nan)
            rest.append(observed - fitted)
            means = quicklook.bin_mean(np.stack([observed, fitted]), self.n_bin)
            good = np.isfinite(means[0])
            self.sums[:, k, good] += means[:, good]
            self.count[k] += good
        self.residual.append(float(np.sqrt(np.nanmean(np.square(rest)))) if rest else float("nan"))

    def record(self) -> dict[str, Any]:
        """For the page; ``why`` tells why there is no sky, or no fit."""
        if isinstance(self.sky, str) or not self.on:
            return {"why": self.sky if isinstance(self.sky, str) else "no ON subscan"}
        with np.errstate(invalid="ignore", divide="ignore"):
            observed, fitted = self.sums / self.count
        transmission = [
            quicklook.bin_mean(self.sky.transmission(b, self.on[0]), self.n_bin) for b in ("signal", "image")
        ]
        modelled = self.sky.model is not None
        return {
            "why": self.sky.why, "observed": pack.pack(observed), "fitted": pack.pack(fitted) if modelled else None,
            "transmission": pack.pack(transmission) if self.products.corrected else None, "references": self._labels(),
            "residual": pack.numbers(self.residual, 3) if modelled else None,
        }  # fmt: skip

    def _labels(self) -> list[str]:
        if not self.products.has("ref_index"):
            return [f"reference of ON {on}" for on in self.on]
        index, weight = self.products.whole("ref_index"), self.products.whole("ref_weight")
        return [
            "OFF " + " + ".join(str(i) for i, w in zip(index[on], weight[on], strict=True) if w > 0) for on in self.on
        ]


def _images(cells: NDArray[np.float32], binning: quicklook.Binning, sizes: Sizes) -> dict[str, Any]:
    """Waterfall (median over pixels) and the band mean of every pixel, against time; rows are dumps in order."""
    rows = quicklook.bin_mean(np.swapaxes(cells, 1, 2), sizes.rows)  # [pixel, bin, time]
    image = quicklook.bin_mean(np.nanmedian(rows, axis=0).T, sizes.columns)
    power = np.nanmean(rows, axis=1)
    power = power - np.nanmedian(power, axis=1, keepdims=True)
    count = binning.n_dump * binning.n_on
    return {
        "waterfall": pack.pack(pack.clipped(image, 0.3), 8), "power": pack.pack(pack.clipped(power.T, 0.3), 8), "dumps": count,
    }  # fmt: skip


def _map(
    products: ScanProducts, cells: NDArray[np.float32], binning: quicklook.Binning, sizes: Sizes, frequency: Floats
) -> dict[str, Any]:
    """Integrated intensity on the sky, hits, and the track of the reference beam with the pixels' offsets."""
    window = quicklook.LineWindow.of(np.nanmean(cells, axis=(0, 1)).astype(np.float64), frequency)
    about = {"found": window.found, "window": [pack.number(window.low / 1e9, 8), pack.number(window.high / 1e9, 8)]}
    places = [products.positions(r, a) for r, a in products.pixels]
    if not all(places):
        return {"map": {"why": "the offsets on the sky are not stored"} | about}
    intensity = quicklook.integrated_intensity(cells, window, frequency)
    lon, lat = (np.stack([binning.group_mean(p[axis]) for p in places if p is not None]) for axis in (0, 1))
    coverage = {"track": _track(products), "offsets": [pack.numbers(3600.0 * v[:, 0], 4) for v in _offsets(places)]}
    gridded = quicklook.grid_map(lon.ravel(), lat.ravel(), intensity.ravel(), sizes.cells)
    if gridded is None:
        return {"map": {"why": "the scan has fewer than four positions"} | about, "coverage": coverage}
    about |= {
        "values": pack.pack(gridded.values, 8), "hits": pack.pack(gridded.hits, 8), "cell": pack.number(gridded.cell, 4),
        "x": [pack.number(v) for v in gridded.x], "y": [pack.number(v) for v in gridded.y],
    }  # fmt: skip
    return {"map": about, "coverage": coverage}


def _track(products: ScanProducts) -> dict[str, Any]:
    """Path of the reference beam over the ON dumps, arcsec, thinned."""
    beam = [3600.0 * np.broadcast_to(products.whole(f"otf_{n}"), (products.shape[1], products.shape[4])).T.ravel()
            for n in ("lon", "lat")]  # fmt: skip
    step = max(1, math.ceil(beam[0].size / MAX_TRACK))
    return pack.pack(np.stack(beam)[:, ::step])


def _offsets(places: list[Any]) -> tuple[Floats, Floats]:
    """First position of every pixel relative to the first pixel, deg: longitude and latitude ``[P, 1]``."""
    first = np.array([[p[axis][0, 0] for p in places] for axis in (0, 1)])
    lon, lat = (first - first[:, :1])[..., None]
    return lon, lat
