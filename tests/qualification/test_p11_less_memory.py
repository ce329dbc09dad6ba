"""P11: where the memory of the device is short, tiles are halved, then slots, then the host does the work; bytes stay."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from calib_gpu.errors import Exit
from calib_gpu.testing.sim import Faults
from device_night import DeviceNight, lone_night, run, violations

Figure = Callable[[str, str, Any, Any], None]


@pytest.fixture(scope="module")
def lone() -> Iterator[DeviceNight]:
    """One thread after the other, so that every run asks for the same memory."""
    with lone_night((8, 2, 1, 4)) as made:
        yield made


@pytest.fixture(scope="module")
def before_tiles(lone: DeviceNight) -> int:
    """Device memory that the work before the tiles needs, to 64 bytes."""
    low, high = 0, 1 << 20
    while high - low > 64:
        middle = (low + high) // 2
        statuses = run(lone, faults=Faults(memory=middle), backend="cupy").statuses
        low, high = (middle, high) if "OutOfDeviceMemory" in statuses else (low, middle)
    return high


def test_less_and_less_memory(lone: DeviceNight, before_tiles: int, figure: Figure) -> None:
    """From enough for all slots down to none that fits, and less: each step is noted, and the bytes are the same."""
    bad: list[str] = []
    halvings, on_host = [], []
    for left in (1 << 20, 20_000, 10_000, 6_000, 3_000, 1_500, 800, 100, -2_000, -before_tiles):
        done = run(lone, faults=Faults(memory=before_tiles + left), slots=4, backend="auto")
        bad += [f"{left} bytes: {text}" for text in violations(lone, done)]
        if done.files != lone.reference:
            bad.append(f"{left} bytes: {done.statuses}")
        halvings.append(sum("halved" in note for note in done.notes))
        on_host.append(sum("calibrated on the host" in note for note in done.notes))
    figure("P11", "differing L1 with less and less memory for tiles", len(bad), 0)
    assert bad == []
    assert halvings[0] == on_host[0] == 0
    assert len(set(halvings)) >= 3
    assert on_host[-4:-2] == [2, 2]
    assert on_host[-1] == 2


def test_where_no_tile_fits_and_the_host_may_not_be_used_the_scans_fail(lone: DeviceNight, before_tiles: int) -> None:
    done = run(lone, faults=Faults(memory=before_tiles + 100), backend="cupy")
    assert done.statuses == ["OutOfMemory"] * 2
    assert violations(lone, done) == []
    assert done.report.exit_code is Exit.NONE
    assert "use --backend numpy" in done.report.failures[0].message
