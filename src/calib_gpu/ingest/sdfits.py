"""GBT SDFITS with a hot and a cold load, turned into L0.

Taken are scans ``CALSEQ`` of the W-band receiver as loads, and pairs of scans ``Nod``, ``OnOff`` or ``OffOn`` as science; total
power, no noise diode. Each feed, IF and polarisation is a band (``band_F0I1P0``); a pair is one science scan of two subscans,
whose dumps are the integrations. What was decided:

- Time: DATE-OBS is the *start* of an integration (the LST column, that of the middle, is 0.50 s later where they last 1.00 s).
  ``mjd`` is the mean of the mid-times of the integrations (``time_ref`` "mid"), which may have gaps between them.
- Reference: subscans are called ``OTF-ON`` and ``OTF-OFF``, so that the reference is the *mean* of all OFF integrations; with a
  plain ``OFF`` it would be the first integration alone, which is noisier.
- Loads: feed 1 (FDNUM 0) sees the ambient load at Cold2, feed 2 at Cold1; the counts must agree (it is the brighter one).
  T_hot is TWARM, T_cold = 54 K - 0.6 K (nu / GHz - 77) at mid-band; column TCOLD, a sensor in the cryostat, is not used.
- Single sideband (gain_sig 1, gain_img 0): the image axis, required in L0, mirrors the signal axis; nothing is computed from it.
- Samples: column FLAGS is not applied (as dysh with ``flag_vegas=False``); NaN is missing. Counts stay float32.
- Frequencies: topocentric. Doppler tracking moves them a little from scan to scan, so loads are matched by ``tuning_id``: feed,
  IF, polarisation, RESTFREQ, CDELT1 and VELOCITY.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from math import inf, isfinite, nan
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from calib_gpu.errors import ConfigError, StoreUnusable
from calib_gpu.records import ScanId
from calib_gpu.store import disk
from calib_gpu.store.l0_write import L0Writer

FRONTEND: Final = "Rcvr68_92"
WARM_POSITION: Final = {0: "Cold2", 1: "Cold1"}  # CALPOSITION of the ambient load by FDNUM
ON_SOURCE_DEG: Final = 1e-4  # largest FEEDXOFF, FEEDEOFF of a feed that is on source
PAIRS: Final = ("Nod", "OnOff", "OffOn")
MJD_0: Final = np.datetime64("1858-11-17", "us")

_COLUMNS: Final = {  # what stands for an absent column; None: it must be there
    "OBJECT": None, "OBSMODE": None, "CALPOSITION": "Observing", "FRONTEND": None, "CTYPE1": None, "SIG": "T", "CAL": "F",
    "TIMESTAMP": "", "DATE-OBS": None, "SCAN": None, "FDNUM": None, "IFNUM": None, "PLNUM": None, "PROCSEQN": None,
    "EXPOSURE": None, "CRVAL1": None, "CRPIX1": None, "CDELT1": None, "RESTFREQ": None, "VELOCITY": 0.0, "ELEVATIO": nan,
    "AZIMUTH": nan, "TAMBIENT": nan, "PRESSURE": nan, "FEEDXOFF": inf, "FEEDEOFF": inf, "TWARM": nan, "DURATION": nan,
}  # fmt: skip
_TEXT: Final = list(_COLUMNS)[:9]
_FINITE: Final = [name for name, default in _COLUMNS.items() if default is None and name not in _TEXT]
_OF_SCAN: Final = ("OBJECT", "OBSMODE", "FRONTEND", "TIMESTAMP", "PROCSEQN", "RESTFREQ", "CDELT1", "CRPIX1", "VELOCITY")


@dataclass(frozen=True)
class _Row:
    """One integration: spectrum [C], still on disk; columns by name, and mid-time ``mid`` [MJD, UTC] and ``t_cold`` [K]."""

    file: str
    spectrum: NDArray[Any]
    scan: ScanId
    tuning_id: str
    text: dict[str, str]
    number: dict[str, float]

    @property
    def on_source(self) -> bool:
        """A nod changes the feed that is on source, position switching moves the telescope."""
        offset = max(abs(self.number["FEEDXOFF"]), abs(self.number["FEEDEOFF"]))
        return (
            offset <= ON_SOURCE_DEG if self.text["OBSMODE"].startswith("Nod") else ":PSWITCHON" in self.text["OBSMODE"]
        )


class _Group(NamedTuple):
    """A ``source`` or ``calibration`` to be written: its subscans are (sobsmode, integrations)."""

    scan: ScanId
    name: str
    first: _Row
    subscans: list[tuple[str, list[_Row]]]


def ingest_sdfits(paths: Sequence[Path], out: Path) -> list[str]:
    """Write the scans of GBT SDFITS files to a new L0 store, which appears complete or not at all.

    Parameters
    ----------
    paths
        SDFITS files of one session (those of all feeds go into one store), or folders with ``*.fits``.
    out
        The L0 store; must not exist, or be an empty folder.

    Returns
    -------
    One line per scan and band written, then one per scan and band left out, with the reason.

    Raises
    ------
    ConfigError, StoreUnusable, OutputError
        No astropy or no path; not SDFITS, no hot and cold load, nothing to calibrate, contradictions; no way to write ``out``.
    """
    try:
        from astropy.io import fits
    except ImportError:
        raise ConfigError("astropy reads FITS, and is not here", fix="pip install 'calib-gpu[fits]'") from None
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise disk.not_empty(out)
    files = [f for p in map(Path, paths) for f in (sorted(p.glob("*.fits")) if p.is_dir() else [p])]
    if not files:
        raise ConfigError(
            "no FITS file", array="paths", value=", ".join(map(str, paths)), rule="files, or folders with *.fits",
            fix="a store of raw counts (L0) needs no ingest: calib-gpu run",
        )  # fmt: skip
    with ExitStack() as opened:
        scans = _by_scan([row for path in files for row in _read(path, fits, opened)])
        left_out: dict[ScanId, str] = {}
        loads, science = _load_groups(scans, left_out), _science_groups(scans, left_out)
        notes = [f"{scan}: left out: {reason}" for scan, reason in sorted(left_out.items())]
        found = {f"{r.text['OBSMODE']} at {r.text['CALPOSITION']}" for rows in scans.values() for r in rows}
        where, value = f"{files[0]}: OBSMODE, CALPOSITION", "; ".join([*sorted(found)[:6], *notes[:3]])
        if not loads:
            rule = f"a CALSEQ scan of {FRONTEND} at Cold1 and Cold2 (an ambient vane alone is not enough)"
            raise StoreUnusable(
                "no hot and cold load", array=where, value=value, rule=rule, fix="add the file with that scan"
            )
        if not science:
            rule = f"pairs of {' or '.join(PAIRS)} scans, total power (SIG T, CAL F), CTYPE1 FREQ-OBS"
            raise StoreUnusable(
                "no scan to calibrate", array=where, value=value, rule=rule, fix="add the files with such scans"
            )
        return _write_all(out, loads, science) + notes


def _read(path: Path, fits: Any, opened: ExitStack) -> list[_Row]:
    """The integrations of a file; spectra are memory-mapped."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks on the style of the header
            warnings.filterwarnings("error", message=".*truncated.*")
            tables = [h for h in opened.enter_context(fits.open(path, memmap=True)) if isinstance(h, fits.BinTableHDU)]
            rows = [
                r
                for h in tables
                if {"DATA", "OBSMODE"} <= set(h.columns.names) and len(h.data)
                for r in _rows(str(path), h)
            ]
    except (OSError, ValueError, TypeError, LookupError, Warning, fits.VerifyError) as error:
        if isinstance(error, StoreUnusable):
            raise
        why = getattr(error, "strerror", None) or str(error).partition("\n")[0]
        raise StoreUnusable(f"cannot be read as FITS: {why}", array=str(path), fix="is the file complete?") from None
    if not rows:
        raise StoreUnusable(
            "not GBT SDFITS", array=str(path), rule="a binary table with columns DATA, SCAN, OBSMODE, ..."
        )
    return rows


def _rows(file: str, table: Any) -> Iterator[_Row]:
    n, values = len(table.data), {}
    for name, default in _COLUMNS.items():  # a constant column may be a keyword of the header instead
        values[name] = table.data[name] if name in table.columns.names else [table.header.get(name, default)] * n
        if values[name][0] is None:
            raise StoreUnusable("column is missing", array=f"{file}: {name}", rule="a column or a header keyword")
    for i, spectrum in enumerate(table.data["DATA"].reshape(n, -1)):
        text = {name: str(values[name][i]).strip() for name in _TEXT}
        v = {name: float(values[name][i]) for name in _COLUMNS if name not in _TEXT}
        try:
            v["mid"] = float((np.datetime64(text["DATE-OBS"], "us") - MJD_0) / np.timedelta64(1, "D"))
        except ValueError:
            v["mid"] = nan
        for name in (*_FINITE, "DATE-OBS"):
            if not isfinite(v.get(name, v["mid"])):
                raise StoreUnusable("no usable value", array=f"{file}: row {i}, {name}", value={**text, **v}[name])
        v["mid"] += 0.5 / 86400.0 * (v["DURATION"] if v["DURATION"] > 0.0 else v["EXPOSURE"])
        centre = v["CRVAL1"] + (0.5 * (spectrum.size + 1) - v["CRPIX1"]) * v["CDELT1"]
        v["t_cold"] = 54.0 - 0.6 * (centre / 1e9 - 77.0)
        band = f"F{v['FDNUM']:.0f}I{v['IFNUM']:.0f}P{v['PLNUM']:.0f}"
        tuning_id = f"{band}:{v['RESTFREQ']:.0f}:{v['CDELT1']:.9g}:{v['VELOCITY']:.9g}"
        yield _Row(file, spectrum, ScanId(int(v["SCAN"]), f"band_{band}"), tuning_id, text, v)


def _by_scan(rows: list[_Row]) -> dict[ScanId, list[_Row]]:
    """Integrations by scan, band and time; what belongs to the whole scan must be the same in all of them."""
    scans: dict[ScanId, list[_Row]] = {}
    for row in sorted(rows, key=lambda r: (r.scan, r.number["mid"])):
        scans.setdefault(row.scan, []).append(row)
    for scan, members in scans.items():
        where = f"{members[-1].file}: {scan}"
        columns = {name: sorted({str(r.text.get(name, r.number.get(name))) for r in members}) for name in _OF_SCAN}
        columns["length of DATA"] = sorted({str(r.spectrum.size) for r in members})
        for name, values in columns.items():
            if len(values) > 1:
                raise StoreUnusable(
                    "not one value in a scan", array=f"{where}, {name}", value=values, fix="split the sessions"
                )
        if len({(r.text["DATE-OBS"], r.text["SIG"], r.text["CAL"]) for r in members}) < len(members):
            raise StoreUnusable("an integration is there twice", array=f"{where}, DATE-OBS", fix="give each file once")
    return scans


def _procedure(rows: list[_Row]) -> str:
    """First word of OBSMODE; empty if noise diode, frequency switching or the frequency frame rule the scan out."""
    usable = all((r.text["SIG"], r.text["CAL"], r.text["CTYPE1"]) == ("T", "F", "FREQ-OBS") for r in rows)
    return rows[0].text["OBSMODE"].split(":")[0] if usable else ""


def _load_groups(scans: dict[ScanId, list[_Row]], left_out: dict[ScanId, str]) -> list[_Group]:
    """The CALSEQ scans that have both loads."""
    groups = []
    for scan, rows in scans.items():
        if _procedure(rows) != "CALSEQ":
            continue
        frontend, feed = rows[0].text["FRONTEND"], int(rows[0].number["FDNUM"])
        at = {p: [r for r in rows if r.text["CALPOSITION"] == p] for p in ("Cold1", "Cold2", "Observing")}
        if frontend != FRONTEND or feed not in WARM_POSITION:
            left_out[scan] = f"FRONTEND {frontend}, FDNUM {feed}: loads are known for FDNUM 0 and 1 of {FRONTEND}"
        elif not (at["Cold1"] and at["Cold2"]):
            left_out[scan] = "CALSEQ without integrations at both Cold1 and Cold2"
        else:
            hot, cold, sky = at.pop(WARM_POSITION[feed]), *at.values()
            _check_loads(f"{hot[0].file}: {scan}", hot, cold)
            subscans = [("HOT", hot), ("COLD", cold), *([("SKY", sky)] if sky else [])]
            groups.append(_Group(scan, "calibration", hot[0], subscans))
    return groups


def _check_loads(where: str, hot: list[_Row], cold: list[_Row]) -> None:
    """The ambient load must be the brighter one, and its temperature in kelvin."""
    level = [np.mean([np.nansum(r.spectrum, dtype=np.float64) / r.spectrum.size for r in rows]) for rows in (hot, cold)]
    if not level[0] > level[1]:
        raise StoreUnusable(
            "position and counts of the loads disagree", array=f"{where}, CALPOSITION",
            value=f"{level[0]:.4g} counts at {hot[0].text['CALPOSITION']}, {level[1]:.4g} at {cold[0].text['CALPOSITION']}",
            rule="the ambient load is the brighter one, at Cold2 for FDNUM 0, at Cold1 for FDNUM 1",
        )  # fmt: skip
    for t in (
        r.number["TWARM"] for r in hot if not 200.0 < r.number["TWARM"] < 340.0
    ):  # the unit may say K for Celsius
        raise StoreUnusable("no ambient temperature", array=f"{where}, TWARM", value=t, rule="200 to 340 K, in kelvin")


def _science_groups(scans: dict[ScanId, list[_Row]], left_out: dict[ScanId, str]) -> list[_Group]:
    """The pairs of scans that give an ON and an OFF."""
    groups: list[_Group] = []
    seconds: set[ScanId] = set()
    for scan, rows in scans.items():
        procedure, partner = _procedure(rows), ScanId(scan.number + 1, scan.band)
        first, second = rows[0], scans.get(partner, [])
        if procedure == "CALSEQ" or scan in seconds:
            continue
        scans_of_pair = [(x, x[0]) for x in (rows, second) if x]
        alike = {(_procedure(x), r.text["OBJECT"], r.tuning_id, r.spectrum.size) for x, r in scans_of_pair}
        is_pair = procedure in PAIRS and len(alike) == 1 and [r.number["PROCSEQN"] for _, r in scans_of_pair] == [1, 2]
        if is_pair:
            seconds.add(partner)
        if procedure not in PAIRS:
            found = {name: sorted({r.text[name] for r in rows}) for name in ("OBSMODE", "SIG", "CAL", "CTYPE1")}
            left_out[scan] = "not supported: " + ", ".join(
                f"{name} {'/'.join(values)}" for name, values in found.items()
            )
        elif not is_pair:
            left_out[scan] = f"scan {first.number['PROCSEQN']:.0f} of a {procedure} pair, without the other"
        elif first.on_source == second[0].on_source:
            left_out[scan] = f"no ON and OFF: on source {'twice' if first.on_source else 'in neither scan of the pair'}"
        else:
            groups.append(
                _Group(scan, "source", first, [("OTF-ON" if r.on_source else "OTF-OFF", x) for x, r in scans_of_pair])
            )
    return groups


def _write_all(out: Path, loads: list[_Group], science: list[_Group]) -> list[str]:
    """Write to a folder beside the output, then rename it."""
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        writer = L0Writer(temporary, {"telescope": "GBT", "instrument": FRONTEND})
        lines = [_write(writer, group, loads) for group in sorted([*loads, *science], key=lambda g: g.scan)]
        disk.make_durable(temporary)
        if not disk.rename(temporary, out):
            raise disk.not_empty(out)
    finally:
        disk.remove_tree(temporary)
    return lines


def _write(writer: L0Writer, group: _Group, loads: list[_Group]) -> str:
    first, arrays = group.first, _small_arrays(group)
    name, mode, tuning, n_dump = (
        first.text["OBJECT"],
        first.text["OBSMODE"],
        first.tuning_id,
        int(arrays["n_dump"].max()),
    )
    if group.name == "source":
        fitting = [g for g in loads if g.first.tuning_id == tuning]
        number = max((g.scan.number for g in fitting if g.first.number["mid"] < first.number["mid"]), default=0)
        arrays["lloadsn"] = np.full(len(group.subscans), number, np.int32)
        note = f"loads of scan {number}" if number else "loads found by time" if fitting else "NO LOADS of this tuning"
    else:
        note = f"loads at {arrays['thot'][0]:.2f} and {arrays['tcold'][1]:.2f} K"
    kinds = {"frequency_frame": "topocentric", "ref_channel_base": 1, "time_ref": "mid", "exptime_kind": "subscan"}
    about = {"source_name": name, "instmode": "TP", "tuning_id": tuning, "obsmode": mode}
    rest = {"rest_frequency_hz": first.number["RESTFREQ"]} if first.number["RESTFREQ"] > 0.0 else {}
    writer.scan(group.scan, about | kinds | rest)
    block = np.full(shape := (first.spectrum.size, n_dump, 1, 1, len(group.subscans)), nan, np.float32)
    for s, (_, rows) in enumerate(group.subscans):
        block[:, : len(rows), 0, 0, s] = np.transpose([row.spectrum for row in rows])
    writer.group(group.scan, group.name, arrays, shape, block.dtype).write_all(block)
    dumps = ", ".join(f"{kind} x {len(rows)}" for kind, rows in group.subscans)
    return f"{group.scan}: {group.name}, {name}, {mode}, {dumps}, {len(block)} channels, {note}"


def _small_arrays(group: _Group) -> dict[str, Any]:
    """Means over the integrations of each subscan."""
    subscans = [rows for _, rows in group.subscans]

    def mean(name: str) -> NDArray[np.float64]:
        return np.array([np.mean([r.number[name] for r in rows]) for rows in subscans])

    turns = [np.mean(np.exp([1j * np.radians(r.number["AZIMUTH"]) for r in rows])) for rows in subscans]
    n_dump = np.array([len(rows) for rows in subscans], np.int32)
    arrays: dict[str, Any] = {
        "sobsmode": [kind for kind, _ in group.subscans], "n_dump": n_dump, "exptime": mean("EXPOSURE") * n_dump,
        "elevation": np.radians(mean("ELEVATIO")), "azimuth": np.angle(turns) % (2.0 * np.pi), "tamb": mean("TAMBIENT"),
        "pamb": mean("PRESSURE"), "signal_freq": mean("CRVAL1"), "image_freq": mean("CRVAL1"), "freq_res": mean("CDELT1"),
        "ref_channel": mean("CRPIX1"), "gain_sig": np.float64(1.0), "gain_img": np.float64(0.0), "mjd": mean("mid"),
        "frontend_backends": [[f"{group.first.text['FRONTEND']}_{group.scan.band[5:]}"]],
    }  # fmt: skip
    return arrays | ({"thot": mean("TWARM"), "tcold": mean("t_cold")} if group.name == "calibration" else {})
