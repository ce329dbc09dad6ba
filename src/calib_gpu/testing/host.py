"""Host threads whose order the checker sees: locks that hand on what their holders know, and threads that are joined."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Final

from calib_gpu.testing.order import Clock, join
from calib_gpu.testing.sim import SimDevice


class SeenLock:
    """A lock that hands on what its last holder knew; may be that of a :class:`threading.Condition`."""

    def __init__(self, device: SimDevice) -> None:
        self._device, self._lock, self._clock = device, threading.Lock(), Clock()

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Take it, and know what its last holder knew."""
        taken = self._lock.acquire(blocking, timeout)
        if taken:
            self._device.learns(self._clock)
        return taken

    def release(self) -> None:
        """Leave it to the next one."""
        self._clock = self._device.knows()
        self._lock.release()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


PATIENCE_S: Final = 20.0
"""After this time a thread is taken to wait for ever."""


def run_threads(device: SimDevice, tasks: Sequence[Callable[[], None]]) -> None:
    """Run each task in a thread of its own; what they know is known here afterwards. The first failure is raised.

    Raises
    ------
    TimeoutError
        A thread does not come to an end; it is left behind.
    """
    clocks: list[Clock] = []
    failures: list[BaseException] = []

    def run(task: Callable[[], None]) -> None:
        try:
            task()
        except BaseException as error:
            failures.append(error)
        finally:
            clocks.append(device.knows())

    threads = [
        threading.Thread(target=run, args=(task,), name=f"lane {i}", daemon=True) for i, task in enumerate(tasks)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
        if thread.is_alive():
            raise TimeoutError(f"{thread.name} waits for ever; before that: {failures}")
    everything: Clock = {}
    for clock in clocks:
        join(everything, clock)
    device.learns(everything)
    if failures:
        raise failures[0]
