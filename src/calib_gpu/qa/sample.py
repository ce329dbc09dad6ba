"""What QA sees of the calibrated spectra: a fixed sample of dumps, spread evenly over the scan.

A median over every dump would cost as much as calibrating it. The sample depends on the shape of the scan alone, and
its sums are exact integers, so that no tile size and no thread changes a metric.
"""

from __future__ import annotations

import threading
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from calib_gpu.physics.robust import median
from calib_gpu.records import Tile
from calib_gpu.store.pixel_arrays import PixelArrays, release

MAX_DUMPS: Final = 16
_QUANTUM: Final = 2.0**-24
_LIMIT: Final = 2.0**56


class DumpSample:
    """Collects noise, band mean, T_sys and the mean spectrum of the sampled dumps.

    Attributes
    ----------
    on, dump
        ``[N]`` which ON subscan and dump each sample is.
    rms, band, t_sys
        ``[N, R, A]`` noise [K] from differences of channels two apart, band mean [K], median T_sys [K].
    """

    def __init__(self, shape: tuple[int, int, int, int, int], arrays: PixelArrays) -> None:
        c, d, r, a, n_on = shape
        n = min(MAX_DUMPS, d * n_on)
        flat = (np.arange(n, dtype=np.int64) * 2 + 1) * (d * n_on) // (2 * n)
        self.on, self.dump = np.divmod(flat, d)
        self.rms, self.band, self.t_sys = (np.full((n, r, a), np.nan) for _ in range(3))
        self._sum, self._count = arrays.zeros((c, r, a), np.int64), arrays.zeros((c, r, a), np.int32)
        self._lock = threading.Lock()

    def observe(self, tile: Tile, spectra: NDArray[Any], t_sys: NDArray[np.float64]) -> None:
        """Take what belongs to the sample from a tile: ``spectra`` [R,A,B,C,d] in blocks of dumps, ``t_sys`` [R,A,C]."""
        sampled = np.flatnonzero(self.on == tile.on)
        for i, j in np.ndindex(spectra.shape[:2]):
            level = median(t_sys[i, j][~np.isnan(t_sys[i, j])]) if sampled.size else np.nan
            for n in sampled:
                block, k = divmod(int(self.dump[n]), spectra.shape[4])
                spectrum = spectra[i, j, block, :, k].astype(np.float64)
                good = np.isfinite(spectrum)
                valid = _where(spectrum, good)
                if not valid.size:
                    continue
                r, a = tile.r.start + i, tile.a.start + j
                self.rms[n, r, a] = lag_two_rms(spectrum)
                self.band[n, r, a] = valid.mean()
                self.t_sys[n, r, a] = level
                exact = np.divide(spectrum, _QUANTUM, out=spectrum)
                if valid.size < good.size:
                    exact[~good] = 0.0
                whole = np.rint(np.clip(exact, -_LIMIT, _LIMIT, out=exact), out=exact).astype(np.int64)
                with self._lock:
                    self._sum[:, r, a] += whole
                    self._count[:, r, a] += good
                    release(self._sum[:, r, a], self._count[:, r, a])

    def mean_spectrum(self, r: int, a: int) -> NDArray[np.float64]:
        """Mean of the sampled dumps of a pixel ``[C]``, K; NaN where none is valid."""
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = np.asarray(self._sum[:, r, a] * _QUANTUM / self._count[:, r, a])
        release(self._sum[:, r, a], self._count[:, r, a])
        return mean


def lag_two_rms(spectrum: NDArray[np.float64]) -> float:
    """Noise of a spectrum [K]: 1.4826 MAD of (T[c+2] - T[c]) / sqrt 2; neighbours of an FFT spectrometer are correlated."""
    difference = (spectrum[2:] - spectrum[:-2]) / np.sqrt(2.0)
    difference = _where(difference, np.isfinite(difference))
    distance = difference - median(difference)
    return 1.4826 * median(np.abs(distance, out=distance))


def _where(values: NDArray[np.float64], wanted: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The values that are wanted; without a copy where these are all."""
    return values if wanted.all() else values[wanted]
