"""What the tile loop and the kernels need of a device: blocks of memory, streams, events, copies and launches.

The CUDA device is in :mod:`calib_gpu.backend.cupy_`, a simulated one with adversarial schedules in
:mod:`calib_gpu.testing.sim`. The rules are those of CUDA with non-blocking streams:

- operations of one stream run in the order in which they were given, those of two streams in any order, unless one
  waits for an event that the other has recorded;
- waiting for an event that was never recorded is no wait;
- the host goes on at once; what it may touch after :meth:`Device.synchronize` is what came before the recorded event;
- copies go between page-locked and device memory only, as whole numbers of bytes from the start of both blocks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from calib_gpu.backend.kernels import Kernel

ALIGNMENT = 256
"""Arrays in a block begin at multiples of this: what device allocations guarantee, and more than 16-byte loads need."""


class Block(Protocol):
    """A block of device memory; hazards are tracked for the block as a whole."""

    @property
    def nbytes(self) -> int:
        """Its size."""
        ...


class HostBlock(Block, Protocol):
    """A block of page-locked host memory."""

    def write(self) -> NDArray[np.uint8]:
        """The bytes, to be filled by the host."""
        ...

    def read(self) -> NDArray[np.uint8]:
        """The bytes, to be read by the host."""
        ...


class Stream(Protocol):
    """A queue of operations on the device."""


class Event(Protocol):
    """A point in a stream."""


@dataclass(frozen=True)
class View:
    """A part of a device block, as an array in C order: what kernels are given."""

    block: Block
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


Argument = View | np.generic
"""What a kernel is given: arrays on the device, and NumPy scalars by value."""


class Layout:
    """Named arrays one behind the other in a block, each at an aligned place."""

    def __init__(self) -> None:
        self.nbytes = 0
        self._arrays: dict[str, tuple[int, tuple[int, ...], np.dtype[Any]]] = {}

    def add(self, name: str, shape: tuple[int, ...], dtype: DTypeLike) -> Layout:
        """Append an array; returns itself."""
        kind = np.dtype(dtype)
        self._arrays[name] = (self.nbytes, shape, kind)
        end = self.nbytes + math.prod(shape) * kind.itemsize
        self.nbytes = -(-end // ALIGNMENT) * ALIGNMENT
        return self

    def __contains__(self, name: str) -> bool:
        return name in self._arrays

    def offset(self, name: str) -> int:
        """Where an array begins."""
        return self._arrays[name][0]

    def view(self, name: str, block: Block) -> View:
        """An array of this layout in a device block."""
        return View(block, *self._arrays[name])

    def array(self, name: str, memory: NDArray[np.uint8]) -> NDArray[Any]:
        """An array of this layout in host memory."""
        offset, shape, dtype = self._arrays[name]
        return memory[offset : offset + math.prod(shape) * dtype.itemsize].view(dtype).reshape(shape)


class Device(Protocol):
    """One device. Calls may come from several threads; nothing here waits but :meth:`synchronize`.

    Raises
    ------
    OutOfDeviceMemory
        A block does not fit.
    DeviceLost
        The device reports an error: it may be that of an earlier operation. The device is of no use any more.
    """

    name: str

    def describe(self) -> str:
        """The device, in words, for the report."""
        ...

    def stream(self, name: str) -> Stream:
        """A new stream that waits for no other by itself."""
        ...

    def event(self) -> Event:
        """A new event, not recorded yet."""
        ...

    def pinned(self, nbytes: int) -> HostBlock:
        """A block of page-locked host memory; its content is undefined."""
        ...

    def empty(self, nbytes: int) -> Block:
        """A block of device memory; its content is undefined."""
        ...

    def release(self, block: Block) -> None:
        """Give a block back; no operation that uses it may be under way."""
        ...

    def upload(self, target: Block, source: HostBlock, nbytes: int, stream: Stream) -> None:
        """Copy the first bytes of a host block to a device block."""
        ...

    def download(self, target: HostBlock, source: Block, nbytes: int, stream: Stream) -> None:
        """Copy the first bytes of a device block to a host block."""
        ...

    def copy(self, target: Block, source: Block, nbytes: int, stream: Stream) -> None:
        """Copy the first bytes of a device block to another one."""
        ...

    def clear(self, view: View, stream: Stream) -> None:
        """Set a part of a device block to zero bytes."""
        ...

    def launch(
        self, kernel: Kernel, size: tuple[int, ...], arguments: Sequence[Argument], stream: Stream, *,
        reads: Sequence[Block], writes: Sequence[Block],
    ) -> None:  # fmt: skip
        """Run a kernel over an index range.

        ``size`` is the number of threads of an elementwise kernel ``(n,)``, rows and columns of a reduction
        ``(rows, columns)``, or threads for each pixel and pixels of a raw one. ``reads`` and ``writes`` name the blocks that it
        touches (one that it reads and writes is in both).
        """
        ...

    def record(self, event: Event, stream: Stream) -> None:
        """The event is what has been given to the stream so far."""
        ...

    def wait(self, stream: Stream, event: Event) -> None:
        """What is given to the stream from now on comes after the event as it is recorded now."""
        ...

    def synchronize(self, event: Event) -> None:
        """The host waits for the event."""
        ...

    def free_bytes(self) -> int:
        """Free memory of the device."""
        ...

    def close(self) -> None:
        """Give everything back."""
        ...
