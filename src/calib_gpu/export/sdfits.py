"""L1 to SDFITS: one row a spectrum, in a file that dysh, pyspeckit and astropy open."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from calib_gpu._version import __version__
from calib_gpu.errors import ConfigError
from calib_gpu.export.columns import COLUMNS, row_type
from calib_gpu.export.fits_table import FitsWriter
from calib_gpu.export.sky import position, summed_offsets
from calib_gpu.physics.frequency import rest_hz
from calib_gpu.records import ScanId
from calib_gpu.schema import Flag
from calib_gpu.store.chunks import ChunkedArray
from calib_gpu.store.l1_store import published_scans
from calib_gpu.store.metadata import group_attrs, has_array

MJD_0: Final = np.datetime64("1858-11-17T00:00:00", "us")
LINEAR: Final = 1e-12
STREAMED: Final = ("spectra", "flags", "t_sys")
SMALL: Final = (
    "frequency_signal", "frequency_image", "mjd", "elevation", "airmass", "exptime_on", "exptime_ref", "on_index", "trec",
    "bad_channels", "otf_lon", "otf_lat", "pixel_offset_lon", "pixel_offset_lat", "frontend_backends",
)  # fmt: skip
FRAMES: Final = {"topocentric": ("FREQ-OBS", "RADI-OBS"), "lsrk": ("FREQ-LSR", "RADI-LSR")}
OBSMODES: Final = {"OTF": "RALongMap:NONE:TPNOCAL", "TP": "Track:NONE:TPNOCAL"}
SYSTEMS: Final = {"icrs": ("RA", "DEC", "ICRS"), "galactic": ("GLON", "GLAT", "GALACTIC")}


@dataclass(frozen=True)
class SdfitsOptions:
    """What L1 does not tell, and what is wanted.

    Attributes
    ----------
    scans
        Scan numbers; all if None.
    average
        ``none``: a row for each dump; ``dumps``: one for each ON subscan and pixel.
    rest_ghz
        Rest frequency, GHz; None takes attribute ``rest_frequency_hz`` of the scan, else the middle of the band.
    frame
        Frame of the frequencies, topocentric or lsrk; None takes attribute ``frequency_frame``, else topocentric.
    centre, system
        Position to which offsets refer, longitude and latitude in deg, and its system, icrs or galactic; None takes that of the
        source, where L1 holds it.
    site
        Longitude and latitude in deg, height in m, of the telescope; None takes that of L1. Without it no tool can change the
        frame.
    overwrite
        Replace the file if it exists.
    """

    scans: Sequence[int] | None = None
    average: str = "none"
    rest_ghz: float | None = None
    frame: str | None = None
    centre: tuple[float, float] | None = None
    system: str = "icrs"
    site: tuple[float, float, float] | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        choices = {"average": ("none", "dumps"), "frame": (None, *FRAMES), "system": tuple(SYSTEMS)}
        for name, known in choices.items():
            value = getattr(self, name)
            if value not in known:
                raise ConfigError(
                    "no such choice", array=name, value=value, rule=" | ".join(str(k) for k in known if k)
                )
        if self.rest_ghz is not None:
            rest_hz(self.rest_ghz, "--rest-ghz")
        if self.centre is not None and not (np.isfinite(self.centre[0]) and abs(self.centre[1]) <= 90.0):
            raise ConfigError("not a position", array="centre", value=self.centre, rule="longitude, latitude in deg")


def export_sdfits(l1: Path, out: Path, options: SdfitsOptions | None = None) -> list[str]:
    """Write scans of an L1 store as SDFITS; scans with the same number of channels share a table.

    Memory is that of one pixel of one subscan, and of the small arrays of one scan.

    Returns
    -------
    What the user should know: the number of rows, and what was assumed because L1 does not tell it.

    Raises
    ------
    StoreUnusable, ConfigError, OutputError
        Not an L1 store; no such scan, or astropy is missing; the file exists or cannot be written.
    """
    options = options or SdfitsOptions()
    published, store_attrs = published_scans(l1), group_attrs(l1)
    bands: dict[int, list[str]] = {}
    for scan in published:
        bands.setdefault(scan.number, []).append(scan.band)
    ids = _chosen(published, options.scans, l1)
    scans = [_Scan(l1, scan, options, store_attrs, bands[scan.number].index(scan.band)) for scan in ids]
    scans.sort(key=_Scan.table)
    n_rows = 0
    with FitsWriter(out, overwrite=options.overwrite) as file:
        file.primary([("ORIGIN", f"calib-gpu {__version__}", ""), ("DATE", _date(scans), "begin of the data")])
        for (n_channel, kind, site), same in groupby(scans, key=_Scan.table):
            about = {c.name: (c.unit, c.meaning) for c in COLUMNS}
            file.begin_table(
                row_type(n_channel, kind), about, [*_cards(site), ("NCHAN", n_channel, "channels of DATA")]
            )
            for one in same:
                one.write(file)
            n_rows += file.end_table()
        file.publish()
    notes = dict.fromkeys(note for one in scans for note in one.notes)
    return [f"{n_rows} spectra of {len(scans)} scan(s)", *notes]


def _cards(site: tuple[float, ...]) -> list[tuple[str, Any, str]]:
    """Keywords of a table."""
    cards: list[tuple[str, Any, str]] = [
        ("EXTNAME", "SINGLE DISH", ""),
        ("NMATRIX", 1, ""),
        ("CUNIT1", "Hz", ""),
        ("BUNIT", "K", ""),
    ]
    if site:
        keys = (("SITELONG", "deg, east"), ("SITELAT", "deg"), ("SITEELEV", "m"))
        cards += [(key, value, unit) for (key, unit), value in zip(keys, site, strict=True)]
    return cards


def _chosen(ids: list[ScanId], numbers: Sequence[int] | None, l1: Path) -> list[ScanId]:
    missing = sorted(set(numbers or ()) - {scan.number for scan in ids})
    if missing or not ids:
        rule = f"{len(ids)} scans" + (f", {ids[0].number} to {ids[-1].number}" if ids else "")
        raise ConfigError("not in the L1 store", array=str(l1), value=missing[:10] or None, rule=rule)
    return [scan for scan in ids if numbers is None or scan.number in set(numbers)]


def _date(scans: list[_Scan]) -> str:
    """The day of the first data: a file of the same scans has the same bytes whenever it is written."""
    return str(_time(min(float(scan.read("mjd").min()) for scan in scans)))[:19]


def _time(mjd: float) -> np.datetime64:
    return MJD_0 + np.timedelta64(round(mjd * 86_400_000_000), "us")


class _Scan:
    """One scan (or band) on its way into rows."""

    def __init__(self, l1: Path, scan: ScanId, options: SdfitsOptions, store_attrs: dict[str, Any], band: int) -> None:
        self.id, self.options, self.folder, self.band = scan, options, l1 / scan.path, band
        self.attrs = {**store_attrs, **group_attrs(self.folder)}
        spectra = ChunkedArray(self.folder / "spectra", "spectra", absent_is_fill=False)
        self.shape: tuple[int, ...] = spectra.shape
        self.kind = spectra.dtype.name
        self.notes: list[str] = []
        self.centre, self.system = self._position()

    def table(self) -> tuple[int, str, tuple[float, ...]]:
        """What the scans of one table share: number of channels, type of the spectra, site (empty where unknown)."""
        names = ("site_lon_deg", "site_lat_deg", "site_height_m")
        told = tuple(float(self.attrs[n]) for n in names) if all(n in self.attrs for n in names) else ()
        return self.shape[0], self.kind, tuple(self.options.site or told)

    def _position(self) -> tuple[tuple[float, float] | None, str]:
        """To what the offsets refer, and its system: the option, else what L1 tells of the source."""
        lon, lat, system = (self.attrs.get(f"source_{name}") for name in ("lon_deg", "lat_deg", "system"))
        if self.options.centre is not None:
            return self.options.centre, self.options.system
        if lon is None or lat is None or system not in SYSTEMS:
            self.notes.append("CRVAL2 and CRVAL3 are offsets from the source: L1 does not hold its position (--centre)")
            return None, ""
        offsets = self.attrs.get("offset_frame", system)
        if offsets != system:
            self.notes.append(f"CRVAL2 and CRVAL3 are offsets from the source in the system {offsets} (--centre)")
            return None, ""
        return (float(lon), float(lat)), str(system)

    def read(self, name: str) -> NDArray[Any]:
        """A small array, whole."""
        return ChunkedArray(self.folder / name, name, absent_is_fill=False).values()

    def _common(self) -> dict[str, Any]:
        """What is the same in all rows."""
        a, nu, n = self.attrs, self.arrays["frequency_signal"], self.shape[0]
        middle = n // 2
        step = float(nu[-1] - nu[0]) / (n - 1) if n > 1 else 1.0
        if np.abs(nu - (nu[middle] + (np.arange(n) - middle) * step)).max() > LINEAR * abs(float(nu[middle])):
            raise ConfigError("not a linear axis", array=f"{self.id}/frequency_signal", rule="SDFITS holds linear axes")
        corrected = a.get("transmission_corrected", True)
        ctype, veldef = FRAMES[self._frame()]
        lon, lat, system = SYSTEMS[self.system] if self.centre else ("LON-OFF", "LAT-OFF", "ICRS")
        if not corrected:
            self.notes.append(f"{self.id} is not corrected for the atmosphere: TEMPSCAL is TA'")
        return {
            "OBJECT": a.get("source_name") or "", "TELESCOP": a.get("telescope") or "", "PROJID": a.get("project") or "",
            "SCAN": self.id.number, "AZIMUTH": np.nan,
            "OBSMODE": OBSMODES.get(str(a.get("obs_mode")), OBSMODES["TP"]), "TIMESYS": "UTC",
            "TEMPSCAL": "TA*" if corrected else "TA'",
            "BANDWID": abs(step) * n, "FREQRES": abs(step), "CTYPE1": ctype, "CRVAL1": float(nu[middle]),
            "CRPIX1": middle + 1.0, "CDELT1": step, "CTYPE2": lon, "CTYPE3": lat, "CTYPE4": "STOKES", "CRVAL4": 1,
            "RADESYS": system, "EQUINOX": 2000.0, "RESTFREQ": self._rest(float(nu[middle])), "OBSFREQ": float(nu[middle]),
            "IMAGFREQ": float(self.arrays["frequency_image"][middle]), "VELDEF": veldef, "VFRAME": 0.0, "RVSYS": 0.0,
            "VELOCITY": 0.0, "PWV": np.nan if a.get("pwv_mm") is None else a["pwv_mm"], "SRFEED": 0, "IFNUM": self.band,
            "FRONTEND": self.id.band.removeprefix("band_"), "SIG": "T", "CAL": "F", "TCAL": 1.0, "PROCSIZE": self.shape[4],
        }  # fmt: skip

    def _frame(self) -> str:
        known = self.attrs.get("frequency_frame")
        frame = self.options.frame or (known if known in FRAMES else None)
        if frame is None:
            self.notes.append("frequencies are taken as topocentric: L1 does not hold their frame (--frame)")
        return frame or "topocentric"

    def _rest(self, middle: float) -> float:
        given = self.options.rest_ghz
        rest = self.attrs.get("rest_frequency_hz") if given is None else rest_hz(given, "--rest-ghz")
        if rest is None:
            self.notes.append("RESTFREQ is the middle of the band: L1 does not hold a rest frequency (--rest-ghz)")
        return float(middle if rest is None else rest)

    def write(self, file: FitsWriter) -> None:
        """All rows: subscan by subscan, pixel by pixel, dump by dump. Dumps that hold nothing have no row."""
        _, d, n_r, n_a, n_s = self.shape
        self.streamed = {k: ChunkedArray(self.folder / k, k, absent_is_fill=False) for k in STREAMED}
        self.arrays = {name: self.read(name) for name in SMALL if has_array(self.folder / name)}
        self.common = self._common()
        self.lon, self.lat = summed_offsets(self.arrays, (d, n_r, n_a, n_s))
        for s in range(n_s):
            for r, a in np.ndindex(n_r, n_a):
                rows = self._rows(r, a, s)
                if rows.size:
                    file.rows(rows)
        self.arrays.clear()

    def _rows(self, r: int, a: int, s: int) -> NDArray[Any]:
        c, d = self.shape[:2]
        spectra, flags = (np.empty((c, d), self.streamed[name].dtype) for name in ("spectra", "flags"))
        region = (slice(0, c), slice(0, d), slice(r, r + 1), slice(a, a + 1), slice(s, s + 1))
        self.streamed["spectra"].read(region, spectra[:, :, None, None, None])
        self.streamed["flags"].read(region, flags[:, :, None, None, None])
        t_sys = np.empty(c)
        self.streamed["t_sys"].read((region[0], *region[2:]), t_sys[:, None, None, None])
        there = np.flatnonzero(~((flags & Flag.FILL_VALUE) != 0).all(axis=0))
        n_row = min(there.size, 1) if self.options.average == "dumps" else there.size
        rows = np.zeros(n_row, row_type(c, self.kind))
        if not n_row:
            return rows
        for name, value in (self.common | self._of_pixel(r, a, s, t_sys)).items():
            rows[name] = value
        dump_time = float(self.arrays["exptime_on"][s])
        n_dump = int(there[-1]) + 1
        before = 0.0 if self.attrs.get("time_ref") == "start" else 0.5  # mjd is the mid-time of the subscan
        begin = float(self.arrays["mjd"][s]) - before * n_dump * dump_time / 86400.0
        lon, lat = self.lon[there, r, a, s], self.lat[there, r, a, s]
        if self.options.average == "dumps":
            spectra, flags, lon, lat = _mean(spectra[:, there], flags[:, there], lon, lat)
            begins, rows["INTNUM"], rows["EXPOSURE"] = [begin], -1, dump_time * there.size
        else:
            spectra, flags = spectra[:, there], flags[:, there]
            begins = (
                [begin + k * dump_time / 86400.0 for k in there] if np.isfinite(dump_time) else [float("nan")] * n_row
            )
            rows["INTNUM"], rows["EXPOSURE"] = there, dump_time
        rows["DURATION"] = rows["EXPOSURE"]
        middle = float(self.arrays["mjd"][s])
        rows["DATE-OBS"] = [str(_time(t if np.isfinite(t) else middle)).encode() for t in begins]
        rows["OFFLON"], rows["OFFLAT"] = lon, lat
        rows["CRVAL2"], rows["CRVAL3"] = (lon, lat) if self.centre is None else position(self.centre, lon, lat)
        rows["DATA"], rows["FLAGS"] = spectra.T, flags.T
        return rows

    def _of_pixel(self, r: int, a: int, s: int, t_sys: NDArray[np.float64]) -> dict[str, Any]:
        """What is the same in all dumps of a pixel and subscan."""
        arrays, n_a = self.arrays, self.shape[3]
        good = ~arrays["bad_channels"][:, r, a]
        names = arrays.get("frontend_backends")
        name = "" if names is None else str(names[r, a] if names.ndim == 2 else names[s])
        pixel = [float(arrays[k][r, a, s]) if k in arrays else 0.0 for k in ("pixel_offset_lon", "pixel_offset_lat")]
        return {
            "REFEXPOS": arrays["exptime_ref"][s], "TSYS": _median(t_sys), "TRX": _median(arrays["trec"][good, r, a]),
            "ELEVATIO": np.degrees(arrays["elevation"][s]), "AIRMASS": arrays["airmass"][s], "FDNUM": a, "FEED": r * n_a + a + 1,
            "PLNUM": r, "SAMPLER": name, "SUBSCAN": arrays["on_index"][s], "PROCSEQN": s + 1, "FEEDXOFF": pixel[0],
            "FEEDEOFF": pixel[1],
        }  # fmt: skip


def _median(values: NDArray[np.float64]) -> float:
    good = values[np.isfinite(values)]
    return float(np.median(good)) if good.size else float("nan")


def _mean(
    spectra: NDArray[Any], flags: NDArray[Any], lon: NDArray[Any], lat: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Mean of the good dumps of each channel; where there are none NaN, and the flags of all dumps together."""
    good = flags == 0
    count = good.sum(axis=1)
    total = np.where(good, spectra, 0.0).sum(axis=1, dtype=np.float64)
    mean = np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0)
    together = np.where(count > 0, 0, np.bitwise_or.reduce(flags, axis=1))
    return mean[:, None], together[:, None], lon.mean(keepdims=True), lat.mean(keepdims=True)
