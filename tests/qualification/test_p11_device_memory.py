"""P11: where the memory of the device is short, tiles are halved, then slots, then the host does the work; bytes stay."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from calib_gpu.errors import Exit
from calib_gpu.testing.sim import Faults
from device_night import DeviceNight, make_night, run, share_all_work, violations


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DeviceNight]:
    with pytest.MonkeyPatch.context() as patch:
        share_all_work(patch)
        yield make_night(tmp_path_factory.mktemp("p11"), (8, 2, 1, 4))


def test_every_allocation_may_fail(night: DeviceNight, figure: object) -> None:
    """The scan is right, with a note, or failed by name; the other one is right in any case."""
    n_allocation = run(night).device.n_allocation
    bad: list[str] = []
    halved = failed = 0
    for j in range(n_allocation):
        done = run(night, faults=Faults(allocation=j))
        bad += [f"allocation {j}: {text}" for text in violations(night, done)]
        halved += bool(done.notes)
        failed += "OutOfDeviceMemory" in done.statuses
        if (
            set(done.statuses) - {"ok", "OutOfDeviceMemory"}
            or len(done.statuses) != 2
            or done.statuses.count("ok") == 0
        ):
            bad.append(f"allocation {j}: {done.statuses}")
        if not done.notes and "OutOfDeviceMemory" not in done.statuses:
            bad.append(f"allocation {j}: nobody heard of it")
    figure("P11", f"violations in {n_allocation} runs of which one allocation fails", len(bad), 0)  # type: ignore[operator]
    assert bad == []
    assert halved > 8
    assert halved + failed >= n_allocation


def test_less_and_less_memory(night: DeviceNight, figure: object) -> None:
    """From enough for all slots down to none that fits: each step is noted, and what is published is right."""
    whole = run(night, slots=4, backend="auto")
    desk = peak_of_desks(night)
    bad: list[str] = []
    steps = set[int]()
    on_host = 0
    for left in (20_000, 10_000, 6_000, 3_000, 1_500, 800, 100):
        done = run(night, faults=Faults(memory=desk + left), slots=4, backend="auto")
        bad += [f"{left} bytes: {text}" for text in violations(night, done)]
        if done.files != night.reference:
            bad.append(f"{left} bytes: {done.statuses}")
        steps.add(sum("halved" in note for note in done.notes))
        on_host += any("on the host" in note for note in done.notes)
    figure("P11", "violations with less and less memory for tiles", len(bad), 0)  # type: ignore[operator]
    assert whole.notes == []
    assert bad == []
    assert len(steps) >= 3
    assert on_host >= 1


def test_without_leave_to_use_the_host_the_scan_fails(night: DeviceNight) -> None:
    done = run(night, faults=Faults(memory=peak_of_desks(night) + 100), backend="cupy")
    assert done.statuses == ["OutOfMemory"] * 2
    assert violations(night, done) == []
    assert done.report.exit_code is Exit.NONE
    assert re.search("use --backend numpy", done.report.failures[0].message)


def peak_of_desks(night: DeviceNight) -> int:
    """Device memory that the work before the tiles needs."""
    low, high = 0, 1 << 20
    while high - low > 64:
        middle = (low + high) // 2
        statuses = run(night, faults=Faults(memory=middle), backend="auto").statuses
        low, high = (middle, high) if "OutOfDeviceMemory" in statuses else (low, middle)
    return high
