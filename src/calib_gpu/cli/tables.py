"""Tables on the terminal, or as plain text of a fixed width where the output is no terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from calib_gpu import inspection

LONG: Final = (
    "source", "meaning", "value", "value [R][A]", "subscans", "loads from", "failure", "problem", "layout", "how", "reason",
    "what it is", "from",
)  # fmt: skip
"""Columns whose cells may be folded on a narrow terminal."""


LEAST_FOLDED: Final = 20
"""Characters that a column with folded cells needs to be readable; a narrower one than this is not folded."""


def show(tables: Iterable[inspection.Table], console: Console | None = None) -> None:
    """Print tables with their titles and notes; a table that is wider than the terminal row by row, a line for each value."""
    console = console or Console(width=None if sys.stdout.isatty() else 200)
    for table in tables:
        console.print(f"\n{table.title}", style="bold", markup=False, highlight=False)
        if _least_width(table) <= console.width:
            console.print(_beside(table))
        else:
            for row in table.rows:
                console.print(_below(table, row))
        for note in table.notes:
            console.print(f"  {note}", markup=False, highlight=False)


def _least_width(table: inspection.Table) -> int:
    """Characters that a table needs at least: cells that may be folded count by what is readable, all others whole."""
    width = 1 + 3 * len(table.columns)
    for k, column in enumerate(table.columns):
        widest = max((cell_len(row[k]) for row in table.rows), default=0)
        width += max(cell_len(column), min(widest, LEAST_FOLDED) if column in LONG else widest)
    return width


def _beside(table: inspection.Table) -> Table:
    shown = Table()
    for k, column in enumerate(table.columns):
        folded = column in LONG
        widest = max((cell_len(row[k]) for row in table.rows), default=0)
        least = max(cell_len(column), min(widest, LEAST_FOLDED)) if folded else None
        shown.add_column(column, overflow="fold", no_wrap=not folded, min_width=least)
    for row in table.rows:
        shown.add_row(*map(Text, row))  # Text: values are not markup
    return shown


def _below(table: inspection.Table, row: Sequence[str]) -> Table:
    """A row as lines of name and value; the first value is its heading, empty ones are left out."""
    shown = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    shown.add_column(no_wrap=True, width=min(max(map(cell_len, table.columns)), 24), overflow="fold")
    shown.add_column(overflow="fold")
    for k, (column, value) in enumerate(zip(table.columns, row, strict=True)):
        if value:
            shown.add_row(Text(column, "" if k else "bold"), Text(value, "" if k else "bold"))
    shown.add_row("", "")
    return shown
