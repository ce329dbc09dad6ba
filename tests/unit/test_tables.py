"""Tables on a terminal: whatever its width, every value is there and can be read."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from calib_gpu.cli.tables import show
from calib_gpu.inspection import Table

COLUMNS = ("scan", "kind", "mode", "source", "shape", "size", "subscans", "GHz", "loads from", "age s")
ROWS = [
    ("scan_000131/band_F0I1P0", "science", "TP", "M82", "16384x3x1x1x2", "393 kB", "1 ON 1 OFF", "86.110",
     "scan_000130/band_F0I1P0 + scan_000133/band_F0I1P0", "123"),
    ("scan_000131/band_F1I1P0", "unusable", "", "", "", "", "cannot be read: Permission denied", "", "", ""),
]  # fmt: skip


def printed(width: int, table: Table) -> str:
    out = io.StringIO()
    show([table], Console(file=out, width=width))
    return out.getvalue()


@pytest.mark.parametrize("width", [40, 80, 100, 140, 200])
def test_every_value_is_there_at_any_width(width: int) -> None:
    text = printed(width, Table("L0 night.zarr", COLUMNS, ROWS, ("a note",)))
    assert all(len(line) <= width for line in text.splitlines())
    joined = "".join(c for c in text if c.isalnum())
    for value in ("scan000131bandF0I1P0", "unusable", "16384x3x1x1x2", "86110", "a note".replace(" ", "")):
        assert value in joined
    words = [word for line in text.splitlines() for word in line.replace("│", " ").split()]
    assert "subscans" in " ".join(words)
    assert "science" in words  # not a letter a line
    assert "123" in words


def test_a_table_that_fits_is_a_table() -> None:
    text = printed(80, Table("t", ("scan", "reason"), [("scan_025650", "a long text " * 20)]))
    assert "┃ scan" in text
    assert all("│" in line for line in text.splitlines()[5:-2])
    assert "┃" not in printed(30, Table("t", ("scan", "reason"), [("scan_025650", "a long text " * 20)]))


def test_values_are_not_markup() -> None:
    for width in (20, 200):
        assert "[red]" in printed(width, Table("t", ("scan", "meaning"), [("[red]", "[bold]x")]))
