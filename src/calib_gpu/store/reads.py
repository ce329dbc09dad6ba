"""Which file each thread is reading now, and since when, so that a stuck disk can be named; and what an error of it means.

Noting a read costs two entries of a dictionary, which is little beside opening a file.
"""

from __future__ import annotations

import errno
import threading
import time
from types import TracebackType
from typing import Final, NamedTuple

from calib_gpu.errors import ReadFailed, Unreadable

PASSING: Final = frozenset(
    (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EREMOTEIO, errno.ENOLINK, errno.EAGAIN, errno.EMFILE, errno.ENFILE)
)
"""Errors of the system that say nothing about the file: it may be read the next time."""

_now: dict[int, tuple[object, float]] = {}
_ended = 0
_counting = threading.Lock()


class Read(NamedTuple):
    """A read that has not come back: path, and seconds since it began."""

    path: str
    seconds: float


class noted:
    """The block reads this path (anything whose text is the path). Within a block the innermost one counts."""

    __slots__ = ("_around", "_path")

    def __init__(self, path: object) -> None:
        self._path = path

    def __enter__(self) -> noted:
        thread = threading.get_ident()
        self._around = _now.get(thread)
        _now[thread] = (self._path, time.monotonic())
        return self

    def again(self) -> None:
        """The block goes on to its next file: that of before has been read, and the time begins anew."""
        global _ended
        _now[threading.get_ident()] = (self._path, time.monotonic())
        with _counting:
            _ended += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        global _ended
        if self._around is None:
            _now.pop(threading.get_ident(), None)
        else:
            _now[threading.get_ident()] = self._around
        with _counting:
            _ended += 1


def failure(error: OSError, what: str, *, array: str, value: object = None) -> Unreadable:
    """The error for a file that cannot be read."""
    kind = ReadFailed if error.errno in PASSING else Unreadable
    return kind(f"{what}: {error.strerror}", array=array, value=value)


def longest() -> Read | None:
    """The read that has been going on for the longest time; None where no thread reads."""
    held = list(_now.values())
    if not held:
        return None
    path, since = min(held, key=lambda entry: entry[1])
    return Read(str(path), time.monotonic() - since)


def count() -> int:
    """How many reads have ended since the process began."""
    return _ended
