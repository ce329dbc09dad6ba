"""One run, several that watch it."""

from __future__ import annotations

from collections.abc import Sequence

from calib_gpu.scan_report import Progress, ScanReport


class Several(Progress):
    """Tells all of ``parts`` what it is told."""

    def __init__(self, parts: Sequence[Progress]) -> None:
        self._parts = tuple(parts)

    def scans(self, total: int) -> None:
        """The number of scans is known."""
        for part in self._parts:
            part.scans(total)

    def begin(self, scan: str, samples: int) -> None:
        """The tiles of a scan begin."""
        for part in self._parts:
            part.begin(scan, samples)

    def advance(self, samples: int) -> None:
        """Samples are calibrated."""
        for part in self._parts:
            part.advance(samples)

    def end(self, report: ScanReport) -> None:
        """A scan is done, skipped or has failed."""
        for part in self._parts:
            part.end(report)
