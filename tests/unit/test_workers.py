"""How many threads a run takes, and that libraries take none beside them."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from calib_gpu import workers


@pytest.mark.parametrize(("cores", "expected"), [(1, 1), (2, 2), (8, 8), (16, 8), (128, 8)])
def test_no_more_workers_than_pay(cores: int, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "usable_cores", lambda: cores)
    assert workers.default_workers() == expected


@pytest.mark.parametrize(("asked", "expected"), [(None, "1"), ("4", "4")])
def test_blas_takes_no_threads_unless_asked(asked: str | None, expected: str) -> None:
    code = (
        "import atexit, os; from calib_gpu.cli import main\n"
        "atexit.register(lambda: print('T' + os.environ['OPENBLAS_NUM_THREADS']))\n"
        "main(['doctor', '--help'])"
    )
    env = {k: v for k, v in os.environ.items() if k != "OPENBLAS_NUM_THREADS"} | (
        {} if asked is None else {"OPENBLAS_NUM_THREADS": asked}
    )
    found = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert found.stdout.splitlines()[-1] == f"T{expected}"
