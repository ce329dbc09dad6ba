"""Tables of text, as commands show them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from calib_gpu.errors import ConfigError
from calib_gpu.records import ScanId


@dataclass(frozen=True)
class Table:
    """A titled table: column names, rows of text, and lines below it."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    notes: tuple[str, ...] = ()


def chosen(ids: list[ScanId], number: int, path: Path) -> list[ScanId]:
    """The scans (bands) of a number; ConfigError if there are none."""
    found = [scan for scan in ids if scan.number == number]
    if not found:
        raise ConfigError(
            "not in the store",
            array="--scan",
            value=number,
            rule=f"scans of {path.name}: {ids[0].number} to {ids[-1].number}",
        )
    return found


def size_text(n_bytes: float) -> str:
    """A size for people: three digits and a unit."""
    for unit in ("B", "kB", "MB", "GB"):
        if n_bytes < 999.5:
            return f"{n_bytes:.3g} {unit}"
        n_bytes /= 1000.0
    return f"{n_bytes:.3g} TB"
