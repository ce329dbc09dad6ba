"""The structs that CuPy 14 passes to its kernels: CArray for arrays, CIndexer for loops.

Source: cupy/_core/include/cupy/carray.cuh, which defines them; all members are 8 bytes wide.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Struct:
    """Bytes of a struct that is passed by value, and the arrays to which pointers within it point."""

    data: bytes
    arrays: tuple[NDArray[Any], ...] = field(default=())


def carray(array: NDArray[Any]) -> Struct:
    """An array of any shape and strides as CuPy passes it: pointer, size, shape, strides in bytes."""
    numbers = (array.ctypes.data, array.size, *array.shape, *array.strides)
    return Struct(struct.pack(f"<{len(numbers)}q", *numbers), (array,))


def indexer(shape: tuple[int, ...] | int) -> Struct:
    """A loop over a shape as CuPy passes it: size, shape, and room for the index of an element."""
    lengths = (shape,) if isinstance(shape, int) else tuple(shape)
    size = int(np.prod(lengths, dtype=np.int64))
    numbers = (size, *lengths, *(0 for _ in lengths))
    return Struct(struct.pack(f"<{len(numbers)}q", *numbers))
