"""P17: what is not ordered on the device is found without a GPU, and nothing else is called a fault."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from calib_gpu import stream
from calib_gpu.backend import on_device
from calib_gpu.testing.schedule import schedules
from calib_gpu.testing.sim import EAGER, SimDevice
from device_tiles import STREAMS, run_tiles
from mutant_runs import OF_DEVICE, OF_STREAM, device_wrong, tiles_wrong
from planted_pipeline import PLANTED, pipeline, step

SEEDS = 10_000 if os.environ.get("CALIB_GPU_QUALIFY") == "full" else 100
Figure = Callable[[str, str, Any, Any], None]


def races(planted: str) -> int:
    """What the checker reports in one eager run."""
    device = SimDevice(check="record", execute=step)
    pipeline(device, planted)
    return len(device.order_faults)


def test_planted_faults(figure: Figure) -> None:
    found = sum(races(planted) > 0 for planted in PLANTED)
    figure("P17", "planted faults found in one eager run each", f"{found} of {len(PLANTED)}", "9 of 9")
    assert found == len(PLANTED) == 9


@pytest.mark.parametrize("n_lane", [1, 3])
def test_false_alarms(figure: Figure, n_lane: int) -> None:
    ways = schedules(STREAMS, SEEDS)
    wrong = [str(way) for way in ways if run_tiles(way, 2, n_lane) != []]
    figure("P17", f"false alarms or wrong tiles in {len(ways)} schedules, {n_lane} thread(s)", len(wrong), 0)
    assert wrong == []


def test_mutation_score(figure: Figure) -> None:
    caught = sum(tiles_wrong(m.module(stream), EAGER, "raise") for m in OF_STREAM)
    caught += sum(device_wrong(m.module(on_device)) for m in OF_DEVICE)
    n = len(OF_STREAM) + len(OF_DEVICE)
    figure("P17", f"mutants of {n} caught by the checker in eager runs", f"{100 * caught / n:.0f} %", "100 %")
    assert caught == n
