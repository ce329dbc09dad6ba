"""``calib-gpu simulate``: an L0 store with known truth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from calib_gpu.cli.common import app


@app.command()
def simulate(
    out: Annotated[Path, typer.Argument(help="L0 store to create; the truth is written beside it.")],
    preset: Annotated[str, typer.Option(help="tiny | S | M | L | XL")] = "S",
    seed: Annotated[int, typer.Option(help="Same seed, same bytes.")] = 1,
    mode: Annotated[str, typer.Option(help="otf | tp")] = "otf",
    sky: Annotated[
        str, typer.Option(help="slab | layers: one temperature, or the air that telescope profiles expect.")
    ] = "slab",
    scans: Annotated[int | None, typer.Option(help="Science scans; default 3 (tiny), 2 (S), else 1.")] = None,
    workers: Annotated[int, typer.Option(help="Worker threads; 0: one per usable core.")] = 0,
) -> None:
    """Simulate raw counts of a night, with the truth beside them.

    Presets: tiny 0.5 MB, S 22 MB, M 0.5 GB, L 5 GB, XL 12 GB of counts per scan.

    Example: `calib-gpu simulate night.zarr --preset M --mode tp`
    """
    from calib_gpu import simulate as simulator

    config = simulator.realistic(preset, seed=seed, mode=mode, sky=sky, n_scans=scans)
    truth = simulator.simulate(out, config, workers=workers)
    for number, role in truth.roles.items():
        typer.echo(f"scan_{number:06d}  {role}")
    typer.echo(f"L0 store: {out}\ntruth:    {simulator.truth_path(out)}")
