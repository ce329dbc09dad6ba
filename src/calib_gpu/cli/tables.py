"""Tables on the terminal, or as plain text of a fixed width where the output is no terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

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


def show(tables: Iterable[inspection.Table]) -> None:
    """Print tables with their titles and notes."""
    console = Console(width=None if sys.stdout.isatty() else 200)
    for table in tables:
        console.print(f"\n{table.title}", style="bold", markup=False, highlight=False)
        shown = Table()
        for column in table.columns:
            shown.add_column(column, overflow="fold", no_wrap=column not in LONG)
        for row in table.rows:
            shown.add_row(*map(Text, row))  # Text: values are not markup
        console.print(shown)
        for note in table.notes:
            console.print(f"  {note}", markup=False, highlight=False)
