"""The choice among the load sets of a store: which one, or two, serve a scan (formats 7.3)."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Final

from calib_gpu.errors import NoLoads, ReadFailed, ScanFailure, Unreadable
from calib_gpu.load_index import Candidate, LoadIndex
from calib_gpu.records import CountGroup, ScanId
from calib_gpu.schema import ScanFlag
from calib_gpu.settings import Settings

log = logging.getLogger("calib_gpu")


@dataclass(frozen=True)
class LoadChoice:
    """Which sets serve a scan: one, or two to interpolate between; ``previous`` is the set before, for the gain drift."""

    scans: tuple[ScanId, ...]
    age_s: float
    previous: ScanId | None
    scan_flags: int = 0
    warnings: tuple[str, ...] = ()

    @property
    def sets(self) -> tuple[ScanId, ...]:
        """All sets that a scan uses, that for the gain drift among them."""
        return self.scans if self.previous is None else (*self.scans, self.previous)


@dataclass(frozen=True)
class LoadFinder:
    """Finds the load set (or two) of a scan.

    A set that would serve and that the disk does not give now (:class:`ReadFailed`) fails the scan. Of a set whose metadata
    cannot be read neither time nor tuning is known; its number tells whether it could serve, see :meth:`_could_serve`.

    ``complete`` says whether a candidate's counts hold a valid HOT and COLD dump; it may read them, and may find
    damage. With one that always says yes, the choice follows from metadata alone. Damage in a scan's own set fails the
    scan where that set comes first (``nearest``); any other damaged set is passed over, with a warning. One finder
    serves one thread.
    """

    index: LoadIndex
    settings: Settings
    complete: Callable[[ScanId], bool]
    damage: dict[ScanId, ScanFailure] = field(default_factory=dict)

    def find(self, scan: ScanId, source: CountGroup) -> LoadChoice:
        """The sets that serve a scan, by the rules of formats 7.3 and setting ``loads``.

        Raises
        ------
        NoLoads
            None is found. Damage in the scan's own ``calibration/`` is raised as it is.
        """
        if scan in self.index.broken:
            raise self.index.broken[scan]
        self.damage.clear()
        try:
            choice = self._find(scan, source)
        except NoLoads as error:
            self._see_unreadable(scan, source, None)
            error.what = "; ".join((error.what, *self._told()))
            raise
        self._see_unreadable(scan, source, choice)
        return replace(choice, warnings=(*choice.warnings, *self._told())) if self.damage else choice

    def _told(self) -> tuple[str, ...]:
        return tuple(f"damaged loads are passed over: {error}" for error in self.damage.values())

    def _see_unreadable(self, scan: ScanId, source: CountGroup, choice: LoadChoice | None) -> None:
        """Note the sets without readable metadata that could have served a scan, or been the one before its own.

        Raises
        ------
        ReadFailed
            The disk does not give one of them now: with it the scan might get other loads.
        """
        pointed = self._pointed(scan, source)
        searched = choice is None or self.settings.loads != "nearest" or choice.scans not in ((scan,), (pointed,))
        for other, error in sorted(self.index.broken.items()):
            if not (
                (searched and (other == pointed or self._could_serve(other, scan, source)))
                or (
                    choice is not None and other < choice.scans[0] and self._could_serve(other, choice.scans[0], source)
                )
            ):
                continue
            if isinstance(error, ReadFailed):
                raise ReadFailed(
                    f"loads that may serve this scan cannot be read now: {error}", array="calibration",
                    fix=f"run again; if it stays so, copy {other} again",
                )  # fmt: skip
            self.damage[other] = error

    def _could_serve(self, other: ScanId, place: ScanId, source: CountGroup) -> bool:
        """Whether a set of unknown time could be the one sought at the place of a scan: numbers stand for times.

        It cannot be if a sound set of the scan's tuning stands between the two.
        """
        if other.band != place.band and other.band and place.band:
            return False
        low, high = sorted((other.number, place.number))
        between = [c.scan for c in self._compatible(source) if low < c.scan.number < high]
        return not any(self._sound(s) for s in sorted(between, key=lambda s: abs(s.number - place.number)))

    def _find(self, scan: ScanId, source: CountGroup) -> LoadChoice:
        time = source.absolute_us(source.of_kind("ON"))
        if self.settings.loads == "linear":
            return self._bracketing(source, time) or self._single(self._nearest(scan, source, time))
        before = self._previous(source, time) if self.settings.loads == "previous" else None
        return before or self._nearest(scan, source, time)

    def _single(self, choice: LoadChoice) -> LoadChoice:
        note = "loads=linear: no two sets of one tuning bracket the scan within max_load_gap; one set is used"
        flags = choice.scan_flags | int(ScanFlag.LOAD_SINGLE)
        return replace(choice, scan_flags=flags, warnings=(*choice.warnings, note))

    def _nearest(self, scan: ScanId, source: CountGroup, time: float) -> LoadChoice:
        own = self._usable(scan, source, own=True)
        if own is not None:
            return self._choice(own, source, time)
        warnings: tuple[str, ...] = ()
        pointed = self._pointed(scan, source)
        if pointed is not None:
            found = self._usable(pointed, source, own=False)
            if found is not None:
                return self._choice(found, source, time)
            warnings = (
                f"lloadsn points to scan {pointed.number}, which has no usable loads: the nearest set in time is used",
            )
        limit = self.settings.max_load_age * 1e6
        for candidate in sorted(self._compatible(source), key=lambda c: (abs(c.time_us - time), c.time_us)):
            if abs(candidate.time_us - time) > limit:
                break
            if self._sound(candidate.scan):
                return self._choice(candidate, source, time, warnings)
        raise self._none(scan, source, time)

    @staticmethod
    def _pointed(scan: ScanId, source: CountGroup) -> ScanId | None:
        """The scan that the first positive ``lloadsn`` names."""
        numbers = source.arrays["lloadsn"].ravel() if "lloadsn" in source.arrays else ()
        return next((ScanId(int(n), scan.band) for n in numbers if n > 0), None)

    def _none(self, scan: ScanId, source: CountGroup, time: float) -> NoLoads:
        fitting = min((abs(c.time_us - time) for c in self._compatible(source)), default=None)
        if fitting is not None:
            limit = self.settings.max_load_age
            detail = f"the nearest of the same tuning is {fitting / 1e6:.0f} s away (max_load_age {limit:g} s)"
        else:
            detail = "no complete set of the same tuning in the store"
        if scan in self.index.incomplete:
            detail = f"its own calibration {self.index.incomplete[scan]}; {detail}"
        return NoLoads(
            f"no load measurement serves this scan: {detail}", array="calibration",
            rule="own HOT and COLD, or lloadsn, or the nearest set of the same tuning within max_load_age",
            fix="add the scan with the loads to the store, or raise --set max_load_age=SECONDS",
        )  # fmt: skip

    def _usable(self, scan: ScanId, source: CountGroup, *, own: bool) -> Candidate | None:
        c = self.index.by_scan.get(scan)
        if c is None or not _same_shape(c.group, source) or not (own or c.group.tuning.same_as(source.tuning)):
            return None
        return c if (self.complete if own else self._sound)(scan) else None

    def _sound(self, scan: ScanId) -> bool:
        """``complete`` for the loads of another scan: damage is noted, not raised."""
        try:
            return self.complete(scan)
        except ReadFailed:
            raise  # it may be read the next time: without it the scan would get other loads now than then
        except ScanFailure as error:
            self.damage[scan] = error
        except Exception as error:  # whatever is wrong with the loads of another scan must not fail this one
            log.exception("%s: internal error while its loads were read", scan)
            self.damage[scan] = Unreadable(f"internal error: {type(error).__name__}: {error}", array=str(scan))
        return False

    def _compatible(self, source: CountGroup) -> Iterator[Candidate]:
        return (c for c in self.index.candidates if _fits(c, source))

    def _previous(self, source: CountGroup, time: float) -> LoadChoice | None:
        """The last complete set of the same tuning before the scan, within max_load_age."""
        found = self._last_before(source, time, self.settings.max_load_age)
        return None if found is None else self._choice(found, source, time)

    def _last_before(self, source: CountGroup, time: float, limit_s: float) -> Candidate | None:
        recent = itertools.takewhile(lambda c: time - c.time_us <= limit_s * 1e6, self.index.before(time))
        return next((c for c in recent if _fits(c, source) and self._sound(c.scan)), None)

    def _bracketing(self, source: CountGroup, time: float) -> LoadChoice | None:
        """The last complete set before and the first after, sought among all; None unless both fit."""
        before = [c for c in reversed(self.index.candidates) if c.time_us <= time]
        after = [c for c in self.index.candidates if c.time_us > time]
        sides = [next((c for c in side if self._is_complete(c, source)), None) for side in (before, after)]
        fitting = [c for c in sides if c is not None and _fits(c, source)]
        if len(fitting) < 2 or fitting[1].time_us - fitting[0].time_us > self.settings.max_load_gap * 1e6:
            return None
        age = max(abs(c.time_us - time) for c in fitting) / 1e6
        return LoadChoice(tuple(c.scan for c in fitting), age, None, self._stale(age))

    def _is_complete(self, candidate: Candidate, source: CountGroup) -> bool:
        """Counts are read only of sets that could be used; of others the metadata decide."""
        return not _same_shape(candidate.group, source) or self._sound(candidate.scan)

    def _choice(self, found: Candidate, source: CountGroup, time: float, warnings: tuple[str, ...] = ()) -> LoadChoice:
        age = abs(found.time_us - time) / 1e6
        before = self._last_before(source, found.time_us, self.settings.max_load_gap)
        return LoadChoice((found.scan,), age, None if before is None else before.scan, self._stale(age), warnings)

    def _stale(self, age_s: float) -> int:
        return int(ScanFlag.LOADS_STALE) if age_s > self.settings.max_load_age else 0


def may_change(index: LoadIndex, scan: ScanId, source: CountGroup, settings: Settings, from_us: float) -> bool:
    """True if a load set measured at ``from_us`` or later would alter which sets serve a scan, as metadata tell.

    A set at that very time would serve the scan at least as well as any later one.
    """
    later = Candidate(_LATER, source, from_us)
    choices = []
    for known in (index, LoadIndex([*index.candidates, later], index.broken, index.incomplete)):
        try:
            choice = LoadFinder(known, settings, lambda _: True).find(scan, source)
            choices.append((choice.scans, choice.previous))
        except NoLoads:
            choices.append(((), None))
        except ScanFailure:  # it cannot be calibrated, whatever comes
            return False
    return choices[0] != choices[1]


_LATER: Final = ScanId(10**9)
"""Stands for a scan that has not come yet; the numbers of scans are smaller."""


def _fits(candidate: Candidate, source: CountGroup) -> bool:
    return _same_shape(candidate.group, source) and candidate.group.tuning.same_as(source.tuning)


def _same_shape(a: CountGroup, b: CountGroup) -> bool:
    return (a.shape[0], *a.shape[2:4]) == (b.shape[0], *b.shape[2:4])
