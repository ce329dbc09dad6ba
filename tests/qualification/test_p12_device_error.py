"""P12: an error of the device, reported at some later synchronisation, publishes nothing of the scan and stops the run."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from calib_gpu.errors import Exit
from calib_gpu.testing.schedule import Schedule
from calib_gpu.testing.sim import Faults
from device_night import DeviceNight, run, shared_night, violations

POLICIES = ("eager", "lazy")
FULL = os.environ.get("CALIB_GPU_QUALIFY") == "full"


@pytest.fixture(scope="module")
def night() -> Iterator[DeviceNight]:
    with shared_night((8, 2, 1, 1)) as made:
        yield made


def test_every_operation_may_fail(night: DeviceNight, figure: object) -> None:
    n_operation = run(night).device.n_operation
    bad: list[str] = []
    n_run = n_published = n_again = 0
    for k in range(n_operation):
        for policy in POLICIES if FULL else POLICIES[k % 2 : k % 2 + 1]:
            done = run(night, Schedule(policy), Faults(operation=k))
            n_run += 1
            n_published += done.statuses.count("ok")
            where = f"operation {k}, {policy}"
            bad += [f"{where}: {text}" for text in violations(night, done)]
            if done.report.exit_code is not Exit.STOPPED or done.statuses[-1:] != ["DeviceLost"]:
                bad.append(f"{where}: exit {done.report.exit_code}, {done.statuses}")
            if k % 16 == 0:
                n_again += 1
                rest = run(night, again=True)
                if rest.files != night.reference:
                    bad.append(f"{where}: the next run does not complete the store")
    figure("P12", f"violations in {n_run} runs with an error at one of {n_operation} operations", len(bad), 0)  # type: ignore[operator]
    assert bad == []
    assert n_operation > 60
    assert 0 < n_published < n_run  # errors in the first scan, and in the second
    assert n_again > 3


def test_an_error_does_not_go_back_to_the_device(night: DeviceNight) -> None:
    """After the report nothing is tried on it any more: the second scan is not begun."""
    done = run(night, Schedule("eager"), Faults(operation=0))
    assert done.statuses == ["DeviceLost"]
    assert done.device.n_operation < 20
    assert "run again" in done.report.failures[0].message


def test_a_violation_would_be_seen(night: DeviceNight) -> None:
    done = run(night)
    assert violations(night, done) == []
    name = next(name for name in done.files if name.startswith("scan_025651/"))
    done.files[name] += b" "
    assert violations(night, done) != []
