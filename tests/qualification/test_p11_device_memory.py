"""P11: an allocation on the device that fails is got around, or fails its scan by name; the bytes stay."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from calib_gpu.testing.sim import Faults
from device_night import DeviceNight, run, shared_night, violations

Figure = Callable[[str, str, Any, Any], None]


@pytest.fixture(scope="module")
def night() -> Iterator[DeviceNight]:
    with shared_night((8, 2, 1, 4)) as made:
        yield made


def test_an_allocation_that_fails_once_is_got_around(night: DeviceNight, figure: Figure) -> None:
    """All allocations, one after the other: less is asked for, or the host does the work, and the bytes are the same."""
    n_allocation = run(night).device.n_allocation
    bad: list[str] = []
    halved = host = 0
    for j in range(n_allocation):
        done = run(night, faults=Faults(allocation=j), backend="auto")
        bad += [f"allocation {j}: {text}" for text in violations(night, done)]
        if done.files != night.reference:
            bad.append(f"allocation {j}: {done.statuses}")
        halved += any("halved" in note for note in done.notes)
        host += any("on the host" in note for note in done.notes)
    figure("P11", f"differing L1 where one of {n_allocation} allocations fails", len(bad), 0)
    assert bad == []
    assert halved >= 8
    assert host >= 4


def test_without_leave_to_use_the_host_such_a_scan_fails_by_name(night: DeviceNight, figure: Figure) -> None:
    """One scan, and nothing of it is published; the other one is right. Tiles are halved all the same."""
    n_allocation = run(night).device.n_allocation
    bad: list[str] = []
    outcomes = set[str]()
    for j in range(0, n_allocation, 2):
        done = run(night, faults=Faults(allocation=j), backend="cupy")
        bad += [f"allocation {j}: {text}" for text in violations(night, done)]
        expected = ["ok", "ok"] if done.notes or done.device.n_allocation <= j else ["OutOfDeviceMemory", "ok"]
        if sorted(done.statuses) != sorted(expected):
            bad.append(f"allocation {j}: {done.statuses}, {done.notes}")
        outcomes |= set(done.statuses)
    figure("P11", "violations where the host may not be used", len(bad), 0)
    assert bad == []
    assert outcomes == {"ok", "OutOfDeviceMemory"}
