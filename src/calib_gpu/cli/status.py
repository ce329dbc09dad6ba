"""``calib-gpu status``: what has become of the scans of a store."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from calib_gpu.cli.common import Done, app
from calib_gpu.errors import ConfigError, Exit

if TYPE_CHECKING:
    from calib_gpu.slurm import Status


@app.command()
def status(
    l1: Annotated[Path, typer.Argument(help="L1 store.")],
    l0: Annotated[Path | None, typer.Option(help="L0 store, where nothing was submitted that tells it.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Submit what is missing, like the last time.")] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="With --resume: also what has failed.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show which scans are done, failed, running, waiting in the queue of SLURM, or missing.

    Running are scans that a live process is writing, waiting those whose task is in the queue. Missing are the
    others: their task was killed or has run out of time, or they came after the job was submitted.

    Exit codes: 0 all done, 1 none, 2 some; 64 the queue cannot be asked; 65 not an L1 store.

    Example: `calib-gpu status calibrated.zarr --resume`
    """
    from calib_gpu import slurm

    if retry_failed and not resume:
        raise ConfigError("without --resume", array="--retry-failed", fix="give both")
    found = slurm.status(l1, l0)
    if as_json:
        typer.echo(json.dumps(asdict(found), indent=1))
    else:
        _show(found)
    if resume:
        from calib_gpu.cli.submit import tell

        made = slurm.resume(l1, found, failed=retry_failed)
        if made is None:
            typer.echo("nothing to submit")
        else:
            tell(made)
    left = found.failed or found.running or found.waiting or found.missing or found.strange
    raise Done(Exit.NONE if not found.done else Exit.SOME if left else Exit.ALL)


def _show(found: Status) -> None:
    for name, scans in (
        ("done", found.done), ("failed", list(found.failed)), ("running", found.running), ("waiting", found.waiting),
        ("missing", found.missing),
    ):  # fmt: skip
        some = "" if name == "done" or not scans else f"   {', '.join(scans[:5])}{' ...' if len(scans) > 5 else ''}"
        if name == "missing" and found.l0 is None:
            typer.echo("missing  unknown: nothing was submitted that tells the L0 store; give --l0")
        else:
            typer.echo(f"{name:<8}{len(scans):>6}{some}")
    for message in found.failed.values():
        typer.echo(f"failed: {message}")
    for message in found.strange:
        typer.echo(f"no scan: {message}")
