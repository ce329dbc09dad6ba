"""One scan of L1 as a compact record for the page: its row in the table, its score, facts and numbers."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from calib_gpu import schema
from calib_gpu.qa.products import ScanProducts
from calib_gpu.qa.report import pack
from calib_gpu.qa.report.drawing import Sizes, drawn
from calib_gpu.qa.report.score import Score, band_of, score_scan
from calib_gpu.qa.sky_check import sidebands
from calib_gpu.records import Floats
from calib_gpu.store.l0_group import is_finite

PIXEL_COLUMNS: Final = (
    ("trec_median", "T_rec", "K"), ("tsys_median", "T_sys", "K"), ("y_median", "Y", ""),
    ("rms_ratio", "rms / radiometer", ""), ("rms_drift", "band drift / radiometer", ""),
    ("bad_channel_fraction", "bad channels", "%"), ("nan_fraction", "flagged", "%"), ("gain_drift", "gain drift", "%"),
    ("off_drift", "OFF drift", "%"), ("hot_stability", "HOT stability", ""), ("baseline_offset_k", "baseline", "K"),
    ("baseline_ripple_k", "ripple", "K"),
)  # fmt: skip
"""Metrics shown for every pixel: name in L1's ``qa``, label, unit."""


@dataclass(frozen=True)
class Summary:
    """``row`` for the table of scans, ``record`` with all that is drawn of the scan."""

    row: dict[str, Any]
    record: dict[str, Any]


def summarise(products: ScanProducts, budget: int) -> Summary:
    """Read a scan once, pixel by pixel, and keep about ``budget`` bytes of it."""
    sizes = Sizes.of(budget, len(products.pixels), products.shape[0])
    names = [pack.text(name) for name in products.pixel_names()]
    score = score_scan(products.attrs, [f"R{r} A{a}" for r, a in products.pixels])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # all-NaN pixels and bins give NaN
        record = _head(products, names, score) | drawn(products, sizes)
    return Summary(_row(products, score, record), record)


def _head(products: ScanProducts, names: list[str], score: Score) -> dict[str, Any]:
    attrs = products.attrs
    first, last = _edges(products.whole("frequency_signal"))
    record: dict[str, Any] = {
        "id": pack.text(products.scan), "source": pack.text(attrs.get("source_name") or ""),
        "mode": pack.text(attrs.get("obs_mode") or ""), "score": _score(score), "facts": _facts(products),
        "scale": products.scale, "sidebands": sidebands(products), "corrected": products.corrected,
        "signal": [pack.number(first / 1e9, 10), pack.number(last / 1e9, 10)],
        "shape": list(products.shape), "pixels": names, "columns": _columns(products),
        "flags": _flags(products), "warnings": [pack.text(w) for w in _list(attrs.get("warnings"))],
        "scanFlags": [f.name for f in schema.ScanFlag if int(attrs.get("scan_flags") or 0) & f],
        "dead": [int(k) for k in np.flatnonzero(products.whole("bad_channels").all(axis=0).ravel())],
    }  # fmt: skip
    rest = attrs.get("rest_frequency_hz")
    if isinstance(rest, int | float) and is_finite(rest) and rest > 0.0:
        record["rest"] = pack.number(rest / 1e9, 12)
    if products.has("frequency_image"):
        record["image"] = [pack.number(f / 1e9, 10) for f in _edges(products.whole("frequency_image"))]
    return record


def _score(score: Score) -> dict[str, Any]:
    return {
        "value": pack.number(score.value, 3), "band": "not computed" if score.value is None else band_of(score.value),
        "reason": pack.text(score.reason),
        "checks": [[r.check.label, pack.number(r.score, 3), pack.text(r.text), "" if r.score is None else band_of(r.score)]
                   for r in score.results],
    }  # fmt: skip


def _edges(axis: Floats) -> tuple[float, float]:
    """Outer edges of the first and the last channel, Hz."""
    half = 0.5 * float(axis[-1] - axis[0]) / (axis.size - 1) if axis.size > 1 else 0.5e6
    return float(axis[0]) - half, float(axis[-1]) + half


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _median(values: NDArray[np.float64] | None) -> float | None:
    return None if values is None or not np.isfinite(values).any() else pack.number(np.nanmedian(values))


def _row(products: ScanProducts, score: Score, record: dict[str, Any]) -> dict[str, Any]:
    attrs, mjd = products.attrs, products.whole("mjd")
    trec = products.metric("trec_median")
    ends = [None, None] if trec is None or not np.isfinite(trec).any() else [np.nanmin(trec), np.nanmax(trec)]
    mean = float(np.mean(mjd)) if mjd.size else float("nan")
    flagged = products.metric("nan_fraction")
    return {
        "id": record["id"], "number": products.scan.number, "band": pack.text(products.scan.band), "source": record["source"],
        "mode": record["mode"], "mjd": pack.number(mean, 12), "utc": utc(mean), "score": pack.number(score.value, 3),
        "quality": record["score"]["band"], "reason": pack.text(score.reason), "pwv": pack.number(attrs.get("pwv_mm")),
        "pwvErr": _pwv_error(products), "pwvStatus": pack.text(attrs.get("pwv_status")), "trec": _median(trec),
        "trecEnds": [pack.number(v) for v in ends], "tsys": _median(products.metric("tsys_median")),
        "rms": _median(products.metric("rms_ratio")), "flagged": None if flagged is None else pack.number(np.nanmean(flagged)),
        "corrected": products.corrected, "telescope": pack.text(attrs.get("telescope") or ""),
        "sidebands": record["sidebands"],
    }  # fmt: skip


def _pwv_error(products: ScanProducts) -> float | None:
    """Scatter of PWV over the OFFs, which tells more than the formal error of the fit (physics, 4.6); else that error."""
    scatter = products.metric("pwv_off_scatter")
    return pack.number(products.attrs.get("pwv_err_mm")) if scatter is None else pack.number(scatter)


def utc(mjd: float) -> str:
    """An MJD as text, to the minute; empty where it is no date."""
    try:
        return (datetime(1858, 11, 17, tzinfo=UTC) + timedelta(days=mjd)).strftime("%Y-%m-%d %H:%M")
    except (ValueError, OverflowError):
        return ""


def _dry_opacity(attrs: Mapping[str, Any], qa: Mapping[str, Any]) -> list[list[str]]:
    """The factor of the dry opacity, if one was used or is suggested by the misfit."""
    scale, error, hint = attrs.get("dry_scale"), attrs.get("dry_scale_err"), qa.get("dry_scale_suggested")
    if hint is not None:
        return [["dry opacity", f"the misfit of the sky asks for {hint:.3g} times the table's (setting dry_scale)"]]
    if scale in (None, 1.0):
        return []
    value = f"{scale:.4g}" + (f" ± {error:.2g}" if error is not None else "")
    return [["dry opacity", f"{value} times the table's ({attrs.get('dry_scale_status')})"]]


def _facts(products: ScanProducts) -> list[list[str]]:
    """Label and value of what a scan was made with."""
    attrs, qa = products.attrs, products.attrs.get("qa", {})
    c, d, r, a, s = products.shape
    facts = [["time (UTC)", utc(float(np.mean(products.whole("mjd")))) if s else ""]]
    facts.append(["size", f"{c} channels of {abs(products.spacing) / 1e3:.5g} kHz, {r * a} pixels, {s} ON x {d} dumps"])
    if attrs.get("pwv_mm") is not None:
        error = attrs.get("pwv_err_mm")
        pwv = f"{attrs['pwv_mm']:.4g}" + (f" ± {error:.2g}" if error is not None else "")
        facts.append(["PWV", f"{pwv} mm ({attrs.get('pwv_status')}, from {attrs.get('pwv_source')})"])
        scatter = products.metric("pwv_off_scatter")
        if scatter is not None and np.isfinite(scatter).all():
            facts.append(["PWV, scatter over OFFs", f"{float(scatter):.2g} mm (± above: formal error of the fit)"])
    else:
        facts.append(["PWV", "none: not corrected for the atmosphere"])
    facts += _dry_opacity(attrs, qa)
    for label, name, unit, scale in (("airmass", "airmass", "", 1.0), ("elevation", "elevation", "deg", 180.0 / np.pi)):
        if products.has(name) and np.isfinite(values := products.whole(name) * scale).any():
            low, high = np.nanmin(values), np.nanmax(values)
            facts.append(
                [label, f"{low:.4g} {unit}" if high - low < 5e-4 * high else f"{low:.4g} to {high:.4g} {unit}"]
            )
    for label, name, unit in (
        ("transmission (median)", "t_median_s", ""), ("age of the loads", "load_age_s", "s"),
        ("longest ON to OFF", "ref_gap_max_s", "s"), ("sky residual", "pwv_rms_k", "K"),
    ):  # fmt: skip
        value = qa.get(name)
        facts.append([label, "not computed" if value is None else f"{value:.4g} {unit}"])
    facts.append(["loads from scan", ", ".join(map(str, _list(attrs.get("load_scans"))))])
    for label, name in (("T_hot", "t_hot_k"), ("T_cold", "t_cold_k")):
        if _list(attrs.get(name)):
            facts.append([label, ", ".join(map(_short, attrs[name])) + " K"])
    for label, name in (("frequency frame", "frequency_frame"), ("telescope", "telescope"), ("project", "project")):
        if attrs.get(name) is not None:
            facts.append([label, str(attrs[name])])
    facts.append(["opacity table", str(attrs.get("atm_table"))])
    used = attrs.get("receiver", {})
    short = [
        (name, entry)
        for name, entry in used.items()
        if isinstance(entry, dict) and not isinstance(entry.get("value"), list)
    ]
    facts += [[name, f"{_short(entry.get('value'))} ({entry.get('from')})"] for name, entry in short]
    return [[pack.text(label), pack.text(value.strip())] for label, value in facts]


def _short(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _columns(products: ScanProducts) -> list[dict[str, Any]]:
    """Numbers of every pixel; None where L1 has no such metric."""
    n = len(products.pixels)
    out = []
    for metric, label, unit in PIXEL_COLUMNS:
        values = products.metric(metric)
        fits = values is not None and values.size == n
        if values is not None and unit == "%":
            values = 100.0 * values
        out.append({"label": label, "unit": unit, "values": pack.numbers(values, 4) if fits else None})
    ratio, t_sys = products.metric("rms_ratio"), products.metric("tsys_median")
    if ratio is not None and t_sys is not None and products.has("exptime_on") and products.has("exptime_ref"):
        on, ref = (np.median(products.whole(f"exptime_{name}")) for name in ("on", "ref"))
        bandwidth = abs(products.spacing) * products.setting("enbw", 1.0)
        expected = t_sys * np.sqrt((1.0 / on + 1.0 / ref) / bandwidth)
        for label, values in (("rms expected", expected), ("rms measured", ratio * expected)):
            out.append({"label": label, "unit": "K", "values": pack.numbers(values, 4)})
    return out


def _flags(products: ScanProducts) -> list[list[Any]]:
    meanings = {str(flag.name): meaning for flag, meaning in schema.FLAG_MEANINGS.items()}
    counts = products.attrs.get("flag_counts")
    items = counts.items() if isinstance(counts, Mapping) else ()
    total = math.prod(products.shape)
    return [
        [pack.text(name), int(n), pack.number(n / total if total else 0.0, 3), meanings.get(name, "")]
        for name, n in items
        if isinstance(n, int)
    ]
