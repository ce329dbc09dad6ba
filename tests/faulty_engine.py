"""The engine as a program, with a disk that is slow, stuck or broken on purpose, as ``CALIB_GPU_FAULTS`` (JSON) says.

``stuck``: the first read of a path that holds this text takes ``seconds``; ``slow``: every read of counts takes so many
seconds; ``eio``: the first read of such a path fails; ``durable``: so many seconds to bring a scan to the disk. It prints
READY when signals are caught, FAULT and its name when ``stuck`` or ``eio`` has met its path, and at its end PEAK and its
peak memory in KiB.
"""

from __future__ import annotations

import errno
import json
import os
import resource
import sys
import time
from typing import Any

from calib_gpu.cli import main, observing
from calib_gpu.stopping import Stop
from calib_gpu.store import chunks, disk, group_files, system

FAULTS = json.loads(os.environ.get("CALIB_GPU_FAULTS", "{}"))
once = set[str]()


def first(fault: str, path: str) -> bool:
    """True for the first path that a fault is meant for."""
    if fault in once or FAULTS.get(fault, "\0") not in path:
        return False
    once.add(fault)
    print("FAULT", fault, flush=True)
    return True


def hurt(path: str) -> None:
    """What happens to a read before it is done."""
    if first("stuck", path):
        time.sleep(FAULTS["seconds"])


read_file, read_small, make_durable, catch, open_file = (
    chunks.ChunkedArray._read_file, group_files._read, disk.make_durable, observing.catch_signals, system.open,
)  # fmt: skip


def faulty_read(self: Any, name: str, *arguments: Any) -> Any:
    time.sleep(FAULTS.get("slow", 0.0))
    hurt(f"{self.path}/{name}")
    return read_file(self, name, *arguments)


def faulty_small(path: str, *arguments: Any) -> Any:
    hurt(path)
    return read_small(path, *arguments)


def faulty_open(path: Any, *arguments: Any, **named: Any) -> int:
    if first("eio", str(path)):
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
    return open_file(path, *arguments, **named)


def slow_durable(*arguments: Any) -> None:
    time.sleep(FAULTS.get("durable", 0.0))
    make_durable(*arguments)


def ready() -> Stop:
    stop = catch()
    print("READY", flush=True)
    return stop


chunks.ChunkedArray._read_file = faulty_read  # type: ignore[method-assign]
group_files._read = faulty_small
disk.make_durable = slow_durable
system.open = faulty_open
observing.catch_signals = ready
try:
    main()
finally:
    print("PEAK", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, flush=True)
    sys.stdout.flush()
