"""P13: SIGTERM and SIGINT end a run within 10 s with exit code 75, even if a read is stuck; a rerun gives the same bytes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_pipeline import night, tree

from calib_gpu import Settings
from calib_gpu.pipeline import calibrate
from engine_process import finish, start, until_fault

Figure = Callable[[str, str, Any, Any], None]

TIMES = 100 if os.environ.get("CALIB_GPU_QUALIFY") == "full" else 10
LIMIT_S, SECOND_LIMIT_S = 10.0, 1.0
NUMBERS = tuple(range(25650, 25656))


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A night of small scans, and its uninterrupted result by one worker."""
    folder = tmp_path_factory.mktemp("signals")
    l0 = night(folder, NUMBERS)
    calibrate(l0, folder / "whole.zarr", Settings(workers=1))
    return l0, tree(folder / "whole.zarr")


def signalled(process: subprocess.Popen[str], number: signal.Signals) -> tuple[float, int, str]:
    """Send a signal; seconds until the process is gone, its exit code, its standard error."""
    process.send_signal(number)
    begin = time.monotonic()
    code, _, err = finish(process, 60.0)
    return time.monotonic() - begin, code, err


def seconds_of_a_run(folder: Path, l0: Path, durable: float) -> float:
    """From where the engine catches signals to its end."""
    process = start(folder, "run", str(l0), f"timed-{durable}.zarr", "--workers", "2", durable=durable)
    begin = time.monotonic()
    assert finish(process)[0] == 0
    return time.monotonic() - begin


def left_over(l1: Path) -> list[str]:
    """What is in the staging folder."""
    return [p.name for p in (l1.parent / f"{l1.name}.run" / "staging").glob("*")]


@pytest.mark.slow
def test_at_any_time(tmp_path: Path, reference: tuple[Path, dict[str, str]], figure: Figure) -> None:
    """At random times of a run; every third with a disk that takes its time to bring scans to the disk."""
    l0, whole = reference
    rng = random.Random(13)
    worst, differing, codes, runs = 0.0, 0, dict[int, int](), 0
    whole_run = {durable: seconds_of_a_run(tmp_path, l0, durable) for durable in (0.02, 0.25)}
    while codes.get(75, 0) < TIMES:
        assert runs < 5 * TIMES, f"most runs end before the signal comes: {codes}"
        durable = 0.25 if runs % 3 == 2 else 0.02
        l1, runs = tmp_path / f"{runs}.zarr", runs + 1
        process = start(tmp_path, "run", str(l0), str(l1), "--workers", "2", durable=durable)
        time.sleep(rng.uniform(0.0, whole_run[durable]))
        took, code, err = signalled(process, rng.choice((signal.SIGTERM, signal.SIGINT)))
        worst = max(worst, took)
        codes[code] = codes.get(code, 0) + 1
        assert code in (75, 0) or code < 0, (l1.name, code, err)  # < 0: the signal came when all was done
        assert code == 75 or tree(l1) == whole, (l1.name, code, err)
        assert not left_over(l1)
        calibrate(l0, l1)
        differing += tree(l1) != whole
    figure("P13", f"longest time to end in {runs} runs, s (exit codes {codes})", round(worst, 2), f"<= {LIMIT_S:g}")
    figure("P13", f"stores that differ after a rerun, of {runs}", differing, 0)
    assert worst <= LIMIT_S
    assert differing == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "stuck", ["scan_025651/source/data_5d/c", "scan_025652/source/tamb", "scan_025650/calibration"]
)
def test_while_a_read_is_stuck(
    tmp_path: Path, reference: tuple[Path, dict[str, str]], figure: Figure, stuck: str
) -> None:
    """In the counts, in the small arrays of a scan that is loaded ahead, and before the first scan."""
    l0, whole = reference
    process = start(tmp_path, "run", str(l0), "l1.zarr", stuck=stuck, seconds=600)
    until_fault(process)
    took, code, err = signalled(process, signal.SIGTERM)
    figure("P13", f"time to end while {stuck} is stuck, s", round(took, 2), f"<= {LIMIT_S:g}")
    assert code == 75
    assert took <= LIMIT_S
    assert stuck in err.splitlines()[-1]
    assert not left_over(tmp_path / "l1.zarr")
    calibrate(l0, tmp_path / "l1.zarr")
    assert tree(tmp_path / "l1.zarr") == whole


@pytest.mark.slow
def test_while_a_scan_is_brought_to_the_disk(
    tmp_path: Path, reference: tuple[Path, dict[str, str]], figure: Figure
) -> None:
    """The disk comes back after the run was given up: what was staged is removed, and never published."""
    l0, whole = reference
    process = start(tmp_path, "run", str(l0), "l1.zarr", durable=3.0)
    time.sleep(5.0)  # the store is made, a scan is waiting
    took, code, _ = signalled(process, signal.SIGTERM)
    figure("P13", "time to end while a scan is brought to the disk, s", round(took, 2), f"<= {LIMIT_S:g}")
    assert (code, took <= LIMIT_S) == (75, True)
    assert all(whole[name] == digest for name, digest in tree(tmp_path / "l1.zarr").items())
    calibrate(l0, tmp_path / "l1.zarr")
    assert tree(tmp_path / "l1.zarr") == whole


@pytest.mark.slow
@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_kills(
    tmp_path: Path, reference: tuple[Path, dict[str, str]], figure: Figure, second: signal.Signals
) -> None:
    l0, whole = reference
    process = start(tmp_path, "run", str(l0), "l1.zarr", stuck="scan_025651/source/data_5d/c", seconds=600)
    until_fault(process)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    assert process.poll() is None
    took, code, _ = signalled(process, second)
    figure("P13", f"time to end after a second signal ({second.name}), s", round(took, 2), f"<= {SECOND_LIMIT_S:g}")
    assert (code, took <= SECOND_LIMIT_S) == (-second, True)
    calibrate(l0, tmp_path / "l1.zarr")
    assert tree(tmp_path / "l1.zarr") == whole
    assert not left_over(tmp_path / "l1.zarr")


@pytest.mark.slow
def test_watch_ends_as_well(tmp_path: Path, reference: tuple[Path, dict[str, str]], figure: Figure) -> None:
    """While it waits, and while a read is stuck."""
    l0, _ = reference
    for k, faults in enumerate(({}, {"stuck": "scan_025651/source/data_5d/c", "seconds": 600})):
        process = start(tmp_path, "watch", str(l0), f"{k}.zarr", "--settle", "0", "--poll", "0.2", **faults)
        if faults:
            until_fault(process)
        else:
            time.sleep(3.0)
        took, code, err = signalled(process, signal.SIGTERM)
        figure(
            "P13", f"time of watch to end ({'stuck' if faults else 'waiting'}), s", round(took, 2), f"<= {LIMIT_S:g}"
        )
        assert (code, took <= LIMIT_S) == (75, True), err
        assert not left_over(tmp_path / f"{k}.zarr")
