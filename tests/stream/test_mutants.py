"""Whatever keeps the order is needed: each mutant that loses, moves or mistakes a piece of it is caught.

``stream.py`` and the synchronous calls of ``backend/on_device.py``: each ``wait``, ``record``, ``synchronize`` and ``clear``
is left out, each ``record`` comes one statement earlier, each event and stream is mistaken for the others of the slot.
A mutant is caught by the checker, by wrong bytes or by a failure. None is redundant: what is deleted without a consequence
should not be there.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from types import ModuleType

import numpy as np
import pytest

from calib_gpu import stream
from calib_gpu.backend import on_device
from calib_gpu.backend.base import BadChannelRule
from calib_gpu.errors import OutOfDeviceMemory
from calib_gpu.physics.calibration import SampleRule
from calib_gpu.physics.loads import LoadPowers
from calib_gpu.physics.sky import Sky, SkyModel, Slab
from calib_gpu.physics.sky_sums import SkyData, SkySums
from calib_gpu.testing.order import OrderFault
from calib_gpu.testing.schedule import Schedule, stragglers
from calib_gpu.testing.sim import EAGER, Faults, SimDevice
from device_tiles import STREAMS, run_tiles
from mutants import Mutant, mutants

OF_STREAM, OF_DEVICE = mutants(inspect.getsource(stream)), mutants(inspect.getsource(on_device))


def tiles_wrong(module: ModuleType, schedule: Schedule, check: str) -> bool:
    """Three lanes over two slots, and again while one of the lanes fails."""
    try:
        return any(run_tiles(schedule, 2, 3, check=check, module=module, fail_after=n) for n in (None, 3))
    except Exception:
        return True


def test_there_are_mutants() -> None:
    assert len(OF_STREAM) >= 36
    assert len(OF_DEVICE) >= 6
    kinds = {m.name.split("|")[0].split()[0] for m in OF_STREAM}
    assert kinds == {"without", "one", "event", "stream"}


@pytest.mark.parametrize("schedule", [EAGER, *stragglers(STREAMS)], ids=str)
def test_what_is_not_mutated_passes(schedule: Schedule) -> None:
    assert not tiles_wrong(stream, schedule, "raise")
    assert results(on_device, schedule) == results(on_device, EAGER)


def test_the_synchronous_calls_pass_where_any_allocation_fails() -> None:
    assert not device_wrong(on_device)


@pytest.mark.parametrize("mutant", OF_STREAM, ids=lambda m: m.name)
def test_a_mutant_of_the_tile_loop_is_caught(mutant: Mutant) -> None:
    """By the checker in an eager run (which results alone would pass), or by the results of a straggler."""
    module = mutant.module(stream)
    assert any(tiles_wrong(module, schedule, "raise") for schedule in [EAGER, *stragglers(STREAMS)])


def results(module: ModuleType, schedule: Schedule, fail: int | None = None, *, again: bool = True) -> list[bytes]:
    """What the synchronous calls give, twice with other data. A call whose allocation fails is made again, or is the last."""
    device = SimDevice(schedule, Faults(allocation=fail))
    backend = module.DeviceBackend(device)
    found: list[bytes] = []
    for call in [call for seed in (1, 2) for call in calls(backend, np.random.default_rng(seed))]:
        try:
            arrays = call()
        except OutOfDeviceMemory:
            if not again:
                break
            arrays = call()
        found += [values.tobytes() for values in arrays]
    backend.close()
    assert device.live_blocks == []
    return found


def calls(backend: on_device.DeviceBackend, rng: np.random.Generator) -> list[Callable[[], Iterable[np.ndarray]]]:
    """The calls of a backend, each giving arrays."""
    r, a, c, d, o = 1, 2, 12, 5, 2
    rule = SampleRule(None, 10_000.0)
    counts = rng.integers(0, 10_001, (r, a, c, d)).astype(np.int32)
    cold, gain, off = rng.uniform(4e3, 5e3, c), rng.uniform(9, 11, c), rng.uniform(5e3, 6e3, (o, c))
    powers = LoadPowers(*(np.full(c, t) for t in (280.0, 281.0, 70.0, 71.0)))
    limits, half = BadChannelRule(0.05, 3.0, 3, 0.1, None), np.full(c, 0.5)
    pixels = [
        SkyData(
            rng.uniform(-200, -100, (o, c)),
            rng.random((o, c)) < 0.1,
            SkyModel(rng.uniform(-9, 9, c), rng.uniform(90, 110, c), rng.uniform(90, 110, c)),
            weights,
        )
        for weights in (None, rng.uniform(1, 2, (o, c)), rng.uniform(1, 2, (o, c)))
    ]
    sums = SkySums.zeros(o, c)
    sums.add_pixel(pixels[0].observed, pixels[0].model, ~pixels[0].bad)
    air = [(rng.uniform(0.1, 0.2, c), rng.uniform(0, 0.1, c)) for _ in "si"]
    sky = Sky(tuple(Slab(b, dry, np.full(c, 260.0), np.full(c, 3.0)) for b, dry in air), (np.full(c, 270.0),) * 2)
    ref, factor = rng.uniform(4e3, 5e3, (r, a, c)), rng.uniform(0.01, 0.02, (r, a, c))

    def tile() -> Iterable[np.ndarray]:
        spectra, flags = np.empty((r, a, 2, c, 3)), np.empty((r, a, 2, c, 3), np.uint16)
        base, quantum = np.zeros((r, a, c), np.uint16), np.zeros((r, a))
        result = backend.calibrate_tile(counts, ref, factor, base, quantum, rule, d, spectra, flags)
        return spectra, flags, result.flag_counts, result.invalid, result.dump_present

    def means() -> Iterable[np.ndarray]:
        stats = backend.dump_mean(counts, rule, d, want_first=True, want_band=True)
        return [values for values in vars(stats).values() if values is not None]

    return [
        means,
        lambda: backend.load_calibration(cold * 1.7, cold, 0.0, powers, half, half, 0.95, limits),
        lambda: [backend.sky_signal(off, cold * 1.7, gain)],
        lambda: vars(backend.sky_sums(o, c, iter(pixels))).values(),
        lambda: [backend.pwv_grid(sums, sky, np.array([1.1, 1.4]), np.geomspace(0.2, 5, 7))],
        tile,
    ]


ALLOCATIONS = 20
"""More than the calls make."""


def device_wrong(module: ModuleType) -> bool:
    """In an eager run with the checker; or where an allocation fails, and the call is made again, or none follows."""
    try:
        right = results(on_device, EAGER)
        return any(results(module, EAGER, j) != right for j in (None, *range(ALLOCATIONS))) or not all(
            results(module, EAGER, j, again=False) is not None for j in range(ALLOCATIONS)
        )
    except OrderFault:
        return True


@pytest.mark.parametrize("mutant", OF_DEVICE, ids=lambda m: m.name)
def test_a_mutant_of_the_synchronous_calls_is_caught(mutant: Mutant) -> None:
    assert device_wrong(mutant.module(on_device))


def test_schedules_alone_catch_them_too() -> None:
    """Without the checker, by results: the assumption of the checker, that launches say what they touch, is tested so."""

    def by_results(mutant: Mutant) -> bool:
        module = mutant.module(stream)
        schedules = [*stragglers(STREAMS), *(Schedule("swarm", seed) for seed in range(8))]
        return any(tiles_wrong(module, schedule, "off") for schedule in schedules)

    missed = [m.name for m in OF_STREAM if not by_results(m)]
    assert missed == list(NO_RESULT)


NO_RESULT = {
    "without | release: self._tiles.synchronize(self._slot)": "nobody reads what a failed tile gives; the checker asks for "
    "it, for its memory must not be given back under a copy",
}
"""Mutants that no result shows, and why."""
