"""An index of all load sets of a store, made from metadata before the first scan; :mod:`calib_gpu.load_choice` chooses."""

from __future__ import annotations

import bisect
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Final

from calib_gpu.errors import ReadFailed, ScanFailure, Unreadable
from calib_gpu.records import CountGroup, ScanId
from calib_gpu.settings import Settings
from calib_gpu.stages.load import near_each_other, separation_us, with_saturation
from calib_gpu.store.l0 import L0Store

log = logging.getLogger("calib_gpu")

LOAD_TEMPERATURES: Final = ("thot", "tcold", "load_temp_sig", "load_temp_img")
"""The arrays that reading a load set needs beside the counts."""


@dataclass(frozen=True, slots=True)
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
    by_scan: dict[ScanId, Candidate] = field(init=False)

    def __post_init__(self) -> None:
        self._in_order()

    def _in_order(self) -> None:
        self.candidates.sort(key=lambda c: (c.time_us, c.scan))
        self.by_scan = {c.scan: c for c in self.candidates}

    def before(self, time_us: float) -> Iterator[Candidate]:
        """Candidates earlier than a time, the latest first; those of one time by number."""
        end = bisect.bisect_left(self.candidates, time_us, key=lambda c: c.time_us)
        while end:
            time = self.candidates[end - 1].time_us
            first = bisect.bisect_left(self.candidates, time, hi=end, key=lambda c: c.time_us)
            yield from self.candidates[first:end]
            end = first

    @classmethod
    def of(cls, store: L0Store, settings: Settings) -> LoadIndex:
        """The sets of all scans of a store."""
        index = cls([])
        index.add(store, store.scan_ids(), settings)
        return index

    def add(self, store: L0Store, scans: Iterable[ScanId], settings: Settings) -> None:
        """Take in the sets of some scans: attributes and small arrays of every ``calibration/`` group are read.

        Sets that the disk did not give before are tried again.
        """
        for scan in dict.fromkeys((*self.not_given, *scans)):
            self.broken.pop(scan, None)
            self._add(store, scan, settings)
            if isinstance(self.broken.get(scan), ReadFailed):  # an error that passes must not change who serves whom
                del self.broken[scan]
                self._add(store, scan, settings)
        self._in_order()

    @property
    def not_given(self) -> list[ScanId]:
        """Scans whose sets the disk or the network did not give when they were asked for."""
        return [scan for scan, error in self.broken.items() if isinstance(error, ReadFailed)]

    def _add(self, store: L0Store, scan: ScanId, settings: Settings) -> None:
        try:
            if not store.holds(scan, "calibration"):
                return
            if store.subscan_classes(scan, "calibration") == []:
                return
            group = _slim(with_saturation(store.group(scan, "calibration"), settings))
        except ScanFailure as error:
            self._break(store, scan, error)
            return
        except Exception as error:  # whatever is wrong with one group must not stop the night
            log.exception("%s: internal error while indexing its loads", scan)
            internal = f"internal error: {type(error).__name__}: {error}"
            self._break(store, scan, Unreadable(internal, array="calibration"))
            return
        hot, cold = group.of_kind("HOT"), group.of_kind("COLD")
        gap = separation_us(hot, cold)
        if gap is None:
            self.incomplete[scan] = "has no HOT or no COLD"
        elif not near_each_other(hot, cold):
            self.incomplete[scan] = f"HOT and COLD are {gap / 1e6:.0f} s apart (at most 120 s)"
        else:
            self.candidates.append(Candidate(scan, group, group.absolute_us(hot + cold)))

    def _break(self, store: L0Store, scan: ScanId, error: ScanFailure) -> None:
        """Note a set that cannot be read; paths begin in the store, for what other scans tell of it enters L1."""
        error.array, error.what = (
            text.replace(f"{store.path / scan.path}/", "").replace(f"{store.path}/", "")
            for text in (error.array, error.what)
        )
        error.__traceback__ = error.__context__ = None  # their frames hold what was read
        error.at(str(scan))
        self.broken[scan] = error

    def without(self, scan: ScanId) -> LoadIndex:
        """The index without the set of a scan."""
        return LoadIndex(
            [c for c in self.candidates if c.scan != scan],
            {s: error for s, error in self.broken.items() if s != scan},
            {s: why for s, why in self.incomplete.items() if s != scan},
        )


_NO_ATTRS: Final[Mapping[str, Any]] = MappingProxyType({})


def _slim(group: CountGroup) -> CountGroup:
    """The group without the small arrays that its subscans and its tuning hold already: a night has a thousand of them."""
    arrays = {name: group.arrays[name] for name in LOAD_TEMPERATURES if name in group.arrays}
    return replace(group, arrays=arrays, attrs=_NO_ATTRS)
