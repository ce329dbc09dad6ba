"""How a run is told to stop, and what is done if it cannot come back because a read is stuck."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable


class Stop(threading.Event):
    """Set it to end a run at the next tile.

    A thread that is stuck in a read cannot be ended. Whoever owns the process waits a while, calls :meth:`abandon`, and
    leaves without that thread.
    """

    def __init__(self) -> None:
        super().__init__()
        self._last: list[Callable[[], object]] = []

    def at_abandon(self, call: Callable[[], object]) -> None:
        """Note what is to be done when the run is given up."""
        self._last.append(call)

    def abandon(self, seconds: float) -> None:
        """Do what was noted, the last first, as far as it goes in so many seconds; errors are passed over."""
        thread = threading.Thread(target=self._all, name="calib-abandon", daemon=True)
        thread.start()
        thread.join(seconds)

    def _all(self) -> None:
        for call in reversed(self._last):
            with contextlib.suppress(Exception):
                call()
