"""Every call of a backend beside the same call of NumPy, on data that hold all that counts can hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from calib_gpu.backend.base import Backend, BadChannelRule
from calib_gpu.backend.kernels import COUNT_TYPES, SPECTRUM_TYPES
from calib_gpu.backend.numpy_ import NumpyBackend
from calib_gpu.physics.calibration import SampleRule
from calib_gpu.physics.emission import Emission
from calib_gpu.physics.loads import load_powers
from calib_gpu.physics.sky import Layers, Sky, SkyModel, Slab
from calib_gpu.physics.sky_sums import SkyData
from calib_gpu.selftest.checks import Check, Comparison

FILL = {"int32": -(2**31), "int64": -(2**31), "int16": -(2**15), "uint32": 2**32 - 1, "uint16": 0}
SATURATION = 20_000.0
SHAPES = ((1, 1, 1, 1), (1, 1, 1000, 1), (2, 3, 37, 5), (1, 2, 513, 8), (1, 1, 260, 43))
"""Tiles [R, A, C, D]: a single sample, a single dump, odd lengths, whole quads, dumps that are no multiple of four."""
CHI2_RTOL = 1e-11


def compare_kernels(backend: Backend, seed: int = 1) -> Iterator[Check]:
    """All calls of the protocol; what holds only + - * / and sqrt is the same to the bit."""
    for name, compare in _COMPARISONS.items():
        comparison = Comparison(name)
        compare(comparison, backend, NumpyBackend(), np.random.default_rng(seed))
        yield comparison.result()


def odd_counts(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> NDArray[np.generic]:
    """Counts with missing, dead, saturated, extreme and (floats) non-finite and subnormal ones in one of eight samples."""
    kind = np.dtype(dtype)
    counts = rng.integers(1, 19_000, shape).astype(kind)
    if kind.kind == "f":
        odd = [np.nan, np.inf, -np.inf, 0.0, -0.0, -7.0, 30_000.0, 1e30, float(np.finfo(kind).tiny) / 4.0]
    else:
        info = np.iinfo(kind)
        odd = [FILL[dtype], 0, 30_000, info.max, info.min]
    where = rng.random(shape) < 0.125
    counts[where] = rng.choice(np.array(odd, kind), int(where.sum()))
    return counts


def rule_of(dtype: str, *, positive: bool = True) -> SampleRule:
    """A rule with a fill value, where the type has one, and a saturation level."""
    return SampleRule(FILL.get(dtype), SATURATION, positive)


def _dump_mean(c: Comparison, backend: Backend, numpy: Backend, rng: np.random.Generator) -> None:
    for dtype in COUNT_TYPES:
        for shape in SHAPES:
            for counts in (odd_counts(rng, shape, dtype), rng.integers(1, 19_000, shape).astype(dtype)):
                for n_dump, positive in ((shape[3], True), (max(1, shape[3] - 2), False)):
                    rule = rule_of(dtype, positive=positive)
                    found, wanted = (
                        b.dump_mean(counts, rule, n_dump, want_first=True, want_band=True) for b in (backend, numpy)
                    )
                    for name in wanted.__dataclass_fields__:
                        c.same(f"{name} {dtype}{shape}", getattr(found, name), getattr(wanted, name))


def _load_calibration(c: Comparison, backend: Backend, numpy: Backend, rng: np.random.Generator) -> None:
    for n in (16, 777):
        nu = np.linspace(490e9, 494e9, n)
        powers = load_powers(nu, nu - 12e9, 300.0, 77.0, 0.98, 0.97)
        cold = rng.uniform(0.9e6, 1.1e6, n)
        hot = cold * rng.uniform(1.8, 2.2, n)
        hot[rng.random(n) < 0.1] *= 1.0e-3
        hot[n // 2], cold[n // 3], cold[n // 4] = np.nan, 0.0, np.inf
        gains = rng.uniform(0.4, 0.6, n)
        for zero, g_s in ((0.0, np.full(n, 0.5)), (rng.uniform(-10, 10, n), gains)):
            for rule in (BadChannelRule(0.01, 5.0, 33, 0.02, None), BadChannelRule(0.05, 1.05, 1, 0.0, 2.0e6)):
                found, wanted = (
                    b.load_calibration(hot, cold, zero, powers, g_s, 1.0 - g_s, 0.95, rule) for b in (backend, numpy)
                )
                for name, a, b in zip(("gain", "gamma", "t_rec", "bad"), found, wanted, strict=True):
                    c.same(name, a, b)


def _data(rng: np.random.Generator, n_off: int, n: int, *, weighted: bool) -> list[SkyData]:
    pixels = []
    for _ in range(3):
        model = SkyModel(rng.normal(-200, 20, n), rng.uniform(80, 120, n), rng.uniform(80, 120, n))
        observed = rng.normal(-150, 30, (n_off, n))
        observed[0, n // 2] = np.nan
        weights = rng.uniform(0.1, 2.0, (n_off, n)) if weighted else None
        pixels.append(SkyData(observed, rng.random((n_off, n)) < 0.1, model, weights))
    return pixels


def _sky_signal(c: Comparison, backend: Backend, numpy: Backend, rng: np.random.Generator) -> None:
    off, hot, gain = rng.uniform(1e6, 2e6, (3, 333)), rng.uniform(2e6, 3e6, 333), rng.uniform(-1.0, 5e3, 333)
    gain[7], off[1, 9] = 0.0, np.nan
    c.same("S_H", backend.sky_signal(off, hot, gain), numpy.sky_signal(off, hot, gain))
    hot, gain = off * 1.7, np.array([gain, 2.0 * gain, 3.0 * gain])  # means in bins: the channels of each OFF
    c.same("S_H in bins", backend.sky_signal(off, hot, gain), numpy.sky_signal(off, hot, gain))


def _sky_sums(c: Comparison, backend: Backend, numpy: Backend, rng: np.random.Generator) -> None:
    for weighted in (False, True):
        pixels = _data(rng, 3, 333, weighted=weighted)
        found, wanted = (b.sky_sums(3, 333, iter(pixels)) for b in (backend, numpy))
        for name in wanted.__dataclass_fields__:
            c.same(name, getattr(found, name), getattr(wanted, name))


def _pwv_grid(c: Comparison, backend: Backend, numpy: Backend, rng: np.random.Generator) -> None:
    """Exp differs in the last digits, and so does the order of the sums: what is taken from it is the minimum."""
    n, n_off, grid = 600, 3, np.geomspace(0.01, 10.0, 128)
    x = rng.uniform(1.0, 2.0, n_off)
    for bins in (None, np.arange(0, n, 40)):
        for n_band in (1, 2):
            for sky in (_slab(rng, n, n_band, bins), _layers(rng, n, n_band, bins)):
                sums = numpy.sky_sums(n_off, n if bins is None else bins.size, iter(
                    _data(rng, n_off, n if bins is None else bins.size, weighted=False)
                ))  # fmt: skip
                found, wanted = (b.pwv_grid(sums, sky, x, grid) for b in (backend, numpy))
                c.close(f"chi2 {type(sky.bands[0]).__name__}", found, wanted, CHI2_RTOL)
                c.same("minimum", found.sum(axis=1).argmin(), wanted.sum(axis=1).argmin())


def _slab(rng: np.random.Generator, n: int, n_band: int, bins: NDArray[np.intp] | None) -> Sky:
    band = [
        Slab(rng.uniform(0.1, 1.0, n), rng.uniform(0.01, 0.1, n), np.full(n, 250.0), np.zeros(n)) for _ in range(n_band)
    ]
    return Sky(tuple(band), (), bins)


def _layers(rng: np.random.Generator, n: int, n_band: int, bins: NDArray[np.intp] | None) -> Sky:
    bands = []
    for _ in range(n_band):
        b, c = rng.uniform(0.1, 1.0, n), rng.uniform(0.01, 0.1, n)
        emission = Emission.of(rng.uniform(240.0, 260.0, (2, 2, n)), b, c, np.array([0.3, 1.0]), np.array([1.0, 2.0]))
        bands.append(Layers(b, c, emission, np.full(n, 0.1)))
    return Sky(tuple(bands), (), bins)


def _calibrate_tile(c: Comparison, backend: Backend, numpy: Backend, rng: np.random.Generator) -> None:
    for dtype in COUNT_TYPES:
        for spectrum in SPECTRUM_TYPES:
            for shape in SHAPES:
                for block in {shape[3], min(shape[3], 8), 3}:
                    _one_tile(c, backend, numpy, rng, dtype, np.dtype(spectrum), shape, block)


def _one_tile(
    c: Comparison, backend: Backend, numpy: Backend, rng: np.random.Generator, dtype: str, spectrum: np.dtype[np.generic],
    shape: tuple[int, int, int, int], block: int,
) -> None:  # fmt: skip
    r, a, n, d = shape
    on = odd_counts(rng, shape, dtype)
    ref, factor = rng.uniform(1e3, 2e4, (r, a, n)), rng.uniform(0.01, 0.02, (r, a, n))
    base = np.where(rng.random((r, a, n)) < 0.1, 1, 0).astype(np.uint16)
    hole = rng.random((r, a, n)) < 0.1
    ref[hole], base[hole] = np.nan, base[hole] | 256
    factor[rng.random((r, a, n)) < 0.05] = np.inf
    quantum = np.where(rng.random((r, a)) < 0.5, 2.0**-6, 0.0)
    out = []
    for b in (backend, numpy):
        spectra = np.full((r, a, -(-d // block), n, block), -1.0, spectrum)
        flags = np.full(spectra.shape, 7, np.uint16)
        result = b.calibrate_tile(on, ref, factor, base, quantum, rule_of(dtype), max(1, d - 1), spectra, flags)
        out.append((result, spectra, flags))
    (found, spectra, flags), (wanted, wanted_spectra, wanted_flags) = out
    what = f"{dtype} to {spectrum} {shape} in blocks of {block}"
    c.same(f"spectra {what}", spectra.view(f"u{spectrum.itemsize}"), wanted_spectra.view(f"u{spectrum.itemsize}"))
    c.same(f"flags {what}", flags, wanted_flags)
    for name in wanted.__dataclass_fields__:
        c.same(f"{name} {what}", getattr(found, name), getattr(wanted, name))


_COMPARISONS: dict[str, Callable[[Comparison, Backend, Backend, np.random.Generator], None]] = {
    "dump means": _dump_mean, "load calibration": _load_calibration, "sky signal": _sky_signal, "sky sums": _sky_sums,
    "PWV grid": _pwv_grid, "T_A* and flags": _calibrate_tile,
}  # fmt: skip
