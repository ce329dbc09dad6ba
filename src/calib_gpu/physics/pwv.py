"""The PWV fit: grid search, then bracketed Newton steps, with every status (physics, section 4.5)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from calib_gpu.physics.sky import Sky
from calib_gpu.physics.sky_sums import Chi2, SkySums, chi2_at, chi2_grid

Floats = NDArray[np.float64]
Grid = Callable[[SkySums, Sky, Floats, Floats], Floats]

GRID_POINTS: Final = 128
MAX_STEPS: Final = 30
TOLERANCE: Final = 1e-12
TOLERANCE_FLOOR_MM: Final = 1e-3
MIN_RESIDUAL_K: Final = 0.1


@dataclass(frozen=True)
class PwvLimits:
    """Bounds of the fit [mm], the least number of data, and whether the weights are 1 or 1/sigma^2."""

    low: float
    high: float
    min_points: int
    unit_weights: bool = True

    @property
    def grid(self) -> Floats:
        """The grid [mm]: 128 points, evenly spaced in log w; its ends are the bounds, exactly."""
        grid = np.geomspace(self.low, self.high, GRID_POINTS)
        grid[0], grid[-1] = self.low, self.high
        return grid


@dataclass(frozen=True)
class PwvFit:
    """Result of one fit. ``status``: ok, at_lower_bound, at_upper_bound, not_converged or unconstrained.

    ``pwv`` and ``error`` in mm, NaN if unconstrained; ``weight`` is the sum of the weights of ``n`` data.
    """

    pwv: float
    error: float
    status: str
    chi2: float
    n: int
    weight: float

    @property
    def rms(self) -> float:
        """(Weighted) rms of the residual S_H,obs - S_H [K]."""
        return float(np.sqrt(self.chi2 / self.weight)) if self.weight > 0.0 else float("nan")

    @property
    def constrained(self) -> bool:
        """False where the data say nothing about the water vapour."""
        return self.status != "unconstrained"


def fit_pwv(sums: SkySums, sky: Sky, x: Floats, limits: PwvLimits, grid_search: Grid = chi2_grid) -> PwvFit:
    """Joint fit of one PWV to all OFFs in ``sums``; ``x`` is their airmass ``[O]``."""
    grid = limits.grid
    return fit_from_grid(sums, sky, x, limits, grid, grid_search(sums, sky, x, grid).sum(axis=1))


def fit_from_grid(sums: SkySums, sky: Sky, x: Floats, limits: PwvLimits, grid: Floats, chi2: Floats) -> PwvFit:
    """The same, where chi2 of every grid point is at hand; the lowest index wins ties, NaN counts as infinity."""
    j = int(np.argmin(np.where(np.isnan(chi2), np.inf, chi2)))
    at = chi2_at(sums, sky, x, float(grid[j]))
    if _unconstrained(at, sums.size, limits):
        return PwvFit(float("nan"), float("nan"), "unconstrained", at.value, sums.size, float(sums.w.sum()))
    if j == 0 and at.slope >= 0.0:
        return _result(float(grid[j]), at, sums, limits, "at_lower_bound")
    if j == grid.size - 1 and at.slope <= 0.0:
        return _result(float(grid[j]), at, sums, limits, "at_upper_bound")
    low, high = float(grid[max(j - 1, 0)]), float(grid[min(j + 1, grid.size - 1)])
    found = _newton(sums, sky, x, float(grid[j]), at, low, high)
    if found is None:
        return _result(float(grid[j]), at, sums, limits, "not_converged")
    return _result(*found, sums, limits, "ok")


def _newton(
    sums: SkySums, sky: Sky, x: Floats, w: float, at: Chi2, low: float, high: float
) -> tuple[float, Chi2] | None:
    """Newton on chi2' inside a bracket that shrinks with its sign; bisects where a step would leave it.

    The minimum, and chi2 there (to the last step, within the tolerance); None where it was not found.
    """
    for _ in range(MAX_STEPS):
        if at.slope > 0.0:
            high = w
        else:
            low = w
        curvature = at.curvature if at.curvature > 0.0 else 2.0 * at.fisher
        step = w - at.slope / curvature if curvature > 0.0 else np.nan
        if not low <= step <= high:
            step = 0.5 * (low + high)
        if abs(step - w) <= TOLERANCE * max(step, TOLERANCE_FLOOR_MM):
            return step, at
        w = step
        at = chi2_at(sums, sky, x, w)
    return None


def _unconstrained(at: Chi2, n: int, limits: PwvLimits) -> bool:
    if n < max(limits.min_points, 1) or not at.fisher > 0.0 or not np.isfinite(at.value):
        return True
    residual = 1.0
    if limits.unit_weights:
        residual = max(float(np.sqrt(at.value / (n - 1))) if n > 1 else 0.0, MIN_RESIDUAL_K)
    return bool(residual / np.sqrt(at.fisher) > limits.high - limits.low)


def _result(w: float, at: Chi2, sums: SkySums, limits: PwvLimits, status: str) -> PwvFit:
    """sigma_w = 1 / sqrt(F), eq. (16); with unit weights times the rms residual sqrt(chi2_min / (N - 1))."""
    n = sums.size
    error = float(1.0 / np.sqrt(at.fisher))
    if limits.unit_weights:
        error = error * float(np.sqrt(at.value / (n - 1))) if n > 1 else float("nan")
    return PwvFit(w, error, status, at.value, n, float(sums.w.sum()))
