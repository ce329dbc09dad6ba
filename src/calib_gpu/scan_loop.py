"""The loop over the scans of a run: prefetch of the next scan, writing of the one before, resume, failures, report lines."""

from __future__ import annotations

import contextlib
import gc
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Final

from calib_gpu.errors import (
    CalibError,
    ConfigError,
    DeviceLost,
    OutOfMemory,
    OutputError,
    ReadFailed,
    ScanFailure,
    Stopped,
)
from calib_gpu.records import ScanId
from calib_gpu.scan_report import Progress, RunReport, ScanReport, summary_line, timing_line
from calib_gpu.scan_run import CalibratedScan, LoadedScan, ScanRunner, timed
from calib_gpu.store.l1_store import published_scans
from calib_gpu.store.publish import Publisher
from calib_gpu.store.run_records import RunRecords
from calib_gpu.workers import STOP_LATENCY_S, WORTH_SHARING, Workers
from calib_gpu.write_behind import WriteBehind

log = logging.getLogger("calib_gpu")

SCANS_BETWEEN_COLLECTIONS: Final = 50
"""The interpreter keeps freed objects in lists of its own, a MiB in a night; a full collection (15 ms) frees them."""

Unchanged = Callable[[ScanId, Sequence[ScanId]], None]


class ScanLoop:
    """The loop over scans: the next one is loaded, and the one before written, while the current one is calibrated.

    ``report`` gets a line for each scan. ``unchanged`` is called with a scan and the scans whose loads it uses before it
    is published, and raises if its input is no longer what was read.
    """

    def __init__(
        self,
        runner: ScanRunner,
        publisher: Publisher,
        records: RunRecords,
        report: RunReport,
        progress: Progress,
        unchanged: Unchanged | None = None,
    ) -> None:
        self.runner, self.publisher, self.records = runner, publisher, records
        self.report, self.progress, self.unchanged = report, progress, unchanged
        self.overwrite = runner.settings.overwrite

    def all(self, ids: Sequence[ScanId]) -> None:
        """Calibrate the scans that are not done; refuse all if some are done differently.

        Raises
        ------
        ConfigError
            Scans are done with other settings or from other input.
        """
        try:
            self.each(self._sort_out(ids))
        except Stopped:
            self.report.stopped = True

    def each(self, todo: Sequence[ScanId]) -> None:
        """Calibrate scans one after the other; raises :class:`Stopped`, a failure of a scan is noted in its line."""
        with ThreadPoolExecutor(1, thread_name_prefix="calib-prefetch") as prefetcher, WriteBehind() as behind:
            futures: dict[ScanId, tuple[ScanReport, Future[LoadedScan]]] = {}

            def prefetch(scans: Iterable[ScanId]) -> None:
                for scan in scans:
                    line = ScanReport(str(scan))
                    futures[scan] = (line, prefetcher.submit(self.runner.load, scan, line))

            prefetch(todo[:1])
            for k, scan in enumerate(todo):
                line, future = futures.pop(scan)
                following = todo[k + 1 : k + 2]
                staged = _Staged(scan, line, self.publisher)
                failed = self._try(
                    line, partial(self._calibrate, staged, future, partial(prefetch, following), behind, not following)
                )
                if following and following[0] not in futures and not isinstance(failed, DeviceLost):
                    prefetch(following)
                with staged.discarded_on_error():
                    behind.wait()  # reports are in the order of the scans
                    if line.status != "failed":
                        self.runner.workers.check()
                if line.status != "failed":
                    behind.begin(partial(self._complete, staged))
                else:
                    self.finish(line)
                if isinstance(failed, DeviceLost):
                    raise Stopped("nothing in this process can use the GPU any more")

    def refuse(self, strange: Mapping[str, ScanFailure]) -> None:
        """Note what looks like a scan but is none as failed, so that nobody misses it."""
        for name, error in strange.items():
            error.at(name)
            self.finish(ScanReport(name, "failed", "load", error.kind, str(error)))

    def forget_all_but(self, names: Iterable[str]) -> None:
        """Drop what was noted of scans that are not in the store any more: renamed, or moved away, as advised."""
        known = set(names)
        with contextlib.suppress(OutputError):  # told when the list is brought up to date
            self.records.forget(lambda scan: scan not in known)

    def _sort_out(self, ids: Sequence[ScanId]) -> list[ScanId]:
        """Skip what is done; refuse what is done with other settings, before anything is calibrated."""
        todo, differing, skipped = [], [], []
        if self.overwrite:
            self._warn_of_mixture(ids)
        for scan in ids:
            self.runner.workers.check()
            done = None if self.overwrite else self.publisher.done(scan)
            if done is None:
                todo.append(scan)
                continue
            line, reason = self.compare(scan, done)
            if reason:
                differing.append(f"{scan} ({reason})")
            else:
                skipped.append(line)
        if differing:
            raise done_differently(self.publisher.path, differing)
        for line in skipped:
            self.finish(line)
        return todo

    def compare(self, scan: ScanId, done: dict[str, Any]) -> tuple[ScanReport, str]:
        """The line of a scan that is published with the attributes ``done``, and how it is done differently, if it is."""
        line = ScanReport(str(scan), status="skipped", digest=str(done.get("digest", "")))
        try:
            reason = self.runner.difference(done)
            if not reason and (better := self.runner.better_loads(scan, done)):
                line.warnings += (f"done; its loads would now be {better}: --overwrite calibrates it again",)
        except ReadFailed as error:  # what is done is whole, whatever the disk does now
            reason = ""
            line.warnings += (f"done; whether its input is still the same cannot be told now: {error}",)
        except CalibError as error:
            reason = f"its input can no longer be read: {error}"
        return line, reason

    def _warn_of_mixture(self, ids: Sequence[ScanId]) -> None:
        """Replacing a part of a store may leave it with two sets of settings."""
        digest = self.runner.settings.digest()
        others = [
            str(scan) for scan in published_scans(self.publisher.path)
            if scan not in ids and self.publisher.settings_digest(scan) != digest
        ]  # fmt: skip
        if others:
            log.warning("%d scan(s) of this store keep other settings: %s", len(others), ", ".join(others[:5]))

    def _calibrate(
        self, staged: _Staged, future: Future[LoadedScan], prefetch_next: Callable[[], None], behind: WriteBehind,
        last: bool,
    ) -> None:  # fmt: skip
        loaded = _result(future, self.runner.workers)
        c, d, r, a, _ = loaded.scan.source.shape
        samples = c * d * r * a * len(loaded.pairing.on)
        if samples * loaded.scan.source.counts.dtype.itemsize >= WORTH_SHARING:
            prefetch_next()
        else:
            last = True
        self.progress.begin(str(staged.scan), samples)
        others = int(not last) + int(behind.busy)
        with staged.discarded_on_error():
            staged.calibrated = self.runner.calibrate(loaded, staged.folder, self.progress.advance, others=others)

    def _complete(self, staged: _Staged) -> None:
        """Write what is left of a scan, publish and report it."""
        self._try(staged.line, partial(self._publish, staged))
        self.finish(staged.line)

    def _publish(self, staged: _Staged) -> None:
        with staged.discarded_on_error():
            assert staged.calibrated is not None
            self.runner.write(staged.calibrated)
            if self.unchanged is not None:
                self.unchanged(staged.scan, staged.calibrated.loaded.choice.sets)
            with timed(staged.line, "write"):
                self.publisher.publish(staged.scan, staged.folder, overwrite=self.overwrite)
            staged.line.stage = ""

    def _try(self, line: ScanReport, work: Callable[[], None]) -> CalibError | None:
        """Run the work of one scan; a failure is noted in its report line and returned, not raised. A stop is raised."""
        try:
            work()
        except Stopped:
            raise
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
        return None

    def finish(self, line: ScanReport) -> None:
        """Note what happened to a scan: in the report, in the records of the store, in the log."""
        self.report.add(line)
        self.records.report(line.as_dict())
        for warning in line.warnings:
            log.warning("%s: %s", line.scan, warning, extra={"data": {"scan": line.scan}})
        if line.status == "failed":
            self.records.failed(line.scan, line.stage, line.error, line.message)
            log.error("%s", line.message, extra={"data": line.failure()})
        else:
            self.records.done(line.scan)
            if line.status == "ok":
                log.info("%s", summary_line(line), extra={"data": {"scan": line.scan}})
            log.info("%s", timing_line(line), extra={"data": line.as_dict()})
        self.progress.end(line)
        if len(self.report.scans) % SCANS_BETWEEN_COLLECTIONS == 0:
            gc.collect()


class _Staged:
    """A scan on its way into the store: its report line, its staging folder, and what was calculated of it."""

    def __init__(self, scan: ScanId, line: ScanReport, publisher: Publisher) -> None:
        self.scan, self.line, self._publisher = scan, line, publisher
        self.calibrated: CalibratedScan | None = None

    @cached_property
    def folder(self) -> Path:
        """The staging folder, made when it is asked for first."""
        return self._publisher.stage(self.scan)

    @contextmanager
    def discarded_on_error(self) -> Iterator[None]:
        """Remove the folder where its scan fails, before the next one needs the space."""
        try:
            yield
        except BaseException:
            if "folder" in vars(self):
                self._publisher.discard(self.folder)
            raise


def done_differently(l1: Path, scans: Sequence[str]) -> ConfigError:
    """The error for scans of a store that were made with other settings or from other input."""
    return ConfigError(
        f"{len(scans)} scan(s) are done differently: {'; '.join(scans[:5])}", array=str(l1),
        rule="one store, one set of settings", fix="use --overwrite to replace them, or another output path",
    )  # fmt: skip


def _result(future: Future[LoadedScan], workers: Workers) -> LoadedScan:
    """Wait for the prefetcher, with an eye on the stop."""
    while not wait([future], timeout=STOP_LATENCY_S).done:
        workers.check()
    return future.result()
