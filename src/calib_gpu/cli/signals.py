"""SIGINT and SIGTERM end a run: at the next tile, or without it if it is stuck."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from types import FrameType
from typing import Final, TypeVar

from calib_gpu.errors import Exit
from calib_gpu.stopping import Stop

log = logging.getLogger("calib_gpu")

Result = TypeVar("Result")

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
GRACE_S: Final = 5.0
"""How long the tiles in work may take to end after a signal."""
LAST_S: Final = 2.0
"""How long tidying up may take where they have not: the disk may be stuck as well."""


def catch_signals() -> Stop:
    """From now on the first signal sets what is returned, and the next one kills the process, whatever it does."""
    stop = Stop()

    def handler(number: int, frame: FrameType | None) -> None:
        for each in SIGNALS:
            signal.signal(each, signal.SIG_DFL)
        stop.set()

    for number in SIGNALS:
        signal.signal(number, handler)
    return stop


def until_stopped(work: Callable[[], Result], stop: Stop) -> Result:
    """Run ``work`` in a thread, for Python runs handlers only in the main thread, which may not be stuck in a read.

    If the work has not ended so long after a signal, the process does, with the exit code of a run that was stopped.
    """
    future: Future[Result] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    thread = threading.Thread(target=run, name="calib-run", daemon=True)
    thread.start()
    deadline = float("inf")
    while thread.is_alive():
        thread.join(0.1)
        if stop.is_set():
            deadline = min(deadline, time.monotonic() + GRACE_S)
        if thread.is_alive() and time.monotonic() > deadline:
            _leave(stop)
    return future.result()


def _leave(stop: Stop) -> None:
    """End the process without the threads that do not come back."""
    stop.at_abandon(_flush)  # what was noted last is done first
    stop.at_abandon(_say_why)
    stop.abandon(LAST_S)
    os._exit(int(Exit.STOPPED))


def _say_why() -> None:
    from calib_gpu.store import reads

    read = reads.longest()
    why = "the work on a tile has not ended" if read is None else f"reading for {read.seconds:.0f} s: {read.path}"
    log.warning("stopped without waiting any longer, run the same command again to go on; %s", why)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
