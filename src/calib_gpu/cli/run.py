"""``calib-gpu run``: calibrate the scans of an L0 store."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer

from calib_gpu.cli.common import Done, app, build_settings, log_to_stderr, parse_scans
from calib_gpu.errors import Exit

log = logging.getLogger("calib_gpu")


@app.command()
def run(
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
    codec: Annotated[str | None, typer.Option(help="auto | zstd | blosc-zstd | blosc-lz4")] = None,
    level: Annotated[int | None, typer.Option(help="zstd level of L1.")] = None,
    require_checksum: Annotated[
        bool, typer.Option("--require-checksum", help="Refuse scans with an array that has no checksum.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Calibrate again and replace what is done, with whatever settings.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Only warnings and errors.")] = False,
) -> None:
    """Calibrate the science scans of L0 into L1.

    Scans that are done with the same settings are skipped, so that an interrupted run is continued by the same
    command. A scan that fails never stops the others.

    Exit codes: 0 all scans done, 1 none, 2 some; 64 wrong usage, 65 L0 unusable, 73 cannot write, 75 stopped, run again.

    Example: `calib-gpu run night.zarr calibrated.zarr --set eta_f=0.95`
    """
    given: dict[str, Any] = {
        "mode": mode, "reference": reference, "loads": loads, "atmosphere": atmosphere, "pwv": pwv,
        "pwv_scope": None if pwv_scope is None else pwv_scope.replace("-", "_"), "backend": backend, "workers": workers,
        "memory": memory, "device_memory": device_memory, "dtype": dtype, "precision": precision,
        "codec": codec, "level": level, "require_checksum": require_checksum or None,
        "overwrite": overwrite or None, "quiet": quiet or None,
    }  # fmt: skip
    settings = build_settings(given, assignments, config, profile)
    numbers = parse_scans(scans)
    log_to_stderr(quiet=settings.quiet)
    from calib_gpu import pipeline
    from calib_gpu.cli.progress import TerminalProgress, on_terminal

    stop = threading.Event()
    show = TerminalProgress() if on_terminal() and not settings.quiet else contextlib.nullcontext(pipeline.Progress())
    with _stop_on_signal(stop), show as progress:
        report = pipeline.calibrate(l0, l1, settings, scans=numbers, progress=progress, stop=stop)
    _summary(report, settings.quiet)
    raise Done(report.exit_code)


def _summary(report: Any, quiet: bool) -> None:
    done, skipped, failed = report.count("ok"), report.count("skipped"), report.count("failed")
    if not report.scans and not report.stopped:
        typer.echo("no science scan to calibrate in this store", err=True)
    if failed:
        typer.echo(f"{failed} scan(s) failed, see {Path(report.l1) / 'failures.json'}", err=True)
    if report.stopped:
        typer.echo("stopped; run the same command again to go on", err=True)
    if not quiet:
        typer.echo(f"{done} done, {skipped} skipped, {failed} failed in {report.seconds:.1f} s ({report.backend})")
        typer.echo(f"L1 store: {report.l1}")


@contextlib.contextmanager
def _stop_on_signal(stop: threading.Event) -> Iterator[None]:
    """SIGINT and SIGTERM end the run at the next tile; a second one ends the process at once."""

    def handler(number: int, frame: FrameType | None) -> None:
        stop.set()
        signal.signal(number, lambda *_: os._exit(int(Exit.STOPPED)))

    previous = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, old in previous.items():
            signal.signal(number, old)
