"""Emission of a layered atmosphere: against slabs added up one by one, quadrature, and finite differences."""

from __future__ import annotations

import numpy as np
import pytest

from calib_gpu.physics.emission import Emission, opacity_moments, source_polynomial


@pytest.mark.parametrize("y", [-0.05, 1e-6, 0.01, 0.3, 0.499, 0.5, 0.501, 1.0, 4.0, 30.0, 400.0])
def test_moments_against_quadrature(y: float) -> None:
    x, weight = np.polynomial.legendre.leggauss(200)
    s = 0.5 * (x + 1.0)
    for n, value in enumerate(opacity_moments(np.array([y]), 5)):
        assert value[0] == pytest.approx(0.5 * np.sum(weight * s**n * np.exp(-y * s)), rel=3e-12)


def test_moments_join_where_the_series_ends() -> None:
    below, above = opacity_moments(np.array([0.5 - 1e-12, 0.5]), 6).T
    np.testing.assert_allclose(below, above, rtol=1e-11)


def layered(tau: np.ndarray, j: np.ndarray, x: float) -> float:
    """Layers from the telescope upwards: each seen through those below it."""
    below = np.concatenate([[0.0], np.cumsum(tau)[:-1]])
    return float(np.sum(j * -np.expm1(-x * tau) * np.exp(-x * below)))


def test_source_linear_in_opacity_is_found_from_two_airmasses() -> None:
    n = 20000
    s = (np.arange(n) + 0.5) / n
    tau, j = np.full(n, 0.8 / n), 260.0 - 45.0 * s
    y = np.array([[0.8], [2.0]])
    j_eff = np.array([[layered(tau, j, x)] for x in (1.0, 2.5)]) / -np.expm1(-y)
    np.testing.assert_allclose(source_polynomial(j_eff, y)[:, 0], [260.0, -45.0], rtol=1e-5)


def test_water_and_airmass_between_the_nodes() -> None:
    """Wet layers of 2 km scale height, dry ones of 4 km, J falling with height: two PWVs and three airmasses hold all."""
    height = (np.arange(4000) + 0.5) * 0.005
    wet, dry = (np.exp(-height / scale) / np.exp(-height / scale).sum() for scale in (2.0, 4.0))
    j = 255.0 - 5.5 * np.minimum(height, 10.0)
    b, c, pwv, airmass = 0.9, 0.08, np.array([0.2, 0.9]), np.array([1.0, 1.5, 3.0])

    def sky(w: float, x: float) -> float:
        return layered(b * w * wet + c * dry, j, x)

    j_eff = np.array([[[sky(w, x) / -np.expm1(-x * (b * w + c))] for x in airmass] for w in pwv])
    emission = Emission.of(j_eff, np.array([b]), np.array([c]), pwv, airmass)
    for w in (0.1, 0.2, 0.5, 0.9, 1.2):
        for x in (1.0, 1.2, 2.0, 2.4, 3.0):
            value = emission.at(np.array([b]), np.array([c]), w, x)[0][0]
            assert value == pytest.approx(sky(w, x), rel=1.5e-3)
            if w in pwv and x in airmass:
                assert value == pytest.approx(sky(w, x), rel=1e-12)


def test_one_temperature_is_a_slab() -> None:
    b, c = np.array([0.7, 2.0]), np.array([0.05, -0.01])
    j = np.array([240.0, 250.0])
    value, slope, curvature = Emission.of(j[None, None], b, c, np.empty(0), np.empty(0)).at(b, c, 0.6, 1.4)
    t = np.exp(-1.4 * (b * 0.6 + c))
    np.testing.assert_allclose(value, j * (1.0 - t), rtol=1e-12)
    np.testing.assert_allclose(slope, j * 1.4 * b * t, rtol=1e-12)
    np.testing.assert_allclose(curvature, -j * (1.4 * b) ** 2 * t, rtol=1e-12)


def test_derivatives_against_differences() -> None:
    rng = np.random.default_rng(3)
    b, c = rng.uniform(0.01, 5.0, 50), rng.uniform(-0.005, 0.3, 50)
    emission = Emission(rng.uniform(-50, 250, (3, 50)) * b, rng.uniform(-50, 250, (3, 50)) * c)
    w, x, h = 0.4, 1.7, 1e-4
    np.testing.assert_allclose(emission.value(b, c, w, x), emission.at(b, c, w, x)[0], rtol=1e-13)
    low, mid, high = (emission.at(b, c, v, x) for v in (w - h, w, w + h))
    np.testing.assert_allclose(mid[1], (high[0] - low[0]) / (2 * h), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(mid[2], (high[1] - low[1]) / (2 * h), rtol=1e-5, atol=1e-4)
