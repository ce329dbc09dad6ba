"""``calib-gpu run``: calibrate the scans of an L0 store."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from calib_gpu.cli.common import app, build_settings, parse_scans
from calib_gpu.cli.observing import LogFormat, MetricsFile, Quiet, observed

if TYPE_CHECKING:
    from calib_gpu.scan_report import Progress, RunReport
    from calib_gpu.settings import Settings
    from calib_gpu.stopping import Stop


SETTINGS: Final = (
    "mode", "reference", "loads", "atmosphere", "pwv", "pwv_scope", "backend", "workers", "memory", "device_memory",
    "dtype", "precision", "codec", "level", "require_checksum", "overwrite", "quiet",
)  # fmt: skip
"""Options that are settings of the same name."""


def settings_of(options: Mapping[str, Any]) -> Settings:
    """Settings from the options of ``run``, by name; None and false are not given."""
    given = {name: options[name] for name in SETTINGS if options[name] not in (None, False)}
    if "pwv_scope" in given:
        given["pwv_scope"] = given["pwv_scope"].replace("-", "_")
    return build_settings(given, options["assignments"], options["config"], options["profile"])


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
    backend: Annotated[str | None, typer.Option(help="auto | numpy | cupy; auto: a GPU where there is one.")] = None,
    workers: Annotated[int | None, typer.Option(help="Worker threads; 0: one per usable core.")] = None,
    memory: Annotated[str | None, typer.Option(help="Memory for scan arrays and tiles, e.g. 512M.")] = None,
    device_memory: Annotated[str | None, typer.Option(help="Memory of the GPU for tiles, e.g. 4G.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float64 | float32")] = None,
    precision: Annotated[
        str | None, typer.Option(help="off | auto | BITS: round T_A* far below its noise; files of a quarter.")
    ] = None,
    codec: Annotated[
        str | None, typer.Option(help="auto | zstd | blosc-zstd | blosc-lz4 | nvcomp-zstd (on the GPU)")
    ] = None,
    level: Annotated[int | None, typer.Option(help="zstd level of L1.")] = None,
    require_checksum: Annotated[
        bool, typer.Option("--require-checksum", help="Refuse scans with an array that has no checksum.")
    ] = False,
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
