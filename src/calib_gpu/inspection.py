"""What is in an L0 or L1 store, as tables of text: the logic behind ``calib-gpu inspect``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from calib_gpu import schema
from calib_gpu.backend import get_backend
from calib_gpu.config_files import shipped_profiles
from calib_gpu.errors import CalibError, ConfigError, ScanFailure, StoreUnusable
from calib_gpu.load_index import LoadFinder, LoadIndex
from calib_gpu.physics.frequency import frequency_axes
from calib_gpu.pipeline import is_science
from calib_gpu.qa.load_summary import summarise
from calib_gpu.records import CountGroup, ScanId
from calib_gpu.scan_run import LOAD_TILE_BYTES
from calib_gpu.settings import Settings
from calib_gpu.stages.load import Reader, open_scan, read_load_set, read_offs
from calib_gpu.stages.prepare import pair_subscans
from calib_gpu.stages.resolve import bad_channel_rule, calibrate_loads, receiver, set_powers
from calib_gpu.store.chunks import ChunkedArray
from calib_gpu.store.l0 import L0Store
from calib_gpu.store.metadata import group_attrs
from calib_gpu.store.pixel_arrays import PixelArrays
from calib_gpu.store.publish import FORMAT, published_scans
from calib_gpu.stream import Workers


@dataclass(frozen=True)
class Table:
    """A titled table: column names, rows of text, and lines below it."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    notes: tuple[str, ...] = ()


def inspect_store(path: Path, number: int | None, settings: Settings) -> list[Table]:
    """Tables about a store, or about one scan of it.

    Raises
    ------
    StoreUnusable
        ``path`` is no Zarr group.
    ConfigError
        The scan is not in the store.
    """
    if (path / "zarr.json").is_file() and group_attrs(path).get("format") == FORMAT:
        return _l1(path, number)
    store = L0Store(path)
    ids = store.scan_ids()
    if not ids:
        raise StoreUnusable("holds no scans", array=str(path), rule="groups named scan_NNNNNN")
    if number is None:
        return [_l0_overview(store, ids, settings)]
    return [table for scan in _chosen(ids, number, path) for table in _l0_scan(store, scan, settings)]


def _chosen(ids: list[ScanId], number: int, path: Path) -> list[ScanId]:
    chosen = [scan for scan in ids if scan.number == number]
    if not chosen:
        raise ConfigError(
            "not in the store",
            array="--scan",
            value=number,
            rule=f"scans of {path.name}: {ids[0].number} to {ids[-1].number}",
        )
    return chosen


def _counts(group: CountGroup) -> str:
    kinds = [s.kind for s in group.subscans]
    found = [(kind, kinds.count(kind)) for kind in ("ON", "OFF", "HOT", "COLD", "SKY", "ZERO", "")]
    return " ".join(f"{n} {kind or 'unknown'}" for kind, n in found if n)


def _shape(group: CountGroup) -> str:
    return "x".join(map(str, group.shape))


# --- L0 -------------------------------------------------------------------------------------------------------------


def _l0_overview(store: L0Store, ids: list[ScanId], settings: Settings) -> Table:
    index = LoadIndex.of(store, settings)
    finder = LoadFinder(index, settings, lambda scan: True)
    rows = [_l0_row(store, scan, settings, finder) for scan in ids]
    attrs = store.attrs
    notes = [f"{name}: {attrs[name]}" for name in ("telescope", "instrument") if name in attrs]
    notes.append("loads as the metadata tell; shape is C x D x R x A x S")
    notes.append(_suggested_profile(attrs))
    columns = ("scan", "kind", "mode", "source", "shape", "subscans", "GHz", "loads from", "age s")
    return Table(f"L0 {store.path}", columns, rows, tuple(notes))


def _suggested_profile(attrs: Mapping[str, Any]) -> str:
    """The telescope profile whose name fits the store; it is never taken by itself."""
    words = {str(attrs.get(name, "")).lower() for name in ("telescope", "instrument")} - {""}
    fitting = [name for name in shipped_profiles() if any(word in name for word in words)]
    if fitting:
        return f"telescope profile that fits: --profile {' or '.join(fitting)}"
    return "no shipped telescope profile fits: --profile generic, or a TOML file of your own"


def _l0_row(store: L0Store, scan: ScanId, settings: Settings, finder: LoadFinder) -> tuple[str, ...]:
    try:
        if not is_science(store, scan):
            if not store.has(scan, "calibration"):
                return (str(scan), "other", *[""] * 7)
            group = store.group(scan, "calibration")
            state = finder.index.incomplete.get(scan, "")
            return (str(scan), "calibration", "", str(group.attrs.get("source_name", "")), _shape(group), _counts(group),
                    f"{group.tuning.signal_0 / 1e9:.3f}", state, "")  # fmt: skip
        opened, mode = open_scan(store, scan, settings)
        source = opened.source
        head = (str(scan), "science", mode.name, str(source.attrs.get("source_name", "")), _shape(source), _counts(source),
                f"{source.tuning.signal_0 / 1e9:.3f}")  # fmt: skip
    except ScanFailure as error:
        return (str(scan), "unusable", "", "", "", str(error), "", "", "")
    try:
        choice = finder.find(scan, source)
    except CalibError as error:
        return (*head, error.kind, "")
    return (*head, " + ".join(str(s) for s in choice.scans), f"{choice.age_s:.0f}")


def _l0_scan(store: L0Store, scan: ScanId, settings: Settings) -> list[Table]:
    tables: list[Table] = []
    workers = Workers(settings.workers or 1)
    reader = Reader(get_backend(settings.backend), workers, LOAD_TILE_BYTES, PixelArrays())
    try:
        present = [name for name in ("source", "calibration") if store.has(scan, name)]
        tables += [_subscan_table(store.group(scan, name), scan) for name in present]
        if is_science(store, scan):
            tables.append(_pairing_table(store, scan, settings, reader))
        if "calibration" in present:
            tables.append(_load_table(store, scan, settings, reader))
    except ScanFailure as error:
        tables.append(Table(f"{scan}", ("problem",), [(str(error.at(str(scan))),)]))
    finally:
        workers.close()
    return tables


def _subscan_table(group: CountGroup, scan: ScanId) -> Table:
    rows = [
        (str(s.index), str(np.ravel(group.arrays["sobsmode"])[s.index]), s.kind or "unknown", f"{s.time_us / 1e6:.2f}",
         f"{s.exptime:g}", f"{np.degrees(s.elevation):.3f}", "" if s.n_dump is None else str(s.n_dump))
        for s in group.subscans
    ]  # fmt: skip
    notes = (
        f"shape C,D,R,A,S = {group.shape}, {group.counts.dtype}, read in chunks of {group.counts.read_chunk}",
        f"signal {group.tuning.signal_0 / 1e9:.6f} GHz, image {group.tuning.image_0 / 1e9:.6f} GHz, "
        f"spacing {group.tuning.spacing / 1e3:.3f} kHz, tuning_id {group.tuning.tuning_id}",
    )
    return Table(
        f"{scan}/{group.name}", ("S", "sobsmode", "class", "time s", "exptime s", "elevation deg", "dumps"), rows, notes
    )


def _pairing_table(store: L0Store, scan: ScanId, settings: Settings, reader: Reader) -> Table:
    opened, mode = open_scan(store, scan, settings)
    offs, _, _ = read_offs(opened, mode, settings, reader)
    pairing = pair_subscans(opened, offs, settings)
    rows = [
        (str(on), " + ".join(f"{w:.3f} x {r}" for r, w in zip(refs, weights, strict=True) if w > 0.0))
        for on, refs, weights in zip(pairing.on, pairing.ref, pairing.weight, strict=True)
    ]
    return Table(
        f"{scan}: reference of each ON",
        ("ON subscan", "OFF subscan"),
        rows,
        (f"mode {mode.name}, reference {settings.reference}",),
    )


def _load_table(store: L0Store, scan: ScanId, settings: Settings, reader: Reader) -> Table:
    """The scan's own loads per pixel: means over the inner 80 % of the band are formed before ratios."""
    group = store.group(scan, "calibration")
    loads, _ = read_load_set(scan, group, reader)
    columns = (
        "R",
        "A",
        "pixel",
        "T_hot K",
        "T_cold K",
        "Y",
        "gain counts/K",
        "T_rec,DSB K",
        "T_sys(SKY) K",
        "bad channels",
    )
    if loads is None:
        return Table(f"{scan}: loads", columns, [], ("HOT or COLD holds no valid dump",))
    rx = receiver(store.group(scan, "source") if store.has(scan, "source") else group, settings)
    t = group.tuning
    signal, image = frequency_axes(t.signal_0, t.image_0, t.spacing, t.ref_channel, group.shape[0])
    powers = set_powers(loads, signal, image, rx)
    zero = settings.zero_level if loads.zero is None else loads.zero
    cal = calibrate_loads(
        loads.hot,
        loads.cold,
        zero,
        powers,
        rx,
        bad_channel_rule(settings, group.rule.saturation),
        reader.backend,
        reader.arrays,
    )
    names = t.pixels if t.pixels is not None and len(t.pixels) == cal.bad[0].size else None
    rows = []
    for r, a in np.ndindex(cal.bad.shape[1:]):
        pixel = summarise(loads, cal, rx, r, a)
        sky = "" if pixel.t_sys_sky is None else f"{pixel.t_sys_sky:.3f}"
        rows.append(
            (str(r), str(a), names[r * cal.bad.shape[2] + a] if names else "", f"{loads.t_hot:.2f}", f"{loads.t_cold:.2f}",
             f"{pixel.y:.4f}", f"{pixel.gain:.6g}", f"{pixel.trec:.3f}", sky, str(np.count_nonzero(cal.bad[:, r, a])))
        )  # fmt: skip
    return Table(
        f"{scan}: loads (inner 80 % of the band)",
        columns,
        rows,
        ("T_rec in the Planck convention; T_sys without atmosphere",),
    )


# --- L1 -------------------------------------------------------------------------------------------------------------


def _l1(path: Path, number: int | None) -> list[Table]:
    scans = published_scans(path)
    if number is not None:
        failed = [f["message"] for f in _failures(path) if f["scan"].split("/")[0] == f"scan_{number:06d}"]
        there = [scan for scan in scans if scan.number == number] if failed else _chosen(scans, number, path)
        tables = [table for scan in there for table in _l1_scan(path, scan)]
        if failed:
            tables.append(
                Table(f"scan_{number:06d}: not calibrated when last tried", ("failure",), [(text,) for text in failed])
            )
        return tables
    rows, notes = [], ["numbers are medians over pixels"]
    for scan in scans:
        a = group_attrs(path / scan.path)
        qa = a.get("qa", {})
        medians = (_median(qa.get(name)) for name in ("trec_median", "tsys_median", "rms_ratio", "nan_fraction"))
        head = (str(scan), str(a.get("source_name", "")), str(a.get("obs_mode")))
        rows.append((*head, _text(a.get("pwv_mm"), ".3f"), str(a.get("pwv_status")), *medians))
        if qa.get("warnings"):
            notes.append(f"{scan} QA warnings: {', '.join(qa['warnings'])}")
        if a.get("transmission_corrected") is False:
            notes.append(f"{scan} is not corrected for the atmosphere")
    columns = ("scan", "source", "mode", "PWV mm", "fit", "T_rec K", "T_sys K", "rms ratio", "flagged")
    notes += [f"failed: {failure['message']}" for failure in _failures(path)]
    return [Table(f"L1 {path}", columns, rows, tuple(notes))]


def _failures(path: Path) -> list[dict[str, str]]:
    """Entries of ``failures.json``; none if it is absent or damaged."""
    try:
        found = json.loads((path / "failures.json").read_bytes())
    except (OSError, ValueError):
        return []
    return (
        [f for f in found if isinstance(f, dict) and {"scan", "message"} <= set(f)] if isinstance(found, list) else []
    )


def _l1_scan(path: Path, scan: ScanId) -> list[Table]:
    folder = path / scan.path
    attrs = group_attrs(folder)
    arrays = []
    for row in schema.L1_ARRAYS:
        if (folder / row.name).is_dir():
            array = ChunkedArray(folder / row.name, row.name, absent_is_fill=True)
            kind = "string" if array.meta.dtype is None else array.dtype.name
            arrays.append(
                (
                    row.name,
                    ",".join(str(d) for d in array.meta.dims or ()),
                    "x".join(map(str, array.shape)),
                    kind,
                    row.unit,
                    row.meaning,
                )
            )
    hidden = ("qa", "files", "settings", "inputs", "receiver")
    shown = {name: value for name, value in attrs.items() if name not in hidden}
    bits = int(attrs.get("scan_flags", 0))
    shown["scan_flags"] = f"{bits} {' '.join(str(f.name) for f in schema.ScanFlag if bits & f)}".strip()
    scalars = [(name, _short(value)) for name, value in shown.items()]
    used = [(name, f"{_short(v['value'])} ({v['from']})") for name, v in attrs.get("receiver", {}).items()]
    qa = [(name, _short(value)) for name, value in attrs.get("qa", {}).items()]
    return [
        Table(f"{scan}: arrays", ("array", "axes", "shape", "type", "unit", "meaning"), arrays),
        Table(f"{scan}: attributes", ("name", "value"), scalars + used),
        Table(f"{scan}: QA", ("metric", "value [R][A]"), qa),
    ]


def _short(value: Any) -> str:
    """A value of an attribute to be read by a person: floats with six digits."""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return f"[{', '.join(_short(v) for v in value)}]"
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_short(v)}" for name, v in value.items())
    return "none" if value is None else str(value)


def _text(value: Any, spec: str) -> str:
    return "" if value is None else format(value, spec)


def _median(values: Any) -> str:
    if values is None:
        return ""
    numbers = np.array(values, dtype=float).ravel()
    numbers = numbers[np.isfinite(numbers)]
    if not numbers.size:
        return ""
    median = float(np.median(numbers))
    return f"{median:.0f}" if median >= 100.0 else f"{median:.3g}"
