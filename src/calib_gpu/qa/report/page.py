"""The page: template, style and script of this package, filled with the scans of a store.

Everything that comes from data is escaped (:func:`html.escape`, :func:`~calib_gpu.qa.report.pack.script_json`), and the
page's own policy lets only this package's script and style run, by their digests, and nothing be loaded.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Final

from calib_gpu.errors import CalibError
from calib_gpu.qa import products
from calib_gpu.qa.report import pack
from calib_gpu.qa.report.score import BANDS
from calib_gpu.qa.report.summary import summarise
from calib_gpu.store import disk
from calib_gpu.store.kinds import refuse_foreign
from calib_gpu.store.l1_store import published_scans
from calib_gpu.store.metadata import group_attrs

PAGE_BYTES: Final = 27_000_000
"""Aim for the data of all scans together; a night of 500 scans stays below 30 MB."""
SCAN_BYTES: Final = 160_000
"""Aim for one scan where there are few."""
GENERATOR: Final = '<meta name="generator" content="calib-gpu">'

SHOWN_FAILURES: Final = 5
SHOWN_SOURCES: Final = 3
NOT_CALIBRATED: Final = "not calibrated"
QUALITY_CLASS: Final = {name: f"q{k}" for k, (_, name) in enumerate(BANDS)} | {NOT_CALIBRATED: "q3"}
SCRIPTS: Final = ("charts.js", "detail.js", "app.js")

COLUMNS: Final = (
    ("id", "scan", "text"), ("source", "source", "text"), ("utc", "UTC", "text"), ("score", "score", "number"),
    ("reason", "reason for the loss", "text"), ("pwv", "PWV mm", "number"), ("trec", "T_rec K", "number"),
    ("tsys", "T_sys K", "number"), ("rms", "rms ratio", "number"), ("flagged", "flagged", "number"),
)  # fmt: skip
"""Columns of the table of scans: key, heading, how it is sorted."""


@dataclass(frozen=True)
class ReportResult:
    """What was written: number of scans, of failures named in it, and the bytes of the page."""

    path: Path
    scans: int
    failures: int
    bytes: int


def write_report(
    l1: Path, out: Path, numbers: Sequence[int] | None = None, on_scan: Callable[[str], None] | None = None,
    *, overwrite: bool = False,
) -> ReportResult:  # fmt: skip
    """Write the report of an L1 store (of some scans, if ``numbers`` are given) to one HTML file.

    Raises
    ------
    StoreUnusable
        ``l1`` is not an L1 store, or lacks a scan that is asked for.
    OutputError
        The file cannot be written, or exists, is not a report, and ``overwrite`` is not set.
    """
    refuse_foreign(out, GENERATOR.encode(), "a report", overwrite=overwrite)
    failed, scans = products.failures(l1), published_scans(l1)
    if numbers is not None:
        failed = [f for f in failed if _number_of(f["scan"]) in numbers]
        scans = products.choose(scans, numbers, l1, {_number_of(f["scan"]) for f in failed})
    budget = min(SCAN_BYTES, PAGE_BYTES // max(len(scans), 1))
    rows, records = [], []
    for scan in scans:
        if on_scan is not None:
            on_scan(str(scan))
        try:
            summary = summarise(products.open_products(l1, scan), budget)
        except (CalibError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError, MemoryError) as error:
            failed.append({"scan": str(scan), "stage": "report", "error": "", "message": products.plain(error)})
            continue
        rows.append(summary.row)
        records.append(summary.record)
    page = build_page(l1.resolve().name, group_attrs(l1), rows, failed, records).encode()
    disk.replace_file(out, page)
    return ReportResult(out, len(rows), len(failed), len(page))


def _number_of(name: str) -> int | None:
    match = re.match(r"scan_(\d{1,9})", name)
    return int(match[1]) if match else None


def build_page(
    name: str, store: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], failed: Sequence[Mapping[str, str]],
    records: Iterable[Mapping[str, Any]],
) -> str:  # fmt: skip
    """The page as text."""
    script = "(() => {\n'use strict';\n" + "\n".join(map(_file, SCRIPTS)) + "\n})();\n"
    style = _file("style.css")
    parts = {
        "generator": GENERATOR,
        "policy": f"default-src 'none'; img-src data:; style-src {_digest(style)}; script-src {_digest(script)}",
        "title": _text(_title(name, rows)), "style": style, "script": script, "about": _about(store, rows),
        "notice": _notice(rows), "counts": _counts(rows, failed), "head": _table_head(),
        "rows": "\n".join([*map(_table_row, rows), *map(_failed_row, failed)]),
        "failures": _failures(failed),
        "night": _data("night", {"scans": [_point(row) for row in rows]}),
        "records": "\n".join(_data(f"data-{record['id']}", record) for record in records),
    }  # fmt: skip
    # one pass: what is filled in is never looked at again
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], _file("template.html"))


def _file(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _digest(content: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


def _text(value: Any) -> str:
    return html.escape(pack.text(value))


def _data(name: str, document: Mapping[str, Any]) -> str:
    return f'<script type="application/json" id="{html.escape(name)}">{pack.script_json(document)}</script>'


def _point(row: Mapping[str, Any]) -> dict[str, Any]:
    names = (
        "id",
        "band",
        "mjd",
        "utc",
        "score",
        "quality",
        "pwv",
        "pwvErr",
        "pwvStatus",
        "trec",
        "trecEnds",
        "corrected",
        "sidebands",
    )
    return {name: row[name] for name in names}


def _title(name: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """``QA report · telescope · source · store``; of many sources the first and how many more."""
    parts = ["QA report"]
    for key in ("telescope", "source"):
        values = list(dict.fromkeys(row[key] for row in rows if row[key]))
        more = f" and {len(values) - SHOWN_SOURCES} more" if len(values) > SHOWN_SOURCES else ""
        parts += [", ".join(values[:SHOWN_SOURCES]) + more] if values else []
    return " · ".join([*parts, name])


def _about(store: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    times = sorted(row["utc"] for row in rows if row["utc"])
    facts = [f"from {_text(store.get('input_store', 'an unknown store'))}"]
    if times:
        facts.append(f"{times[0]} to {times[-1]} UTC")
    facts.append(f"{_text(store.get('engine', ''))} {_text(store.get('engine_version', ''))}")
    return " · ".join(facts)


def _notice(rows: Sequence[Mapping[str, Any]]) -> str:
    """A line at the top where scans are not corrected for the atmosphere: nobody may take them for T_A*."""
    n = sum(not row["corrected"] for row in rows)
    if not n:
        return ""
    which = "" if n == len(rows) else f" ({n} of {len(rows)} scans)"
    return f'<p class="notice"><b>Not corrected for the atmosphere</b>{which}: the scale is T_A\', not T_A*.</p>'


def _counts(rows: Sequence[Mapping[str, Any]], failed: Sequence[Mapping[str, str]]) -> str:
    """How many scans are in each band of the score: the night in one line."""
    names = [name for _, name in BANDS]
    items = [(name, sum(row["quality"] == name for row in rows)) for name in [*names, "not computed"]]
    items.append((NOT_CALIBRATED, len(failed)))
    cells = [f'<li class="{QUALITY_CLASS.get(n, "qx")}"><b>{count}</b> {n}</li>' for n, count in items if count]
    return "\n".join(cells) or "<li>no scans</li>"


def _table_head() -> str:
    cells = (
        f'<th scope="col"{_aria(key)}><button type="button" data-key="{key}" data-kind="{kind}">{title}</button></th>'
        for key, title, kind in COLUMNS
    )
    return "".join(cells)


def _aria(key: str) -> str:
    return ' aria-sort="ascending"' if key == "id" else ""


def badge(score: float | None, quality: str) -> str:
    """A score with the name of its band, so that colour is never alone."""
    shown = "" if score is None else f"<b>{score:.2f}</b> "
    return f'<span class="badge {QUALITY_CLASS.get(quality, "qx")}">{shown}{html.escape(quality)}</span>'


def _table_row(row: Mapping[str, Any]) -> str:
    name = html.escape(row["id"])
    percent = "" if row["flagged"] is None else f"{100.0 * row['flagged']:.3g} %"
    cells = {
        "id": f'<a href="#{name}">{name}</a> <small>{html.escape(row["mode"])}</small>', "source": html.escape(row["source"]),
        "utc": html.escape(row["utc"]), "score": badge(row["score"], row["quality"]), "reason": html.escape(row["reason"]),
        "flagged": percent, **{key: _cell(row[key]) for key in ("pwv", "trec", "tsys", "rms")},
    }  # fmt: skip
    if row["pwvStatus"] not in ("ok", "none"):
        cells["pwv"] += f" <small>{html.escape(row['pwvStatus'])}</small>"
    tds = (
        f'<td data-label="{title}" data-value="{_sort_value(row[key])}">{cells[key]}</td>' for key, title, _ in COLUMNS
    )
    return f'<tr data-id="{name}">{"".join(tds)}</tr>'


def _failed_row(failure: Mapping[str, str]) -> str:
    cells = {
        "id": _text(failure["scan"]), "score": badge(None, NOT_CALIBRATED),
        "reason": f'<a href="#failures">{_text(_why(failure))}</a>',
    }  # fmt: skip
    values = {"id": failure["scan"], "score": -1.0, "reason": _why(failure)}
    tds = (
        f'<td data-label="{title}" data-value="{_sort_value(values.get(key))}">{cells.get(key, "")}</td>'
        for key, title, _ in COLUMNS
    )
    return f"<tr>{''.join(tds)}</tr>"


def _why(failure: Mapping[str, str]) -> str:
    """What went wrong in a few words: the message without scan, array, value and rule, which stand below the table."""
    text = failure["message"].removeprefix(f"{failure['scan']}: ")
    text = re.sub(r"^(source|calibration)(/\w+)?: ", "", text)
    return re.split(r" \(value: |; ", text)[0] or failure["error"] or "could not be read"


def _cell(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.0f}" if abs(value) >= 100.0 else f"{value:.3g}"


def _sort_value(value: Any) -> str:
    return "" if value is None else _text(value)


def _failures(failed: Sequence[Mapping[str, str]]) -> str:
    """All failures with their messages; folded where they are many."""
    if not failed:
        return ""
    head = f"<summary>{len(failed)} not calibrated or not readable: why</summary>"
    folded = "" if len(failed) > SHOWN_FAILURES else " open"
    return f'<details id="failures" class="failures"{folded}>{head}\n{chr(10).join(map(_failure, failed))}\n</details>'


def _failure(failure: Mapping[str, str]) -> str:
    where = f" in stage {_text(failure['stage'])}" if failure["stage"] else ""
    head = f"<b>{_text(failure['scan'])}</b> {_text(failure['error'])}{where}"
    return f"<p>{head}<br>{_text(failure['message'])}</p>"
