"""The sky as the fit sees it: slab and layers behind one interface, exact derivatives, the right end of every fit."""

from __future__ import annotations

import numpy as np
import pytest

from calib_gpu.physics.atmosphere import bin_starts
from calib_gpu.physics.dry_scale import demanded, fit_dry_scale, suggested
from calib_gpu.physics.emission import Emission
from calib_gpu.physics.pwv import PwvLimits, fit_pwv
from calib_gpu.physics.sky import Layers, Nodes, Sky, SkyBand, SkyModel, Slab, residuals
from calib_gpu.physics.sky_sums import SkySums, chi2_at, chi2_grid, normal_equations

N = 60
X = np.array([1.2, 1.9])
LIMITS = PwvLimits(0.01, 10.0, 16)


def band(kind: str, seed: int, background: float = 0.2) -> SkyBand:
    """Opacities of a submillimetre window with some lines; air from 265 K at the ground down to 215 K."""
    rng = np.random.default_rng(seed)
    b, c = rng.uniform(0.4, 1.2, N), rng.uniform(0.03, 0.1, N)
    b[::15] *= 6.0
    behind = np.full(N, background)
    if kind == "slab":
        return Slab(b, c, np.full(N, 240.0), behind)
    wet, dry = np.array([252.0, -20.0, -5.0])[:, None], np.array([255.0, -45.0, 3.0])[:, None]
    return Layers(b, c, Emission(wet * b, dry * c), behind)


def problem(kind: str, truth: float, scale: float = 1.0, noise: float = 0.0, seed: int = 3) -> tuple[SkySums, Sky]:
    """Three pixels with gains of their own and two OFFs; the sums and the sky with its dry opacity unscaled."""
    rng = np.random.default_rng(seed)
    sky = Sky((band(kind, 1), band(kind, 2)), ())
    true, sums = sky.scaled(scale), SkySums.zeros(X.size, N)
    for g in (0.45, 0.5, 0.58):
        offset = g * sky.bands[0].offset + (1 - g) * sky.bands[1].offset
        model = SkyModel(offset - 280.0, g * sky.bands[0].factor, (1 - g) * sky.bands[1].factor)
        q_s, q_i = (np.array([b.value(truth, x) for x in X]) for b in true.bands)
        observed = model.k0 - model.a_signal * q_s - model.a_image * q_i + noise * rng.normal(size=q_s.shape)
        np.testing.assert_allclose(
            residuals(observed, model, true, X, truth), np.zeros_like(observed), atol=6.0 * noise + 1e-10
        )
        sums.add_pixel(observed, model, rng.random(q_s.shape) > 0.1)
    return sums, sky


KINDS = pytest.mark.parametrize("kind", ["slab", "layers"])


@KINDS
@pytest.mark.parametrize("w", [0.02, 0.4, 2.0])
def test_derivatives_against_differences(kind: str, w: float) -> None:
    here, h = band(kind, 1), 1e-4
    low, mid, high = (here.moments(v, 1.4) for v in (w - h * w, w, w + h * w))
    np.testing.assert_allclose(mid[0], here.value(w, 1.4), rtol=1e-13)
    np.testing.assert_allclose(mid[1], (high[0] - low[0]) / (2 * h * w), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(mid[2], (high[1] - low[1]) / (2 * h * w), rtol=1e-5, atol=1e-4)
    value, slope, dry = here.gradient(w, 1.4)
    np.testing.assert_allclose(value, mid[0], rtol=1e-13)
    np.testing.assert_allclose(slope, mid[1], rtol=1e-12)
    step = (here.scaled(1 + h).value(w, 1.4) - here.scaled(1 - h).value(w, 1.4)) / (2 * h)
    np.testing.assert_allclose(dry, step, rtol=1e-5, atol=1e-7)


@KINDS
def test_the_brightness_is_that_of_the_air_and_of_what_is_behind_it(kind: str) -> None:
    here, w, x = band(kind, 1, background=3.0), 0.3, 1.3
    t = np.exp(-x * (here.b * w + here.c))  # type: ignore[attr-defined]
    np.testing.assert_allclose(here.offset - here.factor * here.value(w, x), here.emitted(w, x) + 3.0 * t, rtol=1e-12)


def test_layers_of_one_temperature_are_a_slab() -> None:
    """The same fit to the last digits, though q is brightness in the one and transmission in the other."""
    sums, sky = problem("slab", 0.8, noise=1.0)
    layered, slabs = SkySums.zeros(X.size, N), SkySums.zeros(X.size, N)
    same = Sky(
        tuple(Layers(b.b, b.c, Emission(b.atm * b.b[None], b.atm * b.c[None]), b.background) for b in sky.bands), ()
    )  # type: ignore[attr-defined]
    rng = np.random.default_rng(4)
    for g in (0.4, 0.5):
        observed, good = rng.normal(-150.0, 20.0, (X.size, N)), np.ones((X.size, N), bool)
        for total, of in ((slabs, sky), (layered, same)):
            offset = g * of.bands[0].offset + (1 - g) * of.bands[1].offset
            total.add_pixel(
                observed, SkyModel(offset - 280.0, g * of.bands[0].factor, (1 - g) * of.bands[1].factor), good
            )
    a, b = fit_pwv(slabs, sky, X, LIMITS), fit_pwv(layered, same, X, LIMITS)
    assert (a.status, b.status) == ("ok", "ok")
    assert a.pwv == pytest.approx(b.pwv, rel=1e-10)
    assert a.error == pytest.approx(b.error, rel=1e-9)
    assert sums.size > 0


@KINDS
@pytest.mark.parametrize("binned", [False, True])
def test_derivatives_of_chi2(kind: str, binned: bool) -> None:
    sums, sky = problem(kind, 0.8, noise=5.0)
    if binned:
        starts = bin_starts(N, 7)
        sky = Sky(sky.bands, (), starts)
        sums = SkySums(*(np.add.reduceat(getattr(sums, name), starts, axis=1) for name in sums.__dataclass_fields__))
    w, h = 0.5, 1e-4
    low, here, high = (chi2_at(sums, sky, X, v) for v in (w - h, w, w + h))
    assert here.slope == pytest.approx((high.value - low.value) / (2 * h), rel=1e-5)
    assert here.curvature == pytest.approx((high.slope - low.slope) / (2 * h), rel=1e-5)
    both = normal_equations(sums, sky, X, w)
    assert (both.value, 2 * both.gradient[0], both.fisher[0, 0]) == pytest.approx(
        (here.value, here.slope, here.fisher), rel=1e-9
    )
    along = [normal_equations(sums, sky.scaled(s), X, w).value for s in (1 - h, 1 + h)]
    assert 2 * both.gradient[1] == pytest.approx((along[1] - along[0]) / (2 * h), rel=1e-5)
    assert np.linalg.eigvalsh(both.fisher).min() > 0.0


@pytest.mark.parametrize("noise", [0.0, 2.0])
@pytest.mark.parametrize("truth", [0.02, 0.11, 0.5, 1.7, 4.0])
def test_the_interpolated_grid_leads_to_the_same_minimum(truth: float, noise: float) -> None:
    """Chi2 of layers on the grid is interpolated: its minimum lies within half a step of that of the exact chi2."""
    sums, sky = problem("layers", truth, noise=noise)
    grid = LIMITS.grid
    exact = np.array([[chi2_at(sums.off(o), sky, X[o : o + 1], w).value for o in range(X.size)] for w in grid])
    found = chi2_grid(sums, sky, X, grid)
    assert abs(int(np.argmin(found.sum(axis=1))) - int(np.argmin(exact.sum(axis=1)))) <= 1
    assert fit_pwv(sums, sky, X, LIMITS) == fit_pwv(sums, sky, X, LIMITS, lambda *_: exact)
    np.testing.assert_allclose(found, exact, rtol=0.02, atol=1e-3 * np.median(exact))


@KINDS
@pytest.mark.parametrize(
    "x", [np.linspace(1.2, 1.5, 7), np.linspace(1.0, 3.0, 9), np.array([1.3, 1.3, 1.3, 1.3]), np.array([1.4])]
)
@pytest.mark.parametrize("n_bins", [None, 7])
def test_many_offs_lead_to_the_same_minimum(kind: str, x: np.ndarray, n_bins: int | None) -> None:
    """Interpolated in airmass and water vapour, or exact: OFF by OFF within a grid step of the least exact chi2."""
    grid, bands = LIMITS.grid, (band(kind, 1), band(kind, 2))
    sky = Sky(bands, (), None if n_bins is None else bin_starts(N, n_bins))
    model = SkyModel(*(sky.mean(v) for v in (np.full(N, -30.0), 0.5 * bands[0].factor, 0.5 * bands[1].factor)))
    for truth in (0.03, 0.4, 2.5):
        q_s, q_i = (np.array([sky.mean(b.value(truth, float(at))) for at in x]) for b in bands)
        observed = model.k0 - model.a_signal * q_s - model.a_image * q_i
        sums = SkySums.of_pixel(observed, model, np.ones(observed.shape, bool))
        exact = np.array([[chi2_at(sums.off(o), sky, x[o : o + 1], w).value for o in range(x.size)] for w in grid])
        found = chi2_grid(sums, sky, x, grid)
        assert np.abs(np.argmin(found, axis=0) - np.argmin(exact, axis=0)).max() <= 1
        np.testing.assert_allclose(found, exact, rtol=0.02, atol=1e-3 * np.median(exact))


def test_a_short_grid_is_not_interpolated() -> None:
    nodes = Nodes.of(np.array([0.3, 0.4]))
    assert (nodes.pwv.tolist(), nodes.first.tolist(), nodes.weights.tolist()) == ([0.3, 0.4], [0, 1], [[1.0], [1.0]])
    grid = np.geomspace(0.0005, 0.5, 128)
    nodes = Nodes.of(grid)
    assert nodes.pwv.size < grid.size
    np.testing.assert_allclose(nodes.weights.sum(axis=1), 1.0, rtol=1e-12)
    fifth = np.log(nodes.pwv)[nodes.first[:, None] + np.arange(nodes.weights.shape[1])] ** 5
    np.testing.assert_allclose((nodes.weights * fifth).sum(axis=1), np.log(grid) ** 5, rtol=1e-9)


@pytest.mark.parametrize(("truth", "low", "high", "status"), [
    (0.8, 0.01, 10.0, "ok"), (0.5005, 0.5, 10.0, "ok"), (9.9, 0.01, 10.0, "ok"), (0.3, 0.5, 3.0, "at_lower_bound"),
    (0.499, 0.5, 3.0, "at_lower_bound"), (4.0, 0.01, 3.0, "at_upper_bound"), (3.02, 0.01, 3.0, "at_upper_bound"),
])  # fmt: skip
def test_layers_end_like_slabs(truth: float, low: float, high: float, status: str) -> None:
    sums, sky = problem("layers", truth)
    fit = fit_pwv(sums, sky, X, PwvLimits(low, high, 16))
    assert fit.status == status
    assert fit.pwv == pytest.approx(min(max(truth, low), high), rel=1e-9)


def test_layers_without_water_are_unconstrained() -> None:
    sums, sky = problem("layers", 0.8)
    dry = Sky(
        tuple(Layers(0 * b.b, b.c, Emission(0 * b.emission.wet, b.emission.dry), b.background) for b in sky.bands), ()
    )  # type: ignore[attr-defined]
    assert fit_pwv(sums, dry, X, LIMITS).status == "unconstrained"
    assert fit_dry_scale(sums, dry, X, LIMITS, fit_pwv(sums, dry, X, LIMITS)).status == "unconstrained"


# --- the dry opacity


@KINDS
@pytest.mark.parametrize(("truth", "scale"), [(0.6, 1.3), (0.2, 0.5), (1.5, 2.5), (0.6, 1.0)])
def test_the_dry_opacity_is_found(kind: str, truth: float, scale: float) -> None:
    sums, sky = problem(kind, truth, scale)
    alone = fit_pwv(sums, sky, X, LIMITS)
    dry = fit_dry_scale(sums, sky, X, LIMITS, alone)
    assert (dry.status, dry.value) == ("ok", pytest.approx(scale, rel=1e-7))
    assert fit_pwv(sums, sky.scaled(dry.value), X, LIMITS).pwv == pytest.approx(truth, rel=1e-6)
    assert dry.correlation is not None
    assert -1.0 < dry.correlation < 0.0  # more of the one is less of the other
    if scale != 1.0:
        assert abs(alone.pwv / truth - 1.0) > 0.01
        assert demanded(alone, dry)
        assert suggested(sums, sky, X, LIMITS, alone) == pytest.approx(scale, rel=1e-3)
    else:
        assert not demanded(alone, dry)
        assert suggested(sums, sky, X, LIMITS, alone) is None


@pytest.mark.parametrize(("scale", "end"), [(7.0, 5.0), (0.05, 0.2)])
def test_the_scale_stops_at_its_bounds(scale: float, end: float) -> None:
    sums, sky = problem("layers", 0.5, scale)
    dry = fit_dry_scale(sums, sky, X, LIMITS, fit_pwv(sums, sky, X, LIMITS))
    assert (dry.status, dry.value) == ("at_bound", end)


def test_what_cannot_be_told_apart_is_not_fitted() -> None:
    """Wet and dry opacity of one shape, at one airmass: nothing but their sum is known."""
    b = np.linspace(0.3, 1.2, N)
    sky = Sky((Slab(b, 0.1 * b, np.full(N, 250.0), np.zeros(N)),), ())
    model = SkyModel(np.full(N, -30.0), np.full(N, 125.0), np.zeros(N))
    x = np.array([1.3])
    observed = model.k0 - model.a_signal * sky.bands[0].value(0.5, 1.3)
    sums = SkySums.of_pixel(observed[None], model, np.ones((1, N), bool))
    assert fit_dry_scale(sums, sky, x, LIMITS, fit_pwv(sums, sky, x, LIMITS)).status == "unconstrained"


def test_errors_of_both_are_those_of_the_scatter() -> None:
    """200 realisations: pulls of PWV and factor have width 1, their correlation is the one that is told."""
    truth, scale, pulls, values = 0.6, 1.3, [], []
    for seed in range(200):
        sums, sky = problem("layers", truth, scale, noise=1.0, seed=seed)
        dry = fit_dry_scale(sums, sky, X, LIMITS, fit_pwv(sums, sky, X, LIMITS))
        assert dry.error is not None
        assert dry.pwv_error is not None
        w = fit_pwv(sums, sky.scaled(dry.value), X, LIMITS).pwv
        pulls.append(((w - truth) / dry.pwv_error, (dry.value - scale) / dry.error))
        values.append((w, dry.value, dry.correlation))
    spread = np.std(pulls, axis=0)
    assert np.all(np.abs(spread - 1.0) < 0.2)  # four standard errors
    assert np.all(np.abs(np.mean(pulls, axis=0)) < 0.3)
    w, s, told = np.array(values, float).T
    assert np.corrcoef(w, s)[0, 1] == pytest.approx(told.mean(), abs=0.1)
