"""A scan is written and published by a thread of its own while the next one is calibrated."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType


class WriteBehind:
    """Does one thing at a time, beside its caller, in the order in which it is told; use it in a ``with`` statement.

    On the way out, whatever the reason, what was begun is finished.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="calib-write")
        self._begun: Future[None] | None = None

    @property
    def busy(self) -> bool:
        """Whether something was begun that was not waited for."""
        return self._begun is not None

    def begin(self, work: Callable[[], None]) -> None:
        """Start some work; waits for the one before."""
        self.wait()
        self._begun = self._pool.submit(work)

    def wait(self) -> None:
        """Wait until what was begun has ended; raises what it raised."""
        begun, self._begun = self._begun, None
        if begun is not None:
            begun.result()

    def __enter__(self) -> WriteBehind:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.wait()
        finally:
            self._pool.shutdown()
