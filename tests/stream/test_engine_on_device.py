"""Whole nights on a simulated device: L1 is that of the NumPy backend, byte for byte, however tiles run."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from backends import why_no_ptx
from calib_gpu.slot import Slot
from calib_gpu.stream import DeviceTiles
from calib_gpu.testing.schedule import Schedule, schedules, stragglers
from calib_gpu.testing.sim import EAGER
from device_night import DeviceNight, Run, run, shared_night, violations
from device_tiles import STREAMS

SLOT_BYTES = {5: 6656, 3: 4864, 2: 3328, 1: 2560}
"""Device memory of a slot for so many pixels of the night."""
WAYS = list(itertools.product(SLOT_BYTES, (1, 2, 3, 4), (1, 2, 4)))
"""Pixels of a tile, slots, workers."""


@pytest.fixture(scope="module")
def night() -> Iterator[DeviceNight]:
    with shared_night((16, 3, 1, 5)) as made:
        yield made


def whole(night: DeviceNight, done: Run) -> bool:
    return done.files == night.reference and violations(night, done) == []


@pytest.mark.parametrize(("pixels", "slots", "workers"), WAYS)
def test_tiles_slots_and_workers_do_not_matter(night: DeviceNight, pixels: int, slots: int, workers: int) -> None:
    schedule = Schedule(("eager", "lazy", "random", "swarm")[(pixels + slots + workers) % 4], pixels + slots)
    settings = {"slots": slots, "workers": workers, "device_memory": slots * SLOT_BYTES[pixels]}
    assert whole(night, run(night, schedule, **settings))


def test_the_ways_are_different(night: DeviceNight) -> None:
    """Else they prove nothing: other numbers of tiles, and so of operations."""
    counts = [run(night, slots=2, device_memory=2 * n).device.n_operation for n in SLOT_BYTES.values()]
    assert counts == sorted(set(counts))


@pytest.mark.parametrize("schedule", [*stragglers((*STREAMS, "desk")), *schedules(STREAMS, 12)[8:]], ids=str)
def test_the_schedule_does_not_matter(night: DeviceNight, schedule: Schedule) -> None:
    assert whole(night, run(night, schedule, slots=3, workers=2, device_memory=3 * SLOT_BYTES[2]))


@pytest.mark.parametrize(
    "schedule", [EAGER, Schedule("lazy"), *(Schedule("swarm", seed) for seed in range(4))], ids=str
)
def test_each_thread_waits_for_what_it_touches_itself(night: DeviceNight, schedule: Schedule) -> None:
    """Every thread is an actor of its own: that another one has waited does not count."""
    assert whole(night, run(night, schedule, threads=True, slots=2, workers=4, device_memory=2 * SLOT_BYTES[2]))


@pytest.mark.parametrize("schedule", [EAGER, Schedule("lazy")], ids=str)
def test_nothing_of_a_tile_is_read_after_its_buffers_are_given_back(
    night: DeviceNight, schedule: Schedule, monkeypatch: pytest.MonkeyPatch
) -> None:
    give = DeviceTiles.give

    def give_poisoned(tiles: DeviceTiles, slot: Slot) -> None:
        for block in (slot.pinned_in, slot.pinned_out):
            block.write()[:] = 0xA5
        give(tiles, slot)

    monkeypatch.setattr(DeviceTiles, "give", give_poisoned)
    assert whole(night, run(night, schedule, slots=2, device_memory=2 * SLOT_BYTES[2]))


@pytest.mark.parametrize("settings", [
    {"dtype": "float32", "reference": "interp"},
    {"precision": "auto", "pwv_scope": "per_pixel", "fit_weights": "radiometer"},
    {"atmosphere": "none"},
], ids=lambda s: ", ".join(s))  # fmt: skip
def test_other_settings(settings: dict[str, str]) -> None:
    with shared_night((16, 3, 1, 2), **settings) as night:
        for schedule in (EAGER, Schedule("lazy"), Schedule("swarm", 5)):
            assert whole(night, run(night, schedule, **settings))


@pytest.mark.kernels
def test_the_ptx_of_the_kernels_gives_the_same(night: DeviceNight) -> None:
    """The same with device code instead of models, in the order of a straggler and with the checker on."""
    if reason := why_no_ptx():
        pytest.skip(reason)
    from calib_gpu.testing.compiled_kernels import run_ptx

    slow = Schedule("straggler", slow=("compute", "upload"))
    assert whole(night, run(night, slow, threads=True, execute=run_ptx, slots=2, device_memory=2 * SLOT_BYTES[3]))
