"""A factor of the dry opacity, fitted together with the water vapour (physics, section 4.7).

Models of the dry air (collision-induced absorption, the wings of its lines) differ by factors; where spectra have the
signal to noise to tell the two apart, the data know better.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from calib_gpu.physics.pwv import MIN_RESIDUAL_K, PwvFit, PwvLimits
from calib_gpu.physics.sky import Sky
from calib_gpu.physics.sky_sums import NormalEquations, SkySums, normal_equations

Floats = NDArray[np.float64]

LOWEST: Final = 0.2
HIGHEST: Final = 5.0
"""Bounds of the factor."""

DEMANDED: Final = 2.0
"""How many times smaller the reduced chi2 must become for the factor to be used by itself, or suggested."""

MAX_STEPS: Final = 40
TOLERANCE: Final = 1e-10
HINT_TOLERANCE: Final = 1e-3
_TOLERANCE_FLOOR_MM: Final = 1e-3
_SINGULAR: Final = 1e-10


@dataclass(frozen=True)
class DryScale:
    """Factor of the dry opacity. ``status``: fixed, ok, at_bound, not_converged or unconstrained.

    ``error``, ``pwv_error`` [mm] and the ``correlation`` of factor and PWV are None where nothing was fitted; ``chi2``
    is that of the fit with both. Only with ``ok`` and ``at_bound`` is the factor that of a fit.
    """

    value: float = 1.0
    status: str = "fixed"
    error: float | None = None
    pwv_error: float | None = None
    correlation: float | None = None
    chi2: float | None = None

    @property
    def fitted(self) -> bool:
        """True where the factor was found from the data."""
        return self.status in ("ok", "at_bound")


def fit_dry_scale(
    sums: SkySums, sky: Sky, x: Floats, limits: PwvLimits, start: PwvFit, tolerance: float = TOLERANCE
) -> DryScale:
    """Gauss-Newton steps in water vapour and dry opacity from the fit of the water vapour alone.

    A step is halved until chi2 does not grow, and stops at the bounds; there the other parameter goes on alone.
    """
    if not start.constrained:
        return DryScale(status="unconstrained")
    w, s, at = start.pwv, 1.0, normal_equations(sums, sky, x, start.pwv)
    if _covariance(at, sums.size, limits) is None:
        return DryScale(status="unconstrained")
    for _ in range(MAX_STEPS):
        step = _step(at, (w <= limits.low, s <= LOWEST), (w >= limits.high, s >= HIGHEST))
        small = True
        for _ in range(MAX_STEPS):
            w_new = float(np.clip(w + step[0], limits.low, limits.high))
            s_new = float(np.clip(s * (1.0 + step[1]), LOWEST, HIGHEST))
            small = abs(w_new - w) <= tolerance * max(w, _TOLERANCE_FLOOR_MM) and abs(s_new - s) <= tolerance * s
            new = normal_equations(sums, sky.scaled(s_new), x, w_new)
            if small or new.value <= at.value:
                break
            step = 0.5 * step
        w, s, at = w_new, s_new, new
        if small:
            return _result(s, at, sums.size, limits)
    return DryScale(status="not_converged")


def demanded(alone: PwvFit, dry: DryScale) -> bool:
    """True where the factor makes the misfit of the water vapour alone much smaller, and that is no rounding."""
    if not dry.fitted or dry.chi2 is None or alone.n < 3 or not alone.rms > MIN_RESIDUAL_K:
        return False
    return alone.chi2 / (alone.n - 1) > DEMANDED * dry.chi2 / (alone.n - 2)


def suggested(sums: SkySums, sky: Sky, x: Floats, limits: PwvLimits, alone: PwvFit) -> float | None:
    """The factor that chi2 demands, or None; fitted only if one step promises as much."""
    if not alone.constrained or not alone.rms > MIN_RESIDUAL_K:
        return None
    at = normal_equations(sums, sky, x, alone.pwv)
    if _covariance(at, sums.size, limits) is None:
        return None
    promised = at.value - float(at.gradient @ np.linalg.solve(at.fisher, at.gradient))
    if at.value <= DEMANDED * promised:
        return None
    dry = fit_dry_scale(sums, sky, x, limits, alone, HINT_TOLERANCE)
    return dry.value if demanded(alone, dry) else None


def _step(at: NormalEquations, low: tuple[bool, bool], high: tuple[bool, bool]) -> Floats:
    """The Gauss-Newton step; what lies at a bound and would leave it stays."""
    full = np.asarray(-np.linalg.solve(at.fisher, at.gradient) if _regular(at.fisher) else np.zeros(2), np.float64)
    stays = [(low[k] and full[k] < 0.0) or (high[k] and full[k] > 0.0) for k in range(2)]
    if not any(stays):
        return full
    return np.array([0.0 if stays[k] else -float(at.gradient[k] / at.fisher[k, k]) for k in range(2)])


def _regular(fisher: Floats) -> bool:
    return bool(np.linalg.det(fisher) > _SINGULAR * fisher[0, 0] * fisher[1, 1])


def _covariance(at: NormalEquations, n: int, limits: PwvLimits) -> Floats | None:
    """Covariance of PWV and relative factor; None where the data do not tell them apart within the bounds."""
    if n < max(limits.min_points, 3) or not np.isfinite(at.value) or not _regular(at.fisher):
        return None
    covariance = np.asarray(np.linalg.inv(at.fisher), np.float64)
    scale = max(at.value / (n - 2), MIN_RESIDUAL_K**2) if limits.unit_weights else 1.0
    wide = np.sqrt(scale * np.diag(covariance)) > (limits.high - limits.low, HIGHEST - LOWEST)
    return None if np.any(wide) else covariance


def _result(s: float, at: NormalEquations, n: int, limits: PwvLimits) -> DryScale:
    covariance = _covariance(at, n, limits)
    if covariance is None:
        return DryScale(status="unconstrained")
    correlation = float(covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1]))
    scale = at.value / (n - 2) if limits.unit_weights else 1.0
    pwv_error, error = (float(v) for v in np.sqrt(scale * np.diag(covariance)))
    return DryScale(s, "at_bound" if s in (LOWEST, HIGHEST) else "ok", s * error, pwv_error, correlation, at.value)
