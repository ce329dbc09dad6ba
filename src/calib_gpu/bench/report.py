"""Tables of what a benchmark found, for the terminal and for docs/performance.md, from the dictionary that JSON holds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calib_gpu.bench.targets import MIB, Results, median_of
from calib_gpu.errors import ConfigError
from calib_gpu.scan_report import TIMINGS


@dataclass(frozen=True)
class Table:
    """A table: title, columns, rows of text, notes below it."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()


def read_found(path: Path) -> dict[str, Any]:
    """What ``--json`` wrote."""
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot be read: {error}", array=str(path)) from None
    if not isinstance(found, dict) or found.get("format") != "calib-gpu-bench" or found.get("version") != 1:
        raise ConfigError("not a result of calib-gpu bench", array=str(path), rule="a file written by --json")
    return found


def tables(found: dict[str, Any]) -> list[Table]:
    """All tables: machine, targets, runs of every case, stages, memory."""
    results = Results(found["cases"])
    made = [machine_table(found), target_table(found)]
    made += [case_table(name, case) for name, case in found["cases"].items()]
    made += [t for t in (stage_table(results), part_table(results), scan_table(results)) if t is not None]
    return made


def machine_table(found: dict[str, Any]) -> Table:
    """The machine and what was asked for."""
    options = found["options"]
    rows = [(key.replace("_", " "), str(value)) for key, value in found["machine"].items()]
    rows.append(("measured", f"{'preset ' + options['preset'] if options['preset'] else 'a given store'}"))
    rows.append(("runs", f"{options['repeat']} of each, in turn; medians"))
    return Table("machine", ("", ""), rows)


def target_table(found: dict[str, Any]) -> Table:
    """Targets, and whether they are met."""
    rows = []
    for t in found["targets"]:
        limit = f"{'<=' if t['at_most'] else '>='} {t['limit']:g} {t['unit']}".rstrip()
        value = "-" if t["found"] is None else f"{number(t['found'])} {t['unit']}".rstrip()
        rows.append((t["what"], limit, value, {True: "yes", False: "no", None: "-"}[t["met"]]))
    notes = () if found["options"]["preset"] == "M" else ("targets are for preset M: here nothing is judged",)
    return Table("targets", ("what", "target", "found", "met"), rows, notes)


def case_table(name: str, case: dict[str, Any]) -> Table:
    """All contenders of a case: time, speed, peak memory, size of L1; ratios to the first that has a speed."""
    title = f"{name}: {case['what']}"
    if "left_out" in case:
        return Table(title, ("left out",), [(case["left_out"],)])
    records = [r for r in case["contenders"] if r["task"] != "import"]
    first = median_of(records[0], "seconds")
    rows = []
    for r in records:
        seconds, samples = median_of(r, "seconds"), median_of(r, "samples")
        values = [run["seconds"] for run in r["runs"]]
        assert seconds is not None
        speed = ("-", "-") if not samples else (f"{samples / seconds / 1e6:.1f}", f"{1e9 * seconds / samples:.1f}")
        peak, written = median_of(r, "peak_bytes"), median_of(r, "bytes_written")
        comparable = first and samples == median_of(records[0], "samples")
        rows.append((
            r["name"], str(r["workers"] or "-"), r["cache"] if samples else "-", f"{seconds:.3f}",
            f"{min(values):.3f}-{max(values):.3f}", *speed, f"{seconds / first:.2f}" if comparable and first else "-",
            "-" if peak is None else f"{peak / MIB:.0f}", "-" if written is None else f"{written / 1e6:.1f}",
        ))  # fmt: skip
    head = ("what", "workers", "cache", "s", "range", "Msamples/s", "ns/sample", "time / first", "peak MiB", "L1 MB")
    bare = next((r for r in case["contenders"] if r["task"] == "import"), None)
    notes = (
        ()
        if bare is None
        else (f"peak of the bare interpreter: {(median_of(bare, 'peak_bytes') or 0.0) / MIB:.0f} MiB",)
    )
    return Table(title, head, rows, notes)


def stage_table(results: Results) -> Table | None:
    """Where the engine's time goes: the stages of the report, with most workers, warm."""
    record = results.find("floor", "engine")
    if record is None:
        return None
    times = {name: median_of(record, f"timings_ms.{name}") or 0.0 for name in TIMINGS}
    samples, total = median_of(record, "samples") or 0.0, 1e3 * (median_of(record, "seconds") or 0.0)
    read, written = median_of(record, "bytes_read") or 0.0, median_of(record, "bytes_written") or 0.0
    floor = results.find("floor", "floor")
    counts = 4.0 if floor is None else median_of(floor, "itemsize") or 4.0
    others = 0.0 if floor is None else median_of(floor, "other_samples") or 0.0
    handled = {"load": counts * others, "calibrate": counts * samples, "write": 10.0 * samples}
    rows = []
    for name, ms in times.items():
        rate = f"{handled[name] / ms / 1e6:.2f}" if handled.get(name) and ms else "-"
        rows.append(
            (name, f"{ms:.1f}", f"{100 * ms / total:.1f}", rate, f"{1e6 * ms / samples:.2f}" if samples else "-")
        )
    rest = total - sum(times.values())
    rows.append(("between and around", f"{rest:.1f}", f"{100 * rest / total:.1f}", "-", f"{1e6 * rest / samples:.2f}"))
    notes = (
        f"compressed: {read / 1e6:.1f} MB read, {written / 1e6:.1f} MB written, {(read + written) / total / 1e6:.2f} GB/s",
        f"GB/s of samples: {counts:.0f} bytes of counts in load (OFFs and loads) and calibrate, 10 bytes in write",
        "a scan is loaded while the one before it is calibrated, so that the sum of the stages may exceed the whole",
    )
    return Table("stages of the engine", ("stage", "ms", "%", "GB/s", "ns/sample"), rows, notes)


def part_table(results: Results) -> Table | None:
    """Where the floor's time goes."""
    record = results.find("floor", "floor")
    if record is None:
        return None
    names = {
        "others_s": "OFFs and loads: read, decoded",
        "tiles_s": "ON: read, decoded, calculated, encoded, written",
        "disk_s": "to the disk",
    }
    seconds, samples = median_of(record, "seconds") or 1.0, median_of(record, "samples") or 1.0
    rows = []
    for key, what in names.items():
        part = median_of(record, key) or 0.0
        rows.append((what, f"{1e3 * part:.1f}", f"{100 * part / seconds:.1f}", f"{1e9 * part / samples:.2f}"))
    return Table("parts of the floor", ("part", "ms", "%", "ns/sample"), rows)


def scan_table(results: Results) -> Table | None:
    """Milliseconds a scan over many tiny scans."""
    record = results.find("overhead", "engine")
    if record is None:
        return None
    scans = median_of(record, "scans") or 1.0
    rows = [
        (what, f"{1e3 * value / scans:.2f}")
        for what, value in (
            ("engine", median_of(record, "seconds")),
            ("floor", results.value("overhead", "floor")),
            ("engine, scan that is skipped", median_of(record, "skip_seconds")),
        )
        if value is not None
    ]
    rows += [(f"stage {name}", f"{(median_of(record, f'timings_ms.{name}') or 0.0) / scans:.2f}") for name in TIMINGS]
    return Table(f"{scans:.0f} tiny scans", ("what", "ms a scan"), rows)


def number(value: float) -> str:
    """Three digits."""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def as_markdown(made: Sequence[Table]) -> str:
    """The tables as Markdown."""
    parts = []
    for table in made:
        lines = [list(table.columns), ["---"] * len(table.columns), *table.rows]
        body = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
        title = table.title.replace("*", "\\*")  # T_A*
        parts.append("\n\n".join([f"**{title}**", body, *table.notes]))
    return "\n\n".join(parts)
