"""``calib-gpu report``: one HTML page that shows how good a night is."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from calib_gpu.cli.common import app, parse_scans


@app.command()
def report(
    l1: Annotated[Path, typer.Argument(help="L1 store.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The page; an earlier report is replaced.")] = Path(
        "report.html"
    ),
    scans: Annotated[str | None, typer.Option(help="Only these scans, e.g. 25650,25652-25660.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is not a report.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing.")] = False,
) -> None:
    """Write a QA report of an L1 store: one self-contained HTML page.

    Scans with a score from 0 to 1 and the reason for any loss, PWV and T_rec over the night, and the plots of every scan.
    The page needs no network; with fewer scans each is shown finer.

    Exit codes: 0 written, 65 not an L1 store or no such scan, 73 cannot write.

    Example: `calib-gpu report calibrated.zarr -o night.html`
    """
    from calib_gpu.qa.report import write_report

    show = sys.stderr.isatty() and not quiet
    made = write_report(
        l1, out, parse_scans(scans), lambda scan: typer.echo(f"\r{scan} ", nl=False, err=True) if show else None,
        overwrite=overwrite,
    )  # fmt: skip
    if show:
        typer.echo("\r\033[K", nl=False, err=True)
    if not quiet:
        typer.echo(f"{made.scans} scan(s), {made.failures} not calibrated or not readable, {made.bytes / 1e6:.1f} MB")
        typer.echo(f"report: {made.path}")
