"""A layered sky by am, frequency by frequency and at its own water vapour and airmass: no table, no fit of opacities."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from calib_gpu.atm import radiative
from calib_gpu.atm.sites import read_site

PRESSURE_HPA = 530.0


class LayeredSky:
    """am for the profile of a site; what was computed is kept. ``ground_k`` is the temperature at the telescope."""

    def __init__(self, folder: Path, site: str = "cerro-chajnantor", ground_k: float | None = None) -> None:
        os.environ["AM_CACHE_PATH"] = str(folder)
        self.site = read_site(site)
        self.rows = self.site.above(PRESSURE_HPA, ground_k)
        self.ground_k = float(self.rows[-1, 1])
        self._known: dict[tuple[float, float, float, int], tuple[np.ndarray, np.ndarray]] = {}

    def __call__(self, nu: np.ndarray, pwv: float, x: float) -> tuple[np.ndarray, np.ndarray]:
        key = (float(nu[0]), pwv, round(x, 9), nu.size)
        if key not in self._known:
            profile = radiative.scaled_profile(self.rows, self.site.fixed_water_above_hpa, pwv)
            step = abs(float(nu[1] - nu[0]))
            low = float(nu.min())
            assert abs(low / step - round(low / step)) < 1e-6  # am computes multiples of its step
            first = round(low / step)
            spectra = radiative.compute(profile, first, first + nu.size - 1, step, np.array([x]))
            order = slice(None) if nu[1] > nu[0] else slice(None, None, -1)
            self._known[key] = np.exp(-x * spectra.tau)[order], spectra.sky[0][order]
        return self._known[key]
