"""The scripts that a user would write instead: whole arrays with zarr-python and NumPy, and the same with xarray and dask.

They are written as a competent user would write them: vectorised, no loop over samples, the small maths once and the
large arrays touched as few times as NumPy allows; outputs with the defaults of the libraries; nothing is brought to the
disk on purpose. They do what the engine does with its default settings on an OTF scan with one set of loads (J of the
loads, bad channels, fit of the water vapour to all pixels and OFFs, nearest OFF, flags), and nothing else: no resume, no
QA, no other modes. The opacity table is the engine's, for that is data. A test holds their T_A* against the engine's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from calib_gpu.errors import ConfigError

Array = NDArray[Any]

H_OVER_K: Final = 6.62607015e-34 / 1.380649e-23
PASCAL_PER_TORR: Final = 101325.0 / 760.0
BAD, MISSING, NO_REFERENCE, INVALID, OPAQUE = 1, 2, 256, 512, 1024
FIT_STEPS: Final = 50


@dataclass
class Small:
    """The small maths of a scan.

    ``on`` [S_on] subscans, ``nearest`` [S_on] the OFF (counted among OFFs) that serves each; ``reference`` [C,R,A,O];
    ``factor`` [C,R,A]; ``transmission`` [C,S_on]; ``bad`` [C,R,A]; ``pwv`` mm.
    """

    on: Array
    nearest: Array
    reference: Array
    factor: Array
    transmission: Array
    bad: Array
    pwv: float


def rayleigh_jeans(nu: Array, t: float) -> Array:
    """J(nu, T), K."""
    x = H_OVER_K * nu
    return np.asarray(x / np.expm1(x / t))


def mean_valid(counts: Array, fill: int, axis: int | tuple[int, ...]) -> Array:
    """Mean over what is neither missing nor dead."""
    good = (counts != fill) & (counts > 0)
    return np.asarray(np.mean(counts, axis=axis, where=good))


def bad_channels(hot: Array, cold: Array, trec_ssb: Array) -> Array:
    """Channels that the loads show to be bad ``[C, R, A]``: no contrast, little contrast, T_rec out of line."""
    difference = hot - cold
    bad = ~np.isfinite(difference) | (cold <= 0.0) | (difference <= 0.0)
    n, half = hot.shape[0], 16
    valid = np.isfinite(difference)
    sums = np.concatenate([np.zeros((1, *hot.shape[1:])), np.cumsum(np.where(valid, difference, 0.0), axis=0)])
    counts = np.concatenate([np.zeros((1, *hot.shape[1:])), np.cumsum(valid, axis=0)])
    first, last = np.maximum(np.arange(n) - half, 0), np.minimum(np.arange(n) + half + 1, n)
    smooth = (sums[last] - sums[first]) / (counts[last] - counts[first])
    bad |= difference < 0.01 * np.fmax.reduce(smooth, axis=0)
    bad |= ~(trec_ssb > 0.0)
    bad |= trec_ssb > 5.0 * np.nanmedian(np.where(bad, np.nan, trec_ssb), axis=0)
    return np.asarray(bad | (bad.mean(axis=0) > 0.9))


def fit_pwv(
    observed: Array, k0: Array, a_s: Array, a_i: Array, tau: tuple[Array, Array, Array, Array], x: Array
) -> float:
    """Least squares of the sky signal ``[C, R, A, O]`` (NaN: left out) over all pixels and OFFs, Gauss-Newton, mm.

    ``tau`` is b and c of signal and image band ``[C]``, ``x`` the airmass ``[O]``.
    """
    b_s, c_s, b_i, c_i = (v[:, None] for v in tau)
    pwv = 1.0
    for _ in range(FIT_STEPS):
        t_s, t_i = (np.exp(-x * (b * pwv + c))[:, None, None] for b, c in ((b_s, c_s), (b_i, c_i)))
        residual = observed - (k0[..., None] - a_s[..., None] * t_s - a_i[..., None] * t_i)
        slope = a_s[..., None] * (x * b_s)[:, None, None] * t_s + a_i[..., None] * (x * b_i)[:, None, None] * t_i
        slope = np.where(np.isnan(residual), 0.0, slope)
        step = np.nansum(residual * slope) / np.sum(slope * slope)
        pwv = float(np.clip(pwv + step, 0.01, 10.0))
        if abs(step) < 1e-11:
            break
    return pwv


def small_maths(source: Any, loads_of: Array, offs_of: Array, loads: Any) -> Small:
    """Everything but the ON samples.

    ``source`` and ``loads`` are groups of zarr-python, ``loads_of`` [2,C,R,A] the mean HOT and COLD counts, ``offs_of``
    [C,R,A,O] the mean OFFs.
    """
    from calib_gpu.atm.builtin import find_builtin

    kinds = subscan_kinds(source)
    on, off = (np.flatnonzero(kinds == kind) for kind in ("ON", "OFF"))
    hot, cold = loads_of
    steps = (np.arange(hot.shape[0]) - source["ref_channel"][0]) * source["freq_res"][0]
    signal, image = source["signal_freq"][0] + steps, source["image_freq"][0] - steps
    w_s, w_i = (source[name][...] for name in ("gain_sig", "gain_img"))
    g_s, g_i, eta_f = w_s / (w_s + w_i), w_i / (w_s + w_i), float(source["eta_f"][...])
    load_kinds = subscan_kinds(loads)
    t_hot, t_cold = (float(loads[n][:][load_kinds == k].mean()) for n, k in (("thot", "HOT"), ("tcold", "COLD")))
    j_hot, j_cold, j_atm = (
        [rayleigh_jeans(nu, t)[:, None, None] for nu in (signal, image)]
        for t in (t_hot, t_cold, float(source["tamb"][:].astype(float).mean()))
    )
    power_hot, power_cold = (g_s * j[0] + g_i * j[1] for j in (j_hot, j_cold))
    gain = (hot - cold) / (power_hot - power_cold)
    trec = (power_hot * cold - power_cold * hot) / (hot - cold)
    bad = bad_channels(hot, cold, trec / g_s)
    table = find_builtin(signal, image)
    tau = table.opacity(signal, image, float(source["pamb"][:].astype(float).mean()) * PASCAL_PER_TORR)
    x = 1.0 / np.sin(source["elevation"][:].astype(float))
    observed = np.where(bad[..., None], np.nan, (offs_of - hot[..., None]) / gain[..., None])
    k0 = g_s * j_atm[0] + g_i * j_atm[1] - power_hot
    opacity = (tau.b_signal, tau.c_signal, tau.b_image, tau.c_image)
    pwv = fit_pwv(observed, k0, g_s * eta_f * j_atm[0], g_i * eta_f * j_atm[1], opacity, x[off])
    transmission = np.exp(-x[on] * (tau.b_signal * pwv + tau.c_signal)[:, None])
    factor = (power_hot - power_cold) / (g_s * eta_f) / (hot - cold)
    microseconds = np.rint((source["mjd"][:] - source["mjd"][0]) * 86400e6)
    nearest = np.abs(microseconds[on][:, None] - microseconds[off]).argmin(axis=1)
    return Small(on, nearest, offs_of, factor, transmission, bad, pwv)


def subscan_kinds(group: Any) -> Array:
    """Classes ON, OFF, HOT, COLD of the subscans."""
    return np.array([str(v).removeprefix("OTF-") for v in group["sobsmode"][:]])


def fill_of(group: Any) -> int:
    """The value of missing counts."""
    return int(group["data_5d"].attrs.get("fill", -(2**31)))


def load_group(root: Any, scan: str) -> Any:
    """The loads of a scan: its own, or those of the scan that ``lloadsn`` names."""
    if "calibration" in root[scan]:
        return root[scan]["calibration"]
    return root[f"scan_{int(root[scan]['source/lloadsn'][0]):06d}"]["calibration"]


def sample_inputs(small: Small) -> tuple[Array, Array, Array]:
    """Reference (counts), factor (K/count, transmission included) and flags of all dumps, each ``[C, R, A, S_on]``."""
    ref = small.reference[..., small.nearest]
    scale = small.factor[..., None] / small.transmission[:, None, None]
    base = small.bad[..., None] * np.uint16(BAD) | np.isnan(ref) * np.uint16(NO_REFERENCE)
    return ref, scale, np.asarray(base | ((small.transmission < 0.01) * np.uint16(OPAQUE))[:, None, None])


def numpy_script(l0: Path, scans: Sequence[str], out: Path) -> int:
    """The scans with zarr-python and NumPy on whole arrays; returns the number of ON samples."""
    import zarr

    root: Any = zarr.open_group(str(l0), mode="r")
    samples = 0
    for scan in scans:
        source, loads = root[scan]["source"], load_group(root, scan)
        counts, load_counts, fill = source["data_5d"][:], loads["data_5d"][:], fill_of(source)
        kinds = subscan_kinds(loads)
        hot, cold = (mean_valid(load_counts[..., kinds == k], fill, (1, 4)) for k in ("HOT", "COLD"))
        offs = mean_valid(counts[..., subscan_kinds(source) == "OFF"], fill, 1)
        small = small_maths(source, np.stack([hot, cold]), offs, loads)
        ref, scale, base = sample_inputs(small)
        on = counts[..., small.on]
        t_a = on - ref[:, None]
        t_a *= scale[:, None]
        flags = np.zeros(on.shape, np.uint16)
        flags |= base[:, None]
        flags[on == fill] |= MISSING
        flags[(on <= 0) & (on != fill)] |= INVALID
        t_a[flags != 0] = np.nan
        arrays: dict[str, Any] = {"spectra": t_a, "flags": flags}
        zarr.save_group(str(out / scan), **arrays)
        samples += t_a.size
    return samples


def dask_script(l0: Path, scans: Sequence[str], out: Path, workers: int) -> int:
    """The same with xarray and dask threads; returns the number of ON samples.

    A task is one subscan of all pixels: of the block sizes tried (one pixel, the stored shards, the inner chunks) the
    fastest.

    Raises
    ------
    ConfigError
        xarray or dask is not installed.
    """
    try:
        import dask
        import xarray as xr
        import zarr
    except ImportError as error:
        raise not_installed(error) from None
    root: Any = zarr.open_group(str(l0), mode="r")
    block, samples = {"C": -1, "D": -1, "R": -1, "A": -1, "S": 1}, 0

    def opened(group: Any) -> Any:
        about: dict[str, Any] = {"consolidated": False, "mask_and_scale": False, "chunks": block}
        return xr.open_zarr(str(l0), group=group.path, **about).data_5d

    with dask.config.set(scheduler="threads", num_workers=workers):
        for scan in scans:
            source, loads = root[scan]["source"], load_group(root, scan)
            counts, load_counts, fill = opened(source), opened(loads), fill_of(source)
            kinds = subscan_kinds(loads)
            chosen: list[tuple[Any, Any, tuple[str, ...]]] = [
                (load_counts, kinds == k, ("D", "S")) for k in ("HOT", "COLD")
            ]
            chosen.append((counts, subscan_kinds(source) == "OFF", ("D",)))
            parts = [(array.isel(S=which), dims) for array, which, dims in chosen]
            means = [part.where((part != fill) & (part > 0)).mean(dims) for part, dims in parts]
            hot, cold, offs = (
                m.values for m in xr.Dataset(dict(zip(("hot", "cold", "offs"), means, strict=True))).compute().values()
            )
            small = small_maths(source, np.stack([hot, cold]), offs, loads)
            axes, size = ("C", "R", "A", "S"), {"C": -1, "R": -1, "A": -1, "S": 1}
            ref, scale, base = (xr.DataArray(v, dims=axes).chunk(size) for v in sample_inputs(small))
            on: Any = counts.isel(S=small.on)
            marks = (on == fill) * np.uint16(MISSING) | ((on <= 0) & (on != fill)) * np.uint16(INVALID)
            flags: Any = (marks | base).astype(np.uint16)
            t_a: Any = ((on - ref) * scale).where(flags == 0)
            result = xr.Dataset({"spectra": t_a, "flags": flags}).drop_encoding()
            result.to_zarr(str(out / scan), zarr_format=3, consolidated=False)
            samples += t_a.size
    return samples


def not_installed(missing: ImportError) -> ConfigError:
    """The error for a library that only the benchmarks need."""
    return ConfigError(f"needed for this comparison: {missing}", fix="pip install 'calib-gpu[bench]'")
