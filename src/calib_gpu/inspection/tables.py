"""Tables of text, as commands show them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from calib_gpu.errors import ConfigError
from calib_gpu.records import ScanId
from calib_gpu.selection import known


@dataclass(frozen=True)
class Table:
    """A titled table: column names, rows of text, and lines below it."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    notes: tuple[str, ...] = ()


def named(ids: list[ScanId], which: ScanId) -> list[ScanId]:
    """A band, or without one all bands of a scan; none if they are not there."""
    return [scan for scan in ids if scan.number == which.number and which.band in ("", scan.band)]


def chosen(ids: list[ScanId], which: ScanId, path: Path) -> list[ScanId]:
    """A band, or without one all bands of a scan; ConfigError if there is none."""
    found = named(ids, which)
    if not found:
        raise ConfigError(
            "not in the store",
            array="--scan",
            value=str(which) if which.band else which.number,
            rule=f"scans of {path.name}: {known(ids)}",
        )
    return found


def size_text(n_bytes: float) -> str:
    """A size for people: three digits and a unit."""
    for unit in ("B", "kB", "MB", "GB"):
        if n_bytes < 999.5:
            return f"{n_bytes:.3g} {unit}"
        n_bytes /= 1000.0
    return f"{n_bytes:.3g} TB"
