"""One scan of L1 as a compact record for the page: numbers, down-sampled curves and small images.

Curves keep least, mean and largest value of every channel bin, so that a narrow spike is never lost; how many bins
there are follows from the bytes that a scan may take.
"""

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
from calib_gpu.qa import quicklook
from calib_gpu.qa.products import ScanProducts
from calib_gpu.qa.report import pack
from calib_gpu.qa.report.score import Score, band_of, score_scan
from calib_gpu.qa.sky_check import reference_subscans, sky_of
from calib_gpu.records import Floats

MAX_BINS: Final = 256
MAX_REFERENCES: Final = 4
MAX_TRACK: Final = 240

PIXEL_COLUMNS: Final = (
    ("trec_median", "T_rec", "K"), ("tsys_median", "T_sys", "K"), ("y_median", "Y", ""),
    ("rms_ratio", "rms / radiometer", ""), ("rms_drift", "band drift / radiometer", ""),
    ("bad_channel_fraction", "bad channels", ""), ("nan_fraction", "flagged", ""), ("gain_drift", "gain drift", ""),
    ("off_drift", "OFF drift", ""), ("hot_stability", "HOT stability", ""), ("baseline_offset_k", "baseline", "K"),
    ("baseline_ripple_k", "ripple", "K"),
)  # fmt: skip
"""Metrics shown for every pixel: name in L1's ``qa``, label, unit."""


@dataclass(frozen=True)
class Sizes:
    """Sizes of what is drawn of a scan: channel bins of curves, sky and image, rows of the image, cells of the map."""

    curve: int
    sky: int
    rows: int
    columns: int
    cells: int

    @classmethod
    def of(cls, budget: int, n_pixel: int, n_channel: int) -> Sizes:
        """The largest whose arrays take about ``budget`` bytes in base64; three quarters of it go to the pixels' curves."""
        raw = 0.72 * budget - 120.0 * n_pixel - 3000.0
        curve = int(np.clip(0.6 * raw / (19 * n_pixel), 8, MAX_BINS))
        sky = int(np.clip(0.1 * raw / (4 * MAX_REFERENCES + 4), 16, MAX_BINS))
        side = int(np.clip(math.sqrt(0.2 * raw / 1.5), 16, 128))
        rows = int(np.clip(min(side, 0.05 * raw / n_pixel), 12, 128))
        return cls(
            min(curve, n_channel), min(sky, n_channel), rows, min(side, n_channel), int(np.clip(side * 0.45, 12, 64))
        )


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
        record = _head(products, names, score) | _drawn(products, sizes)
    return Summary(_row(products, score, record), record)


def _head(products: ScanProducts, names: list[str], score: Score) -> dict[str, Any]:
    attrs = products.attrs
    first, last = _edges(products.whole("frequency_signal"))
    record: dict[str, Any] = {
        "id": str(products.scan), "source": pack.text(attrs.get("source_name") or ""),
        "mode": pack.text(attrs.get("obs_mode") or ""), "score": _score(score), "facts": _facts(products),
        "signal": [pack.number(first / 1e9, 10), pack.number(last / 1e9, 10)],
        "shape": list(products.shape), "pixels": names, "columns": _columns(products),
        "flags": _flags(products), "warnings": [pack.text(w) for w in _list(attrs.get("warnings"))],
        "scanFlags": [f.name for f in schema.ScanFlag if int(attrs.get("scan_flags") or 0) & f],
        "dead": [int(k) for k in np.flatnonzero(products.whole("bad_channels").all(axis=0).ravel())],
    }  # fmt: skip
    if products.has("frequency_image"):
        record["image"] = [pack.number(f / 1e9, 10) for f in _edges(products.whole("frequency_image"))]
    return record


def _score(score: Score) -> dict[str, Any]:
    return {
        "value": pack.number(score.value, 3), "band": "not computed" if score.value is None else band_of(score.value),
        "reason": score.reason,
        "checks": [[r.check.label, pack.number(r.score, 3), r.text, "" if r.score is None else band_of(r.score)]
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
        "id": str(products.scan), "number": products.scan.number, "band": products.scan.band, "source": record["source"],
        "mode": record["mode"], "mjd": pack.number(mean, 12), "utc": utc(mean), "score": pack.number(score.value, 3),
        "quality": record["score"]["band"], "reason": score.reason, "pwv": pack.number(attrs.get("pwv_mm")),
        "pwvErr": _pwv_error(products), "pwvStatus": pack.text(attrs.get("pwv_status")), "trec": _median(trec),
        "trecEnds": [pack.number(v) for v in ends], "tsys": _median(products.metric("tsys_median")),
        "rms": _median(products.metric("rms_ratio")), "flagged": None if flagged is None else pack.number(np.nanmean(flagged)),
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
    else:
        facts.append(["PWV", "none: not corrected for the atmosphere"])
    for label, name, unit, scale in (("airmass", "airmass", "", 1.0), ("elevation", "elevation", "deg", 180.0 / np.pi)):
        if products.has(name) and np.isfinite(values := products.whole(name) * scale).any():
            low, high = np.nanmin(values), np.nanmax(values)
            facts.append([label, f"{low:.4g} {unit}" if high - low < 5e-4 * high else f"{low:.4g} to {high:.4g} {unit}"])
    for label, name, unit in (
        ("transmission (median)", "t_median_s", ""), ("age of the loads", "load_age_s", "s"),
        ("longest ON to OFF", "ref_gap_max_s", "s"), ("sky residual", "pwv_rms_k", "K"),
    ):  # fmt: skip
        value = qa.get(name)
        facts.append([label, "not computed" if value is None else f"{value:.4g} {unit}"])
    facts.append(["loads from scan", ", ".join(map(str, _list(attrs.get("load_scans"))))])
    facts.append(["opacity table", str(attrs.get("atm_table"))])
    used = attrs.get("receiver", {})
    short = [(name, entry) for name, entry in used.items() if isinstance(entry, dict) and not isinstance(entry.get("value"), list)]
    facts += [[name, f"{_short(entry.get('value'))} ({entry.get('from')})"] for name, entry in short]
    return [[label, pack.text(value.strip())] for label, value in facts]


def _short(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _columns(products: ScanProducts) -> list[dict[str, Any]]:
    """Numbers of every pixel; None where L1 has no such metric."""
    n = len(products.pixels)
    out = []
    for metric, label, unit in PIXEL_COLUMNS:
        values = products.metric(metric)
        fits = values is not None and values.size == n
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


def _drawn(products: ScanProducts, sizes: Sizes) -> dict[str, Any]:
    """Curves, sky, images and map: the one pass over the spectra."""
    binning = quicklook.Binning.of(products)
    n_pixel, n_group = len(products.pixels), binning.n_on * binning.per_subscan
    cells = np.full((n_pixel, n_group, binning.n_bin), np.nan, np.float32)
    curves = {name: np.full((3, n_pixel, sizes.curve), np.nan) for name in ("trec", "tsys", "spectrum")}
    bad = np.zeros((n_pixel, sizes.curve))
    sky = SkyCurves(products, sizes.sky)
    for k, (r, a) in enumerate(products.pixels):
        flagged, t_rec, t_sys = (products.pixel(name, r, a) for name in ("bad_channels", "trec", "t_sys"))
        mean, cells[k] = quicklook.read_pixel(products, r, a, binning)
        t_rec = np.where(flagged, np.nan, t_rec)
        for name, values in (("trec", t_rec), ("tsys", np.nanmean(t_sys, axis=1)), ("spectrum", mean)):
            curves[name][:, k] = quicklook.envelope(values, sizes.curve)
        bad[k] = quicklook.bin_mean(flagged, sizes.curve)
        sky.add(r, a, t_rec, t_sys)
    frequency = products.whole("frequency_signal")
    out: dict[str, Any] = {
        "curves": {name: _curve(values) for name, values in curves.items()}, "bad": pack.pack(bad, 8), "sky": sky.record(),
    }  # fmt: skip
    return out | _images(cells, binning, sizes) | _map(products, cells, binning, sizes, frequency)


def _curve(values: Floats) -> dict[str, Any]:
    """Envelope of all pixels; ``view`` is a range of the vertical axis that single spikes do not set."""
    low, mean, high = values
    view = [0.0, 1.0]
    if np.isfinite(mean).any():
        typical = np.nanmedian(mean, axis=0)  # over pixels: a line is in most of them, interference in one
        view = [
            min(np.nanpercentile(low, 1.0), np.nanmin(typical)), max(np.nanpercentile(high, 99.0), np.nanmax(typical)),
        ]  # fmt: skip
    return {
        "low": pack.pack(low), "mean": pack.pack(mean), "high": pack.pack(high), "view": [pack.number(v) for v in view]
    }  # fmt: skip


class SkyCurves:
    """Observed and fitted sky of a few references, mean over the pixels, and the transmission of both bands."""

    def __init__(self, products: ScanProducts, n_bin: int) -> None:
        self.products, self.n_bin = products, n_bin
        self.sky = sky_of(products)
        self.on = reference_subscans(products, MAX_REFERENCES)
        self.sums, self.count = np.zeros((2, len(self.on), n_bin)), np.zeros((len(self.on), n_bin))
        self.residual: list[float] = []

    def add(self, r: int, a: int, t_rec: Floats, t_sys: Floats) -> None:
        """Take one pixel: ``t_rec`` [C] with NaN in bad channels, ``t_sys`` [C, S]."""
        if isinstance(self.sky, str):
            return
        rest = []
        for k, on in enumerate(self.on):
            observed = self.sky.observed(r, a, on, t_sys[:, on], t_rec)
            fitted = np.where(np.isfinite(observed), self.sky.fitted(r, a, on), np.nan)
            rest.append(observed - fitted)
            means = quicklook.bin_mean(np.stack([observed, fitted]), self.n_bin)
            good = np.isfinite(means[0])
            self.sums[:, k, good] += means[:, good]
            self.count[k] += good
        self.residual.append(float(np.sqrt(np.nanmean(np.square(rest)))) if rest else float("nan"))

    def record(self) -> dict[str, Any]:
        """For the page; ``why`` tells why there is no sky, or no fit."""
        if isinstance(self.sky, str) or not self.on:
            return {"why": self.sky if isinstance(self.sky, str) else "no ON subscan"}
        with np.errstate(invalid="ignore", divide="ignore"):
            observed, fitted = self.sums / self.count
        transmission = [quicklook.bin_mean(self.sky.transmission(b, self.on[0]), self.n_bin) for b in ("signal", "image")]
        modelled = self.sky.model is not None
        return {
            "why": self.sky.why, "observed": pack.pack(observed), "fitted": pack.pack(fitted) if modelled else None,
            "transmission": pack.pack(transmission), "residual": pack.numbers(self.residual, 3) if modelled else None,
            "references": self._labels(),
        }  # fmt: skip

    def _labels(self) -> list[str]:
        if not self.products.has("ref_index"):
            return [f"reference of ON {on}" for on in self.on]
        index, weight = self.products.whole("ref_index"), self.products.whole("ref_weight")
        return ["OFF " + " + ".join(str(i) for i, w in zip(index[on], weight[on], strict=True) if w > 0) for on in self.on]


def _images(cells: NDArray[np.float32], binning: quicklook.Binning, sizes: Sizes) -> dict[str, Any]:
    """Waterfall (median over pixels) and the band mean of every pixel, against time; rows are dumps in order."""
    rows = quicklook.bin_mean(np.swapaxes(cells, 1, 2), sizes.rows)  # [pixel, bin, time]
    image = quicklook.bin_mean(np.nanmedian(rows, axis=0).T, sizes.columns)
    power = np.nanmean(rows, axis=1)
    power = power - np.nanmedian(power, axis=1, keepdims=True)
    count = binning.n_dump * binning.n_on
    return {
        "waterfall": pack.pack(pack.clipped(image, 0.3), 8), "power": pack.pack(pack.clipped(power.T, 0.3), 8), "dumps": count,
    }  # fmt: skip


def _map(
    products: ScanProducts, cells: NDArray[np.float32], binning: quicklook.Binning, sizes: Sizes, frequency: Floats
) -> dict[str, Any]:
    """Integrated intensity on the sky, hits, and the track of the reference beam with the pixels' offsets."""
    window = quicklook.LineWindow.of(np.nanmean(cells, axis=(0, 1)).astype(np.float64), frequency)
    about = {"found": window.found, "window": [pack.number(window.low / 1e9, 8), pack.number(window.high / 1e9, 8)]}
    places = [products.positions(r, a) for r, a in products.pixels]
    if not all(places):
        return {"map": {"why": "the offsets on the sky are not stored"} | about}
    intensity = quicklook.integrated_intensity(cells, window, frequency)
    lon, lat = (np.stack([binning.group_mean(p[axis]) for p in places if p is not None]) for axis in (0, 1))
    coverage = {"track": _track(products), "offsets": [pack.numbers(3600.0 * v[:, 0], 4) for v in _offsets(places)]}
    gridded = quicklook.grid_map(lon.ravel(), lat.ravel(), intensity.ravel(), sizes.cells)
    if gridded is None:
        return {"map": {"why": "the scan has fewer than four positions"} | about, "coverage": coverage}
    about |= {
        "values": pack.pack(gridded.values, 8), "hits": pack.pack(gridded.hits, 8), "cell": pack.number(gridded.cell, 4),
        "x": [pack.number(v) for v in gridded.x], "y": [pack.number(v) for v in gridded.y],
    }  # fmt: skip
    return {"map": about, "coverage": coverage}


def _track(products: ScanProducts) -> dict[str, Any]:
    """Path of the reference beam over the ON dumps, arcsec, thinned."""
    beam = [3600.0 * np.broadcast_to(products.whole(f"otf_{n}"), (products.shape[1], products.shape[4])).T.ravel()
            for n in ("lon", "lat")]  # fmt: skip
    step = max(1, math.ceil(beam[0].size / MAX_TRACK))
    return pack.pack(np.stack(beam)[:, ::step])


def _offsets(places: list[Any]) -> tuple[Floats, Floats]:
    """First position of every pixel relative to the first pixel, deg: longitude and latitude ``[P, 1]``."""
    first = np.array([[p[axis][0, 0] for p in places] for axis in (0, 1)])
    return tuple((first - first[:, :1])[..., None])  # type: ignore[return-value]  # two axes
