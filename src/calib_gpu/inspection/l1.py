"""Tables about an L1 store and its scans."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from calib_gpu import schema
from calib_gpu.inspection.tables import Table, chosen, named, size_text
from calib_gpu.records import ScanId
from calib_gpu.store.chunks import ChunkedArray
from calib_gpu.store.l1_store import published_scans
from calib_gpu.store.metadata import group_attrs


def l1_tables(path: Path, which: ScanId | None) -> list[Table]:
    """All scans, or one in detail, with its failure if it failed when last tried."""
    scans = published_scans(path)
    if which is not None:
        failed = [f["message"] for f in _failures(path) if f["scan"] == str(which) or f["scan"].startswith(f"{which}/")]
        there = named(scans, which) if failed else chosen(scans, which, path)
        tables = [table for scan in there for table in _l1_scan(path, scan)]
        if failed:
            tables.append(Table(f"{which}: not calibrated when last tried", ("failure",), [(text,) for text in failed]))
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
                    size_text(_on_disk(attrs, row.name)),
                    row.unit,
                    str(array.meta.attrs.get("long_name", row.meaning)),
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
        Table(f"{scan}: arrays", ("array", "axes", "shape", "type", "on disk", "unit", "meaning"), arrays),
        Table(f"{scan}: attributes", ("name", "value"), scalars + used),
        Table(f"{scan}: QA", ("metric", "value [R][A]"), qa),
    ]


def _on_disk(attrs: dict[str, Any], array: str) -> int:
    """Bytes of the files of an array, as the list in the scan's attributes has them ("size:crc32c")."""
    files = attrs.get("files", {})
    return sum(int(entry.partition(":")[0]) for name, entry in files.items() if name.startswith(f"{array}/"))


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
