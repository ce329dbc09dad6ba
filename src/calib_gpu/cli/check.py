"""``calib-gpu check``: whether an L1 store is what was written."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from calib_gpu.cli.common import Done, app
from calib_gpu.errors import Exit


@app.command()
def check(l1: Annotated[Path, typer.Argument(help="L1 store to check.")]) -> None:
    """Recompute the digests of an L1 store and name any file that differs.

    Exit codes: 0 nothing differs, 1 something does, 65 not an L1 store.

    Example: `calib-gpu check calibrated.zarr`
    """
    from calib_gpu.store.publish import check_store

    n_scans, bad = check_store(l1)
    for name in bad:
        typer.echo(f"differs from what was written: {l1 / name}")
    numbers = sorted({int(name[5:].split("/")[0]) for name in bad if name.startswith("scan_")})
    if numbers:
        typer.echo(f"to make them anew: calib-gpu run L0 {l1} --overwrite --scans {','.join(map(str, numbers))}")
    typer.echo(
        f"{n_scans} scan(s) checked, {len(bad)} file(s) differ" if bad else f"{n_scans} scan(s) checked, all as written"
    )
    raise Done(Exit.NONE if bad else Exit.ALL)
