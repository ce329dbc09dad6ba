"""``calib-gpu selftest``: whether this machine calculates what NumPy calculates."""

from __future__ import annotations

import json as json_
from typing import Annotated

import typer

from calib_gpu.cli.common import app


@app.command()
def selftest(
    backend: Annotated[str, typer.Option(help="auto | cupy | numpy")] = "auto",
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare every kernel and a whole run with NumPy, and measure what the GPU reaches, in less than a minute.

    Without a GPU the device path runs on a simulated device, and what could not be run is named. Exit code 1: something
    differs; 64: the backend that was asked for cannot run here.

    Examples: `calib-gpu selftest`, `calib-gpu selftest --backend cupy --json`
    """
    from calib_gpu.selftest.report import as_json, lines, run

    result = run(backend, note=lambda text: None if json else typer.echo(text))
    if json:
        typer.echo(json_.dumps(as_json(result), indent=1, allow_nan=False))
    else:
        for line in lines(result):
            typer.echo(line)
    if any(check.failed for check in result.checks):
        raise typer.Exit(1)
