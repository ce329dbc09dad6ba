"""A night as an array job of a real SLURM: killed, preempted, its node lost; in the end the bytes of a single run."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_pipeline import tree

import calib_gpu
from calib_gpu.slurm import submissions
from calib_gpu.store.l0_write import L0Writer
from calib_gpu.store.publish import scans_in_work
from slurm_cluster import Cluster, missing, wait_for
from small_scan import small_scan

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

N_SCANS = 24
FIRST = 25650
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT"}
"""States after which a task does not run again; one look must tell all, for between two a task goes from one to another."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    if why := missing():
        pytest.skip(f"no SLURM here: {why}")
    with contextlib.closing(Cluster()) as made:
        yield made


class Site:
    """A night of small scans, and the commands of the engine in the environment of the cluster."""

    def __init__(self, folder: Path, cluster: Cluster) -> None:
        self.folder, self.cluster = folder, cluster
        self.l0, self.l1 = folder / "l0.zarr", folder / "l1.zarr"
        store = L0Writer(self.l0, {})
        for k in range(N_SCANS):
            small_scan(FIRST + k, shape=(64, 2, 1, 2), mjd=60000.0 + k / 144.0, seed=k).write(store, "int32")
        source = str(Path(calib_gpu.__file__).parents[1])
        self.env = cluster.env | {"PYTHONPATH": source}

    def cli(self, *arguments: str, code: int | None = 0) -> str:
        call = [sys.executable, "-m", "calib_gpu", *arguments]
        done = subprocess.run(
            call, env=self.env, cwd=self.folder, capture_output=True, text=True, timeout=120, check=False
        )
        assert code in (None, done.returncode), done.stdout + done.stderr
        return done.stdout

    def tasks(self, state: str = "RUNNING") -> dict[int, str]:
        """Tasks in a state, with the node of each."""
        lines = self.cluster.call("squeue", "-h", "-r", "-n", "calib-gpu", "-t", state, "-o", "%K %N").splitlines()
        return {int(line.split()[0]): line.partition(" ")[2].strip() for line in lines}

    def engine(self, task: int) -> int:
        """Process number of the engine of a task."""
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and f"SLURM_ARRAY_TASK_ID={task}".encode() in (
                    entry / "environ"
                ).read_bytes().split(b"\0"):
                    words = (entry / "cmdline").read_bytes().split(b"\0")
                    if words[0].endswith(b"python") or b"python3" in words[0]:
                        return int(entry.name)
        raise RuntimeError(f"no engine of task {task}")

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """No scan ends meanwhile, but by what happens to its task."""
        (self.folder / "hold").touch()
        try:
            yield
        finally:
            (self.folder / "hold").unlink()

    def steady(self, n: int) -> dict[int, str]:
        """The tasks that run and their nodes, once ``n`` of them write a scan and none comes or goes; for :meth:`held`."""
        seen = [dict[int, str]()]

        def same() -> bool:
            seen.append(self.tasks())
            return seen[-1] == seen[-2] and len(seen[-1]) == n == len(scans_in_work(self.l1))

        wait_for(lambda: all(same() or time.sleep(0.5) for _ in range(3)), 90.0, f"{n} scans in work")
        return seen[-1]

    def restarts(self, job: str, task: int) -> int:
        """How often SLURM has queued a task again; then it may start at once, not in two minutes."""
        told = self.cluster.call("scontrol", "show", "job", f"{job}_{task}")
        return int(re.search(r"Restarts=(\d+)", told)[1])  # type: ignore[index]

    def hurry(self, job: str) -> None:
        """What was queued again need not wait for the two minutes that SLURM sets."""
        for task in self.tasks("PENDING"):
            with contextlib.suppress(RuntimeError):
                if self.restarts(job, task):
                    self.cluster.call("scontrol", "update", f"JobId={job}_{task}", "StartTime=now")

    def until_empty(self, job: str, seconds: float) -> None:
        """Wait until no task is left in the queue; never more than three at a time."""

        def empty() -> bool:
            self.hurry(job)
            lines = self.cluster.call("squeue", "-h", "-r", "-j", job, "-t", "all", "-o", "%T").split()
            assert lines.count("RUNNING") <= 3
            return bool(lines) and set(lines) <= ENDED

        wait_for(empty, seconds, "an empty queue")


def test_an_array_that_is_killed_preempted_and_loses_a_node(tmp_path: Path, cluster: Cluster) -> None:
    site = Site(tmp_path, cluster)
    slow = f"{sys.executable} {Path(__file__).with_name('slow_engine.py')}"
    site.cli("submit", "l0.zarr", "l1.zarr", "--partition", "gpu", "--gpus-per-task", "1", "--cpus-per-task", "1",
             "--time", "00:10:00", "--array", f"{N_SCANS}%3", "--command", slow)  # fmt: skip
    (submitted,) = submissions(site.l1)
    job = submitted.job_id
    assert len(submitted.tasks) == N_SCANS
    try:
        with site.held():
            killed = min(site.steady(3))
            os.kill(site.engine(killed), signal.SIGKILL)
            wait_for(
                lambda: killed not in site.tasks("RUNNING,COMPLETING"), 60.0, "the end of the task that was killed"
            )
            shown = json.loads(site.cli("status", "l1.zarr", "--json", code=None))
        assert f"scan_{FIRST + killed:06d}" in shown["missing"], (killed, shown)
        assert len(shown["waiting"]) > N_SCANS // 2

        def urgent() -> tuple[int, str]:
            """A task that a job of higher priority drives from its node."""
            running = site.steady(3)
            node = next(n for n in running.values() if list(running.values()).count(n) == 2)
            victims = [task for task, where in running.items() if where == node]
            cluster.call("sbatch", "-p", "urgent", "-w", node, "--gres=gpu:2", "-o", "/dev/null", "--wrap", "sleep 2")
            wait_for(
                lambda: any(site.restarts(job, v) for v in victims), 120.0, "a task that is preempted and queued again"
            )
            return next(v for v in victims if site.restarts(job, v)), node

        with site.held():
            preempted, _ = urgent()
        assert "stopped; run the same command again" in (submitted.folder / f"{preempted}.log").read_text()

        with site.held():
            lost, node = next(iter(site.steady(3).items()))
            cluster.kill_node(node)
            cluster.call("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")
            wait_for(lambda: site.restarts(job, lost), 60.0, "a task that is queued again after its node was lost")
        time.sleep(0.5)
        cluster.start_node(node)
        wait_for(lambda: cluster.call("scontrol", "update", f"NodeName={node}", "State=RESUME") == "", 20.0, "the node")

        site.until_empty(job, 150.0)
        left = site.cli("status", "l1.zarr", code=2)
        assert re.search(rf"missing +\d+ .*scan_{submitted.tasks[killed][0]:06d}", left), left
        site.cli("status", "l1.zarr", "--resume", code=2)
        resumed = submissions(site.l1)[-1]
        assert submitted.tasks[killed] in resumed.tasks
        site.until_empty(resumed.job_id, 60.0)
        assert f"done        {N_SCANS}\n" in site.cli("status", "l1.zarr")
    except BaseException:
        print(cluster.logs())
        raise
    site.cli("run", "l0.zarr", "single.zarr", "--workers", "1")
    assert tree(site.l1) == tree(site.folder / "single.zarr")
    site.cli("check", "l1.zarr")
    print(f"{N_SCANS} scans in an array, 3 at a time: 1 task killed, {preempted} preempted, {lost} lost with its node;"
          " 0 bytes differ from a single run")  # fmt: skip


def test_a_task_that_is_cancelled_stays_so(tmp_path: Path, cluster: Cluster) -> None:
    """The engine ends with 75 as when it is preempted, but nobody wants the task again."""
    site = Site(tmp_path, cluster)
    slow = f"{sys.executable} {Path(__file__).with_name('slow_engine.py')}"
    site.cli("submit", "l0.zarr", "l1.zarr", "--partition", "gpu", "--array", "1", "--command", slow)
    (submitted,) = submissions(site.l1)
    with site.held():
        wait_for(lambda: scans_in_work(site.l1), 60.0, "a scan in work")
        cluster.call("scancel", submitted.job_id)
        site.until_empty(submitted.job_id, 60.0)
        time.sleep(1.0)
        site.until_empty(submitted.job_id, 1.0)
    assert site.restarts(submitted.job_id, 0) == 0
    assert "stopped; run the same command again" in (submitted.folder / "0.log").read_text()
    assert json.loads(site.cli("status", "l1.zarr", "--json", code=None))["missing"]
