"""A simulated device: streams that run in any order that CUDA allows, poisoned memory, faults on request, and a checker.

It fulfils :class:`calib_gpu.backend.device.Device`. Kernels are run by ``execute``; the default is the NumPy model of each
(:mod:`calib_gpu.testing.kernel_models`). What it shows: operations that are not ordered (whatever the schedule), results
that depend on the order, reads of memory that nobody wrote, launches that touch more than they declare, and what the engine
does when memory is short or the device fails. What it cannot show: faults inside a kernel, and speed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib_gpu.backend.device import Argument, Block, Event, HostBlock, Stream, View
from calib_gpu.backend.kernels import Kernel
from calib_gpu.errors import DeviceLost
from calib_gpu.testing.kernel_models import bind, run_model
from calib_gpu.testing.order import Clock, Order, OrderFault, where
from calib_gpu.testing.schedule import SEED_VARIABLE, Operation, Queues, Schedule
from calib_gpu.testing.sim_memory import Memory, SimBlock, SimHostBlock, frozen

Value = NDArray[Any] | np.generic
Execute = Callable[[Kernel, tuple[int, ...], Sequence[Value]], None]
"""Runs a kernel on arrays (those that it only reads are not writeable) and scalars, in the order of the registry."""


@dataclass(frozen=True)
class Faults:
    """What goes wrong. Allocations and operations (copies, clears, launches) are counted from 0, in the order of calls.

    ``memory`` and ``pinned`` are limits in bytes. The error of ``operation`` is reported by the first synchronisation
    after it has run, and by every call after that.
    """

    allocation: int | None = None
    operation: int | None = None
    memory: int = 1 << 40
    pinned: int = 1 << 40


EAGER, NO_FAULTS = Schedule(), Faults()


@dataclass(frozen=True)
class SimStream:
    """A stream; its name is an actor of the checker."""

    name: str


@dataclass
class SimEvent:
    """An event: the mark of its last record, and what its stream knew then."""

    mark: Operation | None = None
    clock: Clock = field(default_factory=dict)


class SimDevice:
    """See the module.

    Parameters
    ----------
    schedule
        The order in which operations run.
    faults
        What goes wrong.
    check
        ``raise`` at the call that is not ordered; ``record`` in ``order_faults`` only; ``off``.
    threads
        Each host thread is an actor of its own: then the device must see the locks between them
        (:mod:`calib_gpu.testing.host`). Otherwise the host is one actor, whose threads are ordered as they call.
    execute
        What runs a kernel.

    Attributes
    ----------
    order_faults
        What the checker found.
    n_allocation, n_operation
        Calls so far that :class:`Faults` counts.
    """

    name = "sim"

    def __init__(
        self, schedule: Schedule = EAGER, faults: Faults = NO_FAULTS, *, check: str = "raise", threads: bool = False,
        execute: Execute = run_model,
    ) -> None:  # fmt: skip
        self.schedule, self.faults, self.check, self.execute = schedule, faults, check, execute
        self.order_faults: list[str] = []
        self.n_allocation = self.n_operation = 0
        self._order, self._queues, self._threads = Order(), Queues(schedule), threads
        self._guard = threading.RLock()
        self._n_stream = 0
        self._pinned, self._memory = Memory("pinned", faults.pinned), Memory("device", faults.memory)
        self._parent = _thread_name()
        self._broken = self._reported = self._closed = False

    def describe(self) -> str:
        """That it is simulated, and how."""
        return f"simulated device, schedule {self.schedule}"

    # --- memory
    def pinned(self, nbytes: int) -> SimHostBlock:
        """A poisoned block of host memory."""
        with self._call():
            return self._pinned.allocate(SimHostBlock, self, nbytes, **self._next_allocation())

    def empty(self, nbytes: int) -> SimBlock:
        """A poisoned block of device memory."""
        with self._call():
            return self._memory.allocate(SimBlock, self, nbytes, **self._next_allocation())

    def release(self, block: Block) -> None:
        """Give a block back: its memory is poisoned and lent to the next one of its size."""
        own = self._block(block)
        with self._call():
            self.touch(f"release of {own}", writes=(own,))
            (self._pinned if isinstance(own, SimHostBlock) else self._memory).release(own)

    @property
    def live_blocks(self) -> list[str]:
        """Blocks that nobody has given back."""
        return sorted(map(repr, self._pinned.live | self._memory.live))

    def free_bytes(self) -> int:
        """What the limit leaves."""
        with self._call():
            return self._memory.limit - self._memory.used

    # --- operations
    def upload(self, target: Block, source: HostBlock, nbytes: int, stream: Stream) -> None:
        """Host to device."""
        to, of = self._block(target), self._block(source)
        self._copy("upload", to, of, nbytes, stream, (SimBlock, SimHostBlock))

    def download(self, target: HostBlock, source: Block, nbytes: int, stream: Stream) -> None:
        """Device to host."""
        to, of = self._block(target), self._block(source)
        self._copy("download", to, of, nbytes, stream, (SimHostBlock, SimBlock))

    def copy(self, target: Block, source: Block, nbytes: int, stream: Stream) -> None:
        """Device to device."""
        self._copy("copy", self._block(target), self._block(source), nbytes, stream, (SimBlock, SimBlock))

    def _copy(self, what: str, to: SimBlock, of: SimBlock, n: int, stream: Stream, kinds: tuple[type, type]) -> None:
        if (type(to), type(of)) != kinds or not 0 <= n <= min(to.nbytes, of.nbytes):
            raise self._fault(f"{what} of {n} bytes from {of} to {to} at {where()}")

        def run() -> None:
            to.memory[:n] = of.memory[:n]

        self._enqueue(f"{what} from {of} to {to}", stream, run, (of,), (to,))

    def clear(self, view: View, stream: Stream) -> None:
        """Zero bytes."""
        block, array = self._block(view.block), self._array(view)

        def run() -> None:
            array[...] = np.zeros((), array.dtype)

        self._enqueue(f"clear of {block}", stream, run, (), (block,))

    def launch(
        self, kernel: Kernel, size: tuple[int, ...], arguments: Sequence[Argument], stream: Stream, *,
        reads: Sequence[Block], writes: Sequence[Block],
    ) -> None:  # fmt: skip
        """Run a kernel: blocks that it does not declare are withheld, those that it only reads are not writeable."""
        try:
            bind(kernel, arguments)
        except TypeError as error:
            raise self._fault(f"{error}, at {where()}") from error
        sources, targets = [self._block(b) for b in reads], [self._block(b) for b in writes]
        values: list[Value] = []
        for argument in arguments:
            if not isinstance(argument, View):
                values.append(argument)
                continue
            block, array = self._block(argument.block), self._array(argument)
            if block not in sources and block not in targets:
                raise self._fault(f"launch of {kernel.name} uses {block}, which it does not declare, at {where()}")
            values.append(array if block in targets else frozen(array))
        what = f"launch of {kernel.name}"
        if any(isinstance(b, SimHostBlock) for b in (*sources, *targets)):
            raise self._fault(f"{what} uses host memory at {where()}")

        def run() -> None:
            self.execute(kernel, size, values)

        self._enqueue(what, stream, run, sources, targets)

    def _enqueue(
        self, what: str, stream: Stream, run: Callable[[], None], reads: Sequence[SimBlock], writes: Sequence[SimBlock]
    ) -> None:
        name, place = self._stream(stream), where()
        with self._call():
            index, self.n_operation = self.n_operation, self.n_operation + 1
            self._order.know(name, self._order.clock(self._host()))
            self._note(name, f"{what} (operation {index})", reads, writes)

            def guarded() -> None:
                if index == self.faults.operation:
                    self._broken = True
                if not self._broken:
                    try:
                        run()
                    except Exception as error:
                        raise self._fault(f"{what} at {place} failed: {type(error).__name__}: {error}") from error

            self._queues.push(Operation(name, guarded))

    # --- order
    def stream(self, name: str) -> SimStream:
        """A stream; a second one of that name is another."""
        with self._call():
            own = SimStream(f"{name}#{self._n_stream}")
            self._n_stream += 1
            self._queues.add(own.name)
            return own

    def event(self) -> SimEvent:
        """An event that is not recorded."""
        with self._call():
            return SimEvent()

    def record(self, event: Event, stream: Stream) -> None:
        """Mark a place in a stream."""
        own, name = self._event(event), self._stream(stream)
        with self._call():
            self._order.know(name, self._order.clock(self._host()))
            own.mark, own.clock = Operation(name), dict(self._order.clock(name))
            self._queues.push(own.mark)

    def wait(self, stream: Stream, event: Event) -> None:
        """What comes later in the stream comes after the last record; no wait if there is none."""
        own, name = self._event(event), self._stream(stream)
        with self._call():
            if own.mark is not None:
                self._order.know(name, own.clock)
                self._queues.push(Operation(name, after=own.mark))

    def synchronize(self, event: Event) -> None:
        """Run until the event has happened, and report what went wrong."""
        own = self._event(event)
        with self._call():
            if own.mark is not None:
                self._order.know(self._host(), own.clock)
                self._queues.run_until(own.mark)
            if self._broken:
                self._reported = True
                raise self._lost()

    def touch(self, what: str, reads: Sequence[SimBlock] = (), writes: Sequence[SimBlock] = ()) -> None:
        """The host reads or writes blocks."""
        with self._call():
            self._note(self._host(), what, reads, writes)

    def knows(self) -> Clock:
        """What this thread of the host knows: handed on by a lock (:class:`calib_gpu.testing.host.SeenLock`)."""
        with self._guard:
            return dict(self._order.clock(self._host()))

    def learns(self, clock: Clock) -> None:
        """This thread of the host goes on after all that is in a clock."""
        with self._guard:
            self._order.know(self._host(), clock)

    def close(self) -> None:
        """Run what is left and give everything back; blocks that are still lent are no fault here (``live_blocks``)."""
        with self._guard:
            if not self._closed:
                self._queues.drain()
                self._closed = True

    # --- within
    @contextmanager
    def _call(self) -> Iterator[None]:
        """One call at a time; none once the device is lost or closed."""
        with self._guard:
            if self._closed:
                raise self._fault(f"a call after close at {where()}")
            if self._reported:
                raise self._lost()
            yield

    def _lost(self) -> DeviceLost:
        return DeviceLost(
            "the device reports an error", value=f"simulated, operation {self.faults.operation}", fix="run again"
        )

    def _fault(self, text: str) -> OrderFault:
        text += f"; {SEED_VARIABLE}='{self.schedule}' replays it"
        self.order_faults.append(text)
        return OrderFault(text)

    def _note(self, actor: str, what: str, reads: Sequence[SimBlock], writes: Sequence[SimBlock]) -> None:
        for block in (*reads, *writes):
            if block.released:
                raise self._fault(f"{what} at {where()}: {block} is released")
        if self.check == "off":
            return
        found = self._order.access(actor, what, [b.history for b in reads], [b.history for b in writes])
        faults = [self._fault(text) for text in found]
        if faults and self.check == "raise":
            raise faults[0]

    def _host(self) -> str:
        if not self._threads:
            return "host"
        actor = _thread_name()
        if not self._order.known(actor):  # a thread knows what the one that made the device knew when it began
            self._order.know(actor, self._order.clock(self._parent))
        return actor

    def _block(self, block: Block) -> SimBlock:
        if not isinstance(block, SimBlock) or block.device is not self:
            raise self._fault(f"{block!r} is not a block of this device, at {where()}")
        return block

    def _stream(self, stream: Stream) -> str:
        if not isinstance(stream, SimStream):
            raise self._fault(f"{stream!r} is not a stream of this device (there is no default one), at {where()}")
        return stream.name

    def _event(self, event: Event) -> SimEvent:
        if not isinstance(event, SimEvent):
            raise self._fault(f"{event!r} is not an event of this device, at {where()}")
        return event

    def _array(self, view: View) -> NDArray[Any]:
        block = self._block(view.block)
        array = block.array(view)
        if array is None:
            raise self._fault(f"{view.dtype}{view.shape} at byte {view.offset} of {block}, at {where()}")
        return array

    def _next_allocation(self) -> dict[str, Any]:
        index, self.n_allocation = self.n_allocation, self.n_allocation + 1
        return {"index": index, "fail": index == self.faults.allocation}


def _thread_name() -> str:
    return f"host {threading.current_thread().name}"
