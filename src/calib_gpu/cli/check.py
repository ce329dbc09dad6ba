"""``calib-gpu check``: whether an L1 store is what was written, or an L0 store can be calibrated."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from calib_gpu.cli.common import Done, app, build_settings
from calib_gpu.errors import Exit

if TYPE_CHECKING:
    from calib_gpu.settings import Settings


@app.command()
def check(
    store: Annotated[Path, typer.Argument(help="L1 or L0 store to check.")],
    quick: Annotated[
        bool, typer.Option("--quick", help="L0: look at metadata, sizes and headers only; decode nothing.")
    ] = False,
    require_checksum: Annotated[
        bool, typer.Option("--require-checksum", help="L0: an array without checksum is a problem, not a doubt.")
    ] = False,
    config: Annotated[Path | None, typer.Option(help="L0: TOML file with settings, those of the run to come.")] = None,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", help="L0: any setting, name=value; repeatable.")
    ] = None,
) -> None:
    """Look through a store before it is trusted; which kind it is shows by itself.

    L1: recompute the digests and name any file that differs from what was written. L0: name what is missing, cut
    short, corrupt, without checksum, or does not fit together, before a night is spent on it. Every chunk of counts is
    decoded unless `--quick`. A problem makes a scan fail; a doubt does not.

    Exit codes: 0 all is sound (doubts may be told), 1 problems found, 64 wrong usage, 65 neither an L1 nor an L0 store.

    Example: `calib-gpu check calibrated.zarr`, `calib-gpu check night.zarr --quick`
    """
    from calib_gpu.store.kinds import refuse_no_folder
    from calib_gpu.store.l1_store import looks_like_l1

    refuse_no_folder(store, "L0 or L1")
    if looks_like_l1(store):
        _check_l1(store)
    settings = build_settings({"require_checksum": require_checksum or None}, assignments, config, None)
    _check_l0(store, settings, quick=quick)


def _check_l1(l1: Path) -> None:
    from calib_gpu.store.guard import scan_number
    from calib_gpu.store.l1_store import check_store

    n_scans, bad = check_store(l1)
    for name in bad:
        typer.echo(f"differs from what was written: {l1 / name}")
    found = (scan_number(name.split("/")[0]) for name in bad)
    numbers = sorted({n for n in found if n is not None})
    if numbers:
        typer.echo(f"to make them anew: calib-gpu run L0 {l1} --overwrite --scans {','.join(map(str, numbers))}")
    if bad:
        typer.echo(f"{n_scans} scan(s) checked, {len(bad)} file(s) differ")
    elif n_scans:
        typer.echo(f"{n_scans} scan(s) checked, all as written")
    else:
        failed = l1 / "failures.json"
        why = f"; {failed} says why none was calibrated" if failed.exists() else ""
        typer.echo(f"no scan in it yet: calib-gpu run L0 {l1} calibrates some{why}")
    raise Done(Exit.NONE if bad else Exit.ALL)


def _check_l0(l0: Path, settings: Settings, *, quick: bool) -> None:
    from calib_gpu.inspection.check_l0 import check_l0

    found = check_l0(l0, settings, decode=not quick)
    for kind, lines in (("problem", found.problems), ("doubt", found.doubts)):
        for line in lines:
            typer.echo(f"{kind}: {line}")
    how = "metadata, sizes and headers only" if quick else "every chunk of counts decoded"
    typer.echo(
        f"L0: {found.scans} scan(s) checked, {how}: {len(found.problems)} problem(s), {len(found.doubts)} doubt(s)"
    )
    raise Done(Exit.NONE if found.problems else Exit.ALL)
