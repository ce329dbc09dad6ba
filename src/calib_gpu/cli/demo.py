"""``calib-gpu demo``: a simulated night, calibrated, truth beside result."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from calib_gpu.cli.common import Done, app
from calib_gpu.errors import Exit
from calib_gpu.observe.logs import log_to_stderr

COLUMNS = (
    "scan",
    "PWV mm\ntrue",
    "\nfitted",
    "T_rec K\ntrue",
    "\nmeasured",
    "T_A* scale\n(1 = truth)",
    "noise\n/ expected",
)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the stores.")] = Path("calib-gpu-demo"),
    preset: Annotated[str, typer.Option(help="tiny | S | M")] = "S",
    seed: Annotated[int, typer.Option(help="Seed of the simulation.")] = 1,
    workers: Annotated[int, typer.Option(help="Worker threads; 0: one per usable core.")] = 0,
) -> None:
    """Simulate a night, calibrate it, print the truth beside the result, and write a QA report of it.

    The night (of presets tiny and S) has a scan that cannot be calibrated, on purpose: see how it is reported.

    Example: `calib-gpu demo --out /tmp/demo --preset tiny`
    """
    log_to_stderr(quiet=False)
    from rich.console import Console
    from rich.table import Table

    from calib_gpu.demo import demonstrate
    from calib_gpu.settings import Settings

    typer.echo(f"simulating a night (preset {preset}, seed {seed}) and calibrating it ...")
    made = demonstrate(out, preset, seed, Settings(workers=workers))
    table = Table(title="truth and result", title_justify="left")
    for column in COLUMNS:
        table.add_column(column, no_wrap=True)
    for c in made.comparisons:
        table.add_row(
            c.scan, f"{c.pwv[0]:.4f}", f"{c.pwv[1]:.4f}±{c.pwv_scatter:.4f}", f"{c.trec[0]:.2f}", f"{c.trec[1]:.2f}",
            f"{c.scale:.4f}±{c.scale_error:.4f}", f"{c.noise:.3f}",
        )  # fmt: skip
    Console(width=None if sys.stdout.isatty() else 100).print(table)
    typer.echo("PWV drifts in this night: true is its mean over the OFFs, ± the scatter of the fits to single OFFs;")
    typer.echo("noise is compared with the radiometer equation.\n")
    for failure in made.report.failures:
        typer.echo(f"not calibrated, as it should be: {failure.message}")
    typer.echo(f"\nL0 (raw counts)    {made.l0}\nL1 (calibrated)    {made.l1}\ntruth              {made.truth}")
    typer.echo(f"QA report          {made.page}   (open it in a browser)")
    program = "calib-gpu" if shutil.which("calib-gpu") else sys.argv[0]
    typer.echo(f"\nlook inside:       {program} inspect {made.l1}\n                   {program} inspect {made.l0}")
    raise Done(Exit.ALL if made.comparisons else Exit.NONE)
