"""``calib-gpu export``: L1 in other formats."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from calib_gpu.cli.common import app, parse_scans
from calib_gpu.errors import ConfigError

export_app = typer.Typer(help="Write L1 in the formats of other tools.", no_args_is_help=True)
app.add_typer(export_app, name="export")


@export_app.callback()
def _group() -> None:
    pass


@export_app.command()
def sdfits(
    l1: Annotated[Path, typer.Argument(help="L1 store.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="File to write; default: L1 with .fits.")] = None,
    scans: Annotated[str | None, typer.Option(help="Only these scans, e.g. 25650,25652-25660.")] = None,
    average: Annotated[
        str, typer.Option(help="none: a row for each dump; dumps: one for each subscan and pixel.")
    ] = "none",
    rest_ghz: Annotated[
        float | None, typer.Option(help="Rest frequency, GHz; default: L1's, else the middle of the band.")
    ] = None,
    frame: Annotated[
        str | None, typer.Option(help="Frame of the frequencies: topocentric | lsrk; default: L1's.")
    ] = None,
    centre: Annotated[
        str | None, typer.Option(help="Position to which offsets refer, deg: LON,LAT; default: L1's.")
    ] = None,
    system: Annotated[str, typer.Option(help="System of --centre: icrs | galactic.")] = "icrs",
    site: Annotated[
        str | None, typer.Option(help="Place of the telescope, deg and m: LON,LAT,HEIGHT; default: L1's.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if it exists.")] = False,
) -> None:
    """SDFITS, one row a spectrum: opens in dysh, pyspeckit and astropy.

    Flagged samples are NaN; their flag bits are in column FLAGS. The file appears when it is whole.

    Example: `calib-gpu export sdfits calibrated.zarr -o night.fits --rest-ghz 492.160651 --centre 83.81,-5.37`
    """
    from calib_gpu.export import SdfitsOptions, export_sdfits

    where = _numbers("--centre", centre, ("LON", "LAT")), _numbers("--site", site, ("LON", "LAT", "HEIGHT"))
    options = SdfitsOptions(parse_scans(scans), average, rest_ghz, frame, where[0], system, where[1], overwrite)
    target = l1.with_suffix(".fits") if out is None else out
    for line in export_sdfits(l1, target, options):
        typer.echo(line)
    typer.echo(f"SDFITS: {target}")


def _numbers(option: str, text: str | None, names: tuple[str, ...]) -> Any:
    """As many numbers as there are names, separated by commas; None without text."""
    if text is None:
        return None
    try:
        values = tuple(map(float, text.split(",")))
    except ValueError:
        values = ()
    if len(values) != len(names):
        raise ConfigError("not understood", array=option, value=text, rule=f"{','.join(names)}, numbers")
    return values
