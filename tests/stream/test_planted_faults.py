"""Nine faults planted in a pipeline of three streams: what finds them, and what does not."""

from __future__ import annotations

import pytest

from calib_gpu.testing.schedule import schedules, stragglers
from calib_gpu.testing.sim import SimDevice
from planted_pipeline import PLANTED, STREAMS, pipeline, step


def test_the_pipeline_is_right_under_every_schedule() -> None:
    for schedule in schedules(STREAMS, 100):
        device = SimDevice(schedule, execute=step)
        assert pipeline(device), schedule
        assert device.order_faults == []


@pytest.mark.parametrize("planted", PLANTED)
def test_a_planted_fault_is_found_in_one_eager_run(planted: str) -> None:
    device = SimDevice(check="record", execute=step)
    pipeline(device, planted)
    assert device.order_faults


@pytest.mark.parametrize("planted", PLANTED)
def test_the_stragglers_alone_find_a_planted_fault_by_its_results(planted: str) -> None:
    wrong = [s for s in stragglers(STREAMS) if not pipeline(SimDevice(s, check="off", execute=step), planted)]
    assert wrong


def test_a_device_that_runs_all_at_once_and_checks_nothing_finds_none_of_them() -> None:
    """Why the checker and the schedules are there."""
    assert all(pipeline(SimDevice(check="off", execute=step), planted) for planted in PLANTED)


def test_an_edge_that_is_not_needed_is_not_demanded() -> None:
    """With each output drained at once, computing need not wait for the download."""
    device = SimDevice(execute=step)
    assert pipeline(device, "compute overwrites output in download", lag=0)
    assert device.order_faults == []
