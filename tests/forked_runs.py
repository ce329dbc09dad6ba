"""Many runs of the command line, each in a process of its own whose time and memory are measured.

Starting Python and importing the engine takes longer than a tiny run. So one process imports it and forks for each run.
As a script it reads a list of jobs from standard input and writes what became of them, one JSON line each; :func:`run_all`
starts it.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

SECONDS = 20


@dataclass(frozen=True)
class Ran:
    """What became of a run: exit code (negative: the signal that ended it), seconds, peak memory in MiB, what it wrote."""

    code: int
    seconds: float
    peak_mib: float
    out: str
    err: str


def run_all(jobs: dict[str, list[str]], folder: Path) -> dict[str, Ran]:
    """Run ``calib-gpu`` with each list of arguments; ``folder`` takes what they print."""
    done = subprocess.run(
        [sys.executable, __file__, str(folder)], input=json.dumps(jobs), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return {name: Ran(*values) for name, values in map(json.loads, done.stdout.splitlines())}


def _run(arguments: list[str], out: Path, err: Path) -> tuple[int, float, float]:
    begin = time.monotonic()
    child = os.fork()
    if child == 0:
        os.dup2(os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
        os.dup2(os.open(err, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        signal.alarm(SECONDS)  # one that hangs is killed
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        code = 99
        try:
            main(arguments)
        except SystemExit as leaving:
            code = int(leaving.code or 0)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    _, status, usage = os.wait4(child, 0)
    return os.waitstatus_to_exitcode(status), time.monotonic() - begin, usage.ru_maxrss / 1024


if __name__ == "__main__":
    from calib_gpu import pipeline  # noqa: F401  imported before the forks
    from calib_gpu.cli import main, register

    register(["run"])
    folder = Path(sys.argv[1])
    for number, (name, arguments) in enumerate(json.load(sys.stdin).items()):
        out, err = folder / f"{number}.out", folder / f"{number}.err"
        found = _run(arguments, out, err)
        print(json.dumps([name, [*found, out.read_text(), err.read_text()]]))
