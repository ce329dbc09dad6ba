"""``calib-gpu plot``: one plot of one scan."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from calib_gpu.cli.common import app, parse_scan
from calib_gpu.errors import ConfigError


@app.command()
def plot(
    l1: Annotated[Path, typer.Argument(help="L1 store.")],
    scan: Annotated[
        str, typer.Option(help="The scan, with its band where it has several: 25650, scan_025650/band_LFA.")
    ],
    what: Annotated[str, typer.Option(help="spectrum | waterfall | trec | sky | map")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Picture: .png, .pdf or .svg.")],
    pixel: Annotated[
        list[str] | None, typer.Option(help="Pixel as R,A, e.g. 0,3; repeatable. Default: all, or their mean.")
    ] = None,
    band: Annotated[str | None, typer.Option(help="Band, where the scan has several, e.g. band_LFA.")] = None,
    rest_ghz: Annotated[
        float | None, typer.Option(help="Rest frequency, GHz, for an axis in km/s; default: L1's.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a file that is not a picture of this program.")
    ] = False,
) -> None:
    """Plot a scan of L1: mean spectrum, waterfall, T_rec and T_sys, fit of the sky, or map.

    Needs matplotlib: `pip install 'calib-gpu[plot]'`.

    Example: `calib-gpu plot calibrated.zarr --scan 25650 --what map -o map.png`
    """
    from calib_gpu.qa.plots import Request, plot_scan

    which = parse_scan(scan)
    if band and which.band and band != which.band:
        raise ConfigError("two bands", array="--band", value=band, rule=f"that of --scan, {which.band}, or none")
    request = Request(which.number, what, pixel or [], band or which.band or None, rest_ghz, overwrite)
    typer.echo(f"plot: {plot_scan(l1, request, out)}")
