"""The checker of the simulated device: it finds what is not ordered, whatever runs first, and nothing else.

The single cases are those that PyTorch's CUDA sanitizer and CuSan test theirs with: reads and writes on two streams, chains,
branches, events recorded too early, again, or never.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from calib_gpu.testing.order import OrderFault
from calib_gpu.testing.schedule import SEED_VARIABLE, Schedule, stragglers
from calib_gpu.testing.sim import EAGER, SimDevice
from device_bench import Bench


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
