"""Splitting a night into tasks, the script, and what becomes of it; SLURM's programs are stand-ins that note their calls."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from test_cli import cli
from test_pipeline import night

from calib_gpu import slurm, task_split
from calib_gpu.errors import ConfigError, StoreUnusable
from calib_gpu.pipeline import calibrate
from calib_gpu.records import ScanId
from calib_gpu.selection import scans_text
from calib_gpu.store import publish
from calib_gpu.store.l0 import L0Store
from calib_gpu.store.run_records import RunRecords, noted_failures


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of stand-ins: ``sbatch`` gives job 41, then 42; ``squeue`` prints the file ``queue``."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "queue").write_text("")
    for name, text in {
        "sbatch": 'echo "$@" >> $0.calls; echo $((40 + $(wc -l < $0.calls)))',
        "squeue": 'cat "$(dirname "$0")/queue"',
    }.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


def job(folder: Path, **changes: Any) -> slurm.Job:
    given = {"command": ("calib-gpu",), "array": "3"} | changes
    return slurm.Job(str(folder / "l0.zarr"), str(folder / "l1.zarr"), **given)


def test_no_task_takes_more_than_4_3_of_the_best_split() -> None:
    """Graham's bound, against the mean and the costliest scan, which no split can beat."""
    rng = random.Random(1)
    for n in (1, 2, 7, 40, 200):
        costs = {k: rng.choice((1, 10, rng.randrange(1, 1000))) for k in range(n)}
        for n_tasks in (1, 2, 3, 16, n):
            tasks = task_split.partition(costs, n_tasks)
            assert sorted(number for task in tasks for number in task) == sorted(costs)
            assert len(tasks) == min(n, n_tasks)
            longest = max(sum(costs[number] for number in task) for task in tasks)
            best = max(max(costs.values()), -(-sum(costs.values()) // len(tasks)))
            assert longest <= 4 / 3 * best + max(costs.values()) / 3
            assert task_split.partition(dict(reversed(costs.items())), n_tasks) == tasks


def test_equal_scans_are_shared_out_evenly() -> None:
    assert {len(t) for t in task_split.partition(dict.fromkeys(range(24), 5), 8)} == {3}


def test_the_cost_is_the_bytes_of_the_counts(tmp_path: Path) -> None:
    """32 channels, 3 dumps, 2 pixels, 5 subscans of source and 2 of loads, int32."""
    store = L0Store(night(tmp_path))
    assert task_split.scan_cost(store, ScanId(25650)) == task_split.SCAN_BYTES + 32 * 3 * 2 * (5 + 2) * 4
    (store.path / "scan_025650/source/data_5d/zarr.json").write_text("{")
    assert task_split.scan_cost(store, ScanId(25650)) == task_split.SCAN_BYTES + 32 * 3 * 2 * 2 * 4


@pytest.mark.parametrize(("array", "gib", "expected"), [
    ("auto", [40] * 10, (10, None)), ("auto", [1] * 64, (2, None)), ("auto", [1], (1, None)), ("auto%4", [40] * 10, (10, 4)),
    ("7", [1] * 10, (7, None)), ("24%3", [1] * 24, (24, 3)), ("20", [1] * 3, (3, None)), ("auto", [64] * 2000, (1000, None)),
])  # fmt: skip
def test_size_of_the_array(array: str, gib: list[int], expected: tuple[int, int | None]) -> None:
    assert task_split.array_size(array, {k: n * 1024**3 for k, n in enumerate(gib)}) == expected


@pytest.mark.parametrize("array", ["", "0", "-1", "many", "3%0", "3%", "%2", "5000", "1-3"])
def test_sizes_that_are_none(array: str) -> None:
    with pytest.raises(ConfigError, match="--array"):
        task_split.array_size(array, {1: 1})


def test_scans_as_text() -> None:
    from calib_gpu.cli.common import parse_scans

    assert scans_text([1, 2, 3, 5, 7, 8]) == "1-3,5,7-8"
    assert parse_scans(scans_text([1, 2, 3, 5, 7, 8])) == [1, 2, 3, 5, 7, 8]


def test_the_script_runs_the_scans_of_its_task(tmp_path: Path) -> None:
    """Carried out by a shell, with an srun that prints its arguments; paths and options may hold anything."""
    folder = tmp_path / "it's a night"
    folder.mkdir()
    night(folder)
    planned = slurm.plan(job(folder, options=("--set", "atmosphere=a b.zarr"), cpus=4, resources=("--comment=a b",)))
    assert "#SBATCH --requeue\n" in planned.script
    assert "#SBATCH '--comment=a b'\n" in planned.script
    assert "#SBATCH --array=0-2\n" in planned.script
    planned.folder.mkdir(parents=True)
    (planned.folder / "tasks.txt").write_text("1\n2-5\n9\n")
    (tmp_path / "bin").mkdir()
    for name, text in {
        "srun": 'printf "%s\\n" "$@"; exit $CODE',
        "squeue": "echo $STATE",
        "scontrol": 'echo "$@"',
    }.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / "bin" / name).chmod(0o755)

    def run(code: int, state: str = "RUNNING", restarts: str = "") -> list[str]:
        env = {
            "PATH": f"{tmp_path}/bin:/usr/bin:/bin",
            "SLURM_ARRAY_TASK_ID": "1",
            "SLURM_JOB_ID": "77",
            "CODE": str(code),
        }
        env |= {"STATE": state} | ({"SLURM_RESTART_COUNT": restarts} if restarts else {})
        done = subprocess.run(["bash", "-c", planned.script], env=env, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (code, "")
        return done.stdout.splitlines()

    call = ["--cpus-per-task", "4", "calib-gpu", "run", f"{folder}/l0.zarr", f"{folder}/l1.zarr", "--scans", "2-5",
            "--set", "atmosphere=a b.zarr", "--workers", "4"]  # fmt: skip
    assert run(0) == call
    assert run(2) == call
    assert run(75) == [*call, "requeue 77"]
    assert run(75, restarts="99") == [*call, "requeue 77"]
    assert run(75, restarts="100") == call
    assert run(75, state="CANCELLED") == call  # who cancels a task does not want it again
    assert run(75, state="COMPLETING") == call


def test_submit_status_and_resume(tmp_path: Path, programs: Path) -> None:
    l0 = night(tmp_path, broken=(25651,))
    l1 = tmp_path / "l1.zarr"
    with pytest.raises(StoreUnusable, match="nothing was submitted"):
        slurm.status(l1)
    made = slurm.submit(slurm.plan(job(tmp_path)))
    assert (made.job_id, made.tasks) == ("41", ((25650,), (25651,), (25652,)))
    assert (made.folder / "tasks.txt").read_text() == "25650\n25651\n25652\n"
    assert (programs / "sbatch.calls").read_text() == f"--parsable {made.folder}/job.sh\n"
    (programs / "queue").write_text("41 0\n41 1\n41 2\n7 0\n")
    assert slurm.status(l1) == slurm.Status(waiting=["scan_025650", "scan_025651", "scan_025652"], l0=str(l0))

    calibrate(l0, l1, scans=[25650, 25651])
    (programs / "queue").write_text("")
    found = slurm.status(l1)
    assert (found.done, list(found.failed), found.missing) == (["scan_025650"], ["scan_025651"], ["scan_025652"])
    again = slurm.resume(l1, found, failed=False)
    assert again is not None
    assert (again.job_id, again.tasks) == ("42", ((25652,),))
    (programs / "queue").write_text("42 0\n")
    found = slurm.status(l1)
    assert (found.waiting, found.missing) == (["scan_025652"], [])
    assert slurm.resume(l1, found, failed=False) is None
    both = slurm.resume(l1, found, failed=True)
    assert both is not None
    assert both.tasks == ((25651,),)


def test_a_scan_that_a_live_run_is_staging_is_running(tmp_path: Path, programs: Path) -> None:
    night(tmp_path)
    slurm.submit(slurm.plan(job(tmp_path)))
    one = publish.Publisher(tmp_path / "l1.zarr", "l0.zarr", {}, overwrite=False)
    (one.stage(ScanId(25651)) / "spectra").mkdir(parents=True)
    (one.stage(ScanId(25652, "band_A.b"))).mkdir()
    assert publish.scans_in_work(tmp_path / "l1.zarr") == ["scan_025651", "scan_025652/band_A.b"]
    found = slurm.status(tmp_path / "l1.zarr")
    assert (found.running, found.missing) == (["scan_025651"], ["scan_025650", "scan_025652"])
    one.close()
    assert slurm.status(tmp_path / "l1.zarr").running == []


def test_of_two_submissions_at_one_time_the_first_counts(tmp_path: Path, programs: Path) -> None:
    night(tmp_path)
    first, second = slurm.plan(job(tmp_path)), slurm.plan(job(tmp_path))
    slurm.submit(first)
    with pytest.raises(ConfigError, match="another submission came first"):
        slurm.submit(second)
    assert len((programs / "sbatch.calls").read_text().splitlines()) == 1


def test_what_slurm_refuses_leaves_nothing(tmp_path: Path, programs: Path) -> None:
    night(tmp_path)
    (programs / "sbatch").write_text("#!/bin/sh\necho 'sbatch: error: invalid partition specified: x' >&2; exit 1\n")
    with pytest.raises(ConfigError, match=r"sbatch.*invalid partition"):
        slurm.submit(slurm.plan(job(tmp_path)))
    assert slurm.submissions(tmp_path / "l1.zarr") == []
    (programs / "squeue").write_text("#!/bin/sh\necho 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1\n")
    known = slurm.Submission(job(tmp_path), 1, ((25650,),), "", "40")
    assert slurm.queued_numbers([known]) == set()
    (programs / "squeue").write_text("#!/bin/sh\necho 'Unable to contact slurm controller' >&2; exit 1\n")
    with pytest.raises(ConfigError, match="Unable to contact"):
        slurm.queued_numbers([known])


def test_what_only_looks_like_a_scan_is_named_and_never_submitted(tmp_path: Path, programs: Path) -> None:
    l0, l1 = night(tmp_path), tmp_path / "l1.zarr"
    (l0 / "scan_25653").mkdir()
    done = cli(tmp_path, "submit", "l0.zarr", "l1.zarr")
    assert (done.returncode, "no scan: scan_25653: not a scan's name" in done.stderr) == (0, True)
    calibrate(l0, l1)
    shown = cli(tmp_path, "status", "l1.zarr", "--resume", "--retry-failed")
    assert (shown.returncode, "no scan: scan_25653: not a scan's name" in shown.stdout) == (2, True), shown.stderr
    assert "nothing to submit" in shown.stdout
    assert [f["scan"] for f in json.loads((l1 / "failures.json").read_bytes())] == ["scan_25653"]
    (l0 / "scan_25653").rename(l0 / "old")
    assert slurm.status(l1).strange == list(slurm.status(l1).failed) == []
    calibrate(l0, l1, scans=[25650])
    assert not (l1 / "failures.json").exists()


def test_what_cannot_be_known_is_not_told_as_a_number(tmp_path: Path) -> None:
    l0 = night(tmp_path)
    calibrate(l0, tmp_path / "l1.zarr", scans=[25650])
    shown = cli(tmp_path, "status", "l1.zarr")
    assert "missing  unknown" in shown.stdout
    assert "missing      2 " in cli(tmp_path, "status", "l1.zarr", "--l0", "l0.zarr").stdout


def test_a_scan_that_is_done_has_not_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after it was published, and before the failure of an earlier try was forgotten."""
    l0, l1 = night(tmp_path), tmp_path / "l1.zarr"
    document = l0 / "scan_025651/source/mjd/zarr.json"
    sound = document.read_bytes()
    document.write_bytes(b"{")
    calibrate(l0, l1)
    document.write_bytes(sound)
    monkeypatch.setattr(RunRecords, "done", lambda *_: None)
    calibrate(l0, l1)
    assert [f["scan"] for f in noted_failures(l1, publish.run_folder(l1))] == ["scan_025651"]
    found = slurm.status(l1, l0)
    assert (len(found.done), found.failed, found.missing) == (3, {}, [])


def test_nothing_is_written_below_l0(tmp_path: Path, programs: Path) -> None:
    l0 = night(tmp_path)
    before = sorted(l0.rglob("*"))
    done = cli(tmp_path, "submit", "l0.zarr", "l0.zarr/l1.zarr")
    assert (done.returncode, "input and output overlap" in done.stderr) == (64, True), done.stderr
    assert sorted(l0.rglob("*")) == before
    assert not (programs / "sbatch.calls").exists()


def test_the_limits_of_the_options_hold_for_the_splitting_too(tmp_path: Path, programs: Path) -> None:
    night(tmp_path)
    done = cli(tmp_path, "submit", "l0.zarr", "l1.zarr", "--", "--set", "max_scans=2")
    assert (done.returncode, "max_scans" in done.stderr) == (65, True), done.stderr
    limited = job(tmp_path, limits={"max_scans": 3})
    assert slurm.submit(slurm.plan(limited)).job.limits == {"max_scans": 3}
    assert slurm.submissions(tmp_path / "l1.zarr")[0].job == limited
    (tmp_path / "l0.zarr/scan_025653").mkdir()
    with pytest.raises(StoreUnusable, match="max_scans"):
        slurm.status(tmp_path / "l1.zarr")


def test_the_commands(tmp_path: Path, programs: Path) -> None:
    """Wrong options of run are told by submit; a dry run writes nothing; a task can be carried out as it stands."""
    night(tmp_path)
    for options, word in ((["--overwrite"], "not for a task"), (["--scans", "1"], "not for a task"), (["--nonsense"], "nonsense"),
                          (["--set", "eta_ff=1"], "did you mean eta_f")):  # fmt: skip
        done = cli(tmp_path, "submit", "l0.zarr", "l1.zarr", "--", *options)
        assert (done.returncode, word in done.stderr) == (64, True), done.stderr
    done = cli(tmp_path, "submit", "l0.zarr", "l1.zarr", "--array", "2%1", "--gpus-per-task", "1", "--dry-run",
               "--scans", "25650-25651", "--", "--set", "eta_f=0.9")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "--array=0-1%1" in done.stdout
    assert "--gpus-per-task=1" in done.stdout
    assert "task 1: 25651" in done.stdout
    assert not (tmp_path / "l1.zarr.run").exists()
    done = cli(tmp_path, "submit", "l0.zarr", "l1.zarr", "--", "--set", "eta_f=0.9")
    assert "job 41: 3 scan(s) in 1 task(s)" in done.stdout, done.stderr
    (programs / "srun").write_text('#!/bin/sh\nexec "$@"\n')
    (programs / "srun").chmod(0o755)
    script = tmp_path / "l1.zarr.run" / "slurm" / "1" / "job.sh"
    env = os.environ | {"SLURM_ARRAY_TASK_ID": "0", "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run(["bash", str(script)], env=env, check=True, capture_output=True)
    shown = cli(tmp_path, "status", "l1.zarr", "--json")
    assert (shown.returncode, len(json.loads(shown.stdout)["done"])) == (0, 3)
    assert cli(tmp_path, "status", "l1.zarr", "--retry-failed").returncode == 64
    assert "nothing to submit" in cli(tmp_path, "status", "l1.zarr", "--resume").stdout


def test_the_script_for_those_who_do_without_submit(tmp_path: Path) -> None:
    """Task k of n takes every n-th scan; it ends like the scripts of submit."""
    path = Path(__file__).parents[2] / "scripts" / "calib-gpu.sbatch"
    assert path.read_text().endswith(slurm.QUEUE_AGAIN)
    l0 = night(tmp_path, (0, 25650, 25651, 1234567))
    (l0 / "scan_025651.bak").mkdir()
    (l0 / "scan_last").mkdir()
    for name, text in {"srun": 'echo "$@"; exit $CODE', "squeue": "echo RUNNING", "scontrol": 'echo "$@"'}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)

    def task(k: int, n: int, **more: str) -> list[str]:
        env = {"PATH": f"{tmp_path}:/usr/bin:/bin", "L0": str(l0), "L1": "/data/l1.zarr", "SLURM_CPUS_PER_TASK": "4",
               "SLURM_ARRAY_TASK_ID": str(k), "SLURM_ARRAY_TASK_COUNT": str(n), "SLURM_JOB_ID": "77", "CODE": "0"}  # fmt: skip
        env |= more
        done = subprocess.run(["bash", str(path)], env=env, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (int(env["CODE"]), "")
        return done.stdout.splitlines()

    call = f"--cpus-per-task=4 calib-gpu run {l0} /data/l1.zarr --scans {{}} --workers 4"
    assert task(0, 3) == [call.format("0,1234567")]
    assert task(1, 3) == [call.format("25650")]
    assert task(2, 3) == [call.format("25651")]
    assert task(5, 6) == []
    assert task(0, 1, OPTIONS="--dtype float32", CODE="75") == [
        call.format("0,25650,25651,1234567") + " --dtype float32", "requeue 77",
    ]  # fmt: skip
