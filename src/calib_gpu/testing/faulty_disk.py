"""A disk that fails on request: the k-th call fails, is delayed, lost or garbled, or the process dies there.

It stands in the place of :mod:`calib_gpu.store.system` while its ``with`` block runs::

    with FaultyDisk(l1.parent, fail(errno.ENOSPC), at=17) as disk:
        calibrate(l0, l1)

Counted are the calls of some names on paths below a folder; everything else is done as usual. A call that may create a file
counts as ``create``, every other ``open`` as ``open``. A process that dies is simulated by :class:`SimulatedCrash`, after
which every call raises it again, so that no clean-up of the engine touches the disk. :mod:`calib_gpu.testing.power_loss` makes
of what was recorded what a power loss would have left.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from calib_gpu.store import system

CHANGES: Final = (
    "create", "write", "pwrite", "mkdir", "rename", "exchange", "unlink", "rmdir", "fsync", "syncfs", "scratch", "allocate",
)  # fmt: skip
"""Calls that change what is on the disk, or bring it there."""

READS: Final = ("open", "read", "pread", "preadv", "readv", "fstat", "stat", "scandir", "statvfs")
"""Calls that ask."""

PATHS: Final = ("open", "stat", "scandir", "statvfs", "mkdir", "unlink", "rmdir", "scratch")
"""Functions whose first argument is a path; that of the others is a handle, or they move one path to another."""


class SimulatedCrash(BaseException):
    """The process is dead: nothing catches this, and no later call does anything."""


@dataclass
class Call:
    """One call on its way to the disk.

    ``path`` is what it is about, ``target`` where a rename leads; ``file`` numbers the files in the order in which they were
    opened, so that a number that the system gives twice is not mistaken.
    """

    name: str
    path: Path
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    real: Callable[..., Any]
    target: Path | None = None
    file: int = -1
    offset: int = 0
    data: bytes = b""
    done: bool = False

    def go(self) -> Any:
        """Do it."""
        return self.real(*self.args, **self.kwargs)


Fault = Callable[[Call], Any]
"""What becomes of a call: it may do it, raise, or give another result."""


def fail(number: int) -> Fault:
    """The call does nothing and fails with an error of :mod:`errno`."""

    def fault(call: Call) -> Any:
        raise OSError(number, os.strerror(number), str(call.path))

    return fault


def lose_reply(number: int) -> Fault:
    """The call is done, but reported as failed, as file systems on the network can do."""

    def fault(call: Call) -> Any:
        call.go()
        raise OSError(number, os.strerror(number), str(call.path))

    return fault


def crash(when: str) -> Fault:
    """The process dies ``before``, ``after`` or ``inside`` the call; inside, half of what it writes is on the disk."""

    def fault(call: Call) -> Any:
        if when == "inside" and call.name in ("write", "pwrite"):
            handle, data, *rest = call.args
            call.real(handle, bytes(data)[: len(data) // 2], *rest)
        elif when == "after":
            with contextlib.suppress(OSError):  # one that fails by itself is done as well
                call.go()
        raise SimulatedCrash(f"{when} {call.name} {call.path}")

    return fault


def delay(seconds: float) -> Fault:
    """The call is late."""

    def fault(call: Call) -> Any:
        time.sleep(seconds)
        return call.go()

    return fault


def drop(call: Call) -> Any:
    """The call is not done, but reported as done: a write that is lost. Other calls cannot be dropped."""
    return len(call.args[1]) if call.name in ("write", "pwrite") else call.go()


def garble(call: Call) -> Any:
    """One bit in the middle of what is written or read is wrong."""
    if call.name in ("write", "pwrite"):
        handle, data, *rest = call.args
        return call.real(handle, _flipped(bytes(data)), *rest)
    result = call.go()
    if call.name in ("read", "pread") and result:
        return _flipped(result)
    if call.name in ("preadv", "readv") and result:
        (buffer,) = call.args[1]
        buffer[:result] = _flipped(bytes(buffer[:result]))
    return result


def _flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 0x10]) + data[middle + 1 :]


@dataclass
class _Opened:
    """An open handle: what it is of, and its number among all."""

    path: Path
    file: int


@dataclass
class FaultyDisk:
    """The disk of one run. Parameters are its fields.

    Parameters
    ----------
    below
        Calls on paths below this folder count.
    fault
        What happens to the call number ``at``; None: nothing.
    at
        Number of the call that the fault meets, from 0.
    lasting
        The fault meets every counted call from then on, as a disk does that is full.
    calls
        Names of the calls that count.
    keep_out
        A folder that must not be changed; calls that would are noted in ``trespasses`` and refused.

    Attributes
    ----------
    names
        Names of the counted calls, in their order.
    log
        The counted calls, for :mod:`calib_gpu.testing.power_loss`.
    """

    below: Path
    fault: Fault | None = None
    at: int = 0
    lasting: bool = False
    calls: Collection[str] = CHANGES
    keep_out: Path | None = None
    names: list[str] = field(default_factory=list)
    log: list[Call] = field(default_factory=list)
    trespasses: list[str] = field(default_factory=list)
    dead: bool = False

    def __post_init__(self) -> None:
        self._lock = threading.RLock()
        self._opened: dict[int, _Opened] = {}
        self._n_opened = 0
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> FaultyDisk:
        doubles = {name: self._double(name, getattr(system, name)) for name in system.CALLS}
        self._stack.enter_context(system.replaced(**doubles))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self._stack.close()
        if self.dead:  # what the system does with the files of a dead process: its locks are free
            for handle in self._opened:
                os.close(handle)
        self._opened.clear()
        return isinstance(error, SimulatedCrash)

    def _double(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if self.dead:
                raise SimulatedCrash("dead already")
            return self._do(self._describe(name, args, kwargs, real))

        return call

    def _describe(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], real: Callable[..., Any]) -> Call:
        """What a call is about: the path behind a handle, the file that is written, where a rename leads."""
        call = Call(name, Path(), args, kwargs, real)
        if name in ("rename", "exchange"):
            call.path, call.target = Path(args[0]), Path(args[1])
        elif name in PATHS:
            folder = self._opened.get(kwargs.get("dir_fd", -1))
            call.path = folder.path / args[0] if folder else Path(args[0])
        elif opened := self._opened.get(args[0]):
            call.path, call.file = opened.path, opened.file
        if name == "open" and args[1] & os.O_CREAT:
            call.name = "create"
        return call

    def _do(self, call: Call) -> Any:
        if self.keep_out is not None and call.name in CHANGES and self._is_below(call, self.keep_out):
            self.trespasses.append(f"{call.name} {call.path}")
            raise PermissionError(f"{call.name} {call.path}")
        if call.name == "close":  # first, for another thread may be given its number at once
            self._opened.pop(call.args[0], None)
        if call.name not in self.calls or not self._is_below(call, self.below):
            return self._note(call, call.go())
        with self._lock:
            k = len(self.names)
            self.names.append(call.name)
            self.log.append(call)
        meets = self.fault is not None and (k == self.at or (self.lasting and k > self.at))
        try:
            return self._note(call, self.fault(call) if self.fault is not None and meets else call.go())
        except SimulatedCrash:
            self.dead = True
            raise

    @staticmethod
    def _is_below(call: Call, folder: Path) -> bool:
        paths = (call.path,) if call.target is None else (call.path, call.target)
        return any(path == folder or folder in path.parents for path in paths)

    def _note(self, call: Call, result: Any) -> Any:
        """Keep account of what is open, and of what was written where."""
        call.done = True
        if call.name in ("open", "create"):
            with self._lock:
                call.file, self._n_opened = self._n_opened, self._n_opened + 1
                self._opened[result] = _Opened(call.path, call.file)
        elif call.name == "write":
            call.data, call.offset = bytes(call.args[1][:result]), os.lseek(call.args[0], 0, os.SEEK_CUR) - result
        return result
