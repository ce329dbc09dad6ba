"""Which scans of a store that is being written are complete, as far as can be told by looking again and again.

A scan is complete when its attribute ``complete`` is true, or, where there is no such attribute, when nothing of it has
changed for a while. Change is seen by names, sizes and times of files at two looks, and the while is measured by a clock
that only goes on, so that neither a jump of the host's clock nor that of another host matters.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Final

from calib_gpu.errors import ScanFailure
from calib_gpu.records import ScanId
from calib_gpu.store import reads, system
from calib_gpu.store.l0 import L0Store

log = logging.getLogger("calib_gpu")

SETTLE_S: Final = 60.0
POLL_S: Final = 5.0
FIRST_PAUSE_S: Final = 2.0
LONGEST_PAUSE_S: Final = 300.0


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
    ``failed_with`` is the number of load sets at hand when it failed for want of loads; ``pause`` how long after a failure
    that may pass it is tried again, ``retry_at`` when.
    """

    signature: str = ""
    since: float = 0.0
    ready: bool = False
    marked: bool = False
    held_back: bool = False
    with_source: bool = False
    failed: bool = False
    failed_with: int | None = None
    pause: float = 0.0
    retry_at: float | None = None


class Arrivals:
    """The scans that were seen, and when something last happened to one."""

    def __init__(self, pace: Pace, clock: Callable[[], float]) -> None:
        self._pace, self._clock = pace, clock
        self.seen: dict[ScanId, Seen] = {}
        self.last_event = clock()

    def is_idle(self) -> bool:
        """True when nothing has happened for ``until_idle`` and no scan is about to settle."""
        settling = any(not seen.ready and not seen.held_back for seen in self.seen.values())
        limit = self._pace.until_idle
        return limit is not None and not settling and self._clock() - self.last_event >= limit

    def happened(self) -> None:
        """Something has happened now."""
        self.last_event = self._clock()

    def look(self, store: L0Store, ids: Sequence[ScanId], n_sets: int) -> list[ScanId]:
        """Those of ``ids`` that have become complete, or are to be tried again; ``n_sets`` load sets are at hand."""
        return [scan for scan in ids if self._became_ready(store, scan, n_sets)]

    def drop_all_but(self, ids: Sequence[ScanId]) -> list[ScanId]:
        """Forget scans that are not in the store any more; returns them."""
        gone = sorted(self.seen.keys() - set(ids))
        for scan in gone:
            del self.seen[scan]
            self.happened()
        return gone

    def failed(self, scan: ScanId, n_sets: int | None, *, passing: bool) -> None:
        """A try has failed, for want of loads with ``n_sets`` of them at hand, or by an error that may pass."""
        seen = self.seen[scan]
        seen.failed, seen.failed_with = True, n_sets
        seen.pause = min(max(FIRST_PAUSE_S, 2.0 * seen.pause), LONGEST_PAUSE_S) if passing else 0.0
        seen.retry_at = self._clock() + seen.pause if passing else None

    def succeeded(self, scan: ScanId) -> None:
        """A try has not failed."""
        seen = self.seen[scan]
        seen.failed, seen.failed_with, seen.pause, seen.retry_at = False, None, 0.0, None

    def incomplete(self) -> dict[ScanId, str]:
        """The scans that are not complete, and what each lacks."""
        settling = f"settling, must be unchanged for {self._pace.settle:g} s"
        return {
            scan: "marked as not complete" if seen.held_back else settling
            for scan, seen in self.seen.items()
            if not seen.ready
        }

    def unsettle(self, scan: ScanId) -> None:
        """A scan has changed since it was taken: it must become complete once more."""
        seen = self.seen[scan]
        seen.ready, seen.since, seen.signature = False, self._clock(), ""

    def _became_ready(self, store: L0Store, scan: ScanId, n_sets: int) -> bool:
        seen = self.seen.get(scan)
        if seen is None:
            seen = self.seen[scan] = Seen(since=self._clock())
            self.happened()
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
            self.happened()
            if again:
                log.info("%s has changed since it failed: it is looked at anew", scan)
        if seen.failed:
            return self._may_be_tried(seen, n_sets)
        seen.held_back, seen.marked = marker is False, marker is True
        settled = marker is not False and bool(signature) and self._clock() - seen.since >= self._pace.settle
        seen.ready = bool(signature) and (seen.marked or settled)
        return seen.ready

    def _look_for_source(self, store: L0Store, scan: ScanId, seen: Seen) -> None:
        """A scan of loads that was taken by its silence may get its source later."""
        if not seen.marked and not seen.with_source and store.has(scan, "source"):
            self.unsettle(scan)

    def _may_be_tried(self, seen: Seen, n_sets: int) -> bool:
        """True for a scan that failed where loads have come since, or its pause is over."""
        more = seen.failed_with is not None and n_sets > seen.failed_with
        due = seen.retry_at is not None and self._clock() >= seen.retry_at
        seen.failed = seen.failed and not (more or due)
        return more or due


@dataclass
class Held:
    """What scans are waited for, and why; a change is logged once."""

    why: dict[ScanId, str] = field(default_factory=dict)

    def tell(self, why: dict[ScanId, str]) -> None:
        """Log the scans whose state has changed, a line for each state."""
        self._log(logging.INFO, {scan: text for scan, text in why.items() if self.why.get(scan) != text})
        self.why = why

    def tell_all(self) -> None:
        """Log all, at the end."""
        self._log(logging.WARNING, self.why)

    @staticmethod
    def _log(level: int, why: dict[ScanId, str]) -> None:
        for text in dict.fromkeys(why.values()):
            log.log(level, "%s: %s", ", ".join(str(scan) for scan in sorted(why) if why[scan] == text), text)


def signature_of(folder: Path) -> str:
    """sha256 over names, sizes and times of change of all below a folder; empty if something vanishes meanwhile.

    What cannot be read for another reason has that for its signature, so that its reader can tell in the end.
    """
    digest = hashlib.sha256()
    waiting = [str(folder)]
    try:
        while waiting:
            path = waiting.pop()
            with reads.noted(path), system.scandir(path) as entries:
                for entry in sorted(entries, key=attrgetter("name")):
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                        continue
                    status = entry.stat(follow_symlinks=False)
                    digest.update(os.fsencode(f"{entry.path} {status.st_size} {status.st_mtime_ns}\n"))
    except FileNotFoundError:
        return ""
    except OSError as error:
        return str(error)
    return digest.hexdigest()
