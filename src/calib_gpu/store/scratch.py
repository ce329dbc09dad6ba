"""Files without a name: large arrays of a scan, and counts that are laid out anew. They vanish with their user."""

from __future__ import annotations

import errno
import mmap
import os
import tempfile
import weakref
from pathlib import Path
from typing import Final

from calib_gpu.store import system
from calib_gpu.store.disk import cannot_write

SCRATCH_SHARE: Final = 0.5
"""Share of the free space that one array of a scan may take."""


class ScratchFile:
    """A file without a name, written and read at any place by any thread; it vanishes when it is closed or forgotten.

    ``folder`` is where it lies; None: where the system keeps temporary files.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder or Path(tempfile.gettempdir())
        try:
            self._handle = system.scratch(self._folder)
        except OSError as error:
            raise cannot_write(self._folder, error) from None
        self._close = weakref.finalize(self, os.close, self._handle)

    def write(self, offset: int, data: memoryview) -> None:
        """Write all of ``data`` at ``offset``."""
        view = data.cast("B")
        try:
            while view:
                n = system.pwrite(self._handle, view, offset)
                view, offset = view[n:], offset + n
        except OSError as error:
            raise cannot_write(self._folder, error, len(view)) from None

    def read(self, offset: int, out: memoryview) -> None:
        """Fill ``out`` with what was written at ``offset``."""
        try:
            while out:
                n = system.preadv(self._handle, [out], offset)
                if n == 0:
                    raise OSError(errno.EIO, "a scratch file ends too early")
                out, offset = out[n:], offset + n
        except OSError as error:
            raise cannot_write(self._folder, error) from None

    def close(self) -> None:
        """Give the space back; it must not be used any more."""
        self._close()
        self._handle = -1


def map_scratch(folder: Path, size: int) -> mmap.mmap:
    """A zeroed file without a name, in memory as far as it is used; its space is reserved, so that writing cannot fail."""
    try:
        place = system.statvfs(folder)
        if size > place.f_bavail * place.f_frsize * SCRATCH_SHARE:  # reserving it would starve the output
            raise OSError(errno.ENOSPC, "an array of the scan takes more than half of the free space")
        handle = system.scratch(folder)
        try:
            system.allocate(handle, 0, size)
            return mmap.mmap(handle, size)
        finally:
            os.close(handle)
    except OSError as error:
        raise cannot_write(folder, error, size) from None
