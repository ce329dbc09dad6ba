"""``calib-gpu inspect``: what is in a store."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from calib_gpu.cli.common import app, build_settings

LONG = ("source", "meaning", "value", "value [R][A]", "subscans", "loads from", "failure", "problem")
"""Columns whose cells may be folded on a narrow terminal."""


@app.command()
def inspect(
    store: Annotated[Path, typer.Argument(help="L0 or L1 store.")],
    scan: Annotated[int | None, typer.Option(help="Show one scan in detail.")] = None,
    profile: Annotated[str | None, typer.Option(help="Telescope profile: a name or a TOML file.")] = None,
    assignments: Annotated[list[str] | None, typer.Option("--set", help="Any setting, name=value; repeatable.")] = None,
) -> None:
    """Show what is in an L0 or L1 store; for L0 also which scan serves which with loads.

    With --scan: subscans, which OFF serves which ON, and what the loads say (T_rec, gain, T_sys of the sky).

    Example: `calib-gpu inspect night.zarr --scan 25650`
    """
    settings = build_settings({}, assignments, None, profile)
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from calib_gpu.inspection import inspect_store

    console = Console(width=None if sys.stdout.isatty() else 200)
    for table in inspect_store(store, scan, settings):
        console.print(f"\n{table.title}", style="bold", markup=False)
        shown = Table()
        for column in table.columns:
            shown.add_column(column, overflow="fold", no_wrap=column not in LONG)
        for row in table.rows:
            shown.add_row(*map(Text, row))  # Text: values are not markup
        console.print(shown)
        for note in table.notes:
            console.print(f"  {note}", markup=False)
