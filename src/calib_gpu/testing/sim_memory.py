"""Memory of the simulated device: poisoned, limited, recycled; and what the host touches of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from calib_gpu.backend.device import ALIGNMENT, View
from calib_gpu.errors import OutOfDeviceMemory
from calib_gpu.testing.order import History

POISON: Final = (0xFF, 0xA5)
"""Bytes of fresh memory, in turn: NaN as float64 and float32 (not the one that the engine writes), and plausible numbers."""


class Owner(Protocol):
    """The device that a block belongs to."""

    def touch(self, what: str, reads: Sequence[SimBlock] = (), writes: Sequence[SimBlock] = ()) -> None:
        """The host reads or writes blocks."""
        ...


class SimBlock:
    """A block of simulated memory."""

    def __init__(self, device: Owner, name: str, memory: NDArray[np.uint8]) -> None:
        self.device, self.name, self.memory = device, name, memory
        self.history, self.released = History(), False

    @property
    def nbytes(self) -> int:
        """Its size."""
        return self.memory.size

    def __repr__(self) -> str:
        return f"{self.name} ({self.nbytes} B)"

    def array(self, view: View) -> NDArray[Any] | None:
        """A part of it; None where that does not lie within it, at a multiple of the item size."""
        start, stop = view.offset, view.offset + view.size * view.dtype.itemsize
        if start < 0 or stop > self.nbytes or start % view.dtype.itemsize:
            return None
        return self.memory[start:stop].view(view.dtype).reshape(view.shape)


class SimHostBlock(SimBlock):
    """A block of page-locked memory: the device sees the host's accesses."""

    def write(self) -> NDArray[np.uint8]:
        """The bytes."""
        self.device.touch(f"host writes {self}", writes=(self,))
        return self.memory

    def read(self) -> NDArray[np.uint8]:
        """The bytes, which cannot be written to."""
        self.device.touch(f"host reads {self}", reads=(self,))
        return frozen(self.memory)


B = TypeVar("B", bound=SimBlock)


class Memory:
    """Allocations of one kind of block, within a limit in bytes."""

    def __init__(self, name: str, limit: int) -> None:
        self.name, self.limit, self.used = name, limit, 0
        self.live: set[SimBlock] = set()
        self._recycled: dict[int, list[NDArray[np.uint8]]] = {}

    def allocate(self, kind: type[B], device: Owner, nbytes: int, index: int, *, fail: bool) -> B:
        """Allocation number ``index`` of the device."""
        if fail or self.used + nbytes > self.limit:
            raise OutOfDeviceMemory(f"out of {self.name} memory", array=f"allocation {index}", value=nbytes)
        spare = self._recycled.get(nbytes)
        memory = spare.pop() if spare else _aligned(nbytes)
        memory[:] = POISON[index % len(POISON)]
        block = kind(device, f"{self.name} block {index}", memory)
        self.used += nbytes
        self.live.add(block)
        return block

    def release(self, block: SimBlock) -> None:
        """Poison a block and lend its memory to the next one of its size."""
        block.released = True
        self.live.remove(block)
        self.used -= block.nbytes
        block.memory[:] = POISON[0]
        self._recycled.setdefault(block.nbytes, []).append(block.memory)


def frozen(array: NDArray[Any]) -> NDArray[Any]:
    """A view that cannot be written to."""
    view = array.view()
    view.flags.writeable = False
    return view


def _aligned(nbytes: int) -> NDArray[np.uint8]:
    """Memory that begins where device memory would."""
    memory = np.empty(nbytes + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + nbytes]
