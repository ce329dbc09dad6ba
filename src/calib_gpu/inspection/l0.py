"""Tables about an L0 store and its scans."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from calib_gpu.backend import get_backend
from calib_gpu.config_files import fitting_profiles, load_profile
from calib_gpu.errors import CalibError, ScanFailure
from calib_gpu.inspection.layout import layout_line, layout_warnings
from calib_gpu.inspection.tables import Table, size_text
from calib_gpu.load_choice import LoadFinder
from calib_gpu.load_index import LoadIndex
from calib_gpu.physics.frequency import SPEED_OF_LIGHT, frequency_axes
from calib_gpu.qa.load_summary import summarise
from calib_gpu.records import CountGroup, ScanId
from calib_gpu.scan_run import LOAD_TILE_BYTES
from calib_gpu.selection import is_science
from calib_gpu.settings import Settings
from calib_gpu.stages.load import Reader, open_scan, read_load_set, read_offs
from calib_gpu.stages.prepare import pair_subscans
from calib_gpu.stages.resolve import bad_channel_rule, calibrate_loads, receiver, set_powers
from calib_gpu.store.l0 import L0Store
from calib_gpu.store.pixel_arrays import PixelArrays
from calib_gpu.workers import Workers


def _counts(group: CountGroup) -> str:
    kinds = [s.kind for s in group.subscans]
    found = [(kind, kinds.count(kind)) for kind in ("ON", "OFF", "HOT", "COLD", "SKY", "ZERO", "")]
    return " ".join(f"{n} {kind or 'unknown'}" for kind, n in found if n)


def _shape(group: CountGroup) -> str:
    return "x".join(map(str, group.shape))


def _size(group: CountGroup) -> str:
    return size_text(math.prod(group.shape) * group.counts.dtype.itemsize)


def l0_overview(store: L0Store, ids: list[ScanId], settings: Settings) -> Table:
    """One row a scan: what it is, its size, and which loads serve it; warnings about the layout of the counts."""
    index = LoadIndex.of(store, settings)
    finder = LoadFinder(index, settings, lambda scan: True)
    rows = [_l0_row(store, scan, settings, finder) for scan in ids]
    attrs = store.attrs
    notes = [f"{name}: {attrs[name]}" for name in ("telescope", "instrument") if name in attrs]
    notes.append("loads as the metadata tell; shape is C x D x R x A x S")
    notes.append(_suggested_profile(attrs))
    notes += _store_layout_warnings(store, ids)
    columns = ("scan", "kind", "mode", "source", "shape", "size", "subscans", "GHz", "loads from", "age s")
    return Table(f"L0 {store.path}", columns, rows, tuple(notes))


def _store_layout_warnings(store: L0Store, ids: list[ScanId]) -> list[str]:
    """Each warning once, with the number of scans to which it applies."""
    scans: dict[str, list[ScanId]] = {}
    for scan in ids:
        try:
            groups = [store.group(scan, name) for name in ("source", "calibration") if store.has(scan, name)]
        except ScanFailure:
            continue  # its row says what is wrong
        for text in dict.fromkeys(w for group in groups for w in layout_warnings(group.counts)):
            scans.setdefault(text, []).append(scan)
    return [f"slow or unsafe: {text} ({len(found)} scan(s), e.g. {found[0]})" for text, found in scans.items()]


def _suggested_profile(attrs: Mapping[str, Any]) -> str:
    """The telescope profile whose name fits the store; it is never taken by itself."""
    fitting = fitting_profiles([str(attrs.get(name, "")) for name in ("telescope", "instrument")])
    if fitting:
        bare = [
            name for name in fitting if load_profile(name).source.get("atmosphere", "").startswith("no built-in table")
        ]
        hint = (
            f" ({' and '.join(bare)}: no built-in table covers the band; add --atmosphere none, or a table of your own)"
            if bare
            else ""
        )
        return f"telescope profile that fits: --profile {' or '.join(fitting)}{hint}"
    return "no shipped telescope profile fits: --profile generic, or a TOML file of your own"


def _l0_row(store: L0Store, scan: ScanId, settings: Settings, finder: LoadFinder) -> tuple[str, ...]:
    try:
        if not is_science(store, scan):
            if not store.has(scan, "calibration"):
                return (str(scan), "other", *[""] * 8)
            group = store.group(scan, "calibration")
            state = finder.index.incomplete.get(scan, "")
            return (str(scan), "calibration", "", str(group.attrs.get("source_name", "")), _shape(group),
                    _size(group), _counts(group), f"{group.tuning.signal_0 / 1e9:.3f}", state, "")  # fmt: skip
        opened, mode = open_scan(store, scan, settings)
        source = opened.source
        head = (str(scan), "science", mode.name, str(source.attrs.get("source_name", "")), _shape(source),
                _size(source), _counts(source), f"{source.tuning.signal_0 / 1e9:.3f}")  # fmt: skip
    except ScanFailure as error:
        return (str(scan), "unusable", "", "", "", "", str(error), "", "", "")
    try:
        choice = finder.find(scan, source)
    except CalibError as error:
        return (*head, error.kind, "")
    return (*head, " + ".join(str(s) for s in choice.scans), f"{choice.age_s:.0f}")


def l0_scan(store: L0Store, scan: ScanId, settings: Settings) -> list[Table]:
    """Tables about one scan: subscans, tuning, layout, loads that serve it, which OFF serves which ON, what the loads say."""
    tables: list[Table] = []
    workers = Workers(settings.workers or 1)
    reader = Reader(get_backend(settings.backend), workers, LOAD_TILE_BYTES, PixelArrays())
    try:
        present = [name for name in ("source", "calibration") if store.has(scan, name)]
        groups = [store.group(scan, name) for name in present]
        tables += [_subscan_table(group, scan) for group in groups]
        tables += [_tuning_table(groups, scan), _layout_table(groups, scan)] if groups else []
        if is_science(store, scan):
            tables.append(_serving_table(store, scan, settings))
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
    columns = ("S", "sobsmode", "class", "time s", "exptime s", "elevation deg", "dumps")
    return Table(f"{scan}/{group.name}", columns, rows, (f"shape C,D,R,A,S = {group.shape}",))


def _tuning_table(groups: list[CountGroup], scan: ScanId) -> Table:
    rows = []
    for group in groups:
        t = group.tuning
        first, last, image_first, image_last = (f / 1e9 for f in t.ends())
        rows.append(
            (group.name, f"{t.signal_0 / 1e9:.6f}", f"{first:.6f} to {last:.6f}", f"{t.image_0 / 1e9:.6f}",
             f"{image_first:.6f} to {image_last:.6f}", f"{t.spacing / 1e3:.3f}",
             f"{abs(t.spacing) / t.signal_0 * SPEED_OF_LIGHT / 1e3:.4f}", f"{t.ref_channel:g}", t.tuning_id or "")
        )  # fmt: skip
    columns = ("group", "signal GHz", "signal band", "image GHz", "image band", "kHz a channel", "km/s", "ref channel",
               "tuning_id")  # fmt: skip
    frame = groups[0].attrs.get("frequency_frame", "not given, taken as topocentric")
    return Table(f"{scan}: tuning", columns, rows, (f"reference channel counted from 0; frame: {frame}",))


def _layout_table(groups: list[CountGroup], scan: ScanId) -> Table:
    rows = [(group.name, layout_line(group.counts)) for group in groups]
    notes = [f"slow or unsafe: {group.name}: {text}" for group in groups for text in layout_warnings(group.counts)]
    return Table(f"{scan}: counts on disk", ("group", "layout"), rows, tuple(notes))


def _serving_table(store: L0Store, scan: ScanId, settings: Settings) -> Table:
    """Which load sets serve the scan, and that before them, as the metadata tell."""
    index = LoadIndex.of(store, settings)
    source = open_scan(store, scan, settings)[0].source
    title, columns = (
        f"{scan}: loads that serve it",
        ("load set", "use", "minutes before the ONs", "HOT", "COLD", "T_hot K", "T_cold K"),
    )
    try:
        choice = LoadFinder(index, settings, lambda scan: True).find(scan, source)
    except CalibError as error:
        return Table(title, ("problem",), [(f"{error.kind}: {error}",)])
    time = source.absolute_us(source.of_kind("ON"))
    uses = [(s, "calibration") for s in choice.scans]
    if choice.previous is not None:
        uses.append((choice.previous, "gain drift"))
    rows = []
    for which, use in uses:
        candidate = index.by_scan[which]
        group = candidate.group
        hot, cold = group.of_kind("HOT"), group.of_kind("COLD")
        kelvin = [
            f"{float(np.nanmean(np.broadcast_to(group.arrays[name], (group.shape[4],))[[s.index for s in subscans]])):.2f}"
            for name, subscans in (("thot", hot), ("tcold", cold))
        ]
        subscans = (" ".join(str(s.index) for s in kind) for kind in (hot, cold))
        rows.append((str(which), use, f"{(time - candidate.time_us) / 6e7:.2f}", *subscans, *kelvin))
    notes = (f"loads {settings.loads}; HOT and COLD are subscan numbers", *choice.warnings)
    return Table(title, columns, rows, notes)


def _pairing_table(store: L0Store, scan: ScanId, settings: Settings, reader: Reader) -> Table:
    opened, mode = open_scan(store, scan, settings)
    offs, _, _ = read_offs(opened, mode, settings, reader)
    pairing = pair_subscans(opened, offs, settings)
    subscans = opened.source.subscans
    rows = []
    for on, refs, weights in zip(pairing.on.tolist(), pairing.ref.tolist(), pairing.weight.tolist(), strict=True):
        used = [(r, w) for r, w in zip(refs, weights, strict=True) if w > 0.0]
        apart = ((subscans[r].time_us - subscans[on].time_us) / 1e6 for r, _ in used)
        rows.append((str(on), " + ".join(f"{w:.3f} x {r}" for r, w in used), " ".join(f"{s:+.1f}" for s in apart)))
    left = [str(s.index) for s in opened.source.of_kind("OFF") if s.index not in offs.index]
    dumps = "the mean of its valid dumps" if offs.reference is offs.mean else "its first valid dump"
    notes = [f"mode {mode.name}, reference {settings.reference}; of an OFF: {dumps}"]
    notes += [f"without a valid dump, not used: OFF subscan {', '.join(left)}"] if left else []
    columns = ("ON subscan", "OFF subscan", "OFF after ON, s")
    return Table(f"{scan}: reference of each ON", columns, rows, tuple(notes))


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
    one_band = rx.gains.single_sideband
    return Table(
        f"{scan}: loads (inner 80 % of the band)",
        tuple("T_rec K" if one_band and c == "T_rec,DSB K" else c for c in columns),
        rows,
        ("T_rec in the Planck convention; T_sys without atmosphere",),
    )
