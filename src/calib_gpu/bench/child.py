"""One measured run in a process of its own: ``python -m calib_gpu.bench.child TASK ARGUMENTS`` prints its result as JSON.

A task imports and opens what it needs before its clock starts. The peak memory is that of this process alone
(``VmHWM``; ``ru_maxrss`` would also count the process that started it).
"""

from __future__ import annotations

import json
import logging
import pickle
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final


def peak_bytes() -> int:
    """Peak resident memory of this process, bytes."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no VmHWM in /proc/self/status")


def imported() -> dict[str, Any]:
    """Nothing but the imports of a run: what the peak memory of the engine is counted from."""
    from calib_gpu.backend import get_backend

    return {"seconds": 0.0, "name": get_backend("numpy").name}


def engine(l0: str, out: str, settings: dict[str, Any], again: bool = False) -> dict[str, Any]:
    """A run of the engine; with ``again`` a second one over the finished scans (``skip_seconds``)."""
    from calib_gpu.pipeline import calibrate
    from calib_gpu.scan_report import TIMINGS
    from calib_gpu.settings import Settings

    logging.getLogger("calib_gpu").setLevel(logging.CRITICAL)
    chosen = Settings(**settings)
    begin = time.perf_counter()
    report = calibrate(l0, out, chosen)
    seconds = time.perf_counter() - begin
    done = [scan for scan in report.scans if scan.status == "ok"]
    if not done:
        raise RuntimeError(f"no scan was calibrated: {[scan.message for scan in report.scans]}")
    more: dict[str, Any] = {}
    if again:
        begin = time.perf_counter()
        calibrate(l0, out, chosen)
        more["skip_seconds"] = time.perf_counter() - begin
    return {
        "seconds": seconds, "samples": sum(s.samples for s in done), "scans": len(done),
        "bytes_read": sum(s.bytes_read for s in done), "bytes_written": sum(s.bytes_written for s in done),
        "timings_ms": {name: sum(s.timings_ms.get(name, 0.0) for s in done) for name in TIMINGS}, **more,
    }  # fmt: skip


def plan(l0: str, l1: str, file: str) -> dict[str, Any]:
    """Factors and references of all scans of a reference L1 store into a file for the floor."""
    from calib_gpu.bench.plan import plan_scan, scans_of

    plans = [plan_scan(Path(l0), Path(l1), scan) for scan in scans_of(Path(l1))]
    Path(file).write_bytes(pickle.dumps(plans))
    return {"seconds": 0.0, "scans": [p.name for p in plans]}


def floor(plan: str, out: str, workers: int) -> dict[str, Any]:
    """The floor."""
    from calib_gpu.bench.floor import run_floor

    return run_floor(pickle.loads(Path(plan).read_bytes()), Path(out), workers)  # a file of ours, made by `plan`


def numpy_script(l0: str, out: str, scans: list[str]) -> dict[str, Any]:
    """The script with zarr-python and NumPy."""
    import zarr  # noqa: F401  # before the clock starts

    from calib_gpu.bench import scripts

    begin = time.perf_counter()
    samples = scripts.numpy_script(Path(l0), scans, Path(out))
    return {"seconds": time.perf_counter() - begin, "samples": samples}


def dask_script(l0: str, out: str, scans: list[str], workers: int) -> dict[str, Any]:
    """The script with xarray and dask."""
    from importlib import import_module

    from calib_gpu.bench import scripts

    for name in ("dask.array", "xarray", "zarr"):
        import_module(name)

    begin = time.perf_counter()
    samples = scripts.dask_script(Path(l0), scans, Path(out), workers)
    return {"seconds": time.perf_counter() - begin, "samples": samples}


def read_engine(l0: str, workers: int) -> dict[str, Any]:
    """Reading through the engine."""
    from calib_gpu.bench.reads import read_with_engine

    return read_with_engine(Path(l0), workers)


def read_tensorstore(l0: str, workers: int) -> dict[str, Any]:
    """Reading through tensorstore."""
    from calib_gpu.bench.reads import read_with_tensorstore

    return read_with_tensorstore(Path(l0), workers)


def show_help() -> dict[str, Any]:
    """``calib-gpu --help``, from the start of the interpreter to its end."""
    begin = time.perf_counter()
    call = [sys.executable, "-c", "from calib_gpu.cli import main; main(['--help'])"]
    subprocess.run(call, check=True, stdout=subprocess.DEVNULL)
    return {"seconds": time.perf_counter() - begin}


TASKS: Final[dict[str, Callable[..., dict[str, Any]]]] = {
    "import": imported,
    "engine": engine,
    "plan": plan,
    "floor": floor,
    "numpy": numpy_script,
    "dask": dask_script,
    "read_engine": read_engine,
    "read_tensorstore": read_tensorstore,
    "help": show_help,
}


def main() -> None:
    """Run a task and print its result, the peak memory added."""
    task, arguments = sys.argv[1:]
    result = TASKS[task](**json.loads(arguments))
    print(json.dumps(result | {"peak_bytes": peak_bytes()}))


if __name__ == "__main__":
    main()
