"""``calib-gpu watch``: calibrate scans as they appear."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from calib_gpu.cli.common import app
from calib_gpu.cli.observing import LogFormat, MetricsFile, Quiet, observed
from calib_gpu.cli.run_options import (
    Backend,
    Codec,
    DeviceMemory,
    Dtype,
    Level,
    Memory,
    Precision,
    RequireChecksum,
    WorkerThreads,
    settings_of,
)

if TYPE_CHECKING:
    from calib_gpu.scan_report import Progress, RunReport
    from calib_gpu.stopping import Stop


@app.command()
def watch(
    ctx: typer.Context,
    l0: Annotated[Path, typer.Argument(help="L0 store that is being written.")],
    l1: Annotated[Path, typer.Argument(help="L1 store to create or continue.")],
    settle: Annotated[
        float,
        typer.Option(help="Take a scan without the attribute complete when unchanged for so many seconds.", min=0.0),
    ] = 60.0,
    poll: Annotated[float, typer.Option(help="Seconds between two looks.", min=0.01)] = 5.0,
    until_idle: Annotated[
        float | None, typer.Option(help="End when nothing has happened for so many seconds.", min=0.0)
    ] = None,
    profile: Annotated[str | None, typer.Option(help="Telescope profile: a name or a TOML file.")] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file with settings.")] = None,
    assignments: Annotated[list[str] | None, typer.Option("--set", help="Any setting, name=value; repeatable.")] = None,
    backend: Backend = None,
    workers: WorkerThreads = None,
    memory: Memory = None,
    device_memory: DeviceMemory = None,
    dtype: Dtype = None,
    precision: Precision = None,
    codec: Codec = None,
    level: Level = None,
    require_checksum: RequireChecksum = False,
    quiet: Quiet = False,
    log_format: LogFormat = "text",
    metrics: MetricsFile = None,
) -> None:
    """Calibrate scans as they appear in a store that is still being written, until stopped.

    A scan is taken when its attribute `complete` is true, or, without one, when nothing of it has changed for
    --settle seconds. It waits while a load set that has not come could serve it better; with --set loads=previous
    none can. What is done is never done again; what failed is tried again when it or its loads change.

    Exit codes: 75 stopped; with --until-idle as `run`, 2 also if scans were not complete.

    Example: `calib-gpu watch night.zarr calibrated.zarr --settle 30`
    """
    settings = settings_of(ctx.params)

    def work(progress: Progress, stop: Stop) -> RunReport:
        from calib_gpu.watch import Pace
        from calib_gpu.watch import watch as watch_store

        return watch_store(l0, l1, settings, Pace(settle, poll, until_idle), progress, stop)

    observed(work, l1, quiet=settings.quiet, log_format=log_format, metrics=metrics)
