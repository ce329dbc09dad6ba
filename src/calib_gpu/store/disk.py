"""What is done to the output, with errors that name the file; the calls themselves are those of :mod:`calib_gpu.store.system`."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import time
from pathlib import Path
from typing import Any, Final

import google_crc32c

from calib_gpu.errors import OutputError
from calib_gpu.store import system

EARLY_WRITE_BYTES: Final = 4 * 1024 * 1024
"""Files from this size on start on their way to the disk when they are closed, so that the end has less to wait for."""

_LOCK_WAIT_S, _LOCK_STEP_S = 1.0, 0.005
_ABSENT: Final = (errno.ENOENT, errno.ENOTDIR)
_NO_SPACE: Final = (errno.ENOSPC, errno.EDQUOT)


def cannot_write(path: Path | str, error: OSError, needed: int = 0) -> OutputError:
    """The error of a call; where space is lacking with the bytes that were to be written."""
    lack = f" ({needed} more bytes are needed here)" if needed and error.errno in _NO_SPACE else ""
    return OutputError(
        f"cannot write: {error.strerror}{lack}", array=str(path), fix="check space and permissions, then run again"
    )


def make_dirs(path: Path | str, *, durable: bool = False) -> None:
    """Create a folder and its parents; ``durable``: see to it that those which are new are still there after a power loss."""
    try:
        _make_dirs(os.fspath(path), durable=durable)
    except OSError as error:
        raise (error if isinstance(error, OutputError) else cannot_write(path, error)) from None


def _make_dirs(path: str, *, durable: bool = False) -> None:
    parent = os.path.dirname(path)
    try:
        system.mkdir(path, 0o777)
    except FileNotFoundError:
        if parent in ("", path):
            raise
        _make_dirs(parent, durable=durable)
        return _make_dirs(path, durable=durable)  # another run may have made it meanwhile
    except OSError:  # whatever it says of a folder that is there: that is all that is wanted
        if not stat.S_ISDIR(_mode(path)):
            raise
    if durable:
        sync_dir(Path(parent))


def exists(path: Path | str) -> bool:
    """True if anything is there; OutputError if that cannot be told."""
    return _ask(path) != 0


def is_file(path: Path | str) -> bool:
    """True for a regular file; OutputError if that cannot be told."""
    return stat.S_ISREG(_ask(path))


def is_dir(path: Path | str) -> bool:
    """True for a folder; OutputError if that cannot be told."""
    return stat.S_ISDIR(_ask(path))


def _ask(path: Path | str) -> int:
    try:
        return _mode(path)
    except OSError as error:
        raise cannot_read(path, error) from None


def _mode(path: Path | str) -> int:
    """Kind and permissions of what is at a path; 0 if nothing is."""
    try:
        return system.stat(path).st_mode
    except OSError as error:
        if error.errno in _ABSENT:
            return 0
        raise


def cannot_read(path: Path | str, error: OSError) -> OutputError:
    """The error of a call that asks."""
    return OutputError(f"cannot be read: {error.strerror}", array=str(path), fix="check the disk, then run again")


def entries(path: Path) -> list[str]:
    """Names of what is in a folder, sorted; none if there is no such folder."""
    try:
        with system.scandir(path) as found:
            return sorted(entry.name for entry in found)
    except OSError as error:
        if error.errno in _ABSENT:
            return []
        raise cannot_read(path, error) from None


class OutputFile:
    """A file that is appended to, its size and crc32c kept as it grows; durable after :func:`make_durable`."""

    def __init__(self, path: Path | str) -> None:
        self.path, self.size, self._crc = path, 0, 0
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            try:
                self._handle = system.open(path, flags, 0o666)
            except FileNotFoundError:
                _make_dirs(os.path.dirname(path))
                self._handle = system.open(path, flags, 0o666)
        except OSError as error:
            raise cannot_write(path, error) from None

    def append(self, data: Any) -> None:
        """Write all of ``data`` (bytes, or another object with read-only bytes) at the end."""
        view: memoryview = memoryview(data)
        try:
            while view:
                view = view[system.write(self._handle, view) :]
        except OSError as error:
            raise cannot_write(self.path, error, len(view)) from None
        self._crc = google_crc32c.extend(self._crc, data)
        self.size += len(data)

    def close(self) -> tuple[int, int]:
        """Close the file, its way to the disk begun; returns its size and crc32c."""
        if self.size >= EARLY_WRITE_BYTES:
            system.start_writing(self._handle)
        try:
            self.abandon()
        except OSError as error:  # network file systems report here what they could not store
            raise cannot_write(self.path, error) from None
        return self.size, self._crc

    def abandon(self) -> None:
        """Close without flushing, on the way out of a failure; does nothing where it is closed already."""
        handle, self._handle = self._handle, -1
        if handle >= 0:
            system.close(handle)


def write_file(path: Path | str, data: bytes) -> tuple[int, int]:
    """Write a new file; returns its size and crc32c."""
    file = OutputFile(path)
    try:
        file.append(data)
    except BaseException:
        file.abandon()
        raise
    return file.close()


def replace_file(path: Path, data: bytes, folder: Path | None = None) -> None:
    """Write a file so that readers see the old or the new one, never a part: temporary file, then rename.

    ``folder``, on the same file system, is where the temporary file lies; None: beside the file.
    """
    temporary = (
        folder or path.parent
    ) / f".{path.name}.{secrets.token_hex(4)}.tmp"  # process numbers repeat among hosts
    try:
        write_file(temporary, data)
        _sync(temporary, os.O_RDONLY)
        system.rename(temporary, path)
        sync_dir(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            system.unlink(temporary)
        told = error if isinstance(error, OutputError) else cannot_write(path, error)
        told.array = str(path)  # the file that was asked for, not the temporary one
        raise told from None


def append_line(path: Path, line: bytes) -> None:
    """Add a line at the end of a file, by one write; what a killed process left of its last line stays a line of its own."""
    try:
        handle = system.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            _lock_briefly(handle)
            size = system.fstat(handle).st_size
            whole = size == 0 or system.pread(handle, 1, size - 1) == b"\n"
            view = memoryview((b"" if whole else b"\n") + line + b"\n")
            while view:
                view = view[system.write(handle, view) :]
        finally:
            system.close(handle)
    except OSError as error:
        raise cannot_write(path, error) from None


def _lock_briefly(handle: int) -> None:
    """Lock a file that runs share until it is closed; goes on without where that cannot be had within a second."""
    with contextlib.suppress(OSError):
        for _ in range(round(_LOCK_WAIT_S / _LOCK_STEP_S)):
            try:
                system.lock(handle)
            except BlockingIOError:
                time.sleep(_LOCK_STEP_S)
            else:
                return


def remove_file(path: Path) -> None:
    """Remove a file, if it is there."""
    try:
        system.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise cannot_write(path, error) from None


def sync_dir(path: Path) -> None:
    """Make the entries of a folder durable."""
    _sync(path, os.O_RDONLY | os.O_DIRECTORY)


def _sync(path: Path | str, flags: int) -> None:
    try:
        handle = system.open(path, flags | os.O_CLOEXEC)
        try:
            system.fsync(handle)
        finally:
            system.close(handle)
    except OSError as error:
        raise cannot_write(path, error) from None


def make_durable(folder: Path, handle: int | None = None) -> None:
    """Bring all below a folder to the disk.

    One syncfs of the file system where that reports errors (Linux 5.8), for a scan has a hundred files; else, and
    where a sandbox forbids it, every file and folder by itself. ``handle`` is a descriptor of a folder on that file
    system, opened before the files were written: errors since then are reported on it.
    """
    if not _sync_file_system(folder, handle):
        _sync_tree(folder)


def _sync_tree(folder: Path) -> None:
    """Sync files, then the folder that holds them."""
    try:
        with system.scandir(folder) as found:
            inside = sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in found)
    except OSError as error:
        raise cannot_write(folder, error) from None
    for name, is_folder in inside:
        if is_folder:
            _sync_tree(folder / name)
        else:
            _sync(folder / name, os.O_RDONLY)
    sync_dir(folder)


def _sync_file_system(folder: Path, handle: int | None) -> bool:
    """False if the system does not offer syncfs."""
    try:
        own = handle if handle is not None else system.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            system.syncfs(own)
        finally:
            if handle is None:
                system.close(own)
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.EPERM, errno.EOPNOTSUPP):
            return False
        raise cannot_write(folder, error) from None
    return True


def rename(source: Path, target: Path) -> bool:
    """Move a folder into place; False if a folder stands there. Make it durable with :func:`sync_dir`.

    After False the folder may be our own: a file system on the network can lose the reply of a rename that was done.
    """
    try:
        system.rename(source, target)
    except OSError as error:
        if is_dir(target):
            return False
        raise cannot_write(target, error) from None
    return True


def exchange(one: Path, other: Path) -> bool:
    """Let two folders change places in one step; False, and nothing done, where the file system cannot do that."""
    try:
        system.exchange(one, other)
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP):
            return False
        raise cannot_write(other, error) from None
    return True


def remove_tree(path: Path | str) -> None:
    """Remove a folder and what is in it, as far as possible; a link is not followed."""
    with contextlib.suppress(OSError):
        if stat.S_ISDIR(system.stat(path, follow_symlinks=False).st_mode):
            _remove_tree(os.fspath(path))


def _remove_tree(folder: str) -> None:
    with contextlib.suppress(OSError):
        with system.scandir(folder) as found:
            inside = [(entry.path, entry.is_dir(follow_symlinks=False)) for entry in found]
        for path, is_folder in inside:
            if is_folder:
                _remove_tree(path)
            else:
                with contextlib.suppress(OSError):
                    system.unlink(path)
        system.rmdir(folder)


def read_file(path: Path | str, at_most: int) -> bytes:
    """A file, or its first bytes; OSError as the system gives it."""
    handle = system.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a FIFO must not block
    try:
        out, step = bytearray(), system.block_size(system.fstat(handle))
        while len(out) < at_most and (block := system.read(handle, min(at_most - len(out), step))):
            out += block
        return bytes(out)
    finally:
        system.close(handle)


def measure(path: Path) -> tuple[int, int]:
    """Size and crc32c of a regular file; (-1, 0) if it cannot be read."""
    size = crc = 0
    try:
        handle = system.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a FIFO must not block
        try:
            if not stat.S_ISREG(system.fstat(handle).st_mode):
                return -1, 0
            while block := system.read(handle, 1 << 20):
                size += len(block)
                crc = google_crc32c.extend(crc, block)
        finally:
            system.close(handle)
    except OSError:
        return -1, 0
    return size, crc


def not_empty(path: Path) -> OutputError:
    """The error for an output path that holds something already."""
    rule = "a path that does not exist, or an empty folder"
    return OutputError("exists already", array=str(path), rule=rule, fix="give another path, or remove it")
