"""Whole nights whose spectra the simulated device encodes: L1 does not depend on how tiles run, and holds NumPy's numbers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from calib_gpu.backend import encoder
from calib_gpu.selftest.gpu_nights import arrays_of, depends_on_the_encoder
from calib_gpu.slot import Slot
from calib_gpu.stream import DeviceTiles
from calib_gpu.testing.schedule import Schedule, schedules, stragglers
from calib_gpu.testing.sim import EAGER, Faults
from calib_gpu.testing.sim_decoder import SimEncoder
from device_night import DeviceNight, Run, run, shared_night, tree, violations
from device_tiles import STREAMS

CODEC = {"codec": "nvcomp_zstd"}
SLOT_BYTES = {5: 12_416, 2: 6_400, 1: 4_736}
"""Device memory of a slot for so many pixels of the night."""


@pytest.fixture(scope="module")
def night() -> Iterator[DeviceNight]:
    """The reference is what an eager run encodes, whose numbers and other files are those of NumPy."""
    with shared_night((16, 3, 1, 5)) as made, pytest.MonkeyPatch.context() as patch:
        patch.setitem(encoder.ENCODERS, "sim", SimEncoder)
        done = run(made, **CODEC)
        assert done.statuses == ["ok", "ok"]
        assert arrays_of(made.folder / "l1.zarr") == arrays_of(made.folder / "reference.zarr")
        mine, other = (
            {n: d for n, d in files.items() if not depends_on_the_encoder(n)} for files in (done.files, made.reference)
        )
        assert mine == other
        assert done.files != made.reference
        yield DeviceNight(made.folder, made.l0, done.files)


def whole(night: DeviceNight, done: Run) -> bool:
    return done.files == night.reference and violations(night, done) == [] and not on_host(done)


def on_host(done: Run) -> list[str]:
    return [note for note in done.notes if "on the host" in note]


@pytest.mark.parametrize("schedule", [*stragglers((*STREAMS, "encode")), *schedules(STREAMS, 12)[8:]], ids=str)
def test_the_schedule_does_not_matter(night: DeviceNight, schedule: Schedule) -> None:
    assert whole(night, run(night, schedule, slots=3, workers=2, device_memory=3 * SLOT_BYTES[2], **CODEC))


@pytest.mark.parametrize(
    "schedule", [EAGER, Schedule("lazy"), *(Schedule("swarm", seed) for seed in range(4))], ids=str
)
def test_each_thread_waits_for_what_it_touches_itself(night: DeviceNight, schedule: Schedule) -> None:
    assert whole(
        night, run(night, schedule, threads=True, slots=2, workers=4, device_memory=2 * SLOT_BYTES[2], **CODEC)
    )


@pytest.mark.parametrize(("slots", "workers"), [(1, 1), (1, 4), (2, 2), (5, 3)])
def test_tiles_slots_and_workers_do_not_matter(night: DeviceNight, slots: int, workers: int) -> None:
    counts = set()
    for pixels, n in SLOT_BYTES.items():
        done = run(night, Schedule("random", pixels), slots=slots, workers=workers, device_memory=slots * n, **CODEC)
        assert whole(night, done)
        counts.add(done.device.n_operation)
    assert len(counts) == 3, "the tiles are not different"


@pytest.mark.parametrize("schedule", [EAGER, Schedule("lazy")], ids=str)
def test_nothing_of_a_tile_is_read_after_its_buffers_are_given_back(
    night: DeviceNight, schedule: Schedule, monkeypatch: pytest.MonkeyPatch
) -> None:
    give = DeviceTiles.give

    def give_poisoned(tiles: DeviceTiles, slot: Slot) -> None:
        assert slot.encoding is not None
        for block in (slot.pinned_in, slot.pinned_out, slot.encoding.pinned_table, slot.encoding.told):
            block.write()[:] = 0xA5
        give(tiles, slot)

    monkeypatch.setattr(DeviceTiles, "give", give_poisoned)
    assert whole(night, run(night, schedule, slots=2, device_memory=2 * SLOT_BYTES[2], **CODEC))


def test_every_allocation_may_fail(night: DeviceNight) -> None:
    """Then tiles are smaller, or the scan is encoded by the host; the numbers are the same."""
    expected = arrays_of(night.folder / "reference.zarr")
    n = run(night, slots=2, workers=1, backend="auto", **CODEC).device.n_allocation
    for k in range(n):
        done = run(night, faults=Faults(allocation=k), slots=2, workers=1, backend="auto", **CODEC)
        assert done.statuses == ["ok", "ok"], k
        assert arrays_of(night.folder / "l1.zarr") == expected
        assert (done.left_behind, done.device.live_blocks) == ([], [])
        assert {name for name in done.files if not depends_on_the_encoder(name)} == {
            name for name in night.reference if not depends_on_the_encoder(name)
        }


@pytest.mark.parametrize("k", range(0, 100, 7))
def test_every_operation_may_fail(night: DeviceNight, k: int) -> None:
    assert violations(night, run(night, faults=Faults(operation=k), slots=2, workers=1, **CODEC)) == []


def test_the_store_is_left_as_it_was(night: DeviceNight) -> None:
    """A second run over what is done encodes nothing."""
    first = run(night, **CODEC)
    again = run(night, again=True, **CODEC)
    assert again.statuses == ["skipped", "skipped"]
    assert tree(night.folder / "l1.zarr") == first.files
