"""Every file operation on the output: one place, so that it can be watched, and made to fail in tests."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import platform
import re
import shutil
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Final

import google_crc32c

from calib_gpu.errors import OutputError

SCRATCH_SHARE: Final = 0.5
"""Share of the free space that one array of a scan may take."""

EARLY_WRITE_BYTES: Final = 4 * 1024 * 1024
"""Files from this size on start on their way to the disk when they are closed, so that the end has less to wait for."""

_SYNC_FILE_RANGE_WRITE: Final = 2
_LIBC: Final = ctypes.CDLL(None, use_errno=True)


def _syncfs() -> Callable[[int], int] | None:
    release = re.match(r"(\d+)\.(\d+)", platform.release())
    known = platform.system() == "Linux" and release is not None and (int(release[1]), int(release[2])) >= (5, 8)
    return getattr(_LIBC, "syncfs", None) if known else None


_SYNCFS: Final = _syncfs()


def _begin_writing(handle: int) -> None:
    begin = getattr(_LIBC, "sync_file_range", None)
    if begin is not None:
        begin(
            handle, ctypes.c_int64(0), ctypes.c_int64(0), _SYNC_FILE_RANGE_WRITE
        )  # a hint: its result does not matter


def _cannot(path: Path | str, error: OSError) -> OutputError:
    return OutputError(
        f"cannot write: {error.strerror}", array=str(path), fix="check space and permissions, then run again"
    )


def make_dirs(path: Path) -> None:
    """Create a folder and its parents."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot(path, error) from None


class OutputFile:
    """A file that is appended to, its size and crc32c kept as it grows; durable after :func:`make_durable`."""

    def __init__(self, path: Path | str) -> None:
        self.path, self.size, self._crc = path, 0, 0
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            try:
                self._handle = os.open(path, flags, 0o666)
            except FileNotFoundError:
                os.makedirs(os.path.dirname(path), exist_ok=True)
                self._handle = os.open(path, flags, 0o666)
        except OSError as error:
            raise _cannot(path, error) from None

    def append(self, data: bytes) -> None:
        """Write all of ``data`` at the end."""
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(self._handle, view) :]
        except OSError as error:
            raise _cannot(self.path, error) from None
        self._crc = google_crc32c.extend(self._crc, data)
        self.size += len(data)

    def close(self) -> tuple[int, int]:
        """Close the file, its way to the disk begun; returns its size and crc32c."""
        if self.size >= EARLY_WRITE_BYTES:
            _begin_writing(self._handle)
        try:
            self.abandon()
        except OSError as error:  # network file systems report here what they could not store
            raise _cannot(self.path, error) from None
        return self.size, self._crc

    def abandon(self) -> None:
        """Close without flushing, on the way out of a failure; does nothing where it is closed already."""
        handle, self._handle = self._handle, -1
        if handle >= 0:
            os.close(handle)


def write_file(path: Path | str, data: bytes) -> tuple[int, int]:
    """Write a new file; returns its size and crc32c."""
    file = OutputFile(path)
    try:
        file.append(data)
    except BaseException:
        file.abandon()
        raise
    return file.close()


class ScratchFile:
    """A file without a name, written and read at any place by any thread; it vanishes when it is closed or forgotten.

    ``folder`` is where it lies; None: where the system keeps temporary files.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder or Path(tempfile.gettempdir())
        try:
            self._handle, name = tempfile.mkstemp(dir=folder)
            os.unlink(name)
        except OSError as error:
            raise _cannot(self._folder, error) from None
        self._close = weakref.finalize(self, os.close, self._handle)

    def write(self, offset: int, data: memoryview) -> None:
        """Write all of ``data`` at ``offset``."""
        view = data.cast("B")
        try:
            while view:
                n = os.pwrite(self._handle, view, offset)
                view, offset = view[n:], offset + n
        except OSError as error:
            raise _cannot(self._folder, error) from None

    def read(self, offset: int, out: memoryview) -> None:
        """Fill ``out`` with what was written at ``offset``."""
        try:
            while out:
                n = os.preadv(self._handle, [out], offset)
                if n == 0:
                    raise OSError(errno.EIO, "a scratch file ends too early")
                out, offset = out[n:], offset + n
        except OSError as error:
            raise _cannot(self._folder, error) from None

    def close(self) -> None:
        """Give the space back; it must not be used any more."""
        self._close()
        self._handle = -1


def map_scratch(folder: Path, size: int) -> mmap.mmap:
    """A zeroed file without a name, in memory as far as it is used; its space is reserved, so that writing cannot fail."""
    try:
        place = os.statvfs(folder)
        if size > place.f_bavail * place.f_frsize * SCRATCH_SHARE:  # reserving it would starve the output
            raise OSError(errno.ENOSPC, f"an array of the scan takes {size} bytes, more than half of the free space")
        with tempfile.TemporaryFile(dir=folder) as file:
            os.posix_fallocate(file.fileno(), 0, size)
            return mmap.mmap(file.fileno(), size)
    except OSError as error:
        raise _cannot(folder, error) from None


def replace_file(path: Path, data: bytes) -> None:
    """Write a file so that readers see the old or the new one, never a part: temporary file, then rename."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.unlink(missing_ok=True)
        write_file(temporary, data)
        _sync(temporary, os.O_RDONLY)
        temporary.replace(path)
        sync_dir(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise (error if isinstance(error, OutputError) else _cannot(path, error)) from None


def refuse_foreign(path: Path, mark: bytes, kind: str, *, overwrite: bool) -> None:
    """:class:`OutputError` where a file stands that lacks our mark in its first or last 4 kB; an empty one may be replaced.

    ``kind`` is what a file with that mark is, "a report".
    """
    if not os.path.lexists(path) or (overwrite and path.is_file()):
        return
    try:
        with path.open("rb") as file:
            ends = file.read(4096)
            file.seek(max(0, os.fstat(file.fileno()).st_size - 4096))
            ends += file.read(4096)
    except OSError as error:
        raise OutputError(
            f"cannot be replaced: {error.strerror}", array=str(path), fix="give another file with -o"
        ) from None
    if ends and mark not in ends:
        fix = "give another file with -o, or --overwrite"
        raise OutputError(f"exists and is not {kind}", array=str(path), fix=fix)


def sync_dir(path: Path) -> None:
    """Make the entries of a folder durable."""
    _sync(path, os.O_RDONLY | os.O_DIRECTORY)


def _sync(path: Path, flags: int) -> None:
    try:
        handle = os.open(path, flags)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        raise _cannot(path, error) from None


def make_durable(folder: Path, handle: int | None = None) -> None:
    """Bring all below a folder to the disk.

    One syncfs of the file system where that reports errors (Linux 5.8), for a scan has a hundred files; else, and
    where a sandbox forbids it, every file and folder by itself. ``handle`` is a descriptor of a folder on that file
    system, opened before the files were written: errors since then are reported on it.
    """
    if _SYNCFS is not None and _sync_file_system(folder, handle):
        return
    for root, _, names in os.walk(folder, topdown=False):
        for name in names:
            _sync(Path(root) / name, os.O_RDONLY)
        sync_dir(Path(root))


def _sync_file_system(folder: Path, handle: int | None) -> bool:
    """False if the system does not offer syncfs."""
    try:
        own = os.open(folder, os.O_RDONLY | os.O_DIRECTORY) if handle is None else None
    except OSError as error:
        raise _cannot(folder, error) from None
    try:
        assert _SYNCFS is not None
        if _SYNCFS(own if own is not None else handle) == 0:  # type: ignore[arg-type]
            return True
        number = ctypes.get_errno()
        if number in (errno.ENOSYS, errno.EPERM, errno.EOPNOTSUPP):
            return False
        raise _cannot(folder, OSError(number, os.strerror(number)))
    finally:
        if own is not None:
            os.close(own)


def rename(source: Path, target: Path) -> bool:
    """Move a folder into place; False if a non-empty folder stands there. Make it durable with :func:`sync_dir`."""
    try:
        os.rename(source, target)
    except OSError as error:
        if target.is_dir():
            return False
        raise _cannot(target, error) from None
    return True


def remove_tree(path: Path) -> None:
    """Remove a folder and what is in it, as far as possible."""
    shutil.rmtree(path, ignore_errors=True)


def measure(path: Path) -> tuple[int, int]:
    """Size and crc32c of a regular file; (-1, 0) if it cannot be read."""
    size = crc = 0
    if not path.is_file():
        return -1, 0
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                size += len(block)
                crc = google_crc32c.extend(crc, block)
    except OSError:
        return -1, 0
    return size, crc


def not_empty(path: Path) -> OutputError:
    """The error for an output path that holds something already."""
    return OutputError(
        "exists already",
        array=str(path),
        rule="a path that does not exist, or an empty folder",
        fix="give another path, or remove it",
    )
