"""``calib-gpu explain``: how one sample came about."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from calib_gpu.cli.common import Done, app, build_settings, parse_scan
from calib_gpu.errors import ConfigError, Exit

if TYPE_CHECKING:
    from calib_gpu.explain import Explanation


@app.command()
def explain(
    l0: Annotated[Path, typer.Argument(help="L0 store.")],
    scan: Annotated[str, typer.Argument(help="Scan number, with its band where it has any: 25650 or 25650/band_LFA.")],
    c: Annotated[int, typer.Argument(help="Channel.")],
    r: Annotated[int, typer.Argument(help="Receiver.")],
    a: Annotated[int, typer.Argument(help="Pixel.")],
    d: Annotated[int, typer.Argument(help="Dump.")],
    s: Annotated[int, typer.Argument(help="ON subscan, counted as in L1.")],
    l1: Annotated[Path | None, typer.Option(help="L1 store to hold it against; its settings are used.")] = None,
    atmosphere: Annotated[str | None, typer.Option(help="Opacity table, as in the run.")] = None,
    profile: Annotated[str | None, typer.Option(help="Telescope profile, as in the run.")] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file with settings, as in the run.")] = None,
    assignments: Annotated[list[str] | None, typer.Option("--set", help="Any setting, name=value; repeatable.")] = None,
) -> None:
    """Show how one sample came about, so that it can be redone by hand.

    Counts of the ON, the OFFs and the loads, gamma, transmission, T_A* and T_sys, each with its formula, and the reason
    of each flag. Indices are those of L1, counted from 0. With --l1 the result is held against what that store holds.

    Exit codes: 0 explained; 1 L1 holds something else, or the scan cannot be calibrated.

    Example: `calib-gpu explain night.zarr 25650 512 0 1 3 0 --l1 calibrated.zarr`
    """
    which = parse_scan(scan, "SCAN")
    given: dict[str, Any] = {"atmosphere": atmosphere}
    settings = build_settings(given, assignments, config, profile)
    if l1 is not None and set(settings.origin) - {"atmosphere"}:
        raise ConfigError(
            "two sources of settings", array="--l1", rule="with --l1 the settings are those of that store",
            fix="leave out --set, --config and --profile, or --l1",
        )  # fmt: skip
    from calib_gpu.cli.tables import show
    from calib_gpu.explain import Place, explain, tables

    made = explain(l0, which, Place(c, r, a, d, s), settings, l1)
    show(tables(made))
    _verdict(made)
    raise Done(Exit.ALL if made.agrees else Exit.NONE)


def _verdict(made: Explanation) -> None:
    if made.l1 is None:
        return
    if made.agrees:
        typer.echo("\nL1 holds the same, to the last digit.")
    else:
        typer.echo(f"\nL1 holds something else: {made.l1[0]!r} K, flags {made.l1[1]}", err=True)
