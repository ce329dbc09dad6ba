"""Which load set serves which scan (formats 7.3): an index of all sets, made from metadata before the first scan."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Final

from calib_gpu.errors import NoLoads, ScanFailure, Unreadable
from calib_gpu.records import CountGroup, ScanId
from calib_gpu.schema import ScanFlag
from calib_gpu.settings import Settings
from calib_gpu.stages.load import near_each_other, separation_us, with_saturation
from calib_gpu.store.l0 import L0Store

log = logging.getLogger("calib_gpu")

LOAD_TEMPERATURES: Final = ("thot", "tcold", "load_temp_sig", "load_temp_img")
"""The arrays that reading a load set needs beside the counts."""


@dataclass(frozen=True)
class Candidate:
    """A ``calibration/`` group that has HOT and COLD at most 120 s apart, as its metadata tell."""

    scan: ScanId
    group: CountGroup
    time_us: float


@dataclass
class LoadIndex:
    """All candidates of a store, sorted by time, and the groups that could not be read."""

    candidates: list[Candidate]
    broken: dict[ScanId, ScanFailure] = field(default_factory=dict)
    incomplete: dict[ScanId, str] = field(default_factory=dict)

    @classmethod
    def of(cls, store: L0Store, settings: Settings) -> LoadIndex:
        """Read attributes and small arrays of every ``calibration/`` group."""
        index = cls([])
        for scan in store.scan_ids():
            if not store.has(scan, "calibration"):
                continue
            try:
                if store.subscan_classes(scan, "calibration") == []:
                    continue
                group = _slim(with_saturation(store.group(scan, "calibration"), settings))
            except ScanFailure as error:
                index.broken[scan] = error
                continue
            except Exception as error:  # whatever is wrong with one group must not stop the night
                log.exception("%s: internal error while indexing its loads", scan)
                index.broken[scan] = Unreadable(f"internal error: {type(error).__name__}: {error}", array="calibration")
                continue
            hot, cold = group.of_kind("HOT"), group.of_kind("COLD")
            gap = separation_us(hot, cold)
            if gap is None:
                index.incomplete[scan] = "has no HOT or no COLD"
            elif not near_each_other(hot, cold):
                index.incomplete[scan] = f"HOT and COLD are {gap / 1e6:.0f} s apart (at most 120 s)"
            else:
                index.candidates.append(Candidate(scan, group, group.absolute_us(hot + cold)))
        index.candidates.sort(key=lambda c: (c.time_us, c.scan))
        return index


def _slim(group: CountGroup) -> CountGroup:
    """The group without the small arrays that its subscans and its tuning hold already: a night has a thousand of them."""
    return replace(
        group, arrays={name: group.arrays[name] for name in LOAD_TEMPERATURES if name in group.arrays}, attrs={}
    )


@dataclass(frozen=True)
class LoadChoice:
    """Which sets serve a scan: one, or two to interpolate between; ``previous`` is the set before, for the gain drift."""

    scans: tuple[ScanId, ...]
    age_s: float
    previous: ScanId | None
    scan_flags: int = 0
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class LoadFinder:
    """Finds the load set (or two) of a scan.

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
        choice = self._find(scan, source)
        told = tuple(f"damaged loads are passed over: {error}" for error in self.damage.values())
        return replace(choice, warnings=(*choice.warnings, *told)) if told else choice

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
        pointed = (
            next((int(n) for n in source.arrays["lloadsn"].ravel() if n > 0), None)
            if "lloadsn" in source.arrays
            else None
        )
        if pointed is not None:
            found = self._usable(ScanId(pointed, scan.band), source, own=False)
            if found is not None:
                return self._choice(found, source, time)
            warnings = (
                f"lloadsn points to scan {pointed}, which has no usable loads: the nearest set in time is used",
            )
        limit = self.settings.max_load_age * 1e6
        for candidate in sorted(self._compatible(source), key=lambda c: (abs(c.time_us - time), c.time_us)):
            if abs(candidate.time_us - time) > limit:
                break
            if self._sound(candidate.scan):
                return self._choice(candidate, source, time, warnings)
        raise self._none(scan, source, time)

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
        for c in self.index.candidates:
            if c.scan == scan and _same_shape(c.group, source) and (own or c.group.tuning.same_as(source.tuning)):
                return c if (self.complete if own else self._sound)(scan) else None
        return None

    def _sound(self, scan: ScanId) -> bool:
        """``complete`` for the loads of another scan: damage is noted, not raised."""
        try:
            return self.complete(scan)
        except ScanFailure as error:
            self.damage[scan] = error
        except Exception as error:  # whatever is wrong with the loads of another scan must not fail this one
            log.exception("%s: internal error while its loads were read", scan)
            self.damage[scan] = Unreadable(f"internal error: {type(error).__name__}: {error}", array=str(scan))
        return False

    def _compatible(self, source: CountGroup) -> Iterator[Candidate]:
        return (
            c for c in self.index.candidates if _same_shape(c.group, source) and c.group.tuning.same_as(source.tuning)
        )

    def _previous(self, source: CountGroup, time: float) -> LoadChoice | None:
        """The last complete set of the same tuning before the scan, within max_load_age."""
        found = self._last_before(source, time, self.settings.max_load_age)
        return None if found is None else self._choice(found, source, time)

    def _last_before(self, source: CountGroup, time: float, limit_s: float) -> Candidate | None:
        for c in sorted(self._compatible(source), key=lambda c: -c.time_us):
            if c.time_us < time and time - c.time_us <= limit_s * 1e6 and self._sound(c.scan):
                return c
        return None

    def _bracketing(self, source: CountGroup, time: float) -> LoadChoice | None:
        """The last complete set before and the first after, sought among all; None unless both fit."""
        before = [c for c in reversed(self.index.candidates) if c.time_us <= time]
        after = [c for c in self.index.candidates if c.time_us > time]
        sides = [next((c for c in side if self._is_complete(c, source)), None) for side in (before, after)]
        fitting = [
            c for c in sides if c is not None and _same_shape(c.group, source) and c.group.tuning.same_as(source.tuning)
        ]
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


def _same_shape(a: CountGroup, b: CountGroup) -> bool:
    return (a.shape[0], *a.shape[2:4]) == (b.shape[0], *b.shape[2:4])
