"""Calibrating scans as they appear in a store that is still being written.

A scan is taken when its attribute ``complete`` is true, or, where there is no such attribute, when nothing of it has
changed for a while. Change is seen by names, sizes and times of files at two looks, and the while is measured by a clock
that only goes on, so that neither a jump of the host's clock nor that of another host matters.

What is taken is calibrated to the bytes that a run over the finished store gives. So a scan also waits while a load set
that has not come yet could serve it better: until a scan of the store is later than any such set.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from calib_gpu.errors import CalibError, NoLoads, ScanFailure, Stopped, Unreadable
from calib_gpu.load_index import LoadIndex
from calib_gpu.pipeline import Session
from calib_gpu.records import CountGroup, ScanId
from calib_gpu.scan_loop import done_differently
from calib_gpu.scan_report import Progress, RunReport, ScanReport
from calib_gpu.selection import is_science
from calib_gpu.settings import Settings
from calib_gpu.stages.load import open_scan
from calib_gpu.stopping import Stop
from calib_gpu.store.l0 import L0Store
from calib_gpu.store.l1_store import published_scans

log = logging.getLogger("calib_gpu")

SETTLE_S: Final = 60.0
POLL_S: Final = 5.0


@dataclass(frozen=True)
class Pace:
    """Times in seconds by the monotonic clock.

    ``settle``: how long a scan without the attribute must be unchanged. ``poll``: between two looks. ``until_idle``: end
    when nothing has happened for so long; None: go on until stopped.
    """

    settle: float = SETTLE_S
    poll: float = POLL_S
    until_idle: float | None = None


@dataclass
class Seen:
    """What is known of a scan.

    Its signature at the last look, and since when it is that; ``ready``: it was taken, ``marked``: because it has the
    attribute; ``held_back``: the attribute says that it is not complete; ``with_source``: it was when it was taken;
    ``failed_with`` is the number of load sets at hand when it failed for want of loads.
    """

    signature: str = ""
    since: float = 0.0
    ready: bool = False
    marked: bool = False
    held_back: bool = False
    with_source: bool = False
    failed: bool = False
    failed_with: int | None = None


def watch(
    l0: Path, l1: Path, settings: Settings, pace: Pace, progress: Progress, stop: Stop,
    clock: Callable[[], float] = time.monotonic,
) -> RunReport:  # fmt: skip
    """Calibrate the scans of a store as they appear, until ``stop`` is set or nothing happens any more.

    Returns
    -------
    The report of the last try of each scan; ``waiting`` names science scans that were not complete.

    Raises
    ------
    ConfigError
        A setting breaks its rule, or the output holds scans of other settings.
    StoreUnusable, OutputError
        The input cannot be opened; the output cannot be written.
    """
    with Session(L0Store(l0), l1, settings, progress, stop) as session:
        watcher = Watcher(session, l0, pace, clock)
        watcher.tell_begin()
        try:
            watcher.until_over(stop)
        except Stopped:
            session.report.stopped = True
        session.record()
    return session.report


class Watcher:
    """Looks at a store again and again, and has what is ready calibrated."""

    def __init__(self, session: Session, l0: Path, pace: Pace, clock: Callable[[], float]) -> None:
        self.session, self._l0, self._pace, self._clock = session, l0, pace, clock
        self._index = LoadIndex([])
        self._seen: dict[ScanId, Seen] = {}
        self._pending: dict[ScanId, CountGroup | None] = {}
        self._latest_us, self._told = float("-inf"), ""
        self._last_event = clock()
        self._refuse_other_settings()

    def _refuse_other_settings(self) -> None:
        """One store, one set of settings: told at once, not in the middle of the night."""
        publisher = self.session.publisher
        with self.session.loop(L0Store(self._l0), self._index) as loop:
            told = loop.runner.other_settings
            reasons = {scan: told(publisher.done(scan) or {}) for scan in published_scans(publisher.path)}
        if differing := [f"{scan} ({reason})" for scan, reason in reasons.items() if reason]:
            raise done_differently(publisher.path, differing)

    def tell_begin(self) -> None:
        """Say what is watched, when a scan is taken, and how it ends: for minutes nothing else may be said."""
        pace, n = self._pace, len(L0Store(self._l0).scan_ids())
        ends = "Ctrl-C ends" + (
            "" if pace.until_idle is None else f", and nothing happening for {pace.until_idle:g} s does"
        )
        log.info(
            "watching %s: %d scan(s) seen; a scan is taken when it is marked complete or unchanged for %g s; "
            "looked at every %g s; %s", self._l0, n, pace.settle, pace.poll, ends,
            extra={"data": {"store": str(self._l0), "scans_seen": n, "settle_s": pace.settle, "poll_s": pace.poll,
                            "until_idle_s": pace.until_idle}},
        )  # fmt: skip

    def until_over(self, stop: Stop) -> None:
        """Look and calibrate until nothing has happened for a while; raises :class:`Stopped` where ``stop`` is set."""
        while True:
            self.session.workers.check()
            self.step()
            if self._is_idle():
                break
            stop.wait(self._pace.poll)
        store = L0Store(self._l0)
        self._calibrate(store, list(self._pending))  # better loads do not come any more
        self.session.report.waiting = [
            str(scan) for scan, seen in self._seen.items() if not seen.ready and is_science(store, scan)
        ]

    def _is_idle(self) -> bool:
        settling = any(not seen.ready and not seen.held_back for seen in self._seen.values())
        limit = self._pace.until_idle
        return limit is not None and not settling and self._clock() - self._last_event >= limit

    def step(self) -> None:
        """One look, and the work that it shows; a store that cannot be read or written now is looked at again."""
        try:
            self._step()
        except Stopped:
            raise
        except (CalibError, OSError) as error:
            if str(error) != self._told:
                log.warning("%s; it is tried again", error)
            self._told = str(error)
        else:
            self._told = ""

    def _step(self) -> None:
        store = L0Store(self._l0)
        fresh = [scan for scan in store.scan_ids() if self._became_ready(store, scan)]
        for scan in fresh:
            self._take(store, scan)
        now = [scan for scan, source in self._pending.items() if not self._waits(store, scan, source)]
        if now:
            self._calibrate(store, now)
        if fresh or now:
            self._last_event = self._clock()

    # --- which scans are complete

    def _became_ready(self, store: L0Store, scan: ScanId) -> bool:
        seen = self._seen.get(scan)
        if seen is None:
            seen = self._seen[scan] = Seen(since=self._clock())
            self._last_event = self._clock()
        if seen.ready and not seen.failed:
            self._look_for_source(store, scan, seen)
            return False
        try:
            marker = store.scan_attrs(scan).get("complete")
            signature = signature_of(store.path / scan.path)
        except (ScanFailure, OSError):  # just being written, or damaged: then it is taken some time, and fails
            marker, signature = None, signature_of(store.path / scan.path)
        if signature != seen.signature:
            again = seen.failed
            seen.signature, seen.since, seen.ready, seen.failed = signature, self._clock(), False, False
            self._last_event = self._clock()
            if again:
                log.info("%s has changed since it failed: it is looked at anew", scan)
        if seen.failed:
            return self._has_new_loads(seen)
        seen.held_back, seen.marked = marker is False, marker is True
        settled = marker is not False and bool(signature) and self._clock() - seen.since >= self._pace.settle
        seen.ready = bool(signature) and (seen.marked or settled)
        return seen.ready

    def _look_for_source(self, store: L0Store, scan: ScanId, seen: Seen) -> None:
        """A scan of loads that was taken by its silence may get its source later."""
        if not seen.marked and not seen.with_source and store.has(scan, "source"):
            seen.ready, seen.since, seen.signature = False, self._clock(), ""

    def _has_new_loads(self, seen: Seen) -> bool:
        more = seen.failed_with is not None and len(self._index.candidates) > seen.failed_with
        seen.failed = seen.failed and not more
        return more

    # --- what is calibrated when

    def _take(self, store: L0Store, scan: ScanId) -> None:
        """A scan is complete: its loads serve others from now on, and it is to be calibrated if it is a science scan."""
        self._index = self._index.without(scan)
        self._index.add(store, [scan], self.session.settings)
        self._seen[scan].with_source = store.has(scan, "source")
        times = [c.time_us for c in self._index.candidates if c.scan == scan]
        if is_science(store, scan):
            try:
                source = open_scan(store, scan, self.session.settings)[0].source
                times.append(source.absolute_us(source.subscans[-1:]))
            except Exception:  # the loop over scans says what is wrong with it
                source = None
            self._pending[scan] = source
        self._latest_us = max(self._latest_us, *times) if times else self._latest_us

    def _waits(self, store: L0Store, scan: ScanId, source: CountGroup | None) -> bool:
        """True while a load set that has not come could serve a scan better than those at hand."""
        if source is None or self.session.publisher.done(scan) is not None:
            return False
        pointed = [int(n) for n in source.arrays["lloadsn"].ravel() if n > 0][:1] if "lloadsn" in source.arrays else []
        for number in pointed:
            seen = self._seen.get(ScanId(number, scan.band))
            if seen is not None and not seen.ready:
                return True
        return self._index.may_change(scan, source, self.session.settings, self._latest_us)

    def _calibrate(self, store: L0Store, scans: list[ScanId]) -> None:
        session = self.session
        todo = []
        session.progress.scans(len(session.report.scans) + len(self._pending))
        with session.loop(store, self._index, self._check_unchanged) as loop:
            for scan in scans:
                self._pending.pop(scan)
                done = session.publisher.done(scan)
                if done is None:
                    todo.append(scan)
                else:
                    loop.finish(ScanReport(str(scan), status="skipped", digest=str(done.get("digest", ""))))
            loop.each(todo)
        failed = {line.scan: line.error for line in session.report.failures}
        for scan in todo:
            seen = self._seen[scan]
            seen.failed = str(scan) in failed
            lacks_loads = failed.get(str(scan)) == NoLoads.__name__
            seen.failed_with = len(self._index.candidates) if lacks_loads else None
        session.record()

    def _check_unchanged(self, scan: ScanId) -> None:
        """What was taken by its silence must be the same after it was read."""
        seen = self._seen[scan]
        if not seen.marked and signature_of(self._l0 / scan.path) != seen.signature:
            raise Unreadable(
                "changed while it was read", array=str(scan), rule=f"unchanged for {self._pace.settle:g} s",
                fix="it is tried again; let the writer set the attribute complete, or give a longer --settle",
            )  # fmt: skip


def signature_of(folder: Path) -> str:
    """sha256 over names, sizes and times of change of all below a folder; empty if something vanishes meanwhile.

    What cannot be read for another reason has that for its signature, so that its reader can tell in the end.
    """
    digest = hashlib.sha256()
    try:
        for root, folders, names in os.walk(folder, onerror=_raise):
            folders.sort()
            for name in sorted(names):
                status = os.lstat(os.path.join(root, name))
                digest.update(os.fsencode(f"{root}/{name} {status.st_size} {status.st_mtime_ns}\n"))
    except FileNotFoundError:
        return ""
    except OSError as error:
        return str(error)
    return digest.hexdigest()


def _raise(error: OSError) -> None:
    raise error
