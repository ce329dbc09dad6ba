"""GBT SDFITS with a hot and a cold load, turned into L0.

Taken are scans ``CALSEQ`` of the W-band receiver as loads, and pairs of scans ``Nod``, ``OnOff`` or ``OffOn`` as science; total
power, no noise diode. Each feed, IF and polarisation is a band (``band_F0I1P0``); a pair is one science scan of two subscans,
whose dumps are the integrations. What was decided:

- Time: DATE-OBS is the *start* of an integration (the LST column, that of the middle, is 0.50 s later for integrations of 1.00 s).
  ``mjd`` is the mean of the mid-times of the integrations (``time_ref`` "mid"), which may have gaps between them.
- Reference: subscans are called ``OTF-ON`` and ``OTF-OFF``, so that the reference is the *mean* of all OFF integrations; with a
  plain ``OFF`` it would be the first integration alone, which is noisier.
- Loads: feed 1 (FDNUM 0) sees the ambient load at Cold2, feed 2 at Cold1; the counts must agree (it is the brighter one). T_hot is
  TWARM, T_cold = 54 K - 0.6 K (nu / GHz - 77) at mid-band; column TCOLD, a sensor in the cryostat, is not used.
- Single sideband: gain_sig 1, gain_img 0. The image axis that L0 requires mirrors the signal axis; nothing is computed from it.
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
WARM_POSITION: Final = {0: "Cold2", 1: "Cold1"}
"""CALPOSITION of the ambient load by FDNUM."""
ON_SOURCE_DEG: Final = 1e-4
"""Largest FEEDXOFF, FEEDEOFF [deg] of a feed that is on source."""
MJD_0: Final = np.datetime64("1858-11-17", "us")
SUPPORTED: Final = "Nod, OnOff or OffOn pairs, total power, no noise diode (SIG T, CAL F), CTYPE1 FREQ-OBS"

_COLUMNS: Final = {
    "OBJECT": None, "OBSMODE": None, "CALPOSITION": "Observing", "FRONTEND": None, "CTYPE1": None, "SIG": "T", "CAL": "F",
    "TIMESTAMP": "", "DATE-OBS": None, "SCAN": None, "FDNUM": None, "IFNUM": None, "PLNUM": None, "PROCSEQN": None,
    "EXPOSURE": None, "CRVAL1": None, "CRPIX1": None, "CDELT1": None, "RESTFREQ": None, "VELOCITY": 0.0, "ELEVATIO": nan,
    "AZIMUTH": nan, "TAMBIENT": nan, "PRESSURE": nan, "FEEDXOFF": inf, "FEEDEOFF": inf, "TWARM": nan, "DURATION": nan,
}  # fmt: skip
"""The columns that are read, and what stands for an absent one (None: required)."""
_TEXT: Final = list(_COLUMNS)[:9]
_FINITE: Final = [name for name, default in _COLUMNS.items() if default is None and name not in _TEXT]
_OF_SCAN: Final = ("OBJECT", "OBSMODE", "FRONTEND", "CTYPE1", "TIMESTAMP", "PROCSEQN", "RESTFREQ", "CDELT1", "CRPIX1", "VELOCITY")


@dataclass(frozen=True)
class _Row:
    """One integration: its spectrum [C], still on disk, and its columns by name; ``mid`` is its mid-time, MJD (UTC)."""

    file: str
    spectrum: NDArray[Any]
    text: dict[str, str]
    number: dict[str, float]
    mid: float

    @property
    def scan(self) -> ScanId:
        n = self.number
        return ScanId(int(n["SCAN"]), f"band_F{n['FDNUM']:.0f}I{n['IFNUM']:.0f}P{n['PLNUM']:.0f}")

    @property
    def tuning_id(self) -> str:
        n = self.number
        return f"{self.scan.band[5:]}:{n['RESTFREQ']:.0f}:{n['CDELT1']:.9g}:{n['VELOCITY']:.9g}"

    @property
    def procedure(self) -> str:
        return self.text["OBSMODE"].split(":")[0]

    @property
    def on_source(self) -> bool:
        """A nod changes the feed that is on source, position switching moves the telescope."""
        if self.procedure == "Nod":
            return max(abs(self.number["FEEDXOFF"]), abs(self.number["FEEDEOFF"])) <= ON_SOURCE_DEG
        return ":PSWITCHON" in self.text["OBSMODE"]

    @property
    def t_cold(self) -> float:
        """Effective temperature of the cold load at the middle of the band [K]."""
        n = self.number
        return 54.0 - 0.6 * ((n["CRVAL1"] + (0.5 * (self.spectrum.size + 1) - n["CRPIX1"]) * n["CDELT1"]) / 1e9 - 77.0)


class _Group(NamedTuple):
    """A ``source`` or ``calibration`` to be written: its subscans are (sobsmode, integrations)."""

    scan: ScanId
    name: str
    first: _Row
    subscans: list[tuple[str, list[_Row]]]


Scans = dict[ScanId, list[_Row]]


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
    ConfigError
        astropy is not installed, or no path was given.
    StoreUnusable
        Not SDFITS, no hot and cold load, nothing to calibrate, or data that contradict each other.
    OutputError
        ``out`` holds something, or cannot be written.

    """
    try:
        from astropy.io import fits
    except ImportError:
        raise ConfigError("astropy reads FITS, and is not here", fix="pip install 'calib-gpu[fits]'") from None
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise disk.not_empty(out)
    files = [f for p in map(Path, paths) for f in (sorted(p.glob("*.fits")) if p.is_dir() else [p])]
    if not files:
        raise ConfigError("no FITS file", array="paths", value=", ".join(map(str, paths)), rule="files, or folders with *.fits")
    with ExitStack() as opened:
        scans = _by_scan([row for path in files for row in _read(path, fits, opened)])
        left_out: dict[ScanId, str] = {}
        loads, science = _load_groups(scans, left_out), _science_groups(scans, left_out)
        notes = [f"{scan}: left out: {reason}" for scan, reason in sorted(left_out.items())]
        if not loads or not science:
            found = {f"{r.text['OBSMODE']} at {r.text['CALPOSITION']}" for rows in scans.values() for r in rows}
            raise StoreUnusable(
                "no scan to calibrate" if loads else "no hot and cold load", array=f"{files[0]}: OBSMODE, CALPOSITION",
                value="; ".join([*sorted(found)[:6], *notes[:3]]),
                rule=SUPPORTED if loads else f"a CALSEQ scan of {FRONTEND} with integrations at Cold1 and at Cold2",
                fix="add the files with those scans" + ("" if loads else "; an ambient vane alone is not enough"),
            )  # fmt: skip
        return _write_all(out, loads, science) + notes


def _read(path: Path, fits: Any, opened: ExitStack) -> list[_Row]:
    """The integrations of a file; spectra are memory-mapped."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks on the style of the header
            warnings.filterwarnings("error", message=".*truncated.*")
            tables = [h for h in opened.enter_context(fits.open(path, memmap=True)) if isinstance(h, fits.BinTableHDU)]
            rows = [r for h in tables if {"DATA", "OBSMODE"} <= set(h.columns.names) for r in _rows(str(path), h)]
    except (OSError, ValueError, TypeError, LookupError, Warning, fits.VerifyError) as error:
        if isinstance(error, StoreUnusable):
            raise
        reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
        raise StoreUnusable(f"cannot be read as FITS: {reason}", array=str(path), fix="is the file complete?") from None
    if not rows:
        raise StoreUnusable("not GBT SDFITS", array=str(path), rule="a binary table with columns DATA, SCAN, OBSMODE, ...")
    return rows


def _rows(file: str, table: Any) -> Iterator[_Row]:
    n, values = len(table.data), {}
    for name, default in _COLUMNS.items():  # a constant column may be a keyword of the header instead
        values[name] = table.data[name] if name in table.columns.names else [table.header.get(name, default)] * n
        if n and values[name][0] is None:
            raise StoreUnusable("column is missing", array=f"{file}: {name}", rule="a column or a header keyword")
    for i, spectrum in enumerate(table.data["DATA"].reshape(n, -1)):
        text = {name: str(values[name][i]).strip() for name in _TEXT}
        number = {name: float(values[name][i]) for name in _COLUMNS if name not in _TEXT}
        half = 0.5 / 86400.0 * (number["DURATION"] if number["DURATION"] > 0.0 else number["EXPOSURE"])
        try:
            mid = half + float((np.datetime64(text["DATE-OBS"], "us") - MJD_0) / np.timedelta64(1, "D"))
        except ValueError:
            mid = nan
        for name in (*_FINITE, "DATE-OBS"):
            if not isfinite(number.get(name, mid)):
                raise StoreUnusable("no usable value", array=f"{file}: row {i}, {name}", value={**text, **number}[name])
        yield _Row(file, spectrum, text, number, mid)


def _by_scan(rows: list[_Row]) -> Scans:
    """Integrations by scan, band and time; what belongs to the whole scan must be the same in all of them."""
    scans: Scans = {}
    for row in sorted(rows, key=lambda r: (r.scan, r.mid)):
        scans.setdefault(row.scan, []).append(row)
    for scan, members in scans.items():
        columns = {name: sorted({str(r.text.get(name, r.number.get(name))) for r in members}) for name in _OF_SCAN}
        columns["length of DATA"] = sorted({str(r.spectrum.size) for r in members})
        for name, values in columns.items():
            if len(values) > 1:
                raise StoreUnusable("more than one value in a scan", array=f"{members[0].file}: {scan}, {name}",
                                    value=", ".join(values[:3]), fix="one session, and one bank of an IF, to a store")  # fmt: skip
        if len({(r.mid, r.text["SIG"], r.text["CAL"]) for r in members}) < len(members):
            raise StoreUnusable("an integration is there twice", array=f"{members[-1].file}: {scan}", fix="give each file once")
    return scans


def _unsupported(rows: list[_Row]) -> str:
    """Why a scan cannot be taken; empty if it can."""
    states = {(r.text["SIG"], r.text["CAL"], r.text["CTYPE1"]) for r in rows}
    return "" if states == {("T", "F", "FREQ-OBS")} else f"SIG, CAL, CTYPE1: {sorted(states)}"


def _load_groups(scans: Scans, left_out: dict[ScanId, str]) -> list[_Group]:
    """The CALSEQ scans that have both loads."""
    groups = []
    for scan, rows in scans.items():
        text, feed = rows[0].text, int(rows[0].number["FDNUM"])
        if rows[0].procedure != "CALSEQ":
            continue
        at = {p: [r for r in rows if r.text["CALPOSITION"] == p] for p in ("Cold1", "Cold2", "Observing")}
        reason = _unsupported(rows)
        if text["FRONTEND"] != FRONTEND or feed not in WARM_POSITION:
            reason = f"FRONTEND {text['FRONTEND']}, FDNUM {feed}: loads are known for FDNUM 0 and 1 of {FRONTEND}"
        elif not (at["Cold1"] and at["Cold2"]):
            reason = "CALSEQ without integrations at both Cold1 and Cold2"
        if reason:
            left_out[scan] = reason
            continue
        hot, cold = at.pop(WARM_POSITION[feed]), at.pop("Cold1" if feed == 0 else "Cold2")
        _check_loads(f"{rows[0].file}: {scan}", hot, cold)
        groups.append(_Group(scan, "calibration", hot[0], [("HOT", hot), ("COLD", cold), *(("SKY", r) for r in at.values() if r)]))
    return groups


def _check_loads(where: str, hot: list[_Row], cold: list[_Row]) -> None:
    """Check that the ambient load is the brighter one, and that its temperature is in kelvin."""
    level = [float(np.mean([np.nansum(r.spectrum, dtype=np.float64) / r.spectrum.size for r in x])) for x in (hot, cold)]
    if not level[0] > level[1]:
        raise StoreUnusable(
            "position and counts of the loads disagree", array=f"{where}, column CALPOSITION",
            value=f"{level[0]:.4g} counts at {hot[0].text['CALPOSITION']}, {level[1]:.4g} at {cold[0].text['CALPOSITION']}",
            rule="the ambient load is the brighter one, at Cold2 for FDNUM 0, at Cold1 for FDNUM 1",
        )  # fmt: skip
    for value in (r.number["TWARM"] for r in hot):
        if not 200.0 < value < 340.0:  # the unit of the column may say K for degrees Celsius
            raise StoreUnusable("no ambient temperature", array=f"{where}, column TWARM", value=value, rule="200 to 340 K")


def _science_groups(scans: Scans, left_out: dict[ScanId, str]) -> list[_Group]:
    """The pairs of scans that give an ON and an OFF."""
    groups: list[_Group] = []
    taken: set[ScanId] = set()
    for scan, rows in scans.items():
        partner = ScanId(scan.number + 1, scan.band)
        first, second = rows[0], scans.get(partner, [])
        if first.procedure == "CALSEQ" or scan in taken:
            continue
        wanted = (first.procedure, first.text["OBJECT"], first.tuning_id, first.spectrum.size, first.number["PROCSEQN"], 2)
        found = [(r.procedure, r.text["OBJECT"], r.tuning_id, r.spectrum.size, 1, r.number["PROCSEQN"]) for r in second[:1]]
        reason = _unsupported(rows) or _unsupported(second or rows)
        if first.procedure not in ("Nod", "OnOff", "OffOn"):
            reason = f"OBSMODE {first.text['OBSMODE']} is not supported"
        elif found != [wanted]:
            reason = f"scan {first.number['PROCSEQN']:.0f} of a {first.procedure} pair, without the other"
        else:
            taken.add(partner)
            if first.on_source == second[0].on_source:
                reason = f"no ON and OFF: on source {'twice' if first.on_source else 'in neither scan of the pair'}"
        if reason:
            left_out[scan] = reason
        else:
            subscans = [("OTF-ON" if r[0].on_source else "OTF-OFF", r) for r in (rows, second)]
            groups.append(_Group(scan, "source", first, subscans))
    return groups


def _write_all(out: Path, loads: list[_Group], science: list[_Group]) -> list[str]:
    """Write to a folder beside the output, then rename it."""
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        writer = L0Writer(temporary, {"telescope": "GBT", "instrument": loads[0].first.text["FRONTEND"]})
        lines = [_write(writer, group, loads) for group in sorted([*loads, *science], key=lambda g: g.scan)]
        disk.sync_dirs_below(temporary)
        if not disk.rename(temporary, out):
            raise disk.not_empty(out)
    finally:
        disk.remove_tree(temporary)
    return lines


def _write(writer: L0Writer, group: _Group, loads: list[_Group]) -> str:
    first, shape = group.first, (group.first.spectrum.size, max(len(rows) for _, rows in group.subscans))
    attrs: dict[str, Any] = {
        "source_name": first.text["OBJECT"], "instmode": "TP", "procedure": first.procedure, "tuning_id": first.tuning_id,
        "sdfits_scans": sorted({r.scan.number for _, rows in group.subscans for r in rows}), "ref_channel_base": 1,
        "frequency_frame": "topocentric", "time_ref": "mid", "exptime_kind": "subscan",
    }  # fmt: skip
    arrays = _small_arrays(group)
    if group.name == "source":
        fitting = [g for g in loads if g.first.tuning_id == first.tuning_id]
        number = max((g.scan.number for g in fitting if g.first.mid < first.mid), default=0)
        arrays["lloadsn"] = np.full(len(group.subscans), number, np.int32)
        note = f"loads of scan {number}" if number else "loads found by time" if fitting else "NO LOADS of this tuning"
    else:
        note = f"loads at {arrays['thot'][0]:.2f} and {arrays['tcold'][1]:.2f} K"
    writer.scan(group.scan, attrs)
    counts = writer.group(group.scan, group.name, arrays, (*shape, 1, 1, len(group.subscans)), np.float32)
    for r, a, span in counts.blocks():
        shard = counts.open(r, a, span)
        for s in span:
            block = np.full(shape, np.nan, np.float32)
            for d, row in enumerate(group.subscans[s][1]):
                block[:, d] = row.spectrum
            shard.append(block)
        shard.close()
    dumps = ", ".join(f"{kind} x {len(rows)}" for kind, rows in group.subscans)
    return f"{group.scan}: {group.name}, {first.text['OBJECT']}, {first.procedure}, {dumps}, {shape[0]} channels, {note}"


def _small_arrays(group: _Group) -> dict[str, Any]:
    """Average what belongs to the integrations of each subscan."""
    subscans = [rows for _, rows in group.subscans]

    def mean(name: str) -> NDArray[np.float64]:
        return np.array([np.mean([r.number[name] for r in rows]) for rows in subscans])

    turns = [np.mean([np.exp(1j * np.radians(r.number["AZIMUTH"])) for r in rows]) for rows in subscans]
    arrays: dict[str, Any] = {
        "sobsmode": [kind for kind, _ in group.subscans], "n_dump": np.array([len(rows) for rows in subscans], np.int32),
        "mjd": np.array([np.mean([r.mid for r in rows]) for rows in subscans]),
        "exptime": np.array([sum(r.number["EXPOSURE"] for r in rows) for rows in subscans]),
        "elevation": np.radians(mean("ELEVATIO")), "azimuth": np.angle(turns) % (2.0 * np.pi),
        "pamb": mean("PRESSURE"), "tamb": mean("TAMBIENT"),  # mmHg is Torr
        "signal_freq": mean("CRVAL1"), "image_freq": mean("CRVAL1"), "freq_res": mean("CDELT1"), "ref_channel": mean("CRPIX1"),
        "frontend_backends": [[f"{group.first.text['FRONTEND']}_{group.scan.band[5:]}"]],
        "gain_sig": np.float64(1.0), "gain_img": np.float64(0.0),
    }  # fmt: skip
    if group.name == "calibration":
        arrays |= {"thot": mean("TWARM"), "tcold": np.array([np.mean([r.t_cold for r in rows]) for rows in subscans])}
    return arrays
