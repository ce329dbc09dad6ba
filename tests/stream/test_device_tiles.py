"""Tiles on a simulated device: the bytes of the NumPy backend, under every schedule, from several threads."""

from __future__ import annotations

import itertools
from functools import partial

import numpy as np
import pytest

from calib_gpu.backend.kernels import COUNT_TYPES, KERNELS
from calib_gpu.backend.numpy_ import NumpyBackend
from calib_gpu.backend.tile import TileLayout
from calib_gpu.errors import DeviceLost, OutOfDeviceMemory
from calib_gpu.physics.calibration import SampleRule
from calib_gpu.stream import DeviceTiles
from calib_gpu.testing.host import run_threads
from calib_gpu.testing.schedule import Schedule, schedules
from calib_gpu.testing.sim import Faults, SimDevice
from calib_gpu.workers import Workers
from device_tiles import CASES, STREAMS, run_lane, run_tiles, same, tiles_on


@pytest.mark.parametrize("schedule", schedules(STREAMS, 100), ids=str)
def test_every_schedule_gives_the_bytes_of_the_numpy_backend(schedule: Schedule) -> None:
    seed = sum(map(ord, str(schedule)))
    assert run_tiles(schedule, slots=1 + seed % 4, n_lane=1 + seed // 4 % 3) == []


@pytest.mark.parametrize(("slots", "lanes"), list(itertools.product([1, 2, 3, 4], [1, 2, 3])))
def test_any_number_of_slots_serves_any_number_of_threads(slots: int, lanes: int) -> None:
    for policy in ("eager", "lazy", "random"):
        assert run_tiles(Schedule(policy), slots, lanes) == []


@pytest.mark.parametrize("policy", ["eager", "lazy", "random"])
@pytest.mark.parametrize("slots", [1, 2, 4])
def test_an_error_of_the_device_ends_every_thread(policy: str, slots: int) -> None:
    """Also those that wait for a slot: the slots of failed tiles do not come back."""
    n_operation = 4 * sum(map(len, CASES))
    device = SimDevice()
    with tiles_on(device, slots) as tiles:
        first = device.n_operation  # those before have loaded the kernel
        tiles.free()
    for k in range(first, first + n_operation, 3):
        device = SimDevice(Schedule(policy, k), Faults(operation=k), threads=True)
        wrong: list[str] = []
        with tiles_on(device, slots) as tiles, pytest.raises(DeviceLost):
            run_threads(device, [partial(run_lane, tiles, lane, wrong) for lane in CASES])
        tiles.free()  # nothing to give back, and no further error
        assert wrong == device.order_faults == []


def test_a_slot_is_allocated_whole_or_not_at_all() -> None:
    layout = CASES[0][0].layout
    for j in range(2 + 3 * 4):  # two blocks to load the kernel, four a slot
        device, workers = SimDevice(faults=Faults(allocation=j)), Workers(1)
        tiles = DeviceTiles(device, workers)
        with pytest.raises(OutOfDeviceMemory):
            tiles.allocate(layout, 3)
        assert device.live_blocks == []
        tiles.allocate(layout, 2)
        assert len(device.live_blocks) == 8
        tiles.allocate(layout, 2)  # what fits is kept
        assert device.n_allocation == j + 1 + 2 + 8
        tiles.free()
        assert device.live_blocks == []
        workers.close()


def test_no_two_tiles_are_alike() -> None:
    """Else a result of another tile would pass for the right one."""
    spectra = [c.spectra for lane in CASES for c in lane]
    assert len(set(spectra)) == len(spectra)


@pytest.mark.parametrize("output", [np.float64, np.float32])
@pytest.mark.parametrize("dtype", COUNT_TYPES)
@pytest.mark.parametrize(
    ("shape", "block"), [((1, 1, 1, 1), 1), ((2, 3, 37, 5), 4), ((1, 2, 50, 9), 9), ((1, 2, 5, 8), 2)]
)
def test_the_tile_kernel_gives_the_bits_of_the_numpy_backend(
    dtype: str, output: type, shape: tuple[int, int, int, int], block: int
) -> None:
    rng = np.random.default_rng(8)
    r, a, c, d = shape
    counts = rng.integers(1, 9_000, shape).astype(dtype)
    fill = int(np.iinfo(dtype).min) if dtype[0] in "iu" else None
    odd = rng.random(shape) < 0.2
    values = [0, 10_000, *([fill, np.iinfo(dtype).max] if fill is not None else [np.nan, np.inf, -np.inf, -5, 1e-42])]
    counts[odd] = rng.choice(np.array(values).astype(dtype), int(odd.sum()))
    ref, factor = rng.uniform(1e3, 9e3, (r, a, c)), rng.uniform(0.01, 0.02, (r, a, c))
    factor[rng.random(factor.shape) < 0.1] = 1e305
    base = rng.choice([0, 0, 0, 1, 256], (r, a, c)).astype(np.uint16)
    quantum = rng.choice([0.0, 2.0**-9], (r, a))
    layout = TileLayout(r, a, c, d, -(-d // block), block, np.dtype(dtype), np.dtype(output))
    for rule, n_dump in itertools.product(
        (SampleRule(fill, 10_000.0), SampleRule(None, None, False)), {d, max(1, d - 1)}
    ):
        got_spectra, got_flags, got = on_device(layout, counts, ref, factor, base, quantum, rule, n_dump)
        spectra, flags = np.empty_like(got_spectra), np.empty_like(got_flags)
        wanted = NumpyBackend().calibrate_tile(counts, ref, factor, base, quantum, rule, n_dump, spectra, flags)
        np.testing.assert_array_equal(got_flags, flags)
        assert got_spectra.tobytes() == spectra.tobytes()
        assert same(got, wanted)


def on_device(layout: TileLayout, counts: np.ndarray, *rest: object) -> tuple[np.ndarray, np.ndarray, object]:
    """One tile, step by step, on an eager device."""
    *arrays, rule, n_dump = rest
    device = SimDevice()
    stream, done = device.stream("all"), device.event()
    h_in, d_in = device.pinned(layout.input.nbytes), device.empty(layout.input.nbytes)
    h_out, d_out = device.pinned(layout.output.nbytes), device.empty(layout.output.nbytes)
    memory = h_in.write()
    for name, values in zip(("counts", "ref", "factor", "base", "quantum"), (counts, *arrays), strict=True):
        layout.input.array(name, memory)[...] = values
    device.upload(d_in, h_in, layout.input.nbytes, stream)
    device.clear(layout.sums(d_out), stream)
    arguments = layout.arguments(d_in, d_out, rule, n_dump)  # type: ignore[arg-type]
    device.launch(KERNELS["calibrate_tile"], layout.size, arguments, stream, reads=(d_in, d_out), writes=(d_out,))
    device.download(h_out, d_out, layout.output.nbytes, stream)
    device.record(done, stream)
    device.synchronize(done)
    memory = h_out.read()
    return layout.output.array("spectra", memory), layout.output.array("flags", memory), layout.result(memory)
