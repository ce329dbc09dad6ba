"""Measuring: fresh processes, contenders in turn, medians; the page cache, warm or cold."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import calib_gpu
from calib_gpu.errors import CalibError

Say = Callable[[str], None]


@dataclass(frozen=True)
class Contender:
    """One of those that are run in turn.

    ``task`` is a task of :mod:`calib_gpu.bench.child` with its ``arguments``; ``reads`` the store whose pages are in
    the cache (``cache`` warm) or not (cold) when the run begins. ``about`` goes into the result. ``many_files``: its
    output stays until the case ends.
    """

    name: str
    task: str
    arguments: dict[str, Any]
    workers: int = 0
    reads: Path | None = None
    cache: str = "warm"
    about: dict[str, Any] = field(default_factory=dict)
    many_files: bool = False


def run_child(task: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Run a task in a fresh interpreter; its result.

    Raises
    ------
    CalibError
        It failed; the value is its last words.
    """
    source = str(Path(calib_gpu.__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))}
    call = [sys.executable, "-m", "calib_gpu.bench.child", task, json.dumps(arguments)]
    done = subprocess.run(call, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise CalibError("a measured run failed", array=task, value=said)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def contest(contenders: Sequence[Contender], repeat: int, scratch: Path, say: Say) -> list[dict[str, Any]]:
    """Run all contenders in turn (A B A B ...), ``repeat`` times; one record each, with all its runs.

    Outputs go below ``scratch`` and are removed after each run, those of many files after the last: ext4 makes new files
    several times more slowly while it remembers that others were removed. Before each run all files are brought to the
    disk, so that no run waits for what another has left.
    """
    kept: list[Path] = []
    runs: list[list[dict[str, Any]]] = [[] for _ in contenders]
    try:
        for k in range(repeat):
            for contender, mine in zip(contenders, runs, strict=True):
                how = [f"{contender.workers} worker(s)"] * bool(contender.workers) + ["cold"] * (
                    contender.cache == "cold"
                )
                say(", ".join([contender.name, *how, f"run {k + 1} of {repeat}"]))
                os.sync()
                if contender.reads is not None:
                    (fill_cache if contender.cache == "warm" else empty_cache)(contender.reads)
                writes = contender.task in ("engine", "floor", "numpy", "dask")
                path = scratch / f"out-{len(kept)}.zarr"
                out = {"out": str(path)} if writes else {}
                try:
                    mine.append(run_child(contender.task, contender.arguments | out))
                finally:
                    if contender.many_files:
                        kept.append(path)
                    else:
                        remove_output(path)
    finally:
        for path in kept:
            remove_output(path)
    return [
        {"name": c.name, "task": c.task, "workers": c.workers, "cache": c.cache, **c.about, "runs": mine}
        for c, mine in zip(contenders, runs, strict=True)
    ]


def remove_output(store: Path) -> None:
    """Remove a store that was written, and what the engine keeps beside it."""
    for path in (store, store.with_name(f"{store.name}.run")):
        shutil.rmtree(path, ignore_errors=True)


def files_of(store: Path) -> list[Path]:
    """All files of a store."""
    return [Path(root) / name for root, _, names in os.walk(store) for name in names]


def fill_cache(store: Path) -> None:
    """Read every file once."""
    for path in files_of(store):
        with path.open("rb", buffering=0) as file:
            while file.read(1 << 22):
                pass


def empty_cache(store: Path) -> None:
    """Drop the pages of every file (``posix_fadvise``): needs no privilege and leaves other programs alone.

    Directory entries and inodes stay in the cache.
    """
    for path in files_of(store):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(handle)
