"""A progress bar over scans and tiles on a terminal; elsewhere there are log lines."""

from __future__ import annotations

import logging
import sys

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from calib_gpu.scan_report import Progress as RunProgress
from calib_gpu.scan_report import ScanReport


class TerminalProgress(RunProgress):
    """Two bars: scans done, and samples of the current scan."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._bars = Progress(
            TextColumn("{task.description:<24}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            console=self._console,
        )
        self._scans = self._bars.add_task("scans", total=None)
        self._tiles = self._bars.add_task("", total=None, visible=False)

    def __enter__(self) -> TerminalProgress:
        handler = RichHandler(
            console=self._console,
            show_path=False,
            rich_tracebacks=False,
            omit_repeated_times=False,
            log_time_format="%Y-%m-%d %H:%M:%S",
        )
        logging.getLogger("calib_gpu").handlers[:] = [handler]
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Take the bars away and give the cursor back."""
        self._bars.stop()

    def scans(self, total: int) -> None:
        """The number of scans is known."""
        self._bars.update(self._scans, total=total)

    def begin(self, scan: str, samples: int) -> None:
        """The tiles of a scan begin."""
        self._bars.reset(self._tiles, total=samples, description=scan, visible=True)

    def advance(self, samples: int) -> None:
        """Tiles are done."""
        self._bars.advance(self._tiles, samples)

    def end(self, report: ScanReport) -> None:
        """A scan is done."""
        self._bars.advance(self._scans)


def on_terminal() -> bool:
    """True if standard error is a terminal."""
    return sys.stderr.isatty()
