"""The score of a scan: a number from 0 to 1 for each check of a fixed table, and the least of them for the scan.

The bands and the rule "the least counts" are those of the ALMA pipeline's weblog. A check that cannot be computed has
no score and says why; a scan lacking one of the checks that every scan must have gets no score at all.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from calib_gpu.qa.metrics import WARN_ABOVE, WARN_ABOVE_SETTING

BANDS: Final = (
    (0.9, "good"),
    (0.66, "below standard"),
    (0.33, "warning"),
    (0.0, "serious"),
)
"""Least score of each band and its name, best first."""

LEVELS: Final = (1.0, 0.9, 0.66, 0.33, 0.0)
"""Scores at the five limits of a check; between them the score is linear, outside them constant."""


@dataclass(frozen=True)
class Check:
    """One row of the table.

    ``limits`` are the values at which the score is 1, 0.9, 0.66, 0.33 and 0 (:data:`LEVELS`), rising or falling;
    a metric of :data:`WARN_ABOVE` has its limit there as the second, so that it is named a warning where it leaves
    the band *good*; so has a metric over its limit in :data:`WARN_ABOVE_SETTING`, namely 1. ``per_pixel``: the mean of the
    scores of the pixels that are not dead. ``absent`` is what it means that the metric is not there; ``needed``: without it
    the scan has no score.
    """

    metric: str
    label: str
    unit: str
    limits: tuple[float, float, float, float, float]
    per_pixel: bool = False
    needed: bool = False
    absent: str = "not stored in L1"


def _above(metric: str, label: str, unit: str, good: float, poor: float, bad: float, zero: float, **more: Any) -> Check:
    return Check(metric, label, unit, (good, WARN_ABOVE[metric], poor, bad, zero), **more)


CHECKS: Final = (
    _above("rms_ratio", "noise / radiometer equation", "", 1.2, 2.0, 3.0, 5.0, per_pixel=True, needed=True),
    Check("rms_ratio", "noise too low (check enbw)", "", (0.85, 0.75, 0.6, 0.4, 0.2), per_pixel=True),
    Check("pixel_dead", "dead pixels", "of all", (0.0, 0.1, 0.25, 0.5, 1.0), needed=True),
    _above("bad_channel_fraction", "bad channels", "of C", 0.05, 0.2, 0.5, 0.9, per_pixel=True, needed=True),
    _above("nan_fraction", "flagged samples", "of all", 0.05, 0.25, 0.5, 1.0, per_pixel=True, needed=True),
    Check("trec_over_limit", "T_rec / trec_max", "", (0.9, 1.0, 1.5, 2.0, 4.0), per_pixel=True,
          absent="no trec_max: a telescope profile gives it"),
    Check("tsys_over_limit", "T_sys / tsys_max", "", (0.9, 1.0, 1.5, 2.0, 4.0), per_pixel=True,
          absent="no tsys_max: a telescope profile gives it"),
    _above("hot_stability", "stability of HOT / radiometric", "", 3.0, 10.0, 30.0, 100.0, per_pixel=True,
           absent="HOT has a single dump, or no integration time"),
    _above("gain_drift", "gain drift since the loads before", "", 0.01, 0.05, 0.1, 0.2, per_pixel=True,
           absent="no load set before this one"),
    _above("off_drift", "drift between OFFs", "", 0.005, 0.02, 0.05, 0.1, per_pixel=True, absent="only one OFF"),
    _above("load_age_s", "age of the loads", "s", 900.0, 3600.0, 7200.0, 14400.0),
    _above("ref_gap_max_s", "longest time from ON to OFF", "s", 45.0, 180.0, 600.0, 1800.0),
    Check("pwv_status", "fit of the water vapour", "", (1.0, 0.9, 0.66, 0.33, 0.0), absent="no atmosphere was used"),
    _above("pwv_rms_k", "rms of the sky residual", "K", 3.0, 10.0, 20.0, 50.0, absent="no fit of the water vapour"),
    _above("pwv_off_scatter_fraction", "scatter of PWV over OFFs / PWV", "", 0.05, 0.2, 0.5, 1.0,
           absent="no fit of the water vapour for two OFFs"),
    Check("t_median_s", "transmission, signal band", "", (0.3, 0.2, 0.1, 0.03, 0.0)),
    Check("ripple_over_tsys", "baseline ripple / T_sys", "", (5e-4, 1e-3, 3e-3, 0.01, 0.03), per_pixel=True,
          absent="the band is too narrow for a ripple"),
    Check("negative_line", "pixels with a negative line", "of all", (0.0, 0.05, 0.1, 0.3, 1.0)),
)  # fmt: skip
"""The checks, in the order in which they are shown."""

SHARES: Final = ("bad_channel_fraction", "nan_fraction", "gain_drift", "off_drift", "pwv_off_scatter_fraction")
"""Metrics that are told in percent."""

RATIOS: Final = {
    "ripple_over_tsys": ("baseline_ripple_k", "tsys_median"),
    "trec_over_limit": ("trec_median", WARN_ABOVE_SETTING["trec_median"]),
    "tsys_over_limit": ("tsys_median", WARN_ABOVE_SETTING["tsys_median"]),
}
"""Metrics that are quotients: of two of L1's, or of one of them and a setting that the scan was calibrated with. Unlike the
ripple over 3 sigma, the one over T_sys does not grow with the depth of a scan."""

PWV_STATUS_SCORES: Final = {
    "ok": (1.0, "fitted"),
    "fixed": (1.0, "given, not fitted"),
    "not_converged": (0.6, "the fit did not converge"),
    "at_lower_bound": (0.5, "the fit ends at its lower bound: check eta_f, t_atm, load temperatures"),
    "at_upper_bound": (0.5, "the fit ends at its upper bound: check eta_f, t_atm, load temperatures"),
    "unconstrained": (0.4, "the sky does not constrain it: a fallback value is used"),
}
"""Score of each state of the fit (physics, 4.5); ``none`` has no score."""


@dataclass(frozen=True)
class Result:
    """Score of one check, None where it could not be computed; ``text`` tells the value, or why there is none."""

    check: Check
    score: float | None
    text: str


@dataclass(frozen=True)
class Score:
    """Score of a scan: None if it could not be computed; ``reason`` is the check that cost most, or why there is none."""

    value: float | None
    reason: str
    results: tuple[Result, ...]


def band_of(score: float) -> str:
    """Name of the band of a score."""
    return next(name for least, name in BANDS if score >= least)


def score_scan(attrs: Mapping[str, Any], pixels: list[str]) -> Score:
    """Score a scan from its attributes; ``pixels`` are the names of its pixels in store order."""
    qa = attrs.get("qa")
    if not isinstance(qa, Mapping):
        return Score(None, "not computed: the scan has no QA metrics", ())
    qa = {**_limits(attrs), **qa}
    dead = _numbers(qa.get("pixel_dead"))
    live = np.ones(len(pixels), bool) if dead is None or dead.size != len(pixels) else ~(dead == 1.0).ravel()
    results = tuple(_result(check, qa, attrs, live, pixels) for check in CHECKS)
    lacking = [r for r in results if r.check.needed and r.score is None]
    if lacking:
        return Score(None, f"not computed: {lacking[0].check.label}: {lacking[0].text}", results)
    worst = min((r for r in results if r.score is not None), key=lambda r: r.score or 0.0)
    value = float(worst.score or 0.0)
    return Score(value, "" if value >= 1.0 else f"{worst.check.label}: {worst.text}", results)


def _result(
    check: Check, qa: Mapping[str, Any], attrs: Mapping[str, Any], live: NDArray[np.bool_], pixels: list[str]
) -> Result:
    if check.metric == "pwv_status":
        status = str(qa.get("pwv_status", attrs.get("pwv_status")))
        if status in PWV_STATUS_SCORES:
            return Result(check, *PWV_STATUS_SCORES[status])
        return Result(check, None, check.absent if status == "none" else f"unknown state {status}")
    if check.metric == "t_median_s" and attrs.get("transmission_corrected") is False:
        return Result(check, None, "no atmosphere was used")
    values = _metric(qa, check.metric)
    if values is None:
        return Result(check, None, check.absent)
    if check.per_pixel:
        return _per_pixel(check, values.ravel(), live, pixels)
    if check.metric in ("pixel_dead", "negative_line"):
        hit = [name for name, value in zip(pixels, values.ravel(), strict=False) if value == 1.0]
        value = len(hit) / max(values.size, 1)
        return Result(check, _scaled(check, value), f"{len(hit)} of {values.size}{_listed(hit)}")
    value = float(values.ravel()[0]) if values.size == 1 else float("nan")
    if not np.isfinite(value):
        return Result(check, None, check.absent)
    return Result(check, _scaled(check, value), _amount(check, value, check.unit))


def _metric(qa: Mapping[str, Any], name: str) -> NDArray[np.float64] | None:
    if name not in RATIOS:
        return _numbers(qa.get(name))
    above, below = (_numbers(qa.get(part)) for part in RATIOS[name])
    if above is None or below is None or below.shape not in ((1,), above.shape):
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        return above / below


def _limits(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """The limits of metrics that are settings, as the scan was calibrated with them; None where there is none."""
    try:
        settings = json.loads(attrs["settings"])
        return {name: settings.get(name) for name in WARN_ABOVE_SETTING.values()}
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}


def _per_pixel(check: Check, values: NDArray[np.float64], live: NDArray[np.bool_], pixels: list[str]) -> Result:
    if values.size != live.size:
        return Result(check, None, "not one value a pixel")
    if not live.any():
        return Result(check, None, "no pixel is alive")
    use = live & np.isfinite(values)
    if not use.any():
        return Result(check, None, check.absent)
    scores = np.array([_scaled(check, v) for v in values[use]])
    names = [name for name, there in zip(pixels, use, strict=True) if there]
    low = [names[k] for k in np.flatnonzero(scores < BANDS[0][0])]
    worst = max(values[use]) if check.limits[-1] > check.limits[0] else min(values[use])
    text = f"median {_amount(check, float(np.median(values[use])), '')}, worst {_amount(check, worst, check.unit)}"
    unknown = int((live & ~use).sum())
    text += f"; {_count(low, len(names))}" if low else ""
    text += f"; unknown in {unknown}" if unknown else ""
    return Result(check, float(scores.mean()), text)


def _amount(check: Check, value: float, unit: str) -> str:
    """A value for people: a share in percent, as everywhere in the report."""
    return f"{100.0 * value:.3g} %" if check.metric in SHARES else f"{value:.3g} {unit}".strip()


def _count(names: list[str], total: int) -> str:
    return "all pixels" if len(names) == total else f"{len(names)} of {total} pixels{_listed(names)}"


def _listed(names: list[str]) -> str:
    return f": {', '.join(names[:4])}{', ...' if len(names) > 4 else ''}" if names else ""


def _scaled(check: Check, value: float) -> float:
    limits, levels = np.array(check.limits), np.array(LEVELS)
    if limits[0] > limits[-1]:
        limits, levels = limits[::-1], levels[::-1]
    return float(np.interp(value, limits, levels))


def _numbers(value: Any) -> NDArray[np.float64] | None:
    """Numbers of a metric as an array, null as NaN; None if it is absent or not numbers."""
    if value is None:
        return None
    try:
        return np.atleast_1d(np.asarray(value, dtype=np.float64))
    except (TypeError, ValueError):
        return None
