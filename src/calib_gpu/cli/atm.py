"""``calib-gpu atm``: opacity tables made, shown, drawn and converted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from calib_gpu.cli.common import app

atm_app = typer.Typer(help="Opacity tables of the atmosphere: make, show, draw, convert.", no_args_is_help=True)
app.add_typer(atm_app, name="atm")

Table = Annotated[str, typer.Argument(help="Path of a table, or builtin:NAME.", metavar="TABLE")]


@atm_app.command()
def make(
    site: Annotated[str, typer.Option(help="A site of the package (`atm info` lists them), or a TOML file.")],
    band: Annotated[
        tuple[str, str], typer.Option(help="First and last frequency, e.g. 455GHz 495GHz.", metavar="LO HI")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Table to create.")],
    step: Annotated[str, typer.Option(help="Spacing of the frequencies.")] = "2MHz",
    pressure: Annotated[
        list[str] | None,
        typer.Option(help="Pressure at the telescope, one a layer: hPa, Torr, Pa; default the site's."),
    ] = None,
    pwv: Annotated[
        tuple[str, str] | None,
        typer.Option(help="Two water vapours that bracket the real ones: mm, um.", metavar="W1 W2"),
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(help="Temperature at the telescope, K; default the profile's.")
    ] = None,
    even: Annotated[
        bool, typer.Option("--even", help="No further frequencies where lines are narrower than the step.")
    ] = False,
    workers: Annotated[int, typer.Option(help="Processes; 0: one per usable core.", min=0)] = 0,
    date: Annotated[str | None, typer.Option(help="Date of creation for the attributes; default today.")] = None,
) -> None:
    """Compute a table with am (extra `atm`); call it again to go on after an interruption.

    Example: `calib-gpu atm make --site chajnantor --band 340GHz 350GHz -o b7.table`
    """
    from calib_gpu.atm.make import TableSpec, make_table
    from calib_gpu.atm.units import FREQUENCY, PRESSURE, WATER, quantity

    low, high = (quantity(text, FREQUENCY, "GHz", "--band") for text in band)
    spec = TableSpec(
        site, (low, high), quantity(step, FREQUENCY, "MHz", "--step"),
        tuple(sorted(quantity(text, PRESSURE, "hPa", "--pressure") / 100.0 for text in pressure or [])),
        None if pwv is None else (quantity(pwv[0], WATER, "mm", "--pwv"), quantity(pwv[1], WATER, "mm", "--pwv")),
        temperature, datetime.now(UTC).date().isoformat() if date is None else date, not even,
    )  # fmt: skip
    with _progress() as progress:
        make_table(spec, out, workers, progress)
    typer.echo(f"table: {out}")


@contextmanager
def _progress() -> Iterator[Any]:
    """A bar on a terminal, else nothing."""
    from calib_gpu.cli.progress import on_terminal

    if not on_terminal():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task("frequencies", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@atm_app.command()
def info(
    table: Annotated[
        str | None,
        typer.Argument(help="Path of a table, or builtin:NAME; none: what the package has.", metavar="TABLE"),
    ] = None,
) -> None:
    """Say what a table holds; without one, list the tables and sites of the package.

    Example: `calib-gpu atm info builtin:chajnantor-330-370GHz`
    """
    from calib_gpu.atm.builtin import given_table
    from calib_gpu.atm.summary import describe_package, describe_table

    for line in describe_package() if table is None else describe_table(given_table(table)):
        typer.echo(line)


@atm_app.command()
def plot(
    table: Table,
    out: Annotated[Path, typer.Option("--out", "-o", help="Picture to write: .png, .pdf or .svg.")],
    pwv: Annotated[list[str] | None, typer.Option(help="Water vapour (mm, um), may be repeated.")] = None,
    airmass: Annotated[float, typer.Option(help="Airmass of the transmission.", min=1.0)] = 1.0,
    pressure: Annotated[str | None, typer.Option(help="Pressure; default the middle layer.")] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a file that is not a picture of this program.")
    ] = False,
) -> None:
    """Draw transmission, opacity, b, c and T_eff (extra `plot`).

    Example: `calib-gpu atm plot builtin:cerro-chajnantor-455-500GHz -o b8.png --pwv 0.3 --pwv 0.6`
    """
    from calib_gpu.atm.builtin import given_table
    from calib_gpu.atm.plot import plot_table
    from calib_gpu.atm.units import PRESSURE, WATER, quantity

    waters = [quantity(text, WATER, "mm", "--pwv") for text in pwv or []]
    pascal = None if pressure is None else quantity(pressure, PRESSURE, "hPa", "--pressure")
    plot_table(given_table(table), out, waters, airmass, pascal, overwrite=overwrite)
    typer.echo(f"picture: {out}")


@atm_app.command()
def convert(
    paths: Annotated[
        list[Path],
        typer.Argument(help="Text or CSV files, one a layer, then the table to create.", metavar="IN... OUT"),
    ],
    pressure: Annotated[list[str], typer.Option(help="Pressure of each file, in their order: hPa, Torr, Pa.")],
    frequency_unit: Annotated[str, typer.Option(help="Unit of the first column: GHz, MHz, Hz.")] = "GHz",
    pwv: Annotated[
        str | None,
        typer.Option(help="Water vapours of the further columns, e.g. 0.2,0.5,1mm or 5,20um; none: b and c."),
    ] = None,
    quantity: Annotated[str, typer.Option(help="With --pwv: transmission | opacity (Np).")] = "transmission",
    airmass: Annotated[float, typer.Option(help="With --pwv: airmass of the columns.")] = 1.0,
    pwv_unit: Annotated[str, typer.Option(help="Without --pwv: b is in Np per mm or um.")] = "mm",
) -> None:
    """Turn text tables into one table: frequency, b, c (and T_eff), or transmissions at several water vapours.

    Example: `calib-gpu atm convert site.csv site.table --pressure 530hPa --pwv 0.2,0.5,1mm`
    """
    from calib_gpu.atm import convert as converter
    from calib_gpu.atm.files import write_table
    from calib_gpu.atm.units import FREQUENCY, PRESSURE, WATER, factor, quantities
    from calib_gpu.atm.units import quantity as parse

    if len(paths) < 2:
        raise typer.BadParameter("give at least one text file and the table to create")
    columns = converter.Columns(
        factor(frequency_unit, FREQUENCY, "--frequency-unit"),
        () if pwv is None else quantities(pwv, WATER, "mm", "--pwv"),
        quantity, airmass, factor(pwv_unit, WATER, "--pwv-unit"),
    )  # fmt: skip
    pascal = [parse(text, PRESSURE, "hPa", "--pressure") for text in pressure]
    table, misfit = converter.convert(paths[:-1], pascal, columns)
    write_table(paths[-1], table)
    if misfit is not None:
        typer.echo(f"b w + c against the transmissions: largest difference {misfit.largest:.2g}, rms {misfit.rms:.2g}")
    typer.echo(f"table: {paths[-1]}")
