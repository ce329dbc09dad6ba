"""QA metrics of a scan (physics, section 6.4): numbers, and the names of those beyond their limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from calib_gpu.physics.atmosphere import transmission
from calib_gpu.physics.loads import load_contrast
from calib_gpu.physics.robust import median
from calib_gpu.qa.ripple import ripple
from calib_gpu.qa.sample import DumpSample
from calib_gpu.records import Atmosphere, Floats, OffSpectra, Receiver
from calib_gpu.settings import Settings
from calib_gpu.stages.prepare import Factors
from calib_gpu.stages.resolve import ResolvedLoads, set_powers
from calib_gpu.store.pixel_arrays import release

WARN_ABOVE: Final = {
    "rms_ratio": 1.5, "pwv_rms_k": 5.0, "gain_drift": 0.02, "off_drift": 0.01, "hot_stability": 5.0,
    "bad_channel_fraction": 0.1, "fill_fraction": 0.1, "nan_fraction": 0.1, "baseline_ripple_ratio": 3.0,
    "ref_gap_max_s": 60.0, "load_age_s": 1800.0, "pwv_off_scatter_fraction": 0.1,
}  # fmt: skip
"""A metric above its limit (in any pixel) is named in ``qa['warnings']``."""

WARN_ABOVE_SETTING: Final = {"trec_median": "trec_max", "tsys_median": "tsys_max"}
"""Metrics whose limit is a setting, that of the telescope; without it they warn of nothing."""


@dataclass(frozen=True)
class Exposure:
    """Integration times: ``on`` and ``ref`` [S_on] in s, and the noise bandwidth of a channel in Hz."""

    on: Floats
    ref: Floats
    bandwidth: float


def load_metrics(resolved: ResolvedLoads, rx: Receiver, factors: Factors) -> dict[str, Any]:
    """Metrics of the loads: T_rec, Y, bad channels, gain drift against the set before, stability of HOT."""
    cal = resolved.calibration
    trec, spread, y_median = (np.full(cal.bad.shape[1:], np.nan) for _ in range(3))
    for r, a in np.ndindex(trec.shape):
        good, zero = ~cal.bad[:, r, a], cal.zero_of(r, a)
        hot, cold, t = (v[:, r, a] for v in (cal.hot, cal.cold, cal.trec))
        with np.errstate(invalid="ignore", divide="ignore"):
            y_median[r, a] = _median(((hot - zero) / (cold - zero))[good])
        trec[r, a] = _median(t[good])
        spread[r, a] = _median(np.abs(t[good] - trec[r, a]))
        release(hot, cold, t)
    out: dict[str, Any] = {
        "trec_median": trec,
        "trec_mad": spread,
        "y_median": y_median,
        "bad_channel_fraction": cal.bad.mean(axis=0),
        "pixel_dead": cal.bad.all(axis=0),
        "hot_stability": _hot_stability(resolved, factors),
        "gain_drift": _gain_drift(resolved, rx, factors),
        "load_age_s": resolved.loads.age_s,
    }
    return out


def _median(values: Floats) -> float:
    """Median of those that are numbers; NaN without any."""
    return median(values[~np.isnan(values)])


def _median_of_dumps(values: Floats) -> Floats:
    """Median over the first axis of what are numbers, NaN without any; for few values np.nanmedian takes a millisecond."""
    n = np.count_nonzero(~np.isnan(values), axis=0)
    ordered = np.sort(values, axis=0)  # NaN last
    low, high = (
        np.take_along_axis(ordered, np.maximum(k, 0)[None], axis=0)[0]
        for k in ((n - 1) // 2, np.minimum(n // 2, n - 1))
    )
    return np.where(n > 0, 0.5 * (low + high), np.nan)


def _hot_stability(resolved: ResolvedLoads, factors: Factors) -> Floats | None:
    """Std over dumps of the band mean, over its mean, times sqrt(n_c B t): 1 where it is radiometric."""
    loads = resolved.loads.sets[0]
    if loads.hot_band.shape[0] < 2 or not np.isfinite(loads.dump_time):
        return None
    band = abs(factors.scan.source.tuning.spacing) * factors.scan.source.shape[0]
    return np.asarray(
        loads.hot_band.std(axis=0, ddof=1) / loads.hot_band.mean(axis=0) * np.sqrt(band * loads.dump_time)
    )


def _gain_drift(resolved: ResolvedLoads, rx: Receiver, factors: Factors) -> Floats | None:
    """Median over channels of |G2/G1 - 1| between consecutive load sets."""
    loads = resolved.loads
    first = loads.sets[0] if len(loads.sets) == 2 else loads.previous
    if first is None:
        return None
    pair = (first, loads.sets[-1])
    scan, drift = factors.scan, np.empty(resolved.calibration.bad.shape[1:])
    for r, a in np.ndindex(drift.shape):
        gains, good = rx.gains.pixel(r, a), ~resolved.calibration.bad[:, r, a]
        with np.errstate(invalid="ignore", divide="ignore"):
            g1, g2 = (
                (s.hot[:, r, a] - s.cold[:, r, a]) / load_contrast(set_powers(s, scan.signal, scan.image, rx), *gains)
                for s in pair
            )
            change = np.abs(g2 / g1 - 1.0)[good]
        drift[r, a] = _median(change)
        release(*(v[:, r, a] for s in pair for v in (s.hot, s.cold)))
    return drift


def off_drift(offs: OffSpectra, bad: NDArray[np.bool_]) -> Floats | None:
    """Largest change of any OFF against the first: max over OFFs of median over channels of |C_k / C_1 - 1|."""
    if len(offs.index) < 2:
        return None
    drift = np.zeros(bad.shape[1:])
    for r, a in np.ndindex(drift.shape):
        spectra = offs.mean[~bad[:, r, a], r, a, :]
        release(offs.mean[:, r, a])
        with np.errstate(invalid="ignore", divide="ignore"):
            change = np.array([_median(v) for v in np.abs(spectra / spectra[:, :1] - 1.0).T])
        drift[r, a] = np.nanmax(change) if np.isfinite(change).any() else np.nan
    return drift


def sky_metrics(atmosphere: Atmosphere, factors: Factors) -> dict[str, Any]:
    """Metrics of the PWV fit, of the transmission and of the times between ON and reference."""
    good = [w for w in atmosphere.off_pwv if w is not None]
    scatter = float(np.std(good, ddof=1)) if len(good) > 1 else None
    t = np.array([[v.min(), median(v)] for v in (factors.transmission(on) for on in range(len(factors.pairing.on)))])
    subscans = factors.scan.source.subscans
    gaps = [
        abs(subscans[int(on)].time_us - subscans[int(ref)].time_us) / 1e6
        for on, refs, weights in zip(factors.pairing.on, factors.pairing.ref, factors.pairing.weight, strict=True)
        for ref, weight in zip(refs, weights, strict=True)
        if weight > 0.0
    ]
    return {
        "pwv": atmosphere.pwv, "pwv_err": atmosphere.pwv_error, "pwv_status": atmosphere.status,
        "pwv_source": atmosphere.source, "pwv_rms_k": atmosphere.rms_k, "chi2_red": atmosphere.chi2_reduced,
        "pwv_per_off": list(atmosphere.off_pwv), "pwv_off_scatter": scatter,
        "dry_scale_suggested": atmosphere.dry_scale_suggested,
        "pwv_off_scatter_fraction": scatter / atmosphere.pwv if scatter is not None and atmosphere.pwv else None,
        "ref_gap_max_s": max(gaps), "t_min_s": float(t[:, 0].min()), "t_median_s": median(t[:, 1]),
    }  # fmt: skip


def spectrum_metrics(
    sample: DumpSample, exposure: Exposure, factors: Factors, rx: Receiver, atmosphere: Atmosphere
) -> dict[str, Any]:
    """Metrics of T_A* itself, from the sampled dumps."""
    pixels = factors.bad.shape[1:]
    names = ("baseline_offset_k", "baseline_ripple_k", "ripple_period_hz", "baseline_ripple_ratio")
    out: dict[str, Any] = {name: np.full(pixels, np.nan) for name in names}
    out["negative_line"] = np.zeros(pixels, bool)
    seconds = 1.0 / exposure.on[sample.on] + 1.0 / exposure.ref[sample.on]
    expected = sample.t_sys * np.sqrt(seconds / exposure.bandwidth)[:, None, None]
    n_good = np.count_nonzero(~factors.bad, axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        out["rms_ratio"] = _median_of_dumps(sample.rms / expected)
        spread = 1.4826 * _median_of_dumps(np.abs(sample.band - _median_of_dumps(sample.band)))
        drift = spread / (_median_of_dumps(expected) / np.sqrt(n_good))
    out["rms_drift"] = drift if sample.on.size > 1 else None
    out["tsys_median"] = _median_of_dumps(sample.t_sys)
    spacing = abs(factors.scan.source.tuning.spacing)
    for pixel in np.ndindex(pixels):
        spectrum = sample.mean_spectrum(*pixel)
        good = np.isfinite(spectrum)
        if not good.any():
            continue
        out["baseline_offset_k"][pixel] = median(spectrum[good])
        for name, value in zip(names[1:], ripple(spectrum, spacing), strict=True):
            out[name][pixel] = value
        level = spectrum[good] - median(spectrum[good])
        noise = 1.4826 * median(np.abs(level))
        out["negative_line"][pixel] = -level.min() > max(2.0 * level.max(), 10.0 * noise)
    out["baseline_offset_model_k"] = baseline_model(sample, factors, rx, atmosphere)
    out["n_dumps_sampled"] = int(sample.on.size)
    return out


def baseline_model(sample: DumpSample, factors: Factors, rx: Receiver, atmosphere: Atmosphere) -> Floats | None:
    """False baseline from unequal elevation of ON and reference (section 5.6), mean over the sampled dumps [R,A], K."""
    if atmosphere.sky is None or atmosphere.pwv is None:
        return None
    on, sampled = np.unique(sample.on, return_counts=True)
    signal, image = np.zeros(on.size), np.zeros(on.size)
    for k, (x_on, x_off) in enumerate(zip(factors.airmass[on], factors.reference_airmass[on], strict=True)):
        t_on = transmission(factors.tau_signal, x_on)
        for out, band in zip((signal, image), atmosphere.sky.bands, strict=False):
            more = band.emitted(atmosphere.pwv, float(x_on)) - band.emitted(atmosphere.pwv, float(x_off))
            seen = t_on > 0.0
            out[k] = median(more[seen] / t_on[seen])
    ratio = rx.gains.image / rx.gains.signal
    if ratio.ndim == 3:
        ratio = ratio.mean(axis=0)
    signal_mean, image_mean = (float(np.average(v, weights=sampled)) for v in (signal, image))
    return np.broadcast_to(signal_mean + ratio * image_mean, factors.bad.shape[1:])


def as_json(metrics: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
    """Metrics as JSON: arrays as nested lists, NaN as null; and the list of warnings."""
    out = {name: _plain(value) for name, value in metrics.items()}
    limits = WARN_ABOVE | {name: getattr(settings, knob) for name, knob in WARN_ABOVE_SETTING.items()}
    out["warnings"] = [n for n, limit in limits.items() if limit is not None and _above(metrics.get(n), limit)]
    out["warnings"] += [name for name in ("negative_line", "pixel_dead") if np.any(metrics.get(name, False))]
    return out


def _above(value: Any, limit: float) -> bool:
    return value is not None and bool(np.any(np.nan_to_num(np.asarray(value, dtype=float), nan=0.0) > limit))


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return [_plain(v) for v in value]
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, np.bool_ | np.integer):
        return value.item()
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    return value
