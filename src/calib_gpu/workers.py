"""Worker threads, their buffers, and the tiles of a scan: memory is workers x tile, whatever the scan's size."""

from __future__ import annotations

import ctypes
import itertools
import os
import platform
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

from calib_gpu.errors import Stopped
from calib_gpu.records import CountGroup, Tile
from calib_gpu.store.buffers import Scratch
from calib_gpu.store.l1 import Lane

Item = TypeVar("Item")
Result = TypeVar("Result")

CHANNEL_BYTES = 80
"""What a channel of a tile takes beside its samples: reference, factor, transmission, T_sys, flags, and what makes them."""

WORTH_SHARING = 4 * 1024 * 1024
"""Bytes of counts from which work is shared between threads, and the next scan loaded while one is calibrated."""

LARGE_BLOCK_BYTES = 4 * 1024 * 1024
"""Blocks from this size on are given back to the system when they are freed."""

KEPT_BYTES = 32 * 1024 * 1024
"""What malloc keeps of smaller ones, for each thread, until it gives some back."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3

MOST_BY_DEFAULT = 8
"""Beyond this many threads a run gets slower: they wait for the interpreter (docs/performance.md)."""

STOP_LATENCY_S = 0.2
"""How long a thread waits for others without a look at what they have done."""


def usable_cores() -> int:
    """Cores that this process may use: fewer than the machine has in a container or a batch job."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def default_workers() -> int:
    """Worker threads of a run that asks for no number."""
    return min(usable_cores(), MOST_BY_DEFAULT)


def _keep_freed_memory() -> None:
    """Let malloc keep what the work on a tile gives back: taken from the system anew, each page would be cleared again.

    By itself it keeps blocks of the sizes it has seen freed, which is not enough for all that a tile takes. Other C
    libraries than glibc are left as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and platform.libc_ver()[0] == "glibc":
        mallopt(_M_MMAP_THRESHOLD, LARGE_BLOCK_BYTES)
        mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)


class Workers:
    """A pool of threads with reusable buffers; the codecs and NumPy release the GIL.

    Every task looks at ``stop`` before it begins; once it is set, :meth:`map` raises :class:`Stopped`.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.stop = threading.Event()
        _keep_freed_memory()
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="calib-worker")
        self._scratch = Scratch()

    def buffer(self, name: str, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """This thread's buffer of that name; its content is undefined, its memory is used again for the next tile."""
        kind = np.dtype(dtype)
        size = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
        return self._scratch.get(name, size).view(kind).reshape(shape)

    def check(self) -> None:
        """Raise :class:`Stopped` if the run is to end."""
        if self.stop.is_set():
            raise Stopped("stopped by a signal", fix="run the same command again to go on")

    def map(self, task: Callable[[Item], Result], items: Iterable[Item], n_bytes: int | None = None) -> list[Result]:
        """Run a task over items; results in their order. The first failure cancels what has not begun.

        Work on few bytes is done by the calling thread: threads that take turns would need longer.
        """

        def checked(item: Item) -> Result:
            self.check()
            return task(item)

        if n_bytes is not None and n_bytes < WORTH_SHARING:
            return [checked(item) for item in items]
        futures: list[Future[Result]] = [self._pool.submit(checked, item) for item in items]
        while wait(futures, timeout=STOP_LATENCY_S, return_when=FIRST_EXCEPTION).not_done:
            if any(f.done() and f.exception() is not None for f in futures):
                break
        failed = [f for f in futures if f.done() and not f.cancelled() and f.exception() is not None]
        if failed:
            for f in futures:
                f.cancel()
            wait(futures)
        return [f.result() for f in (failed or futures)]

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(wait=True, cancel_futures=True)


@dataclass(frozen=True)
class Blocks:
    """How the pixels of a scan are cut into tiles: at most ``r`` x ``a`` pixels each."""

    r: int
    a: int

    @classmethod
    def plan(cls, group: CountGroup, sample_bytes: int, budget: int, channel_bytes: int = 0) -> Blocks:
        """As many pixels as fit ``budget`` bytes, in whole input chunks where these hold several pixels.

        A pixel takes ``sample_bytes`` for each sample and ``channel_bytes`` for each channel.
        """
        c, d, n_r, n_a, _ = group.shape
        at_most = max(1, budget // (c * (d * sample_bytes + channel_bytes)))
        _, _, chunk_r, chunk_a, _ = group.counts.read_chunk
        a = n_a if at_most >= n_a else max(1, at_most // chunk_a * chunk_a)
        rows = max(1, at_most // n_a) if a == n_a else 1
        r = n_r if rows >= n_r else max(1, rows // chunk_r * chunk_r)
        return cls(r, a)

    def cover(self, r: slice, a: slice) -> Iterator[tuple[slice, slice]]:
        """The blocks of a range of pixels, in C order."""
        for r0, a0 in itertools.product(range(r.start, r.stop, self.r), range(a.start, a.stop, self.a)):
            yield slice(r0, min(r0 + self.r, r.stop)), slice(a0, min(a0 + self.a, a.stop))

    def tiles(self, lane: Lane, subscan: int) -> Iterator[Tile]:
        """The tiles of a lane, in the order in which they are written."""
        for r, a in self.cover(lane.r, lane.a):
            yield Tile(lane.on, subscan, r, a)


def read_tile(workers: Workers, group: CountGroup, subscan: int, r: slice, a: slice) -> tuple[NDArray[Any], int]:
    """Counts of some pixels of a subscan as ``[R, A, C, D]`` in this thread's buffer, and the bytes read for it."""
    c, d, _, _, _ = group.shape
    counts = workers.buffer("counts", (r.stop - r.start, a.stop - a.start, c, d), group.counts.dtype)
    return counts, read_counts(group, subscan, r, a, counts)


def read_counts(group: CountGroup, subscan: int, r: slice, a: slice, out: NDArray[Any]) -> int:
    """Read the counts of some pixels of a subscan into ``out`` ``[R, A, C, D]``; the bytes read for it."""
    c, d, _, _, _ = group.shape
    region = (slice(0, c), slice(0, d), r, a, slice(subscan, subscan + 1))
    return group.counts.read(region, out.transpose(2, 3, 0, 1)[..., None])
