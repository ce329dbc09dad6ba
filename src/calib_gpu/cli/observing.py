"""What ``run`` and ``watch`` share: log lines, progress, metrics, signals, the summary at the end."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from calib_gpu.cli.common import Done
from calib_gpu.cli.signals import catch_signals, until_stopped
from calib_gpu.errors import CalibError, ConfigError, Exit
from calib_gpu.observe.logs import FORMATS, log_to_stderr

if TYPE_CHECKING:
    from calib_gpu.scan_report import Progress, RunReport
    from calib_gpu.stopping import Stop

log = logging.getLogger("calib_gpu")

LogFormat = Annotated[str, typer.Option("--log-format", help="text | json: one JSON object a line.")]
MetricsFile = Annotated[
    Path | None, typer.Option("--metrics", help="Write metrics for Prometheus to this file, again and again.")
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Only warnings and errors.")]


def observed(
    work: Callable[[Progress, Stop], RunReport], l1: Path, *, quiet: bool, log_format: str, metrics: Path | None
) -> NoReturn:
    """Do the work of a run, seen from outside, and leave with its exit code."""
    if log_format not in FORMATS:
        raise ConfigError("unknown", array="--log-format", value=log_format, rule=" or ".join(FORMATS))
    stop = catch_signals()
    log_to_stderr(quiet=quiet, log_format=log_format)
    raise Done(until_stopped(lambda: _watched(work, l1, stop, quiet, log_format == "json", metrics), stop))


def _watched(
    work: Callable[[Progress, Stop], RunReport], l1: Path, stop: Stop, quiet: bool, as_json: bool, metrics: Path | None
) -> Exit:
    from calib_gpu.cli.progress import TerminalProgress, on_terminal
    from calib_gpu.observe.heartbeat import Heartbeat
    from calib_gpu.observe.metrics import RunMetrics
    from calib_gpu.observe.several import Several

    bars = on_terminal() and not quiet and not as_json
    numbers = None if metrics is None else RunMetrics(metrics, l1)
    try:
        with contextlib.ExitStack() as stack:
            parts: list[Progress] = [Heartbeat(lines=not bars, also=None if numbers is None else numbers.write)]
            stack.enter_context(parts[0])  # type: ignore[arg-type]
            if bars:
                shown = stack.enter_context(TerminalProgress())
                stop.at_abandon(shown.close)
                parts.append(shown)
            if numbers is not None:
                stop.at_abandon(lambda: numbers.finish(int(Exit.STOPPED)))
                parts.append(numbers)
            report = work(Several(parts), stop)
    except CalibError as error:
        if numbers is not None:
            numbers.finish(int(error.exit_code))
        raise
    if numbers is not None:
        numbers.finish(int(report.exit_code))
    _summary(report, quiet)
    return report.exit_code


def _summary(report: RunReport, quiet: bool) -> None:
    done, skipped, failed = report.count("ok"), report.count("skipped"), report.count("failed")
    if not report.scans and not report.waiting and not report.stopped:
        log.warning("no science scan to calibrate in this store")
    if failed:
        log.warning("%d scan(s) failed, see %s", failed, Path(report.l1) / "failures.json")
    if report.waiting:
        log.warning("%d scan(s) not complete: %s", len(report.waiting), ", ".join(report.waiting[:5]))
    if report.stopped:
        log.warning("stopped; run the same command again to go on")
    if not quiet:
        typer.echo(f"{done} done, {skipped} skipped, {failed} failed in {report.seconds:.1f} s ({report.backend})")
        typer.echo(f"L1 store: {report.l1}")
