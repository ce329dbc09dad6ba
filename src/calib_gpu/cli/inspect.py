"""``calib-gpu inspect``: what is in a store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from calib_gpu.cli.common import app, build_settings, parse_scan


@app.command()
def inspect(
    store: Annotated[Path, typer.Argument(help="L0 or L1 store.")],
    scan: Annotated[
        str | None, typer.Option(help="Show one scan in detail, e.g. 25650, or one band: scan_025650/band_LFA.")
    ] = None,
    profile: Annotated[str | None, typer.Option(help="Telescope profile: a name or a TOML file.")] = None,
    assignments: Annotated[list[str] | None, typer.Option("--set", help="Any setting, name=value; repeatable.")] = None,
) -> None:
    """Show what is in an L0 or L1 store; for L0 also which scan serves which with loads.

    With --scan: subscans, tuning, how the counts lie on disk (with a warning where that is slow), which loads serve
    the scan, which OFF serves which ON, and what the loads say (T_rec, gain, T_sys of the sky).

    Example: `calib-gpu inspect night.zarr --scan 25650`
    """
    settings = build_settings({}, assignments, None, profile)
    from calib_gpu.cli.tables import show
    from calib_gpu.inspection import inspect_store

    which = None if scan is None else parse_scan(scan)
    show(inspect_store(store, which, settings))
