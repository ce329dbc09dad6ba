"""A night as an array job of SLURM: its scans split by cost, submitted, and looked after.

Each task is an ordinary run over some scans. Scans are published one by one, so that there is nothing to merge, and a
task that was killed, preempted or lost with its node leaves nothing but scans that are missing; these can be submitted
again. What was submitted is noted in ``<L1>.run/slurm/<number>/``: the script, the scans of each task, the plan.
"""

from __future__ import annotations

import heapq
import json
import math
import re
import secrets
import shlex
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from calib_gpu.errors import CalibError, ConfigError, StoreUnusable
from calib_gpu.records import ScanId
from calib_gpu.selection import scans_text, select_scans
from calib_gpu.store import disk
from calib_gpu.store.l0 import L0Store
from calib_gpu.store.l1_store import published_scans
from calib_gpu.store.metadata import array_meta
from calib_gpu.store.publish import run_folder, scans_in_work
from calib_gpu.store.run_records import noted_failures

TASK_BYTES: Final = 32 * 1024**3
"""Counts of a task with ``--array auto``: a minute of work or more, beside which its start is little."""
SCAN_BYTES: Final = 16 * 1024**2
"""What a scan costs beside its counts, as bytes of counts."""
MAX_TASKS: Final = 1000
"""Tasks of an array; SLURM's own limit is 1001 unless the site sets another."""
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
    N%M, ``resources`` are options of ``sbatch``, ``cpus`` those of a task (0: not given).
    """

    l0: str
    l1: str
    command: tuple[str, ...]
    options: tuple[str, ...] = ()
    array: str = "auto"
    resources: tuple[str, ...] = ()
    cpus: int = 0


@dataclass(frozen=True)
class Submission:
    """A job as it was submitted: number of the folder, scans of each task, and SLURM's number once it is known."""

    job: Job
    number: int
    tasks: tuple[tuple[int, ...], ...]
    script: str
    job_id: str = ""

    @property
    def folder(self) -> Path:
        """Where it is noted."""
        return jobs_folder(Path(self.job.l1)) / str(self.number)


@dataclass
class Status:
    """The scans of a store: done, failed (with their message), running, waiting in the queue, missing."""

    done: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    running: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def jobs_folder(l1: Path) -> Path:
    """Where what was submitted for a store is noted."""
    return run_folder(l1) / "slurm"


# --- splitting


def scan_cost(store: L0Store, scan: ScanId) -> int:
    """Bytes of counts of a scan, as its metadata tell, and a constant; what cannot be read costs the constant."""
    total = SCAN_BYTES
    for group in ("source", "calibration"):
        try:
            meta = array_meta(store.path / scan.path / group / "data_5d")
        except CalibError:
            continue
        total += math.prod(meta.shape) * (meta.dtype.itemsize if meta.dtype is not None else 1)
    return total


def costs_by_number(store: L0Store, scans: Iterable[ScanId]) -> dict[int, int]:
    """Cost of each scan; the bands of a scan stay together."""
    costs: dict[int, int] = {}
    for scan in scans:
        costs[scan.number] = costs.get(scan.number, 0) + scan_cost(store, scan)
    return costs


def partition(costs: Mapping[int, int], n_tasks: int) -> tuple[tuple[int, ...], ...]:
    """Split scans into tasks of about equal cost: the costliest first, each to the task that has least.

    The longest task takes at most 4/3 of what the best split would (Graham 1969).
    """
    tasks = [(0, k, list[int]()) for k in range(min(n_tasks, len(costs)))]
    for number, cost in sorted(costs.items(), key=lambda item: (-item[1], item[0])):
        total, k, scans = heapq.heappop(tasks)
        heapq.heappush(tasks, (total + cost, k, [*scans, number]))
    return tuple(sorted(tuple(sorted(scans)) for _, _, scans in tasks))


def array_size(array: str, costs: Mapping[int, int]) -> tuple[int, int | None]:
    """Number of tasks, and how many may run at a time, for ``auto``, ``N`` or ``N%M`` (``auto%M``).

    Raises
    ------
    ConfigError
        Not one of these.
    """
    match = re.fullmatch(r"(auto|[1-9]\d{0,3})(?:%([1-9]\d*))?", array)
    if not match or (match[1] != "auto" and int(match[1]) > MAX_TASKS):
        rule = f"auto or a number up to {MAX_TASKS}, then %M for M at a time"
        raise ConfigError("not a size of an array", array="--array", value=array, rule=rule)
    wanted = math.ceil(sum(costs.values()) / TASK_BYTES) if match[1] == "auto" else int(match[1])
    return max(1, min(wanted, len(costs), MAX_TASKS)), int(match[2]) if match[2] else None


# --- submitting


def plan(job: Job, numbers: Sequence[int] | None = None) -> Submission:
    """What would be submitted for the science scans of a store, or for those of these numbers.

    Raises
    ------
    ConfigError
        A number is not in the store, no scan is left, or the size of the array is not understood.
    StoreUnusable
        The input cannot be opened.
    """
    store = L0Store(job.l0)
    costs = costs_by_number(store, select_scans(store, numbers))
    if not costs:
        raise ConfigError("no science scan to submit", array="L0", value=job.l0)
    n_tasks, at_a_time = array_size(job.array, costs)
    tasks = partition(costs, n_tasks)
    number = 1 + max((s.number for s in submissions(Path(job.l1))), default=0)
    return Submission(job, number, tasks, _script(job, number, len(tasks), at_a_time))


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
    done = Submission(planned.job, planned.number, planned.tasks, planned.script, answer.strip().partition(";")[0])
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
    scans = sorted({*published, *(() if source is None else select_scans(L0Store(source), None))})
    failures = {f["scan"]: f.get("message", "") for f in noted_failures(l1, run_folder(l1))}
    running, queued = scans_in_work(l1), queued_numbers(submitted)
    found = Status(failed=failures)
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
    numbers = sorted({int(name[5:].partition("/")[0]) for name in names})
    return submit(plan(submitted[-1].job, numbers)) if numbers else None
