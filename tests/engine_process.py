"""The engine in a process of its own, with faults on purpose (:mod:`faulty_engine`)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import calib_gpu

FAULTY = Path(__file__).with_name("faulty_engine.py")


def start(folder: Path, *arguments: str, **faults: Any) -> subprocess.Popen[str]:
    """Start the engine; returns when it catches signals, or has ended."""
    source = str(Path(calib_gpu.__file__).parents[1])
    env = os.environ | {"CALIB_GPU_FAULTS": json.dumps(faults), "PYTHONPATH": source}
    process = subprocess.Popen(
        [sys.executable, str(FAULTY), *arguments], cwd=folder, env=env, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.readline()
    return process


def until_fault(process: subprocess.Popen[str]) -> None:
    """Wait until a read that is to be stuck or broken has come; an error if the engine ends without, or takes a minute."""
    assert process.stdout is not None
    end = threading.Timer(60.0, process.kill)
    end.start()
    line = process.stdout.readline()
    end.cancel()
    assert line.startswith("FAULT"), f"the engine met no fault: {line!r}"


def finish(process: subprocess.Popen[str], seconds: float = 120.0) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a process; killed and an error if it takes longer."""
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    return process.returncode, out, err


def peak(out: str) -> int:
    """Peak memory in KiB, from what the engine prints at its end."""
    return int(out.rpartition("PEAK ")[2])
