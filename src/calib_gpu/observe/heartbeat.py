"""A line every ten seconds that says how far a run is, and names a read that is stuck."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Final

from calib_gpu.scan_report import Progress, ScanReport
from calib_gpu.store import reads

log = logging.getLogger("calib_gpu")

INTERVAL_S: Final = 10.0
STUCK_S: Final = 5.0
"""A read of so many seconds is stuck: a chunk takes milliseconds, on a busy file system tenths of a second."""


class Heartbeat(Progress):
    """Logs progress every ``interval`` seconds from a thread of its own; use it in a ``with`` statement.

    Parameters
    ----------
    lines
        Whether to log how far the run is (else only reads that are stuck, as warnings).
    also
        Is called at every beat.
    """

    def __init__(self, *, lines: bool, also: Callable[[], None] | None = None, interval: float = INTERVAL_S) -> None:
        self._lines, self._also, self._interval = lines, also, interval
        self._total, self._ended, self._failed = 0, 0, 0
        self._scan, self._samples, self._of, self._told = "", 0, 0, ""
        self._lock, self._over = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._beat, name="calib-heartbeat", daemon=True)

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(1.0)  # not longer: it may be stuck in a write

    def scans(self, total: int) -> None:
        """The number of scans is known."""
        self._total = total

    def begin(self, scan: str, samples: int) -> None:
        """The tiles of a scan begin."""
        with self._lock:
            self._scan, self._samples, self._of = scan, 0, samples

    def advance(self, samples: int) -> None:
        """Tiles are done."""
        with self._lock:
            self._samples += samples

    def end(self, report: ScanReport) -> None:
        """A scan is done."""
        with self._lock:
            self._ended += 1
            self._failed += report.status == "failed"
            if self._scan == report.scan:  # else the next one has begun
                self._scan = ""

    def _beat(self) -> None:
        while not self._over.wait(self._interval):
            self.tell()
            if self._also is not None:
                self._also()

    def tell(self) -> None:
        """Log how far the run is; a read that is stuck makes it a warning. Where nothing happens nothing is said."""
        with self._lock:
            percent = 100.0 * self._samples / self._of if self._of else 0.0
            data: dict[str, object] = {
                "event": "progress",
                "scans_done": self._ended,
                "scans_failed": self._failed,
                "scans": self._total,
            }
            text = f"progress: {self._ended} of {self._total} scans, {self._failed} failed"
            if self._scan:
                data |= {"scan": self._scan, "percent": round(percent, 1)}
                text += f"; {self._scan} {percent:.0f} %"
        n_reads = reads.count()
        data["files_read"] = n_reads
        text += f"; {n_reads} files read"
        read = reads.longest()
        if read is not None and read.seconds >= STUCK_S:
            data |= {"stuck_path": read.path, "stuck_seconds": round(read.seconds, 1)}
            log.warning("%s; reading for %.0f s: %s", text, read.seconds, read.path, extra={"data": data})
        elif self._lines and (self._scan or text != self._told):
            log.info("%s", text, extra={"data": data})
        self._told = text
