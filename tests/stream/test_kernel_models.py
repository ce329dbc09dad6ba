"""The models of the kernels, written from the CUDA text, against the engine's NumPy backend: two ways, one result.

Equal to the bit wherever only + - * / and sqrt occur; sums over channels and exp to a few units in the last place.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from calib_gpu.backend.base import BadChannelRule
from calib_gpu.backend.kernels import COUNT_TYPES, KERNELS
from calib_gpu.backend.numpy_ import NumpyBackend
from calib_gpu.backend.tile import rule_arguments
from calib_gpu.physics.calibration import SampleRule
from calib_gpu.physics.loads import LoadPowers
from calib_gpu.physics.sky import Sky, SkyModel, Slab
from calib_gpu.physics.sky_sums import SkySums, chi2_at, chi2_grid
from calib_gpu.testing.kernel_models import MODELS, bind, parameters, run_model

NUMPY = NumpyBackend()


def run(name: str, size: tuple[int, ...], **arguments: Any) -> None:
    """Run a model; scalars take the type of the registry."""
    given = [
        arguments[n] if is_array else np.dtype(dtype).type(arguments[n])
        for n, dtype, is_array in parameters(KERNELS[name])
    ]
    run_model(KERNELS[name], size, given)


def rule_values(rule: SampleRule, n_dump: int) -> dict[str, Any]:
    return dict(zip(("fill", "has_fill", "floor", "saturation", "n_dump"), rule_arguments(rule, n_dump), strict=True))


def test_every_kernel_has_a_model() -> None:
    assert MODELS.keys() == KERNELS.keys()


def test_arguments_of_a_wrong_type_are_refused() -> None:
    kernel = KERNELS["running_mean"]
    values, n, width = np.zeros(3), np.int64(3), np.int32(1)
    bind(kernel, [values, n, width, values])
    for wrong in (
        [values, n, np.int64(1), values],
        [values, n, width],
        [n, n, width, values],
        [values.astype("f4"), n, width, values],
    ):
        with pytest.raises(TypeError, match="running_mean"):
            bind(kernel, wrong)


@pytest.mark.parametrize("dtype", COUNT_TYPES)
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 3, 37, 5), (1, 2, 50, 9)])
@pytest.mark.parametrize("odd", [False, True])
def test_dump_means(dtype: str, shape: tuple[int, int, int, int], odd: bool) -> None:
    rng = np.random.default_rng(5)
    r, a, c, d = shape
    counts = rng.integers(1, 9_000, shape).astype(dtype)
    fill = int(np.iinfo(dtype).max) if dtype[0] in "iu" else None
    rule, n_dump = SampleRule(fill, 10_000.0), d
    if odd:
        n_dump = max(1, d - 1)
        some = rng.random(shape) < 0.3
        values = [0, 10_000, *([fill] if fill is not None else [np.nan, np.inf, -5])]
        counts[some] = rng.choice(np.array(values).astype(dtype), int(some.sum()))
        counts[0, 0, :, 0] = np.array(values[-1]).astype(dtype)  # a dump without a valid channel
    wanted = NUMPY.dump_mean(counts, rule, n_dump, want_first=True, want_band=True)
    n = r * a
    common = {"counts": counts.reshape(-1), "n_channel": c, "n_total": d, **rule_values(rule, n_dump)}
    census = np.full(n * d, -1)
    run("census", (n * d, c), out=census, **common)
    valid, missing, empty = np.empty(n * d, np.int64), np.empty(n * d, np.int64), np.empty(n * d, np.uint8)
    run("unpack_census", (n * d,), census=census, n_channel=c, valid=valid, missing=missing, empty=empty)
    first_dump = np.empty(n, np.int32)
    run("first_dump", (n,), valid=valid, n_total=d, first=first_dump)
    total, n_valid, first = np.empty(n * c), np.empty(n * c, np.int64), np.empty(n * c)
    run("dump_sums", (n * c,), first_dump=first_dump, total=total, valid=n_valid, first=first, **common)
    band = np.empty(n * d)
    run("band_means", (n * d,), band=band, **common)

    assert wanted.first is not None
    assert wanted.band is not None
    np.testing.assert_array_equal((valid.reshape(n, d) > 0).any(axis=0), wanted.dump_valid)
    np.testing.assert_array_equal((empty.reshape(n, d) == 0).any(axis=0), wanted.dump_present)
    np.testing.assert_array_equal(missing.reshape(n, d).sum(axis=0), wanted.dump_missing)
    for got, expected in ((total, wanted.total), (n_valid, wanted.valid), (first, wanted.first)):
        np.testing.assert_array_equal(got.reshape(r, a, c), np.moveaxis(expected, 0, -1))
    np.testing.assert_allclose(band.reshape(r, a, d), np.moveaxis(wanted.band, 0, -1), rtol=1e-14)


def loads(rng: np.random.Generator, n: int) -> dict[str, np.ndarray]:
    names = ("hot_signal", "hot_image", "cold_signal", "cold_image")
    values = {name: np.full(n, 280.0 if "hot" in name else 70.0) + rng.uniform(0, 5, n) for name in names}
    g = rng.uniform(0.4, 0.6, n)
    cold = rng.uniform(4e5, 5e5, n)
    hot = cold + rng.uniform(2e5, 3e5, n)
    return values | {"g_signal": g, "g_image": 1 - g, "hot": hot, "cold": cold, "zero": rng.uniform(0, 1e3, n)}


@pytest.mark.parametrize("kind", ["good", "odd", "mostly bad", "all bad", "one channel", "few channels"])
def test_load_calibration(kind: str) -> None:
    rng = np.random.default_rng(3)
    n = {"one channel": 1, "few channels": 4}.get(kind, 60)
    v = loads(rng, n)
    if kind == "odd":
        v["hot"][:8] = [np.nan, np.inf, 0.0, -1.0, 1e6, v["cold"][5], v["cold"][6] - 1, v["cold"][7] + 1e-3]
        v["cold"][20], v["hot"][30] = np.nan, v["cold"][30] + 3e4  # an outlier of T_rec
        v["cold"][40:43] = v["hot"][40:43] * 0.9999
    if kind == "mostly bad":
        v["hot"][: n - 3] = 0.0
    if kind == "all bad":
        v["hot"][:] = v["cold"]
    eta_f, rule = 0.95, BadChannelRule(0.05, 3.0, 9, 0.02, 1e6)
    powers = LoadPowers(*(v[name] for name in ("hot_signal", "hot_image", "cold_signal", "cold_image")))
    wanted = NUMPY.load_calibration(v["hot"], v["cold"], v["zero"], powers, v["g_signal"], v["g_image"], eta_f, rule)

    out = {name: np.empty(n) for name in ("gain", "gamma", "trec", "trec_ssb", "difference")}
    bad, n_bad, middle, smooth, largest = (
        np.empty(n, np.uint8),
        np.zeros(1, np.int64),
        np.full(2, np.nan),
        np.empty(n),
        np.empty(1),
    )
    run("load_terms", (n,), **v, **out, bad=bad, eta_f=eta_f, saturation=rule.saturation)
    run("running_mean", (n,), values=out["difference"], n=n, width=rule.smooth_width, mean=smooth)
    run("largest", (1, n), values=smooth, out=largest)
    known = {"difference": out["difference"], "trec_ssb": out["trec_ssb"], "bad": bad}
    run("bad_contrast", (n,), **known, smooth_max=largest, clip_counts=rule.clip_counts)
    run("count_bad", (1, n), bad=bad, out=n_bad)
    run("median", (n,), values=out["trec_ssb"], bad=bad, n_bad=n_bad, n=n, middle=middle)
    trec = {"trec_ssb": out["trec_ssb"], "middle": middle, "n_bad": n_bad, "clip_trec": rule.clip_trec}
    run("bad_trec", (n,), **trec, edge=int(rule.edge_fraction * n), n=n, bad=bad)
    run("count_bad", (1, n), bad=bad, out=n_bad)
    run("whole_if_mostly_bad", (n,), n_bad=n_bad, fraction=0.9, n=n, bad=bad)
    for got, expected in zip((out["gain"], out["gamma"], out["trec"], bad != 0), wanted, strict=True):
        np.testing.assert_array_equal(got, expected)
    assert (bad != 0).all() == (kind in ("mostly bad", "all bad"))


@pytest.mark.parametrize("image", [True, False])
@pytest.mark.parametrize("unit", [True, False])
@pytest.mark.parametrize("binned", [True, False])
def test_sky_sums_and_chi2(image: bool, unit: bool, binned: bool) -> None:
    rng = np.random.default_rng(11)
    n_off, n_channel, n_grid = 3, 24, 16
    edges = np.array([0, 5, 6, 13, 20]) if binned else np.arange(n_channel)
    n = edges.size
    sums, arrays = SkySums.zeros(n_off, n), {}
    for name in ("yy", "ys", "yi", "ss", "si", "ii", "w"):
        arrays[name] = np.zeros(n_off * n)
    count = np.zeros(n_off * n, np.int64)
    for pixel in range(4):
        off, hot, gain = rng.uniform(1e5, 2e5, (n_off, n)), rng.uniform(4e5, 5e5, n), rng.uniform(900, 1100, n)
        observed = np.empty(n_off * n)
        run("sky_signal", (n_off * n,), off=off.reshape(-1), hot=np.tile(hot, n_off),
            gain=np.tile(gain, n_off), observed=observed)  # fmt: skip
        np.testing.assert_array_equal(observed.reshape(n_off, n), (off - hot) / gain)
        observed[rng.integers(n_off * n)] = np.nan
        bad = rng.random((n_off, n)) < 0.1
        weights = rng.uniform(0.5, 2, (n_off, n))
        a_s = rng.uniform(80, 120, n)
        model = SkyModel(rng.uniform(-20, 20, n), a_s, (0.5 + 0.1 * pixel) * a_s if image else np.zeros(n))
        data = observed.reshape(n_off, n)
        sums.add_pixel(data, model, np.isfinite(data) & ~bad, None if unit else weights)
        run(
            "sky_sums", (n_off * n,), observed=observed, bad=bad.reshape(-1).astype(np.uint8), weights=weights.reshape(-1),
            k0=model.k0, a_signal=model.a_signal, a_image=model.a_image, unit=unit, n=n, count=count, **arrays,
        )  # fmt: skip
    for name, values in (arrays | {"n": count}).items():
        np.testing.assert_array_equal(values.reshape(n_off, n), getattr(sums, name))

    squares = {name: np.empty(n_off * n) for name in ("m1", "r1", "l21", "m2", "r2")}
    constant, base = np.empty(n_off * n), np.empty(n_off)
    run("squares", (n_off * n,), **{k: arrays[k] for k in ("yy", "ys", "yi", "ss", "si", "ii")}, has_image=image,
        constant=constant, **squares)  # fmt: skip
    run("row_sums", (n_off, n), values=constant, n=n, out=base)
    ones, grid, x = np.ones(n_channel), np.geomspace(0.1, 5, n_grid), np.array([1.1, 1.5, 2.0])
    bands = [
        Slab(rng.uniform(0.05, 0.3, n_channel), rng.uniform(0.01, 0.1, n_channel), 260 * ones, 3 * ones)
        for _ in range(2)
    ]
    sky = Sky(tuple(bands[: 1 + image]), (270 * ones,) * (1 + image), edges if binned else None)
    # the grid of NumPy is interpolated where there are bins: exact, point by point
    wanted = np.array([[chi2_at(sums.off(o), sky, x[o : o + 1], w).value for o in range(n_off)] for w in grid])
    np.testing.assert_allclose(chi2_grid(sums, sky, x, grid), wanted, rtol=1e-3 if binned else 1e-11)
    common = {**squares, "has_image": image, "n_grid": n_grid, "n": n}
    out = np.empty(n_off * n_grid)
    if not binned:
        run("chi2_slab", (n_off * n_grid, n), **common, grid=grid, airmass=x, b_signal=bands[0].b, c_signal=bands[0].c,
            b_image=bands[1].b, c_image=bands[1].c, out=out)  # fmt: skip
        np.testing.assert_allclose(out.reshape(n_off, n_grid).T + base, wanted, rtol=1e-11)

    # the same through nodes: two taps between values that lie on the grid itself, the second without weight
    q = [np.array([[sky.mean(band.value(w, xo)) for w in (*grid, grid[-1])] for xo in x]) for band in bands]
    weights = np.tile([1.0, 0.0], n_grid)
    run("chi2_nodes", (n_off * n_grid, n), **common, node=np.arange(n_grid, dtype=np.int32), weights=weights, taps=2,
        q_signal=q[0].reshape(-1), q_image=q[1].reshape(-1), n_node=n_grid + 1, out=out)  # fmt: skip
    np.testing.assert_allclose(out.reshape(n_off, n_grid).T + base, wanted, rtol=1e-11)
