"""A run over a store: opened, its scans calibrated, closed."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType

from calib_gpu.backend import Backend, choose_backend
from calib_gpu.encoded import Encoders
from calib_gpu.errors import ConfigError, OutputError
from calib_gpu.load_index import LoadIndex
from calib_gpu.scan_loop import ScanLoop, Unchanged
from calib_gpu.scan_report import Progress, RunReport
from calib_gpu.scan_run import ScanRunner
from calib_gpu.selection import numbers_without_science, others, select_scans
from calib_gpu.settings import Settings
from calib_gpu.stages.atmosphere import check_table
from calib_gpu.stopping import Stop
from calib_gpu.store.l0 import L0Store, open_l0
from calib_gpu.store.publish import Publisher
from calib_gpu.store.run_records import RunRecords
from calib_gpu.workers import Workers, default_workers

log = logging.getLogger("calib_gpu")

__all__ = ["Progress", "RunReport", "Session", "calibrate"]


def calibrate(
    l0: str | os.PathLike[str],
    l1: str | os.PathLike[str],
    settings: Settings | None = None,
    *,
    scans: Sequence[int] | None = None,
    progress: Progress | None = None,
    stop: threading.Event | None = None,
    backend: Backend | None = None,
) -> RunReport:
    """Calibrate the science scans of an L0 store into an L1 store.

    Parameters
    ----------
    l0, l1
        Paths of the stores; ``l1`` is created, or continued: scans done with the same settings are skipped.
    settings, scans
        Defaults, and all scans, if None; scans are given by their numbers.
    progress
        Is told how it goes.
    stop
        Set it from another thread or a signal handler to end the run at the next tile.
    backend
        An open backend, which stays open; None: the one that ``settings.backend`` names.

    Returns
    -------
    RunReport
        The report of the run; a scan that fails does not stop the others and raises nothing.

    Raises
    ------
    ConfigError
        A setting breaks its rule, a scan is not in the store, or scans are done with other settings (``overwrite``).
    StoreUnusable, OutputError
        The input cannot be opened; the output cannot be written.
    """
    settings = settings or Settings()
    store = open_l0(l0, settings)
    ids = select_scans(store, scans)
    no_failures = others(store, scans, ids)
    with Session(store, Path(l1), settings, progress or Progress(), stop, backend) as session:
        if loads_only := numbers_without_science(store, scans, ids):
            log.warning("not calibrated, for they hold loads only: %s", ", ".join(loads_only))
        session.progress.scans(len(ids))
        with session.loop(store, LoadIndex.of(store, settings)) as loop:
            strange = store.strange_scans()
            loop.forget_all_but([*map(str, store.scan_ids()), *strange])
            loop.refuse({} if scans is not None else strange)
            loop.all(ids)
        session.record(no_failures)
    return session.report


class Session:
    """What a run holds from its first scan to its last: output, workers, report. Use it in a ``with`` statement.

    Raises
    ------
    ConfigError
        A setting breaks its rule, or input and output overlap.
    OutputError
        The output cannot be written.
    """

    def __init__(
        self, store: L0Store, l1: Path, settings: Settings, progress: Progress, stop: threading.Event | None,
        backend: Backend | None = None,
    ) -> None:  # fmt: skip
        self._begin = time.perf_counter()
        self.settings, self.progress = settings, progress
        check_table(settings)
        refuse_overlap(store.path, l1)
        with contextlib.ExitStack() as closing:
            self.backend, reason = choose_backend(settings.backend) if backend is None else (backend, "given")
            if backend is None:
                closing.callback(self.backend.close)
            Encoders(settings.codec_used, self.backend.device)  # what it lacks is told before there is an output
            self.report = RunReport(str(store.path), str(l1), self.backend.describe(), reason)
            log.info("backend: %s (%s)", self.report.backend, reason)
            self.publisher = Publisher(l1, store.path.name, settings.numeric(), overwrite=settings.overwrite)
            closing.callback(self.publisher.close)
            self.records = RunRecords(l1, self.publisher.run, self.publisher.replace_file)
            self.workers = Workers(settings.workers or default_workers())
            closing.callback(self.workers.close)
            self._closing = closing.pop_all()
        if stop is not None:
            self.workers.stop = stop
        if isinstance(stop, Stop):
            stop.at_abandon(lambda: self.publisher.close(wait_s=1.0))
            stop.at_abandon(self.record)

    @contextlib.contextmanager
    def loop(self, store: L0Store, index: LoadIndex, unchanged: Unchanged | None = None) -> Iterator[ScanLoop]:
        """The loop over scans of ``store``, whose loads are chosen from ``index``."""
        runner = ScanRunner(store, index, self.settings, self.backend, self.workers, self.publisher.run)
        try:
            yield ScanLoop(runner, self.publisher, self.records, self.report, self.progress, unchanged)
        finally:
            runner.close()

    def record(self, no_failures: Callable[[str], bool] | None = None) -> None:
        """Bring ``failures.json`` up to date; the report tells where that cannot be done.

        ``no_failures`` says of a name whether a failure noted for it is none any more.
        """
        try:
            if no_failures is not None:
                self.records.forget(no_failures)
            self.records.publish()
        except OutputError as error:
            log.error("the list of failures is not up to date: %s", error)
            self.report.unrecorded = True
        else:
            self.report.unrecorded = False

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.close()
        self.report.seconds = time.perf_counter() - self._begin


def refuse_overlap(l0: Path, l1: Path) -> None:
    """:class:`ConfigError` where one store lies inside the other: nothing below L0 is ever written."""
    inside, outside = l1.resolve(), l0.resolve()
    if inside == outside or outside in inside.parents or inside in outside.parents:
        raise ConfigError(
            "input and output overlap",
            array="L1",
            value=str(l1),
            rule="the output lies outside the L0 store",
            fix="give another output path",
        )
