"""The fit of the water vapour: closed-form derivatives, and every way it can end (physics 4.4, 4.5)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from calib_gpu.physics import pwv
from calib_gpu.physics.atmosphere import bin_starts
from calib_gpu.physics.pwv import PwvLimits, fit_from_grid, fit_pwv
from calib_gpu.physics.sky import Sky, SkyModel, Slab
from calib_gpu.physics.sky_sums import SkySums, chi2_at, chi2_grid

N = 40


def problem(truth: float, noise: float = 0.0, seed: int = 3) -> tuple[SkySums, Sky, np.ndarray]:
    """Two OFFs at different airmass, three pixels with gains of their own, S_H from eq. (13)."""
    rng = np.random.default_rng(seed)
    b_s, c_s, b_i, c_i = (rng.uniform(low, high, N) for low, high in ((0.3, 1.5), (0.03, 0.1), (0.3, 1.5), (0.03, 0.1)))
    sky = Sky((Slab(b_s, c_s, np.zeros(N), np.zeros(N)), Slab(b_i, c_i, np.zeros(N), np.zeros(N))), ())
    x = np.array([1.2, 1.5])
    total = SkySums.zeros(2, N)
    for _ in range(3):
        model = SkyModel(rng.uniform(-40, -20, N), rng.uniform(90, 130, N), rng.uniform(90, 130, N))
        t_s = np.exp(-x[:, None] * (b_s * truth + c_s))
        t_i = np.exp(-x[:, None] * (b_i * truth + c_i))
        observed = model.k0 - model.a_signal * t_s - model.a_image * t_i + noise * rng.normal(size=(2, N))
        total.add_pixel(observed, model, rng.random((2, N)) > 0.1)
    return total, sky, x


@pytest.mark.parametrize("w", [0.02, 0.3, 0.9, 2.5, 8.0])
@pytest.mark.parametrize("binned", [False, True])
def test_derivatives_are_those_of_chi2(w: float, binned: bool) -> None:
    sums, sky, x = problem(0.8, noise=5.0)
    if binned:
        starts = bin_starts(N, 7)
        sky = replace(sky, bins=starts)
        sums = SkySums(*(np.add.reduceat(getattr(sums, name), starts, axis=1) for name in sums.__dataclass_fields__))
    step = 1e-4 * w
    low, here, high = (chi2_at(sums, sky, x, v) for v in (w - step, w, w + step))
    assert here.value == pytest.approx(float(chi2_grid(sums, sky, x, np.array([w])).sum()), rel=1e-10)
    assert here.slope == pytest.approx((high.value - low.value) / (2 * step), rel=1e-5)
    assert here.curvature == pytest.approx((high.slope - low.slope) / (2 * step), rel=1e-5)


def test_fisher_is_the_curvature_without_residuals() -> None:
    """F = sum W S'^2: at the truth of noise-free data chi2'' = 2 F."""
    sums, sky, x = problem(0.8)
    at = chi2_at(sums, sky, x, 0.8)
    assert at.curvature == pytest.approx(2.0 * at.fisher, rel=1e-9)


@pytest.mark.parametrize("truth", [0.5005, 0.503, 0.52, 1.0, 9.5, 9.99])
def test_a_minimum_beside_a_bound_is_found(truth: float) -> None:
    """The grid's best point is the bound itself, but the slope leads inside: no at_*_bound."""
    sums, sky, x = problem(truth)
    fit = fit_pwv(sums, sky, x, PwvLimits(0.5, 10.0, 16))
    assert (fit.status, fit.pwv) == ("ok", pytest.approx(truth, rel=1e-9))


@pytest.mark.parametrize(("truth", "status", "bound"), [(0.3, "at_lower_bound", 0.5), (15.0, "at_upper_bound", 3.0)])
def test_outside_the_bounds(truth: float, status: str, bound: float) -> None:
    sums, sky, x = problem(truth)
    fit = fit_pwv(sums, sky, x, PwvLimits(0.5, 3.0, 16))
    assert (fit.status, fit.pwv) == (status, bound)


def test_too_few_data_are_unconstrained() -> None:
    sums, sky, x = problem(0.8)
    assert fit_pwv(sums, sky, x, PwvLimits(0.01, 10.0, sums.size + 1)).status == "unconstrained"
    assert fit_pwv(sums, sky, x, PwvLimits(0.01, 10.0, sums.size)).status == "ok"
    assert fit_pwv(SkySums.zeros(2, N), sky, x, PwvLimits(0.01, 10.0, 1)).status == "unconstrained"


def test_not_converged_keeps_the_grid_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pwv, "MAX_STEPS", 1)
    sums, sky, x = problem(0.8)
    limits = PwvLimits(0.01, 10.0, 16)
    fit = fit_pwv(sums, sky, x, limits)
    assert fit.status == "not_converged"
    assert fit.pwv == limits.grid[np.argmin(np.abs(limits.grid - 0.8))]


def test_nan_on_the_grid_is_infinity_and_the_first_of_equals_wins() -> None:
    sums, sky, x = problem(0.8)
    limits = PwvLimits(0.01, 10.0, 16)
    chi2 = chi2_grid(sums, sky, x, limits.grid).sum(axis=1)
    best = int(np.argmin(chi2))
    chi2[:5] = np.nan
    assert fit_from_grid(sums, sky, x, limits, limits.grid, chi2).pwv == pytest.approx(0.8, rel=1e-9)
    chi2[best + 1] = chi2[best]
    assert fit_from_grid(sums, sky, x, limits, limits.grid, chi2).pwv == pytest.approx(0.8, rel=1e-9)


def test_the_grid_is_128_points_even_in_log() -> None:
    grid = PwvLimits(0.01, 10.0, 16).grid
    assert (grid.size, grid[0], grid[-1]) == (128, 0.01, 10.0)
    np.testing.assert_allclose(np.diff(np.log(grid)), np.log(1000.0) / 127, rtol=1e-12)
