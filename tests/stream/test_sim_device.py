"""The simulated device does what CUDA does, and no more: schedules, threads, memory, declarations, faults on request."""

from __future__ import annotations

import numpy as np
import pytest

from calib_gpu.backend.device import View
from calib_gpu.errors import DeviceLost, OutOfDeviceMemory
from calib_gpu.testing.host import SeenLock, run_threads
from calib_gpu.testing.order import OrderFault
from calib_gpu.testing.schedule import SEED_VARIABLE, Schedule, schedules
from calib_gpu.testing.sim import Faults, SimDevice
from device_bench import TOUCH, Bench


def test_the_environment_replays_a_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = schedules("abc", 100)
    assert len(listed) == 108
    assert {str(Schedule.parse(str(s))) for s in listed} == {str(s) for s in listed}
    monkeypatch.setenv(SEED_VARIABLE, "straggler:a+c")
    assert schedules("abc", 100) == [Schedule("straggler", slow=("a", "c"))]
    with pytest.raises(ValueError, match="is not a schedule"):
        Schedule.parse("sometimes:3")


def test_a_seed_gives_the_same_order_again() -> None:
    def order(schedule: Schedule) -> list[int]:
        seen: list[int] = []
        device = SimDevice(schedule, check="off", execute=lambda kernel, size, arguments: seen.append(size[0]))
        b = Bench(device)
        for i in range(30):
            views = [View(b.blocks[name], 0, (8,), np.dtype(np.uint8)) for name in "xy"]
            device.launch(TOUCH, (i,), views, b.streams["abc"[i % 3]], reads=[b.blocks["x"]], writes=[b.blocks["y"]])
        device.close()
        return seen

    orders = [order(Schedule("random", seed)) for seed in range(5)]
    assert orders == [order(Schedule("random", seed)) for seed in range(5)]
    assert len({tuple(o) for o in orders}) == 5
    assert all(sorted(o) == list(range(30)) for o in orders)


@pytest.mark.parametrize("locked", [False, True])
def test_host_threads_know_of_each_other_by_locks_alone(locked: bool) -> None:
    device = SimDevice(threads=True, check="record")
    block, lock = device.pinned(8), SeenLock(device)

    def write() -> None:
        if locked:
            with lock:
                block.write()
        else:
            block.write()

    run_threads(device, [write, write, write])
    assert bool(device.order_faults) != locked
    n = len(device.order_faults)
    block.write()  # the threads are joined: no new fault
    assert len(device.order_faults) == n


def test_fresh_and_recycled_memory_is_poisoned() -> None:
    device = SimDevice()
    first, second = device.pinned(16), device.pinned(16)
    assert np.isnan(first.read().view(np.float64)).all()
    assert np.array_equal(second.read(), np.full(16, 0xA5))
    first.write()[:] = 7
    memory = first.memory
    device.release(first)
    again = device.pinned(16)
    assert again.memory is memory
    assert not (again.read() == 7).any()
    with pytest.raises(OrderFault, match="is released"):
        first.read()


def test_what_a_launch_does_not_declare_is_withheld() -> None:
    b = Bench()
    views = [View(b.blocks[name], 0, (8,), np.dtype(np.uint8)) for name in "xy"]
    with pytest.raises(OrderFault, match=r"touch uses device block 1 \(8 B\), which it does not declare"):
        b.device.launch(TOUCH, (8,), views, b.streams["a"], reads=[b.blocks["x"]], writes=[])


def test_what_a_launch_only_reads_cannot_be_written() -> None:
    def execute(kernel: object, size: object, arguments: list[np.ndarray]) -> None:
        arguments[1][...] = 0

    b = Bench(SimDevice(execute=execute))
    views = [View(b.blocks[name], 0, (8,), np.dtype(np.uint8)) for name in "xy"]
    b.run("a", "x", "y")
    with pytest.raises(OrderFault, match="read-only"):
        b.device.launch(TOUCH, (8,), views, b.streams["a"], reads=list(b.blocks.values())[:2], writes=[])


@pytest.mark.parametrize(
    ("offset", "shape", "dtype"), [(0, (9,), "u1"), (-1, (1,), "u1"), (4, (1,), "f8"), (1, (1,), "u2")]
)
def test_views_lie_within_their_block_at_whole_places(offset: int, shape: tuple[int], dtype: str) -> None:
    b = Bench()
    with pytest.raises(OrderFault, match="at byte"):
        b.device.clear(View(b.blocks["x"], offset, shape, np.dtype(dtype)), b.streams["a"])


def test_copies_go_between_page_locked_and_device_memory_only() -> None:
    b = Bench()
    for target, source, n in (("x", "y", 8), ("h", "h", 8), ("x", "h", 9)):
        with pytest.raises(OrderFault, match="upload of"):
            b.device.upload(b.blocks[target], b.blocks[source], n, b.streams["a"])  # type: ignore[arg-type]
    with pytest.raises(OrderFault, match="there is no default one"):
        b.device.upload(b.blocks["x"], b.host, 8, None)  # type: ignore[arg-type]


def test_arguments_are_those_of_the_registry() -> None:
    b = Bench()
    view = View(b.blocks["x"], 0, (1,), np.dtype(np.float64))
    for arguments, message in (([view], "takes 2 arguments"), ([view, view], "of is an array of uint8")):
        with pytest.raises(OrderFault, match=message):
            b.device.launch(TOUCH, (1,), arguments, b.streams["a"], reads=[b.blocks["x"]], writes=[b.blocks["x"]])


def test_memory_ends_at_the_allocation_or_the_byte_that_was_asked_for() -> None:
    device = SimDevice(faults=Faults(allocation=1, memory=100, pinned=50))
    device.empty(60)
    with pytest.raises(OutOfDeviceMemory):
        device.empty(10)
    block = device.pinned(50)
    assert device.free_bytes() == 40
    for ask in (device.empty, device.pinned):
        with pytest.raises(OutOfDeviceMemory):
            ask(41)
    device.release(block)
    device.pinned(50)
    assert len(device.live_blocks) == 2


@pytest.mark.parametrize("policy", ["eager", "lazy"])
def test_an_error_is_reported_by_a_later_synchronisation_and_stays(policy: str) -> None:
    b = Bench(SimDevice(Schedule(policy), Faults(operation=1)))
    memory = b.host.write()
    memory[:] = 1
    b.upload("a")
    b.record("e", "a")
    b.upload("a")  # fails, and nobody hears of it
    b.record("f", "a")
    if policy == "lazy":
        b.sync("e")  # nothing but the first operation has run
    with pytest.raises(DeviceLost, match="operation 1"):
        b.sync("f")
    for call in (lambda: b.upload("a"), lambda: b.device.empty(1), lambda: b.sync("e"), b.device.event, b.host.read):
        with pytest.raises(DeviceLost):
            call()
    b.device.close()
