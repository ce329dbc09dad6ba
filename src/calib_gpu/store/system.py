"""The calls to the file system that the engine makes: one name each, so that a test can put another in its place.

Everything that a run does with a file of L0, of L1 or of ``<L1>.run`` goes through the functions of this module, called as
``system.write(...)``. They are those of the operating system, with its errors; there is nothing between. A double such as
:class:`calib_gpu.testing.faulty_disk.FaultyDisk` replaces them one by one with :func:`replaced`.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import platform
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

CALLS: Final = (
    "open", "close", "read", "pread", "preadv", "readv", "write", "pwrite", "fstat", "stat", "scandir", "statvfs", "mkdir",
    "rename", "exchange", "unlink", "rmdir", "fsync", "syncfs", "start_writing", "allocate", "scratch", "lock",
)  # fmt: skip
"""Names of all of them."""

_LIBC: Final = ctypes.CDLL(None, use_errno=True)


_SYNC_FILE_RANGE: Final = getattr(_LIBC, "sync_file_range", None)
_SYNC_FILE_RANGE_WRITE: Final = 2


def _find_syncfs() -> Callable[[int], int] | None:
    """The call, where it reports errors: Linux 5.8 and later."""
    release = re.match(r"(\d+)\.(\d+)", platform.release())
    known = platform.system() == "Linux" and release is not None and (int(release[1]), int(release[2])) >= (5, 8)
    return getattr(_LIBC, "syncfs", None) if known else None


_SYNCFS: Final = _find_syncfs()


def _syncfs(handle: int) -> None:
    """Bring the file system of an open file to the disk; OSError ENOSYS where that cannot be relied on."""
    if _SYNCFS is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if _SYNCFS(handle) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


_RENAMEAT2: Final = getattr(_LIBC, "renameat2", None)
_AT_FDCWD: Final = -100
_RENAME_EXCHANGE: Final = 2


def _exchange(one: Path, other: Path) -> None:
    """Let two names change places in one step; OSError ENOSYS, EINVAL or EOPNOTSUPP where that is not possible."""
    if _RENAMEAT2 is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if _RENAMEAT2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _start_writing(handle: int) -> None:
    """Let the bytes of a file start on their way to the disk: a hint, whose result does not matter."""
    if _SYNC_FILE_RANGE is not None:
        _SYNC_FILE_RANGE(handle, ctypes.c_int64(0), ctypes.c_int64(0), _SYNC_FILE_RANGE_WRITE)


def _scratch(folder: Path) -> int:
    """Open a new file without a name, for reading and writing."""
    handle, name = tempfile.mkstemp(dir=folder)
    os.unlink(name)
    return handle


def _allocate(handle: int, offset: int, size: int) -> None:
    """Reserve the space of a part of a file, so that writing it cannot fail."""
    os.posix_fallocate(handle, offset, size)


def _lock(handle: int) -> None:
    """Lock an open file or folder for this process alone; BlockingIOError if another has it."""
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


open = os.open
close = os.close
read = os.read
pread = os.pread
preadv = os.preadv
readv = os.readv
write = os.write
pwrite = os.pwrite
fstat = os.fstat
stat = os.stat
scandir = os.scandir
statvfs = os.statvfs
mkdir = os.mkdir
rename = os.rename
exchange = _exchange
unlink = os.unlink
rmdir = os.rmdir
fsync = os.fsync
syncfs = _syncfs
allocate = _allocate
start_writing = _start_writing
scratch = _scratch
lock = _lock


def block_size(status: os.stat_result) -> int:
    """How many bytes of a file to read at a time: all of a small one, and no more.

    A buffer of a megabyte for each small file, cut to its size afterwards, leaves holes in the memory of the process.
    """
    return min(status.st_size + 1, 1 << 20)


@contextlib.contextmanager
def replaced(**calls: Callable[..., Any]) -> Iterator[None]:
    """Put other functions in the place of these, by name, for a while; for tests."""
    module = sys.modules[__name__]
    before = {name: getattr(module, name) for name in calls}
    try:
        for name, call in calls.items():
            setattr(module, name, call)
        yield
    finally:
        for name, call in before.items():
            setattr(module, name, call)
