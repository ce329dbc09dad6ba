"""``calib-gpu ingest``: other formats to L0."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from calib_gpu.cli.common import app

ingest_app = typer.Typer(help="Turn data of other formats into an L0 store.", no_args_is_help=True)
app.add_typer(ingest_app, name="ingest")


@ingest_app.callback()
def _group() -> None:
    pass


@ingest_app.command()
def sdfits(
    paths: Annotated[
        list[Path], typer.Argument(help="SDFITS files, then the L0 store to create.", metavar="IN.fits... OUT")
    ],
) -> None:
    """GBT SDFITS with a hot and a cold load.

    Example: `calib-gpu ingest sdfits file0.fits file1.fits l0.zarr`
    """
    if len(paths) < 2 or paths[-1].is_file():
        raise typer.BadParameter(
            f"give SDFITS files, then the L0 store to create: the last argument is the output store, not {paths[-1]}"
        )
    from calib_gpu.ingest.sdfits import ingest_sdfits

    for line in ingest_sdfits(paths[:-1], paths[-1]):
        typer.echo(line)
    typer.echo(f"L0 store: {paths[-1]}")
