"""``calib-gpu plan``: what a run would allocate on a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from calib_gpu.cli.common import app, build_settings, parse_scans


@app.command()
def plan(
    l0: Annotated[Path, typer.Argument(help="L0 store.")],
    scans: Annotated[str | None, typer.Option(help="Only these scans, e.g. 25650,25652-25660.")] = None,
    device_memory: Annotated[str | None, typer.Option(help="Memory of the GPU for tiles, e.g. 40G.")] = None,
    memory: Annotated[str | None, typer.Option(help="Memory of the host for scan arrays and tiles, e.g. 512M.")] = None,
    workers: Annotated[int | None, typer.Option(help="Worker threads; 0: one per usable core.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float64 | float32")] = None,
    assignments: Annotated[list[str] | None, typer.Option("--set", help="Any setting, name=value; repeatable.")] = None,
) -> None:
    """Show how scans would be cut into tiles, and the memory on GPU and host that they take. No GPU is needed.

    Example: `calib-gpu plan night.zarr --device-memory 4G --workers 16`
    """
    given = {"device_memory": device_memory, "memory": memory, "workers": workers, "dtype": dtype}
    settings = build_settings(given, assignments, None, None)
    from calib_gpu.cli.tables import show
    from calib_gpu.inspection.plan import plan_store

    show([plan_store(l0, settings, parse_scans(scans))])
