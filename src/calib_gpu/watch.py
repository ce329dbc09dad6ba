"""Calibrating scans as they appear in a store that is still being written.

Scans are taken when they are complete (:mod:`calib_gpu.arrivals`). What is taken is calibrated to the bytes that a run
over the finished store gives. So a scan also waits while a load set that has not come yet could serve it better: until a
scan of the store is later than any such set.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from calib_gpu import schema
from calib_gpu.arrivals import Arrivals, Held, Pace, signature_of
from calib_gpu.errors import CalibError, NoLoads, OutputError, ReadFailed, ScanFailure, Stopped, Unreadable
from calib_gpu.load_choice import LoadFinder, may_change
from calib_gpu.load_index import LoadIndex
from calib_gpu.pipeline import Session
from calib_gpu.records import CountGroup, ScanId
from calib_gpu.scan_loop import ScanLoop, done_differently
from calib_gpu.scan_report import Progress, RunReport, ScanReport
from calib_gpu.selection import is_science
from calib_gpu.settings import Settings
from calib_gpu.stages.load import open_scan
from calib_gpu.stopping import Stop
from calib_gpu.store.l0 import L0Store, open_l0
from calib_gpu.store.l1_store import published_scans

log = logging.getLogger("calib_gpu")

PASSING: Final = (ReadFailed.__name__, OutputError.__name__)
"""Failures whose cause may pass: a disk that is full, a network that is away."""
HELD_PAUSE_S: Final = 60.0
"""Scans wait for loads that cannot be read now, until the pause between two tries is longer than this."""

__all__ = ["Pace", "Watcher", "watch"]


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
    with Session(open_l0(l0, settings), l1, settings, progress, stop) as session:
        watcher = Watcher(session, l0, pace, clock)
        watcher.tell_begin()
        try:
            watcher.until_over(stop)
        except Stopped:
            session.report.stopped = True
        watcher.tell_what_is_left()
        session.record()
    return session.report


class Watcher:
    """Looks at a store again and again, and has what is ready calibrated."""

    def __init__(self, session: Session, l0: Path, pace: Pace, clock: Callable[[], float]) -> None:
        self.session, self._l0, self._pace = session, l0, pace
        self._index = LoadIndex([])
        self._arrivals = Arrivals(pace, clock)
        self._indexed: dict[ScanId, str] = {}
        self._held = Held()
        self._again: set[ScanId] = set()
        self._strange: set[str] = set()
        self._pending: dict[ScanId, CountGroup | None] = {}
        self._latest_us, self._told = float("-inf"), ""
        self._refuse_other_settings()

    def _refuse_other_settings(self) -> None:
        """One store, one set of settings: told at once, not in the middle of the night."""
        publisher = self.session.publisher
        with self.session.loop(open_l0(self._l0, self.session.settings), self._index) as loop:
            told = loop.runner.other_settings
            reasons = {scan: told(publisher.done(scan) or {}) for scan in published_scans(publisher.path)}
        if differing := [f"{scan} ({reason})" for scan, reason in reasons.items() if reason]:
            raise done_differently(publisher.path, differing)

    def tell_begin(self) -> None:
        """Say what is watched, when a scan is taken, and how it ends: for minutes nothing else may be said."""
        pace, n = self._pace, len(open_l0(self._l0, self.session.settings).scan_ids())
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
            if self._arrivals.is_idle():
                break
            stop.wait(self._pace.poll)
        store = open_l0(self._l0, self.session.settings)
        self._calibrate(store, list(self._pending))  # better loads do not come any more
        self.session.report.waiting = [
            str(scan) for scan, seen in self._arrivals.seen.items() if not seen.ready and is_science(store, scan)
        ]

    def tell_what_is_left(self) -> None:
        """At the end: the scans that were not calibrated, and what each waited for."""
        still = self._arrivals.incomplete()
        self._held.why = {scan: why for scan, why in self._held.why.items() if scan in self._pending or scan in still}
        self._held.tell_all()

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
        store = open_l0(self._l0, self.session.settings)
        ids = store.scan_ids()
        self._forget_gone(ids)
        self._refuse_strange(store)
        fresh = self._arrivals.look(store, ids, len(self._index.candidates))
        for scan in fresh:
            self._take(store, scan)
        waiting = [scan for scan, source in self._pending.items() if self._waits(store, scan, source)]
        now = [scan for scan in self._pending if scan not in waiting]
        self._held.tell(
            self._arrivals.incomplete() | dict.fromkeys(waiting, "waits for loads that may serve it better")
        )
        if now:
            self._calibrate(store, now)
        if any(scan in self._arrivals.seen and not self._arrivals.seen[scan].pause for scan in (*fresh, *now)):
            self._arrivals.happened()  # one more try that fails like the last one is no event

    def _forget_gone(self, ids: Sequence[ScanId]) -> None:
        """What is no longer in the store is waited for no more, and serves no scan; what it failed with is forgotten."""
        gone = self._arrivals.drop_all_but(ids)
        for scan in gone:
            log.warning("%s is in the store no more", scan)
            self._pending.pop(scan, None)
            self._indexed.pop(scan, None)
            self._index = self._index.without(scan)
            line = self.session.report.line(str(scan))
            if line is not None and line.status == "failed":
                self.session.report.drop(str(scan))
                self.session.records.done(str(scan))
        if gone:
            self.session.record()

    def _refuse_strange(self, store: L0Store) -> None:
        """What looks like a scan but is none is told when it comes, and forgotten when it goes."""
        strange = store.strange_scans()
        if strange.keys() == self._strange:
            return
        with self.session.loop(store, self._index) as loop:
            loop.refuse({name: error for name, error in strange.items() if name not in self._strange})
            loop.forget_all_but([*map(str, store.scan_ids()), *strange])
        for name in self._strange - strange.keys():
            self.session.report.drop(name)
        self._strange = set(strange)
        self.session.record()
        self._arrivals.happened()

    # --- what is calibrated when

    def _take(self, store: L0Store, scan: ScanId) -> None:
        """A scan is complete: its loads serve others from now on, and it is to be calibrated if it is a science scan."""
        self._index = self._index.without(scan)
        self._indexed[scan] = loads_state(store, scan)
        self._index.add(store, [scan], self.session.settings)
        self._arrivals.seen[scan].with_source = store.has(scan, "source")
        own = self._index.by_scan.get(scan)
        times = [] if own is None else [own.time_us]
        if is_science(store, scan):
            try:
                source = open_scan(store, scan, self.session.settings)[0].source
                times.append(source.absolute_us(source.subscans[-1:]))
            except Exception:  # the loop over scans says what is wrong with it
                source = None
            self._pending[scan] = source
        elif self._is_away(scan):
            self._arrivals.failed(scan, None, passing=True)
        else:
            self._arrivals.succeeded(scan)
        self._latest_us = max(self._latest_us, *times) if times else self._latest_us

    def _waits(self, store: L0Store, scan: ScanId, source: CountGroup | None) -> bool:
        """True while a load set that has not come could serve a scan better than those at hand."""
        if source is None or self._is_there(scan):
            return False
        if any(
            self._is_away(s) and self._arrivals.seen[s].pause < HELD_PAUSE_S for s in self._index.broken if s != scan
        ):
            return True
        pointed = [int(n) for n in source.arrays["lloadsn"].ravel() if n > 0][:1] if "lloadsn" in source.arrays else []
        for number in pointed:
            seen = self._arrivals.seen.get(ScanId(number, scan.band))
            if seen is not None and not seen.ready:
                return True
        if may_change(self._index, scan, source, self.session.settings, self._latest_us):
            return True
        sets = self._sets_of(scan, source)
        return any(not self._arrivals.seen[s].ready for s in sets) or bool(self._changed_loads(store, sets))

    def _is_away(self, scan: ScanId) -> bool:
        """True for loads that the disk did not give, but may give the next time."""
        return isinstance(self._index.broken.get(scan), ReadFailed)

    def _sets_of(self, scan: ScanId, source: CountGroup) -> tuple[ScanId, ...]:
        """The load sets that serve a scan, as metadata tell; none if that fails."""
        try:
            return LoadFinder(self._index, self.session.settings, lambda _: True).find(scan, source).sets
        except ScanFailure:
            return ()

    def _is_there(self, scan: ScanId) -> bool:
        """True for a scan that is published, or of which that cannot be told: then its report line says so."""
        try:
            return self.session.publisher.done(scan) is not None
        except OutputError:
            return True

    def _calibrate(self, store: L0Store, scans: list[ScanId]) -> None:
        """Calibrate what is not done; a scan is pending until its report line is there."""
        session = self.session
        session.progress.scans(len(session.report.scans) + len(self._pending))
        with session.loop(store, self._index, self._check_unchanged) as loop:
            todo = [scan for scan in scans if not self._is_done(loop, scan)]
            before = {scan: session.report.line(str(scan)) for scan in todo}
            try:
                loop.each(todo)
            finally:
                for scan in todo:
                    if session.report.line(str(scan)) is not before[scan]:
                        self._settle_up(scan)
        session.record()

    def _is_done(self, loop: ScanLoop, scan: ScanId) -> bool:
        """True if nothing is left to do for a scan: it is published, or that cannot be told; its line is there then."""
        try:
            done = self.session.publisher.done(scan)
        except OutputError as lost:
            lost.at(str(scan))
            loop.finish(ScanReport(str(scan), "failed", "write", lost.kind, str(lost)))
            self._settle_up(scan)
            return True
        if done is not None:
            line, reason = loop.compare(scan, done)
            if reason:
                error = done_differently(self.session.publisher.path, [f"{scan} ({reason})"])
                line = ScanReport(str(scan), "failed", "load", error.kind, str(error))
            loop.finish(line)
            self._settle_up(scan)
        return done is not None

    def _settle_up(self, scan: ScanId) -> None:
        """The report has a line of a scan: it is pending no more unless its loads have changed."""
        if scan in self._again:
            self._again.remove(scan)
            return
        self._pending.pop(scan)
        line = self.session.report.line(str(scan))
        if line is None or line.status != "failed":
            self._arrivals.succeeded(scan)
        else:
            n_sets = len(self._index.candidates) if line.error == NoLoads.__name__ else None
            self._arrivals.failed(scan, n_sets, passing=line.error in PASSING)

    def _check_unchanged(self, scan: ScanId, sets: Sequence[ScanId]) -> None:
        """What was taken by its silence must be the same after it was read, and loads the same as when they were indexed."""
        seen = self._arrivals.seen[scan]
        if not seen.marked and signature_of(self._l0 / scan.path) != seen.signature:
            raise Unreadable(
                "changed while it was read", array=str(scan), rule=f"unchanged for {self._pace.settle:g} s",
                fix="it is tried again; let the writer set the attribute complete, or give a longer --settle",
            )  # fmt: skip
        if changed := self._changed_loads(open_l0(self._l0, self.session.settings), sets):
            self._again.add(scan)
            raise Unreadable(
                "its loads changed after they were read", array=", ".join(map(str, changed)),
                rule="what is complete stays as it is", fix="it is tried again with what they are now",
            )  # fmt: skip

    def _changed_loads(self, store: L0Store, sets: Sequence[ScanId]) -> list[ScanId]:
        """Those whose loads are no longer what was indexed: they must become complete once more, and serve none till then."""
        changed = [scan for scan in sets if loads_state(store, scan) != self._indexed.get(scan)]
        for scan in changed:
            log.warning("the loads of %s have changed since they were read: they are looked at anew", scan)
            self._arrivals.unsettle(scan)
        return changed


def loads_state(store: L0Store, scan: ScanId) -> str:
    """Changes with names, sizes and times of the files of a scan's loads, and with the attributes that reading them uses."""
    try:
        attrs = store.scan_attrs(scan)
        read = repr([(name, attrs[name]) for name in schema.READ_ATTRIBUTES if name in attrs])
    except ScanFailure as error:
        read = str(error)
    return signature_of(store.path / scan.path / "calibration") + read
