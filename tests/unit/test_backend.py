"""Conformance of every backend: the same tests run on each, against NumPy formulas written out here."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from backends import NAMES, has_gpu, make_backend
from calib_gpu import ConfigError
from calib_gpu.backend import Backend, choose_backend, get_backend
from calib_gpu.backend.base import BadChannelRule
from calib_gpu.physics.calibration import SampleRule
from calib_gpu.physics.sky import Sky, SkyModel, Slab
from calib_gpu.physics.sky_sums import SkyData

FILL = -(2**31)


@pytest.fixture(params=NAMES)
def backend(request: pytest.FixtureRequest) -> Backend:
    return make_backend(request.param)


def test_unknown_backends_are_refused() -> None:
    with pytest.raises(ConfigError, match="cupy"):
        get_backend("opencl")


@pytest.mark.skipif(has_gpu(), reason="there is a GPU")
def test_without_a_gpu_cupy_is_refused_and_auto_says_why_it_took_numpy() -> None:
    with pytest.raises(ConfigError, match="numpy"):
        get_backend("cupy")
    backend, reason = choose_backend("auto")
    assert backend.name == "numpy"
    assert "GPU" in reason or "CuPy" in reason


def plant(counts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Missing, dead and saturated samples at random places."""
    odd = [0, 0 if counts.dtype.kind == "u" else -7, FILL if counts.dtype.kind == "i" else 0, 10_000]
    for _ in range(counts.size // 10):
        counts[tuple(int(rng.integers(n)) for n in counts.shape)] = odd[int(rng.integers(4))]
    return counts


CASES = list(
    itertools.product(
        ["int32", "int64", "uint32", "float32", "float64"],
        [(1, 1, 1, 1), (2, 3, 37, 5), (1, 2, 5000, 9)],
        [False, True],
    )
)


@pytest.mark.parametrize(("dtype", "shape", "odd"), CASES)
def test_dump_mean(backend: Backend, dtype: str, shape: tuple[int, ...], odd: bool) -> None:
    rng = np.random.default_rng(5)
    counts = rng.integers(1, 9_000, shape).astype(dtype)
    rule = SampleRule(FILL if dtype[0] == "i" else None, 10_000.0)
    n_dump = max(1, shape[-1] - 1) if odd else shape[-1]
    if odd:
        counts = plant(counts, rng)
        if dtype[0] == "f":
            counts[..., 0, 0] = np.nan
    stats = backend.dump_mean(counts, rule, n_dump, want_first=True, want_band=True)
    good = (counts > 0) & (counts < 10_000)
    good[..., n_dump:] = False
    values = np.where(good, counts, 0).astype(np.float64)
    np.testing.assert_array_equal(np.moveaxis(stats.total, 0, -1), values.sum(axis=-1))  # integers: exact in any order
    np.testing.assert_array_equal(np.moveaxis(stats.valid, 0, -1), good.sum(axis=-1))
    np.testing.assert_array_equal(stats.dump_valid, good.any(axis=(0, 1, 2)))
    assert stats.first is not None
    assert stats.band is not None
    for r, a in np.ndindex(shape[:2]):
        any_good = good[r, a].any(axis=0)
        d = int(np.argmax(any_good))
        np.testing.assert_array_equal(stats.first[:, r, a], np.where(good[r, a, :, d], counts[r, a, :, d], np.nan))
        expected = [
            values[r, a, :, d].sum() / good[r, a, :, d].sum() if any_good[d] else np.nan for d in range(shape[-1])
        ]
        np.testing.assert_allclose(stats.band[:, r, a], expected, rtol=1e-12)


@pytest.mark.parametrize("output", [np.float64, np.float32])
@pytest.mark.parametrize(("dtype", "shape", "odd"), CASES)
def test_calibrate_tile(backend: Backend, dtype: str, shape: tuple[int, ...], odd: bool, output: type) -> None:
    rng = np.random.default_rng(6)
    r, a, c, d = shape
    on = rng.integers(1, 9_000, shape).astype(dtype)
    rule = SampleRule(FILL if dtype[0] == "i" else None, 10_000.0)
    ref, factor = rng.uniform(1e3, 9e3, (r, a, c)), rng.uniform(0.01, 0.02, (r, a, c))
    base = np.zeros((r, a, c), np.uint16)
    n_dump = d
    if odd:
        on = plant(on, rng)
        n_dump = max(1, d - 1)
        base[rng.random(base.shape) < 0.1] |= 1
        hole = rng.random(base.shape) < 0.1
        ref[hole], base[hole] = np.nan, base[hole] | 256
        if dtype[0] == "f":
            on[..., -1, 0], on[..., 0, 0] = np.inf, np.nan
    spectra, flags = np.empty(shape, output), np.empty(shape, np.uint16)
    result = backend.calibrate_tile(
        on, ref, factor, base, np.zeros((r, a)), rule, n_dump, spectra[:, :, None], flags[:, :, None]
    )

    missing = np.isnan(on) if dtype[0] == "f" else (on == FILL if dtype[0] == "i" else np.zeros(shape, bool))
    missing[..., n_dump:] = True
    invalid = np.isfinite(on) & ((on <= 0) | (on >= 10_000)) & ~missing
    wanted = np.broadcast_to(base[..., None], shape) | np.where(missing, 2, 0) | np.where(invalid, 512, 0)
    wanted = np.where(np.isinf(on.astype(float)) & (wanted == 0), 2048, wanted).astype(np.uint16)
    np.testing.assert_array_equal(flags, wanted)
    with np.errstate(invalid="ignore"):
        exact = (on.astype(np.float64) - ref[..., None]) * factor[..., None]
    np.testing.assert_array_equal(spectra, np.where(wanted == 0, exact, np.nan).astype(output))  # to the bit
    np.testing.assert_array_equal(result.invalid, (wanted != 0).sum(axis=(2, 3)))
    for bit in range(16):
        np.testing.assert_array_equal(result.flag_counts[..., bit], ((wanted >> bit) & 1).sum(axis=(2, 3)))
    np.testing.assert_array_equal(result.dump_present, (~missing).any(axis=(0, 1, 2)))


@pytest.mark.parametrize("q", [0.0, 2.0**-3])
def test_pieces_change_nothing(monkeypatch: pytest.MonkeyPatch, q: float) -> None:
    """Some pieces hold nothing but valid counts, some do not; channels with flags lie in both, with NaN of either sign."""
    rng = np.random.default_rng(9)
    r, a, c, d = shape = 2, 1, 61, 6
    on = rng.integers(1, 9_000, shape).astype(np.int32)
    on[0, 0, 20, 3], on[1, 0, 40, 0] = FILL, -5
    ref, factor = rng.uniform(1e3, 9e3, (r, a, c)), rng.uniform(0.01, 0.02, (r, a, c))
    base = np.where(rng.random((r, a, c)) < 0.2, 1, 0).astype(np.uint16)
    ref[0, 0, 5], base[0, 0, 5], factor[1, 0, 7], base[1, 0, 7] = -np.nan, 256, np.inf, 1
    results = []
    for piece in (10**9, 1, 7 * d, 30 * d):
        monkeypatch.setattr("calib_gpu.backend.numpy_.PIECE", piece)
        spectra, flags = np.full((r, a, 2, c, 4), 7.0), np.full((r, a, 2, c, 4), 7, np.uint16)
        rule, quantum = SampleRule(FILL, None), np.full((r, a), q)
        result = get_backend("numpy").calibrate_tile(on, ref, factor, base, quantum, rule, d, spectra, flags)
        results.append((spectra.tobytes(), flags.tobytes(), result.flag_counts.tobytes(), result.invalid.tolist()))
    assert results[1:] == results[:1] * 3
    marked = np.broadcast_to(base[..., None], shape) | np.where(on == FILL, 2, 0) | np.where(on == -5, 512, 0)
    assert results[0][3] == (marked != 0).sum(axis=(2, 3)).tolist()
    nan = np.isnan(spectra) & (flags != 0)
    assert set(spectra.view(np.uint64)[nan].tolist()) == {int(np.array(np.nan).view(np.uint64))}


@pytest.mark.parametrize("dtype", ["int32", "uint32", "float64"])
@pytest.mark.parametrize("positive", [True, False])
@pytest.mark.parametrize("saturation", [None, 50.0])
@pytest.mark.parametrize("fill", [None, FILL, 0, 7, 60, 99])
def test_all_valid_is_what_valid_says_of_each(
    dtype: str, positive: bool, saturation: float | None, fill: int | None
) -> None:
    fill = None if dtype[0] == "f" else fill
    rule = SampleRule(fill, saturation, positive)
    odd = [
        1,
        5,
        7,
        49,
        50,
        60,
        99,
        0,
        *([np.nan, np.inf, -np.inf, -3] if dtype[0] == "f" else []),
        *([-3] * (dtype[0] == "i")),
    ]
    for value in odd:
        counts = np.array([[10, 20], [value, 30]]).astype(dtype)
        told, each = rule.all_valid(counts, 2), bool(rule.valid(counts, 2).all())
        # a value of a fill between the smallest and the largest count is looked for one by one: no is no error
        assert told == each or (fill is not None and each and counts.min() <= fill <= counts.max())


@pytest.mark.parametrize("output", [np.float64, np.float32])
@pytest.mark.parametrize(("n_block", "block"), [(1, 8), (2, 4), (3, 3), (8, 1)])
@pytest.mark.parametrize("odd", [False, True])
def test_the_tile_leaves_in_blocks_of_dumps(
    backend: Backend, output: type, n_block: int, block: int, odd: bool
) -> None:
    rng = np.random.default_rng(8)
    r, a, c, d = shape = 1, 2, 37, 8
    on = rng.integers(1, 9_000, shape).astype(np.int32)
    if odd:
        on = plant(on, rng)
    ref, factor = rng.uniform(1e3, 9e3, (r, a, c)), rng.uniform(0.01, 0.02, (r, a, c))
    base = np.where(rng.random((r, a, c)) < 0.2, 1, 0).astype(np.uint16)
    results = []
    for b, w in ((1, d), (n_block, block)):
        spectra, flags = np.full((r, a, b, c, w), 7, output), np.full((r, a, b, c, w), 7, np.uint16)
        backend.calibrate_tile(on, ref, factor, base, np.zeros((r, a)), SampleRule(FILL, None), d, spectra, flags)
        results.append([x.transpose(0, 1, 3, 2, 4).reshape(r, a, c, b * w) for x in (spectra, flags)])
    (spectra, flags), (blocks, block_flags) = results
    np.testing.assert_array_equal(blocks[..., :d], spectra)
    np.testing.assert_array_equal(block_flags[..., :d], flags)
    assert np.isnan(blocks[..., d:]).all()
    assert not block_flags[..., d:].any()


@pytest.mark.parametrize("output", [np.float64, np.float32])
def test_overflow_is_flagged_not_infinite(backend: Backend, output: type) -> None:
    on = np.array([[[[5.0], [1e300]]]])
    spectra, flags = np.empty((1, 1, 2, 1), output), np.empty((1, 1, 2, 1), np.uint16)
    with np.errstate(over="ignore"):
        backend.calibrate_tile(
            on,
            np.ones((1, 1, 2)),
            np.array([[[1.0, 1e100]]]),
            np.zeros((1, 1, 2), np.uint16),
            np.zeros((1, 1)),
            SampleRule(None, None),
            1,
            spectra[:, :, None],
            flags[:, :, None],
        )
    assert spectra.ravel()[0] == 4.0
    assert np.isnan(spectra.ravel()[1])
    assert flags.ravel().tolist() == [0, 2048]


def test_int32_extremes_do_not_wrap(backend: Backend) -> None:
    on = np.array([[[[2**31 - 1], [-(2**31) + 1], [1]]]], np.int32)
    spectra, flags = np.empty((1, 1, 3, 1)), np.empty((1, 1, 3, 1), np.uint16)
    ref = np.array([[[1.0, 1.0, 2.0**31 - 1]]])
    backend.calibrate_tile(
        on, ref, np.ones((1, 1, 3)), np.zeros((1, 1, 3), np.uint16), np.zeros((1, 1)), SampleRule(FILL, None), 1,
        spectra[:, :, None], flags[:, :, None],
    )  # fmt: skip
    assert spectra.ravel()[[0, 2]].tolist() == [2.0**31 - 2, -(2.0**31) + 2]
    assert flags.ravel().tolist() == [0, 512, 0]


def test_pwv_grid_is_the_plain_sum(backend: Backend) -> None:
    """chi2 from the sums over pixels equals the sum over all data, for gains that differ from pixel to pixel."""
    rng = np.random.default_rng(7)
    n_off, n_c, n_pixel = 3, 50, 4
    b_s, c_s, b_i, c_i = (rng.uniform(0.1, 1.0, n_c) for _ in range(4))
    none = np.zeros(n_c)
    sky = Sky((Slab(b_s, c_s, none, none), Slab(b_i, c_i, none, none)), ())
    x, grid = rng.uniform(1.0, 2.0, n_off), np.geomspace(0.01, 10.0, 16)
    bad = rng.random(n_c) < 0.1
    pixels, expected = [], np.zeros((16, n_off))
    for _ in range(n_pixel):
        model = SkyModel(rng.normal(-200, 20, n_c), rng.uniform(80, 120, n_c), rng.uniform(80, 120, n_c))
        off = rng.normal(-150, 30, (n_off, n_c))
        off[0, 3] = np.nan
        pixels.append(SkyData(off, np.broadcast_to(bad, off.shape), model))
        for j, w in enumerate(grid):
            t_s = np.exp(-x[:, None] * (b_s * w + c_s))
            t_i = np.exp(-x[:, None] * (b_i * w + c_i))
            residual = off - (model.k0 - model.a_signal * t_s - model.a_image * t_i)
            expected[j] += np.nansum(np.where(bad, np.nan, residual) ** 2, axis=1)
    total = backend.sky_sums(n_off, n_c, pixels)
    np.testing.assert_allclose(backend.pwv_grid(total, sky, x, grid), expected, rtol=1e-11)


def test_load_calibration_keeps_numbers_in_bad_channels(backend: Backend) -> None:
    from calib_gpu.physics.loads import load_powers

    nu = np.linspace(490e9, 494e9, 64)
    powers = load_powers(nu, nu - 12e9, 300.0, 77.0)
    hot, cold = np.full(64, 2e6), np.full(64, 1e6)
    cold[5], hot[9], cold[12] = 3e6, np.nan, 0.0
    rule = BadChannelRule(0.01, 5.0, 33, 0.0, None)
    gain, gamma, trec, bad = backend.load_calibration(hot, cold, 0.0, powers, np.array(0.5), np.array(0.5), 1.0, rule)
    assert np.flatnonzero(bad).tolist() == [5, 9, 12]
    assert np.isfinite(gamma).all()
    assert gain[5] < 0
    assert np.isnan(gain[9])
    assert np.isfinite(trec[5])
