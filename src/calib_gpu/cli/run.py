"""``calib-gpu run``: calibrate the scans of an L0 store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from calib_gpu.cli.common import app, parse_scans
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
def run(
    ctx: typer.Context,
    l0: Annotated[Path, typer.Argument(help="L0 store to read.")],
    l1: Annotated[Path, typer.Argument(help="L1 store to create or continue.")],
    scans: Annotated[str | None, typer.Option(help="Only these scans, e.g. 25650,25652-25660.")] = None,
    mode: Annotated[str | None, typer.Option(help="auto | tp | otf")] = None,
    reference: Annotated[str | None, typer.Option(help="nearest | interp")] = None,
    loads: Annotated[str | None, typer.Option(help="nearest | previous | linear")] = None,
    atmosphere: Annotated[str | None, typer.Option(help="Opacity table: a path, auto, or none.")] = None,
    pwv: Annotated[str | None, typer.Option(help="fit, or a fixed value in mm.")] = None,
    pwv_scope: Annotated[str | None, typer.Option(help="scan | per-pixel | per-off")] = None,
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
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Calibrate again and replace what is done, with whatever settings.")
    ] = False,
    quiet: Quiet = False,
    log_format: LogFormat = "text",
    metrics: MetricsFile = None,
) -> None:
    """Calibrate the science scans of L0 into L1.

    Scans that are done with the same settings are skipped, so that an interrupted run is continued by the same
    command. A scan that fails never stops the others.

    Exit codes: 0 all scans done, 1 none, 2 some; 64 wrong usage, 65 L0 unusable, 73 cannot write, 75 stopped, run again.

    Example: `calib-gpu run night.zarr calibrated.zarr --set eta_f=0.95`
    """
    settings = settings_of(ctx.params)
    numbers = parse_scans(scans)

    def work(progress: Progress, stop: Stop) -> RunReport:
        from calib_gpu import pipeline

        return pipeline.calibrate(l0, l1, settings, scans=numbers, progress=progress, stop=stop)

    observed(work, l1, quiet=settings.quiet, log_format=log_format, metrics=metrics)
