"""Plots of one scan with matplotlib: what, scan and source in the title, units on every axis, GHz and km/s."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from calib_gpu.errors import ConfigError
from calib_gpu.physics.frequency import SPEED_OF_LIGHT, rest_hz
from calib_gpu.pictures import refuse_picture, write_picture
from calib_gpu.qa import quicklook
from calib_gpu.qa.products import ScanProducts, choose, open_products
from calib_gpu.qa.report.pack import text
from calib_gpu.qa.sky_check import reference_subscans, sidebands, sky_of
from calib_gpu.records import Floats, ScanId
from calib_gpu.store.l1_store import published_scans

TITLES: Final = {
    "spectrum": "Mean spectrum", "waterfall": "Waterfall of the ON dumps", "trec": "T_rec and T_sys",
    "sky": "Sky, observed and fitted", "map": "Integrated intensity",
}  # fmt: skip
REST_ATTRIBUTES: Final = ("rest_frequency_hz", "rest_frequency", "restfreq")
MAX_CURVES: Final = 12
MAP_CELLS: Final = 128
POINTS: Final = 2000
"""Channel bins of a curve: more than a plot can show."""


@dataclass(frozen=True)
class Request:
    """What is asked for: scan, kind of plot, pixels as ``R,A`` texts, band, rest frequency in GHz, replacing any file."""

    scan: int
    what: str
    pixels: list[str]
    band: str | None = None
    rest_ghz: float | None = None
    overwrite: bool = False


@dataclass(frozen=True)
class Canvas:
    """What a plot is drawn into: ``figure`` is a matplotlib Figure; the chosen pixels and the rest frequency, Hz."""

    figure: Any
    products: ScanProducts
    pixels: list[tuple[int, int]]
    rest: float | None

    def names(self) -> list[str]:
        """Names of the chosen pixels, for people."""
        every = dict(zip(self.products.pixels, self.products.pixel_names(), strict=True))
        return [text(every[p]) for p in self.pixels]

    def frequency_axis(self, axes: Any, *, velocity: bool = True) -> Floats:
        """Label the x axis in GHz, add one in km/s where a rest frequency is known; the frequencies ``[C]``, GHz."""
        axes.set_xlabel("signal frequency, GHz")
        axes.xaxis.get_major_formatter().set_useOffset(False)
        if self.rest is not None and velocity:
            rest, c = self.rest / 1e9, SPEED_OF_LIGHT / 1e3
            top = axes.secondary_xaxis(
                "top", functions=(lambda f: c * (1.0 - f / rest), lambda v: rest * (1.0 - v / c))
            )
            frame = text(self.products.attrs.get("frequency_frame") or "as stored")
            top.set_xlabel(f"velocity (radio), km/s, of {rest:.6f} GHz, frame {frame}")
        return np.asarray(self.products.whole("frequency_signal") / 1e9)


def plot_scan(l1: Path, request: Request, out: Path) -> Path:
    """Draw one plot into a file; returns its path.

    Raises
    ------
    ConfigError
        No such plot, pixel or kind of file; matplotlib is not installed.
    StoreUnusable
        Not an L1 store, or no such scan.
    OutputError
        The file cannot be written, or is none of ours and may not be replaced.
    """
    draw = _one_of("--what", request.what, PLOTS)
    refuse_picture(out, overwrite=request.overwrite)
    products = open_products(l1, _scan_id(l1, request))
    pixels = [_pixel(name, products) for name in request.pixels] or products.pixels
    # text of the data is not markup; no salt and no date in the file: the same L1 gives the same bytes
    style = {"text.parse_math": False, "svg.hashsalt": "calib-gpu", "axes.xmargin": 0.01}
    matplotlib = _matplotlib()
    with matplotlib.rc_context(style), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # all-NaN pixels and bins give NaN
        from matplotlib.figure import Figure

        canvas = Canvas(
            Figure(figsize=(9.0, 5.4), dpi=130, layout="constrained"),
            products,
            pixels,
            _rest_frequency(products, request.rest_ghz),
        )
        draw(canvas)
        about = [
            TITLES[request.what],
            str(products.scan),
            *(text(products.attrs.get(n) or "") for n in ("source_name", "obs_mode")),
        ]
        canvas.figure.suptitle(" · ".join(part for part in about if part))
        write_picture(canvas.figure, out)
    return out


def _one_of(option: str, value: str, known: dict[str, Any]) -> Any:
    if value not in known:
        raise ConfigError("not known", array=option, value=value, rule=" | ".join(known))
    return known[value]


def _scan_id(l1: Path, request: Request) -> ScanId:
    there = choose(published_scans(l1), [request.scan], l1)
    if request.band is None and len(there) == 1:
        return there[0]
    bands = {scan.band: scan for scan in there}
    if request.band is None:
        raise ConfigError(
            f"scan {request.scan} has {len(there)} bands",
            array="--band",
            rule=" | ".join(bands),
            fix="give one of them",
        )
    found: ScanId = _one_of("--band", request.band, bands)
    return found


def _pixel(name: str, products: ScanProducts) -> tuple[int, int]:
    match = re.fullmatch(r"\s*(\d+)\s*,\s*(\d+)\s*", name)
    pixel = (int(match[1]), int(match[2])) if match else None
    if pixel not in products.pixels:
        r, a = products.shape[2:4]
        raise ConfigError("no such pixel", array="--pixel", value=name, rule=f"R,A with R < {r} and A < {a}")
    return pixel


def _rest_frequency(products: ScanProducts, given_ghz: float | None) -> float | None:
    """Rest frequency [Hz] of the option, or of the scan's attributes; None where neither tells."""
    if given_ghz is not None:
        return rest_hz(given_ghz, "--rest-ghz")
    for name in REST_ATTRIBUTES:
        value = products.attrs.get(name)
        if isinstance(value, int | float) and value > 0:
            return float(value)
    return None


def _matplotlib() -> Any:
    try:
        import matplotlib
    except ImportError:
        raise ConfigError(
            "matplotlib is not installed", array="calib-gpu plot", fix="pip install 'calib-gpu[plot]'"
        ) from None
    return matplotlib


# --- the plots ------------------------------------------------------------------------------------------------------


def _shown(canvas: Canvas) -> list[tuple[str, tuple[int, int]]]:
    """Pixels that get a curve of their own; dead ones do not."""
    bad = canvas.products.whole("bad_channels")
    pairs = list(zip(canvas.names(), canvas.pixels, strict=True))
    live = [(name, p) for name, p in pairs if not bad[:, p[0], p[1]].all()]
    return live or pairs


def _legend(axes: Any, n: int) -> None:
    if 1 < n <= MAX_CURVES:
        axes.legend(
            fontsize="small", frameon=False, ncols=1 if n < 8 else 2, loc="upper left", bbox_to_anchor=(1.0, 1.0)
        )


def _curve(axes: Any, x: Floats, y: NDArray[Any], label: str, *, shade: bool = True, **style: Any) -> None:
    """A curve by its mean in bins that a plot can show, shaded from least to largest."""
    low, mean, high = quicklook.envelope(y, POINTS)
    place = quicklook.bin_mean(x, POINTS)
    (line,) = axes.plot(place, mean, lw=0.9, label=label, **style)
    if shade and y.size > POINTS:
        axes.fill_between(place, low, high, color=line.get_color(), alpha=0.15, lw=0)


def spectrum(canvas: Canvas) -> None:
    """Mean spectrum of each pixel, or their mean where they are many."""
    axes = canvas.figure.subplots()
    x, binning = canvas.frequency_axis(axes), quicklook.Binning.of(canvas.products)
    shown = _shown(canvas)
    spectra = ((name, quicklook.read_pixel(canvas.products, r, a, binning)[0]) for name, (r, a) in shown)
    if len(shown) <= MAX_CURVES:
        for name, mean in spectra:
            _curve(axes, x, mean, name)
    else:
        total, count = np.zeros(x.size), np.zeros(x.size)
        for _, mean in spectra:
            good = np.isfinite(mean)
            total[good] += mean[good]
            count += good
        with np.errstate(invalid="ignore"):
            _curve(axes, x, total / count, f"mean of {len(shown)} pixels")
    axes.axhline(0.0, color="0.6", lw=0.6, ls=":")
    axes.set_ylabel(_ta_label(canvas.products))
    _legend(axes, len(shown))


def _ta_label(products: ScanProducts) -> str:
    return f"{products.scale}, K" + ("" if products.corrected else " (not corrected for the atmosphere)")


def waterfall(canvas: Canvas) -> None:
    """All ON dumps in time, mean over the chosen pixels."""
    products, axes = canvas.products, canvas.figure.subplots()
    binning = quicklook.Binning.of(products)
    total = np.zeros((binning.n_on * binning.per_subscan, binning.n_bin))
    count = np.zeros_like(total)
    for r, a in canvas.pixels:
        cells = quicklook.read_pixel(products, r, a, binning)[1]
        good = np.isfinite(cells)
        total[good] += cells[good]
        count += good
    with np.errstate(invalid="ignore"):
        image = total / count
    x = canvas.frequency_axis(axes)
    low, high = np.nanpercentile(image, [0.5, 99.5]) if np.isfinite(image).any() else (0.0, 1.0)
    half = 0.5 * (x[-1] - x[0]) / max(x.size - 1, 1)
    n = products.shape[1] * products.shape[4]
    extent = (x[0] - half, x[-1] + half, n, 0)
    shown = axes.imshow(image, aspect="auto", extent=extent, interpolation="nearest", vmin=low, vmax=high)
    if x[-1] < x[0]:
        axes.invert_xaxis()
    axes.set_ylabel("ON dump, in time")
    which = canvas.names()[0] if len(canvas.pixels) == 1 else f"mean of {len(canvas.pixels)} pixels"
    canvas.figure.colorbar(shown, ax=axes, label=f"{_ta_label(products)}, {which}")


def trec(canvas: Canvas) -> None:
    """T_rec and T_sys of each pixel against frequency."""
    products = canvas.products
    upper, lower = canvas.figure.subplots(2, sharex=True)
    x = canvas.frequency_axis(lower, velocity=False)
    shown = _shown(canvas)
    for name, (r, a) in shown:
        bad = products.pixel("bad_channels", r, a)
        _curve(upper, x, np.where(bad, np.nan, products.pixel("trec", r, a)), name)
        _curve(lower, x, np.nanmean(products.pixel("t_sys", r, a), axis=1), name)
    upper.set_ylabel(f"T_rec ({sidebands(products)}, {text(products.attrs.get('trec_convention', ''))}), K")
    lower.set_ylabel(f"T_sys (on the {products.scale} scale), K")
    _legend(upper, len(shown))


def sky(canvas: Canvas) -> None:
    """Sky of the references, observed and fitted, mean over the pixels; residual below."""
    products, found = canvas.products, sky_of(canvas.products)
    if isinstance(found, str):
        raise ConfigError("cannot be drawn", array="--what", value="sky", rule=found)
    upper, lower = canvas.figure.subplots(2, sharex=True, height_ratios=(2, 1))
    x = canvas.frequency_axis(lower, velocity=False)
    refs = reference_subscans(products, 6)
    sums, count = np.zeros((2, len(refs), x.size)), np.zeros((len(refs), x.size))
    for r, a in canvas.pixels:
        t_sys = products.pixel("t_sys", r, a)
        t_rec = np.where(products.pixel("bad_channels", r, a), np.nan, products.pixel("trec", r, a))
        for k, on in enumerate(refs):
            seen = found.observed(r, a, on, t_sys[:, on], t_rec)
            good = np.isfinite(seen)
            sums[0, k, good] += seen[good]
            sums[1, k, good] += found.fitted(r, a, on)[good]
            count[k] += good
    with np.errstate(invalid="ignore"):
        observed, fitted = sums / count
    for k, on in enumerate(refs):
        colour = f"C{k}"
        _curve(upper, x, observed[k], f"reference of ON {on}", color=colour, shade=False)
        if found.model is not None:
            _curve(upper, x, fitted[k], f"_fit {on}", color="k", shade=False, ls="--")
            _curve(lower, x, observed[k] - fitted[k], f"_rest {on}", color=colour, shade=False)
    upper.set_ylabel("T'_sky = S_H + T'_hot, K")
    lower.set_ylabel("observed - fitted, K")
    lower.axhline(0.0, color="0.6", lw=0.6, ls=":")
    note = (
        f"dashed: fit, PWV {products.attrs.get('pwv_mm'):.4g} mm" if found.model is not None else f"no fit: {found.why}"
    )
    upper.set_title(note, fontsize="small")
    upper.legend(fontsize="small", frameon=False)


def sky_map(canvas: Canvas) -> None:
    """Integrated intensity of the line (of the band where none stands out) on the sky offsets."""
    products, axes = canvas.products, canvas.figure.subplots()
    binning, frequency = quicklook.Binning.of(products), products.whole("frequency_signal")
    places = [products.positions(r, a) for r, a in canvas.pixels]
    known = [p for p in places if p is not None]
    if len(known) < len(places):
        raise ConfigError("cannot be drawn", array="--what", value="map", rule="L1 needs otf_lon and otf_lat")
    cells = np.stack([quicklook.read_pixel(products, r, a, binning)[1] for r, a in canvas.pixels])
    window = quicklook.LineWindow.of(np.nanmean(cells, axis=(0, 1)).astype(np.float64), frequency)
    lon, lat = (np.concatenate([binning.group_mean(p[axis]) for p in known]) for axis in (0, 1))
    values = quicklook.integrated_intensity(cells, window, frequency).ravel()
    gridded = quicklook.grid_map(lon, lat, values, MAP_CELLS)
    if gridded is None:
        raise ConfigError("cannot be drawn", array="--what", value="map", rule="four positions on the sky or more")
    extent = (*gridded.x, *gridded.y)
    shown = axes.imshow(gridded.values, origin="lower", extent=extent, interpolation="nearest", aspect="equal")
    axes.invert_xaxis()
    axes.set_xlabel("longitude offset, arcsec")
    axes.set_ylabel("latitude offset, arcsec")
    of = "" if window.found else " (whole band: no line stands out)"
    axes.set_title(
        f"{window.low / 1e9:.4f} to {window.high / 1e9:.4f} GHz{of}, cells of {gridded.cell:.3g} arcsec",
        fontsize="small",
    )
    canvas.figure.colorbar(shown, ax=axes, label=f"integrated {products.scale}, K km/s")


PLOTS: Final[dict[str, Callable[[Canvas], None]]] = {
    "spectrum": spectrum, "waterfall": waterfall, "trec": trec, "sky": sky, "map": sky_map,
}  # fmt: skip
"""The plots by name."""
