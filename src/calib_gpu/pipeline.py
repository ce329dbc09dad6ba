"""All scans of a store: load index, prefetch of the next scan, resume, failures, report."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from calib_gpu.backend import Backend, choose_backend
from calib_gpu.errors import CalibError, ConfigError, DeviceLost, Exit, OutOfMemory, OutputError, ScanFailure, Stopped
from calib_gpu.load_index import LoadIndex
from calib_gpu.records import ScanId
from calib_gpu.scan_report import ScanReport, summary_line, timing_line
from calib_gpu.scan_run import LoadedScan, ScanRunner, timed
from calib_gpu.selection import numbers_without_science, select_scans
from calib_gpu.settings import Settings
from calib_gpu.stages.atmosphere import check_table
from calib_gpu.store import disk
from calib_gpu.store.failures import record_failures
from calib_gpu.store.guard import Limits
from calib_gpu.store.l0 import L0Store
from calib_gpu.store.publish import Publisher, published_scans
from calib_gpu.workers import WORTH_SHARING, Workers, usable_cores

log = logging.getLogger("calib_gpu")


class Progress:
    """What a run tells while it goes on; this one tells nothing."""

    def scans(self, total: int) -> None:
        """The number of scans is known."""

    def begin(self, scan: str, samples: int) -> None:
        """The tiles of a scan begin: so many samples."""

    def advance(self, samples: int) -> None:
        """So many samples are calibrated; called from worker threads."""

    def end(self, report: ScanReport) -> None:
        """A scan is done, skipped or has failed."""


@dataclass
class RunReport:
    """Result of a run: a report for each scan, and the exit code that follows."""

    l0: str
    l1: str
    backend: str
    backend_reason: str = ""
    scans: list[ScanReport] = field(default_factory=list)
    stopped: bool = False
    unrecorded: bool = False
    seconds: float = 0.0

    def count(self, *status: str) -> int:
        """Number of scans with one of these states: ok, skipped, failed."""
        return sum(s.status in status for s in self.scans)

    @property
    def failures(self) -> list[ScanReport]:
        """The scans that failed."""
        return [s for s in self.scans if s.status == "failed"]

    @property
    def exit_code(self) -> Exit:
        """0 all scans done, 1 none, 2 some; 73 if nothing, or not the list of failures, could be written; 75 if stopped."""
        if self.stopped:
            return Exit.STOPPED
        if self.unrecorded:
            return Exit.CANNOT_WRITE
        done = self.count("ok", "skipped")
        if done and not self.failures:
            return Exit.ALL
        if done:
            return Exit.SOME
        if self.failures and all(f.error == OutputError.__name__ for f in self.failures):
            return Exit.CANNOT_WRITE
        return Exit.NONE


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
    begin = time.perf_counter()
    settings = settings or Settings()
    source, target = Path(l0), Path(l1)
    check_table(settings)
    store = L0Store(source, Limits.of(settings))
    _apart(source, target)
    ids = select_scans(store, scans)
    chosen, reason = choose_backend(settings.backend) if backend is None else (backend, "given")
    report = RunReport(str(source), str(target), chosen.describe(), reason)
    log.info("backend: %s (%s)", report.backend, reason)
    if loads_only := numbers_without_science(store, scans, ids):
        log.warning("not calibrated, for they hold loads only: %s", ", ".join(loads_only))
    with contextlib.ExitStack() as closing:
        closing.callback(lambda: setattr(report, "seconds", time.perf_counter() - begin))
        if backend is None:
            closing.callback(chosen.close)
        publisher = Publisher(target, source.name, settings.numeric(), overwrite=settings.overwrite)
        closing.callback(publisher.close)
        workers = Workers(settings.workers or usable_cores())
        closing.callback(workers.close)
        if stop is not None:
            workers.stop = stop
        runner = ScanRunner(store, LoadIndex.of(store, settings), settings, chosen, workers, publisher.run)
        closing.callback(runner.close)
        run = _Run(runner, publisher, report, progress or Progress())
        run.refuse({} if scans is not None else store.strange_scans())
        run.all(ids)
    return report


def _apart(l0: Path, l1: Path) -> None:
    inside, outside = l1.resolve(), l0.resolve()
    if inside == outside or outside in inside.parents or inside in outside.parents:
        raise ConfigError(
            "input and output overlap",
            array="L1",
            value=str(l1),
            rule="the output lies outside the L0 store",
            fix="give another output path",
        )


class _Run:
    """The loop over scans: the next one is loaded while the current one is calibrated."""

    def __init__(self, runner: ScanRunner, publisher: Publisher, report: RunReport, progress: Progress) -> None:
        self.runner, self.publisher, self.report, self.progress = runner, publisher, report, progress
        self.overwrite = runner.settings.overwrite

    def refuse(self, strange: Mapping[str, ScanFailure]) -> None:
        """Note what looks like a scan but is none as failed, so that nobody misses it."""
        for name, error in strange.items():
            error.at(name)
            self._finish(ScanReport(name, "failed", "load", error.kind, str(error)))

    def all(self, ids: list[ScanId]) -> None:
        self.progress.scans(len(ids))
        todo = self._sort_out(ids)
        with ThreadPoolExecutor(1, thread_name_prefix="calib-prefetch") as prefetcher:
            futures: dict[ScanId, tuple[ScanReport, Future[LoadedScan]]] = {}

            def prefetch(scans: Iterable[ScanId]) -> None:
                for scan in scans:
                    line = ScanReport(str(scan))
                    futures[scan] = (line, prefetcher.submit(self.runner.load, scan, line))

            prefetch(todo[:1])
            for k, scan in enumerate(todo):
                line, future = futures.pop(scan)
                following = todo[k + 1 : k + 2]
                failed = self._try(line, partial(self._one, scan, future, partial(prefetch, following), not following))
                if following and following[0] not in futures:
                    prefetch(following)
                if isinstance(failed, Stopped):
                    self.report.stopped = True
                    break
                self._finish(line)
                if isinstance(failed, DeviceLost):  # nothing in this process can use the GPU any more
                    self.report.stopped = True
                    break
        self._write_failures()

    def _sort_out(self, ids: list[ScanId]) -> list[ScanId]:
        """Skip what is done; refuse what is done with other settings, before anything is calibrated."""
        todo, differing, skipped = [], [], []
        if self.overwrite:
            self._warn_of_mixture(ids)
        for scan in ids:
            done = None if self.overwrite else self.publisher.done(scan)
            if done is None:
                todo.append(scan)
                continue
            line = ScanReport(str(scan), status="skipped", digest=str(done.get("digest", "")))
            try:
                reason = self.runner.difference(scan, done)
                if not reason and (better := self.runner.better_loads(scan, done)):
                    line.warnings.append(f"done; its loads would now be {better}: --overwrite calibrates it again")
            except CalibError as error:
                reason = f"its input can no longer be read: {error}"
            if reason:
                differing.append(f"{scan} ({reason})")
            else:
                skipped.append(line)
        if differing:
            raise ConfigError(
                f"{len(differing)} scan(s) are done differently: {'; '.join(differing[:5])}", array=str(self.publisher.path),
                rule="one store, one set of settings", fix="use --overwrite to replace them, or another output path",
            )  # fmt: skip
        for line in skipped:
            self._finish(line)
        return todo

    def _warn_of_mixture(self, ids: list[ScanId]) -> None:
        """Replacing a part of a store may leave it with two sets of settings."""
        digest = self.runner.settings.digest()
        others = [
            str(scan) for scan in published_scans(self.publisher.path)
            if scan not in ids and self.publisher.settings_digest(scan) != digest
        ]  # fmt: skip
        if others:
            log.warning("%d scan(s) of this store keep other settings: %s", len(others), ", ".join(others[:5]))

    def _one(self, scan: ScanId, future: Future[LoadedScan], prefetch_next: Callable[[], None], last: bool) -> None:
        loaded = _result(future, self.runner.workers)
        c, d, r, a, _ = loaded.scan.source.shape
        samples = c * d * r * a * len(loaded.pairing.on)
        if samples * loaded.scan.source.counts.dtype.itemsize >= WORTH_SHARING:
            prefetch_next()
        else:
            last = True
        self.progress.begin(str(scan), samples)
        staged = self.publisher.stage(scan)
        try:
            self.runner.calibrate(loaded, staged, self.progress.advance, last=last)
            with timed(loaded.report, "write"):
                self.publisher.publish(scan, staged, overwrite=self.overwrite)
        except BaseException:
            disk.remove_tree(staged)
            raise

    def _try(self, line: ScanReport, work: Callable[[], None]) -> BaseException | None:
        """Run the work of one scan; a failure is noted in its report line, never raised."""
        try:
            work()
        except Stopped as error:
            return error
        except CalibError as error:
            error.at(line.scan)
            line.status, line.error, line.message = "failed", error.kind, str(error)
            return error
        except MemoryError:
            lack = OutOfMemory("does not fit", array=f"stage {line.stage}", fix="is its shape what it should be?").at(
                line.scan
            )
            line.status, line.error, line.message = "failed", lack.kind, str(lack)
        except Exception as error:  # a defect of ours in one scan must not stop the night
            log.exception("%s: internal error in stage %s", line.scan, line.stage)
            line.status, line.error = "failed", "InternalError"
            line.message = f"{line.scan}: internal error in stage {line.stage}: {type(error).__name__}: {error}"
        else:
            line.stage = ""
        return None

    def _finish(self, line: ScanReport) -> None:
        self.report.scans.append(line)
        try:
            disk.append_line(self.publisher.run / "report.jsonl", json.dumps(line.as_dict(), allow_nan=False).encode())
        except OutputError as error:
            log.warning("%s has no line in the report: %s", line.scan, error)
        for warning in line.warnings:
            log.warning("%s: %s", line.scan, warning)
        if line.status == "failed":
            log.error("%s", line.message)
        else:
            if line.status == "ok":
                log.info("%s", summary_line(line))
            log.info("%s", timing_line(line))
        self.progress.end(line)

    def _write_failures(self) -> None:
        tried = {line.scan for line in self.report.scans}
        new = [{"scan": f.scan, "stage": f.stage, "error": f.error, "message": f.message} for f in self.report.failures]
        try:
            record_failures(self.publisher.path, self.publisher.run, tried, new, self.publisher.replace_file)
        except OutputError as error:
            log.error("the list of failures is not up to date: %s", error)
            self.report.unrecorded = True


def _result(future: Future[LoadedScan], workers: Workers) -> LoadedScan:
    """Wait for the prefetcher; the main thread never blocks without a timeout, so that signals are seen."""
    while not wait([future], timeout=0.2).done:
        workers.check()
    return future.result()
