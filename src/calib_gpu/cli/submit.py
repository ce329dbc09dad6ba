"""``calib-gpu submit``: a night as an array job of SLURM."""

from __future__ import annotations

import shlex
import sys
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from calib_gpu.cli.common import app, parse_scans
from calib_gpu.cli.run_options import settings_of
from calib_gpu.errors import ConfigError

if TYPE_CHECKING:
    from calib_gpu.settings import Settings
    from calib_gpu.slurm import Submission

NOT_FOR_TASKS: Final = {
    "scans": "give --scans to submit",
    "overwrite": "a task that is requeued would begin anew: remove the scans first, or take another L1",
    "metrics": "the tasks would write one file: use a script of your own (docs/hpc.md)",
}
"""Options of ``run`` that a task cannot have, and what to do instead."""


@app.command()
def submit(
    l0: Annotated[Path, typer.Argument(help="L0 store to read, on a file system that all nodes see.")],
    l1: Annotated[Path, typer.Argument(help="L1 store to create or continue, also there.")],
    options: Annotated[list[str] | None, typer.Argument(help="Behind --: options of run for all tasks.")] = None,
    partition: Annotated[str | None, typer.Option(help="Partition of SLURM.")] = None,
    time: Annotated[str | None, typer.Option(help="Time limit of a task, e.g. 01:00:00.")] = None,
    array: Annotated[str, typer.Option(help="Tasks: auto, or a number; with %M at most M run at a time.")] = "auto",
    gpus_per_task: Annotated[int, typer.Option(help="GPUs of a task.", min=0)] = 0,
    cpus_per_task: Annotated[int, typer.Option(help="Cores of a task; also its worker threads.", min=0)] = 0,
    mem: Annotated[str | None, typer.Option(help="Memory of a task, e.g. 4G.")] = None,
    account: Annotated[str | None, typer.Option(help="Account of SLURM.")] = None,
    sbatch: Annotated[list[str] | None, typer.Option(help="Any other option of sbatch; repeatable.")] = None,
    scans: Annotated[str | None, typer.Option(help="Only these scans, e.g. 25650,25652-25660.")] = None,
    command: Annotated[
        str | None, typer.Option(help="How a task calls calib-gpu, e.g. in a container. Default: this installation.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the script and the tasks; submit nothing.")] = False,
) -> None:
    """Split the science scans by cost into tasks of a SLURM array job, and submit it.

    Each task is `calib-gpu run --scans ...` under srun; scans appear in L1 one by one. Tasks that are preempted or
    lose their node are queued again by SLURM. See then `calib-gpu status`, which submits again what is missing.

    Exit codes: 0 submitted; 64 wrong usage, or SLURM refuses; 65 L0 unusable; 73 cannot write.

    Example: `calib-gpu submit night.zarr calibrated.zarr --partition gpu --gpus-per-task 1 --time 01:00:00 --dry-run`
    """
    from calib_gpu import slurm
    from calib_gpu.selection import scans_text
    from calib_gpu.store.guard import Limits

    settings = _check(options or [])
    resources = {
        "partition": partition, "time": time, "gpus-per-task": gpus_per_task or None,
        "cpus-per-task": cpus_per_task or None, "mem": mem, "account": account,
    }  # fmt: skip
    given = [f"--{name}={value}" for name, value in resources.items() if value is not None]
    job = slurm.Job(
        str(l0.absolute()), str(l1.absolute()),
        tuple(shlex.split(command)) if command else (sys.executable, "-m", "calib_gpu"),
        tuple(options or ()), array, (*given, f"--chdir={Path.cwd()}", *(sbatch or ())), cpus_per_task,
        asdict(Limits.of(settings)),
    )  # fmt: skip
    planned = slurm.plan(job, parse_scans(scans))
    for message in planned.strange:
        typer.echo(f"no scan: {message}", err=True)
    if dry_run:
        typer.echo(planned.script)
        for k, numbers in enumerate(planned.tasks):
            typer.echo(f"task {k}: {scans_text(numbers)}")
    else:
        tell(slurm.submit(planned))


def tell(made: Submission) -> None:
    """Say what was submitted."""
    typer.echo(f"job {made.job_id}: {sum(map(len, made.tasks))} scan(s) in {len(made.tasks)} task(s)")
    typer.echo(f"script and logs: {made.folder}")
    typer.echo(f"see: calib-gpu status {made.job.l1}")


def _check(options: list[str]) -> Settings:
    """Settings from the options of ``run``: what is wrong with them is told now, not by every task."""
    import_module("calib_gpu.cli.run")  # registers it
    run = typer.main.get_command(app).commands["run"]  # type: ignore[attr-defined]
    given = run.make_context("calib-gpu submit L0 L1 --", ["L0", "L1", *options]).params
    for name, instead in NOT_FOR_TASKS.items():
        if given[name]:
            raise ConfigError("not for a task", array=f"--{name}", fix=instead)
    return settings_of(given)
