"""Runs that a mutant of what orders work on a device must fail."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from types import ModuleType

import numpy as np

from calib_gpu import stream
from calib_gpu.backend import on_device
from calib_gpu.backend.base import BadChannelRule
from calib_gpu.errors import OutOfDeviceMemory
from calib_gpu.physics.calibration import SampleRule
from calib_gpu.physics.loads import LoadPowers
from calib_gpu.physics.sky import Sky, SkyModel, Slab
from calib_gpu.physics.sky_sums import SkyData, SkySums
from calib_gpu.testing.order import OrderFault
from calib_gpu.testing.schedule import Schedule
from calib_gpu.testing.sim import EAGER, Faults, SimDevice
from device_tiles import run_tiles
from mutants import mutants

OF_STREAM, OF_DEVICE = mutants(inspect.getsource(stream)), mutants(inspect.getsource(on_device))


def tiles_wrong(module: ModuleType, schedule: Schedule, check: str) -> bool:
    """Three lanes over two slots, and again while one of the lanes fails."""
    try:
        return any(run_tiles(schedule, 2, 3, check=check, module=module, fail_after=n) for n in (None, 3))
    except Exception:
        return True


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
