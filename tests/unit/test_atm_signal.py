"""A table in the making that is interrupted ends, and leaves no process behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest


@pytest.mark.slow
def test_an_interrupted_make_ends(tmp_path: Path) -> None:
    pytest.importorskip("am")
    make = ("atm", "make", "--site", "chajnantor", "--band", "640GHz", "650GHz", "--workers", "1", "-o", "x.table")
    command = [sys.executable, "-c", "from calib_gpu.cli import main; main()", *make]
    with subprocess.Popen(
        command, cwd=tmp_path, env=os.environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:  # fmt: skip
        while process.poll() is None and not any(tmp_path.rglob("*.npy")):
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the workers get it too
        assert process.wait(timeout=60) != 0
    assert not (tmp_path / "x.table").exists()
    assert any(tmp_path.rglob("*.npy"))  # what is done is kept
