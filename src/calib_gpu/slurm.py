"""A night as an array job of SLURM: its scans split by cost, submitted, and looked after.

Each task is an ordinary run over some scans. Scans are published one by one, so that there is nothing to merge, and a
task that was killed, preempted or lost with its node leaves nothing but scans that are missing; these can be submitted
again. What was submitted is noted in ``<L1>.run/slurm/<number>/``: the script, the scans of each task, the plan.
"""

from __future__ import annotations

import json
import secrets
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from calib_gpu.errors import ConfigError, StoreUnusable
from calib_gpu.pipeline import refuse_overlap
from calib_gpu.selection import scans_text, select_scans
from calib_gpu.settings import Settings
from calib_gpu.store import disk
from calib_gpu.store.guard import scan_number
from calib_gpu.store.l0 import L0Store, open_l0
from calib_gpu.store.l1_store import published_scans
from calib_gpu.store.publish import run_folder, scans_in_work
from calib_gpu.store.run_records import noted_failures
from calib_gpu.task_split import array_size, costs_by_number, partition

CALL_S: Final = 60.0
QUEUE_AGAIN: Final = """\
code=$?
# 75: stopped by a signal. A task that ends by itself in the grace time of a preemption, or before its time limit, is not
# queued again by SLURM, whatever --requeue says; one that was cancelled must not be.
if [ "$code" -eq 75 ] && [ "${SLURM_RESTART_COUNT:-0}" -lt 100 ] &&
  [ "$(squeue --noheader --jobs "$SLURM_JOB_ID" --format %T)" = RUNNING ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
"""
"""The end of the script of a task (and of scripts/calib-gpu.sbatch)."""


@dataclass(frozen=True)
class Job:
    """What is submitted, without the scans: the same again for what is missing.

    ``l0`` and ``l1`` are absolute, ``command`` starts the engine, ``options`` go to ``run``, ``array`` is auto, N or
    N%M, ``resources`` are options of ``sbatch``, ``cpus`` those of a task (0: not given), ``limits`` the settings among the
    options that say what of L0 is refused.
    """

    l0: str
    l1: str
    command: tuple[str, ...]
    options: tuple[str, ...] = ()
    array: str = "auto"
    resources: tuple[str, ...] = ()
    cpus: int = 0
    limits: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Submission:
    """A job as it was submitted: number of the folder, scans of each task, and SLURM's number once it is known.

    ``strange`` says what of L0 looks like a scan but is none; it is in no task.
    """

    job: Job
    number: int
    tasks: tuple[tuple[int, ...], ...]
    script: str
    job_id: str = ""
    strange: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """Where it is noted."""
        return jobs_folder(Path(self.job.l1)) / str(self.number)


@dataclass
class Status:
    """The scans of a store: done, failed (with their message), running, waiting in the queue, missing.

    ``strange`` are messages about what looks like a scan but is none. ``l0`` is the store whose scans these are; None if
    nothing tells it: then nobody knows what is missing.
    """

    done: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    running: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    strange: list[str] = field(default_factory=list)
    l0: str | None = None


def jobs_folder(l1: Path) -> Path:
    """Where what was submitted for a store is noted."""
    return run_folder(l1) / "slurm"


# --- submitting


def plan(job: Job, numbers: Sequence[int] | None = None) -> Submission:
    """What would be submitted for the science scans of a store, or for those of these numbers.

    Raises
    ------
    ConfigError
        A number is not in the store, no scan is left, the size of the array is not understood, or input and output overlap.
    StoreUnusable
        The input cannot be opened.
    """
    store = open_l0(job.l0, Settings(**job.limits))
    refuse_overlap(store.path, Path(job.l1))
    costs = costs_by_number(store, select_scans(store, numbers))
    if not costs:
        raise ConfigError("no science scan to submit", array="L0", value=job.l0)
    n_tasks, at_a_time = array_size(job.array, costs)
    tasks = partition(costs, n_tasks)
    number = 1 + max((s.number for s in submissions(Path(job.l1))), default=0)
    return Submission(job, number, tasks, _script(job, number, len(tasks), at_a_time), strange=_strange(store))


def _strange(store: L0Store) -> tuple[str, ...]:
    return tuple(str(error.at(name)) for name, error in store.strange_scans().items())


def _script(job: Job, number: int, n_tasks: int, at_a_time: int | None) -> str:
    folder = jobs_folder(Path(job.l1)) / str(number)
    limit = "" if at_a_time is None else f"%{at_a_time}"
    directives = [
        "--job-name=calib-gpu", f"--array=0-{n_tasks - 1}{limit}", "--ntasks=1", *job.resources,
        "--requeue", "--open-mode=append", "--signal=TERM@120", f"--output={folder}/%a.log",
    ]  # fmt: skip
    cpus = ["--cpus-per-task", str(job.cpus)] if job.cpus else []
    options = [*job.options, *(["--workers", str(job.cpus)] if job.cpus and "--workers" not in job.options else [])]
    lines = shlex.quote(f"{folder}/tasks.txt")
    call = shlex.join([*job.command, "run", job.l0, job.l1])
    return "\n".join([
        "#!/bin/bash",
        *(f"#SBATCH {shlex.quote(directive)}" for directive in directives),
        f'scans=$(sed -n "$((SLURM_ARRAY_TASK_ID + 1))p" {lines})',
        "trap : TERM  # srun hands the signal to the engine; the shell stays to see how it ends",
        f'{shlex.join(["srun", *cpus])} {call} --scans "$scans" {shlex.join(options)}'.rstrip(),
        QUEUE_AGAIN,
    ])  # fmt: skip


def submit(planned: Submission) -> Submission:
    """Hand a plan to ``sbatch`` and note it; returns it with SLURM's number.

    Raises
    ------
    ConfigError
        ``sbatch`` refuses it, or another submission for this store came first.
    OutputError
        It cannot be noted.
    """
    folder = planned.folder
    fresh = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    disk.make_dirs(fresh)
    disk.write_file(fresh / "tasks.txt", "".join(scans_text(t) + "\n" for t in planned.tasks).encode())
    disk.write_file(fresh / "job.sh", planned.script.encode())
    disk.write_file(fresh / "plan.json", _as_json(planned))
    if not disk.rename(fresh, folder):
        disk.remove_tree(fresh)
        raise ConfigError(
            "another submission came first", array=str(folder), fix="look at calib-gpu status, then again"
        )
    try:
        answer = _call("sbatch", "--parsable", str(folder / "job.sh"))
    except ConfigError:
        disk.remove_tree(folder)
        raise
    done = replace(planned, job_id=answer.strip().partition(";")[0])
    disk.replace_file(folder / "plan.json", _as_json(done))
    return done


def _as_json(submission: Submission) -> bytes:
    document = {"job": asdict(submission.job), "tasks": submission.tasks, "job_id": submission.job_id}
    return json.dumps(document, indent=1).encode() + b"\n"


def _call(*command: str) -> str:
    """What a program of SLURM prints."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=CALL_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        fix = "run this on a node that submits jobs"
        raise ConfigError("cannot be run", array=command[0], value=str(error), fix=fix) from None
    if done.returncode:
        raise ConfigError("refused by SLURM", array=command[0], value=(done.stderr or done.stdout).strip())
    return done.stdout


# --- looking after it


def submissions(l1: Path) -> list[Submission]:
    """What was submitted for a store, the oldest first; a plan that cannot be read is passed over."""
    found = []
    for path in jobs_folder(l1).glob("*/plan.json"):
        if not path.parent.name.isdigit():
            continue
        try:
            document = json.loads(path.read_bytes())
            known: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in document["job"].items()}
            tasks = tuple(tuple(int(n) for n in task) for task in document["tasks"])
            found.append(Submission(Job(**known), int(path.parent.name), tasks, "", str(document["job_id"])))
        except (OSError, ValueError, LookupError, TypeError):
            continue
    return sorted(found, key=lambda s: s.number)


def queued_numbers(submitted: Sequence[Submission]) -> set[int]:
    """Numbers of the scans whose tasks are running or waiting in the queue.

    Raises
    ------
    ConfigError
        ``squeue`` cannot be run or gives an error.
    """
    by_id = {s.job_id: s for s in submitted if s.job_id}
    if not by_id:
        return set()
    try:
        text = _call("squeue", "--noheader", "--array", "--jobs", ",".join(by_id), "--format", "%F %K")
    except ConfigError as error:
        if "Invalid job id" in str(error):  # all have ended so long ago that SLURM does not know them
            return set()
        raise
    numbers: set[int] = set()
    for line in text.splitlines():
        job_id, _, task = line.strip().partition(" ")
        if job_id in by_id and task.isdigit() and int(task) < len(by_id[job_id].tasks):
            numbers.update(by_id[job_id].tasks[int(task)])
    return numbers


def status(l1: Path, l0: Path | None = None) -> Status:
    """What has become of the scans of a store: of all science scans of L0, which the last submission tells unless given.

    Raises
    ------
    StoreUnusable
        ``l1`` is no L1 store and nothing was submitted for it.
    ConfigError
        The queue cannot be asked.
    """
    submitted = submissions(l1)
    if not submitted and not (l1 / "zarr.json").is_file():
        raise StoreUnusable("not an L1 store, and nothing was submitted for it", array=str(l1))
    source = l0 or (Path(submitted[-1].job.l0) if submitted else None)
    published = published_scans(l1) if (l1 / "zarr.json").is_file() else []
    store = None if source is None else open_l0(source, _settings(submitted))
    scans = sorted({*published, *(() if store is None else select_scans(store, None))})
    names, done = set(map(str, scans)), set(map(str, published))  # a kill may leave the failure of one that is done
    failures = {
        f["scan"]: f.get("message", "")
        for f in noted_failures(l1, run_folder(l1))
        if f["scan"] not in done and (store is None or f["scan"] in names)  # others are gone, or strange
    }
    running, queued = scans_in_work(l1), queued_numbers(submitted)
    found = Status(failed=failures, strange=[] if store is None else list(_strange(store)))
    found.l0 = None if source is None else str(source)
    for scan in scans:
        name = str(scan)
        if scan in published:
            found.done.append(name)
        elif name in running:
            found.running.append(name)
        elif scan.number in queued and name not in failures:
            found.waiting.append(name)
        elif name not in failures:
            found.missing.append(name)
    return found


def _settings(submitted: Sequence[Submission]) -> Settings:
    """The limits of what was submitted last."""
    return Settings(**submitted[-1].job.limits) if submitted else Settings()


def resume(l1: Path, found: Status, *, failed: bool) -> Submission | None:
    """Submit what is missing, and what has failed if asked for, like the last time; None if there is nothing to do.

    Raises
    ------
    ConfigError
        Nothing was submitted before, or SLURM refuses.
    """
    submitted = submissions(l1)
    if not submitted:
        raise ConfigError("nothing was submitted for this store", array=str(l1), fix="calib-gpu submit")
    done = set(found.done)
    names = [*found.missing, *(name for name in found.failed if failed and name not in done)]
    found_numbers = (scan_number(name.partition("/")[0]) for name in names)
    numbers = sorted({n for n in found_numbers if n is not None})
    return submit(plan(submitted[-1].job, numbers)) if numbers else None
