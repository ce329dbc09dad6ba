"""Arrays of a whole scan, pixel by pixel in memory order: small ones in memory, large ones in files without a name.

What a scan keeps grows with channels x pixels (64 pixels of 65536 channels: 34 MB an array). Large arrays are mapped from
a file beside the output, so that only the pixels at work are in memory; :func:`release` lets go of the others.
"""

from __future__ import annotations

import math
import mmap
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from calib_gpu.records import pixel_major
from calib_gpu.store.scratch import map_scratch


class PixelArrays:
    """Where the arrays of a run are made.

    Parameters
    ----------
    folder
        Where the files of large arrays go; they have no name, and vanish with the array. None: all stay in memory.
    limit
        Largest array that is held in memory, bytes.
    """

    def __init__(self, folder: Path | None = None, limit: int = 0) -> None:
        self.folder, self._limit = folder, limit

    def zeros(self, shape: tuple[int, ...], dtype: DTypeLike = np.float64) -> NDArray[Any]:
        """Zeros of ``[C, R, A, ...]`` whose memory order is ``[R, A, ..., C]``.

        Raises
        ------
        OutputError
            The file system has no room for the file.
        """
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if self.folder is None or size <= self._limit:
            return pixel_major(shape, dtype)
        c, *pixels = shape
        stored = np.frombuffer(map_scratch(self.folder, size), dtype).reshape(*pixels, c)
        return np.moveaxis(stored, -1, 0)


def release(*arrays: NDArray[Any] | None) -> None:
    """Take these arrays, or parts of arrays, out of memory where a file holds them; their values stay."""
    for array in arrays:
        root: Any = array
        while isinstance(root, np.ndarray):
            whole, root = root, root.base
        root = root.obj if isinstance(root, memoryview) else root
        if isinstance(root, mmap.mmap) and array is not None and array.size:
            low, high = np.lib.array_utils.byte_bounds(array)
            start = (low - whole.ctypes.data) // mmap.PAGESIZE * mmap.PAGESIZE
            root.madvise(mmap.MADV_DONTNEED, start, high - whole.ctypes.data - start)
