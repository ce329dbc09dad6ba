"""Planck radiation on the Rayleigh-Jeans scale (physics, section 2)."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

PLANCK: Final = 6.62607015e-34
"""h [J s], exact (SI 2019)."""

BOLTZMANN: Final = 1.380649e-23
"""k [J/K], exact (SI 2019)."""

H_OVER_K: Final = PLANCK / BOLTZMANN
"""h/k [K/Hz]."""

_X_UNDERFLOW: Final = 700.0


def rayleigh_jeans_temperature(frequency: ArrayLike, temperature: ArrayLike) -> NDArray[np.float64]:
    """Rayleigh-Jeans equivalent J(nu, T) of a black body, eq. (4).

    The temperature that, put into the Rayleigh-Jeans law, gives the Planck brightness.

    Parameters
    ----------
    frequency
        nu [Hz], any shape.
    temperature
        Physical temperature T [K], broadcast against ``frequency``.

    Returns
    -------
    J [K]; 0 for T <= 0 and where h nu / k T > 700, T where nu = 0, NaN where T is NaN.
    """
    quantum = H_OVER_K * np.asarray(frequency, dtype=np.float64)
    t = np.asarray(temperature, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        x = quantum / t
        j = np.where(x > _X_UNDERFLOW, 0.0, quantum / np.expm1(np.minimum(x, _X_UNDERFLOW)))
    j = np.where(quantum == 0.0, t, j)
    return np.where(t <= 0.0, 0.0, np.where(np.isnan(t), np.nan, j))


def physical_temperature(frequency: ArrayLike, j: ArrayLike) -> NDArray[np.float64]:
    """The inverse of :func:`rayleigh_jeans_temperature`: T [K] of J [K]; NaN where J is not above 0."""
    quantum, j = H_OVER_K * np.asarray(frequency, dtype=np.float64), np.asarray(j, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(j > 0.0, quantum / np.log1p(quantum / j), np.nan)


def half_quantum(frequency: ArrayLike) -> NDArray[np.float64]:
    """H nu / 2k [K]: what the Callen-Welton form adds to J at every temperature."""
    return 0.5 * H_OVER_K * np.asarray(frequency, dtype=np.float64)
