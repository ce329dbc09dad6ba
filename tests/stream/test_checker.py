"""The checker of the simulated device: it finds what is not ordered, whatever runs first, and nothing else.

The single cases are those that PyTorch's CUDA sanitizer and CuSan test theirs with: reads and writes on two streams, chains,
branches, events recorded too early, again, or never.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from calib_gpu.backend.device import View
from calib_gpu.backend.kernels import Elementwise
from calib_gpu.errors import DeviceLost, OutOfDeviceMemory
from calib_gpu.testing.host import SeenLock, run_threads
from calib_gpu.testing.order import OrderFault
from calib_gpu.testing.schedule import SEED_VARIABLE, Schedule, schedules, stragglers
from calib_gpu.testing.sim import EAGER, Faults, SimDevice, SimStream
from calib_gpu.testing.sim_memory import SimHostBlock

TOUCH = Elementwise("touch", "raw uint8 of", "raw uint8 to", "")


class Bench:
    """Streams a, b, c; device blocks x, y, z; page-locked block h; events e, f."""

    def __init__(self, device: SimDevice | None = None) -> None:
        self.device = device or SimDevice(check="record", execute=lambda *_: None)
        self.streams = {name: self.device.stream(name) for name in "abc"}
        self.blocks = {name: self.device.empty(8) for name in "xyz"} | {"h": self.device.pinned(8)}
        self.events = {name: self.device.event() for name in "ef"}

    def run(self, stream: str, of: str, to: str) -> None:
        """Read one block, write another."""
        views = [View(self.blocks[name], 0, (8,), np.dtype(np.uint8)) for name in (of, to)]
        reads, writes = ([self.blocks[name]] for name in (of, to))
        self.device.launch(TOUCH, (8,), views, self.streams[stream], reads=reads, writes=writes)

    def record(self, event: str, stream: str) -> None:
        self.device.record(self.events[event], self.streams[stream])

    def wait(self, stream: str, event: str) -> None:
        self.device.wait(self.streams[stream], self.events[event])

    def sync(self, event: str) -> None:
        self.device.synchronize(self.events[event])

    def upload(self, stream: str, to: str = "x") -> None:
        self.device.upload(self.blocks[to], self.host, 8, self.streams[stream])

    def download(self, stream: str, of: str = "x") -> None:
        self.device.download(self.host, self.blocks[of], 8, self.streams[stream])

    @property
    def host(self) -> SimHostBlock:
        block = self.blocks["h"]
        assert isinstance(block, SimHostBlock)
        return block


def two_streams_unordered(b: Bench) -> None:
    b.run("a", "x", "y")
    b.run("b", "x", "y")


def read_after_write(b: Bench) -> None:
    b.run("a", "x", "y")
    b.run("b", "y", "z")


def write_after_read(b: Bench) -> None:
    b.run("a", "x", "y")
    b.run("b", "z", "x")


def each_read_counts(b: Bench) -> None:
    b.run("a", "x", "y")
    b.run("b", "x", "z")
    b.record("e", "b")
    b.wait("c", "e")
    b.run("c", "z", "x")  # not after the read of a


def expired_record(b: Bench) -> None:
    b.run("a", "x", "y")
    b.record("e", "a")
    b.run("a", "x", "y")
    b.wait("b", "e")
    b.run("b", "y", "z")  # after the first write, not the second


def wait_before_record(b: Bench) -> None:
    b.wait("b", "e")  # never recorded: no wait
    b.run("a", "x", "y")
    b.record("e", "a")
    b.run("b", "y", "z")


def wait_refers_to_the_last_record(b: Bench) -> None:
    b.run("a", "x", "y")
    b.record("e", "a")
    b.record("e", "c")
    b.wait("b", "e")
    b.run("b", "y", "z")


def a_later_record_moves_no_earlier_wait(b: Bench) -> None:
    b.record("e", "a")
    b.wait("b", "e")
    b.run("a", "x", "y")
    b.record("e", "a")
    b.run("b", "y", "z")


def knowledge_has_a_direction(b: Bench) -> None:
    b.run("a", "x", "y")
    b.record("e", "a")
    b.wait("b", "e")
    b.run("b", "y", "z")
    b.run("a", "x", "z")  # a knows nothing of b


def broken_chain(b: Bench) -> None:
    b.run("a", "x", "y")
    b.record("e", "a")
    b.record("f", "b")  # before b waits
    b.wait("b", "e")
    b.wait("c", "f")
    b.run("c", "y", "z")


def host_reads_too_early(b: Bench) -> None:
    b.download("a")
    b.record("e", "a")
    b.host.read()


def host_writes_under_an_upload(b: Bench) -> None:
    b.upload("a")
    b.host.write()


def synchronised_with_another_stream(b: Bench) -> None:
    b.download("a")
    b.record("e", "b")
    b.sync("e")
    b.host.read()


def released_in_use(b: Bench) -> None:
    b.run("a", "x", "y")
    b.device.release(b.blocks["x"])


def two_faults_in_one_call(b: Bench) -> None:
    b.run("a", "x", "y")
    b.run("b", "y", "x")


BAD: dict[Callable[[Bench], None], int] = {
    two_streams_unordered: 1, read_after_write: 1, write_after_read: 1, each_read_counts: 1, expired_record: 1,
    wait_before_record: 1, wait_refers_to_the_last_record: 1, a_later_record_moves_no_earlier_wait: 1,
    knowledge_has_a_direction: 1, broken_chain: 1, host_reads_too_early: 1, host_writes_under_an_upload: 1,
    synchronised_with_another_stream: 1, released_in_use: 1, two_faults_in_one_call: 2,
}  # fmt: skip
"""Cases, and how many pairs of accesses are not ordered."""


def nothing_at_all(b: Bench) -> None:
    b.record("e", "a")
    b.wait("b", "e")
    b.sync("e")


def one_stream(b: Bench) -> None:
    for _ in range(3):
        b.run("a", "x", "y")
        b.run("a", "y", "x")


def reads_need_no_order(b: Bench) -> None:
    b.run("a", "x", "y")
    b.run("b", "x", "z")


def an_event_orders(b: Bench) -> None:
    b.run("a", "x", "y")
    b.record("e", "a")
    b.wait("b", "e")
    b.run("b", "y", "x")


def chain(b: Bench) -> None:
    b.run("a", "x", "y")
    b.record("e", "a")
    b.wait("b", "e")
    b.record("f", "b")
    b.wait("c", "f")
    b.run("c", "y", "x")


def branch(b: Bench) -> None:
    b.run("a", "x", "y")
    b.record("e", "a")
    b.wait("b", "e")
    b.wait("c", "e")
    b.run("b", "y", "z")
    b.record("f", "b")
    b.wait("c", "f")
    b.run("c", "z", "y")


def recorded_again(b: Bench) -> None:
    b.record("e", "c")
    b.run("a", "x", "y")
    b.record("e", "a")
    b.wait("b", "e")
    b.run("b", "y", "x")


def an_event_waited_for_twice(b: Bench) -> None:
    b.run("a", "x", "y")
    b.record("e", "a")
    b.wait("b", "e")
    b.wait("b", "e")
    b.run("b", "y", "x")


def the_host_orders(b: Bench) -> None:
    b.run("a", "x", "y")
    b.record("e", "a")
    b.sync("e")
    b.run("b", "y", "x")


def the_host_orders_all_before(b: Bench) -> None:
    b.run("a", "x", "y")
    b.record("e", "a")
    b.wait("b", "e")
    b.run("b", "y", "z")
    b.record("f", "b")
    b.sync("f")
    b.run("c", "z", "y")


def there_and_back(b: Bench) -> None:
    b.host.write()
    b.upload("a")
    b.record("e", "a")
    b.wait("b", "e")
    b.run("b", "x", "y")
    b.download("b", "y")
    b.record("f", "b")
    b.sync("f")
    b.host.read()
    b.host.write()
    b.device.release(b.host)


def a_new_stream_comes_after_what_the_host_knows(b: Bench) -> None:
    b.run("a", "x", "y")
    b.record("e", "a")
    b.sync("e")
    b.streams["c"] = b.device.stream("new")
    b.run("c", "y", "x")


GOOD = [nothing_at_all, one_stream, reads_need_no_order, an_event_orders, chain, branch, recorded_again,
        an_event_waited_for_twice, the_host_orders, the_host_orders_all_before, there_and_back,
        a_new_stream_comes_after_what_the_host_knows]  # fmt: skip


@pytest.mark.parametrize("case", BAD, ids=lambda c: c.__name__)
@pytest.mark.parametrize("policy", ["eager", "lazy"])
def test_what_is_not_ordered_is_found(case: Callable[[Bench], None], policy: str) -> None:
    b = Bench(SimDevice(Schedule(policy), check="record", execute=lambda *_: None))
    case(b)
    assert len(b.device.order_faults) == BAD[case], b.device.order_faults


@pytest.mark.parametrize("case", GOOD, ids=lambda c: c.__name__)
@pytest.mark.parametrize("schedule", [EAGER, Schedule("lazy"), *stragglers("abc"), Schedule("swarm", 4)], ids=str)
def test_what_is_ordered_is_no_fault(case: Callable[[Bench], None], schedule: Schedule) -> None:
    b = Bench(SimDevice(schedule, check="record", execute=lambda *_: None))
    case(b)
    b.device.close()
    assert b.device.order_faults == []


def test_a_fault_names_both_operations_their_lines_and_the_schedule() -> None:
    b = Bench(SimDevice(Schedule("swarm", 17), execute=lambda *_: None))
    b.download("a")
    with pytest.raises(OrderFault) as caught:
        b.host.read()
    text = str(caught.value)
    for part in ("host reads pinned block 3", "download from device block 0", "[a#0]", f"{SEED_VARIABLE}='swarm:17'"):
        assert part in text
    assert text.count("test_checker.py:") >= 2
    assert text.count(" test_a_fault_names_both_operations_their_lines_and_the_schedule") == 2


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


# --- host threads


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


# --- memory, declarations, faults on request


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


# --- the nine planted faults


PLANTED = [
    "compute does not wait for upload", "download does not wait for compute", "host reads before download done",
    "upload overwrites input in use", "compute overwrites output in download", "host refills pinned buffer in upload",
    "event recorded before the kernel", "wait on the wrong slot's event", "block released while another stream reads",
]  # fmt: skip

STEP = Elementwise("step", "raw float64 of, float64 by, float64 plus", "raw float64 to", "to[i] = of[i] * by + plus")


def step(kernel: object, size: tuple[int, ...], arguments: list[np.ndarray]) -> None:
    of, by, plus, to = arguments
    to[: size[0]] = of[: size[0]] * by + plus


def pipeline(
    device: SimDevice, planted: str = "", *, chunks: int = 8, slots: int = 2, outs: int = 4, lag: int = 3
) -> bool:
    """2 x + 1 of chunks through three streams, two slots and four output buffers; True if the result is right."""
    size, n = 4, 32
    up, compute, down = (device.stream(name) for name in ("upload", "compute", "download"))
    h_in = [device.pinned(n) for _ in range(slots)]
    d_in, d_out = ([device.empty(n) for _ in range(slots)] for _ in range(2))
    h_out = [device.pinned(n) for _ in range(outs)]
    e_up, e_compute, e_down = ([device.event() for _ in range(slots)] for _ in range(3))
    e_out = [device.event() for _ in range(outs)]
    data = np.random.default_rng(1).normal(size=(chunks, size))
    got, temporary = np.zeros_like(data), {}

    def run(of: object, by: float, plus: float, to: object, stream: SimStream = compute) -> None:
        views = [View(block, 0, (size,), np.dtype(np.float64)) for block in (of, to)]  # type: ignore[arg-type]
        arguments = (views[0], np.float64(by), np.float64(plus), views[1])
        device.launch(STEP, (size,), arguments, stream, reads=[of], writes=[to])  # type: ignore[list-item]

    def drain(i: int) -> None:
        if planted != "host reads before download done":
            device.synchronize(e_out[i % outs])
        got[i] = h_out[i % outs].read().view(np.float64)
        if i in temporary:
            device.release(temporary.pop(i))

    for i in range(chunks):
        k, o = i % slots, i % outs
        if planted != "host refills pinned buffer in upload":
            device.synchronize(e_up[k])
        h_in[k].write().view(np.float64)[:] = data[i]
        if planted != "upload overwrites input in use":
            device.wait(up, e_compute[k])
        device.upload(d_in[k], h_in[k], n, up)
        device.record(e_up[k], up)
        if planted != "compute does not wait for upload":
            device.wait(compute, e_up[k])
        if planted != "compute overwrites output in download":
            device.wait(compute, e_down[k])
        middle = temporary[i] = device.empty(n)
        if planted == "event recorded before the kernel":
            device.record(e_compute[k], compute)
        run(d_in[k], 2.0, 0.0, middle)
        elsewhere = planted == "block released while another stream reads"
        if not elsewhere:
            run(middle, 1.0, 1.0, d_out[k])
        if planted != "event recorded before the kernel":
            device.record(e_compute[k], compute)
        if planted != "download does not wait for compute":
            wrong = planted == "wait on the wrong slot's event"
            device.wait(down, e_compute[(k + 1) % slots if wrong else k])
        if elsewhere:
            run(middle, 1.0, 1.0, d_out[k], down)
            device.release(temporary.pop(i))
        device.download(h_out[o], d_out[k], n, down)
        device.record(e_down[k], down)
        device.record(e_out[o], down)
        if i >= lag:
            drain(i - lag)
    for i in range(max(0, chunks - lag), chunks):
        drain(i)
    device.close()
    return bool(np.array_equal(got, data * 2 + 1))


STREAMS = ("upload", "compute", "download")


def test_the_pipeline_is_right_under_every_schedule() -> None:
    for schedule in schedules(STREAMS, 100):
        device = SimDevice(schedule, execute=step)
        assert pipeline(device), schedule
        assert device.order_faults == []


@pytest.mark.parametrize("planted", PLANTED)
def test_a_planted_fault_is_found_in_one_eager_run(planted: str) -> None:
    device = SimDevice(check="record", execute=step)
    pipeline(device, planted)
    assert device.order_faults


@pytest.mark.parametrize("planted", PLANTED)
def test_the_stragglers_alone_find_a_planted_fault_by_its_results(planted: str) -> None:
    wrong = [s for s in stragglers(STREAMS) if not pipeline(SimDevice(s, check="off", execute=step), planted)]
    assert wrong


def test_a_device_that_runs_all_at_once_and_checks_nothing_finds_none_of_them() -> None:
    """Why the checker and the schedules are there."""
    assert all(pipeline(SimDevice(check="off", execute=step), planted) for planted in PLANTED)


def test_an_edge_that_is_not_needed_is_not_demanded() -> None:
    """With each output drained at once, computing need not wait for the download."""
    device = SimDevice(execute=step)
    assert pipeline(device, "compute overwrites output in download", lag=0)
    assert device.order_faults == []
