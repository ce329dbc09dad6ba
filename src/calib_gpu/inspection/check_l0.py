"""Whether an L0 store can be calibrated, told before a night is spent on it: the logic behind ``calib-gpu check L0``."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from calib_gpu.errors import CalibError, NoReference, ScanFailure
from calib_gpu.load_choice import LoadFinder
from calib_gpu.load_index import LoadIndex
from calib_gpu.records import CountGroup, ScanId
from calib_gpu.selection import is_science
from calib_gpu.settings import Settings
from calib_gpu.stages.load import open_scan
from calib_gpu.store import guard
from calib_gpu.store.chunks import ChunkedArray
from calib_gpu.store.l0 import L0Store, open_l0
from calib_gpu.store.verify import chunk_problems
from calib_gpu.workers import Workers, default_workers

GROUPS = ("source", "calibration")


@dataclass
class Findings:
    """What was found: ``problems`` make scans fail or leave them out, ``doubts`` do not."""

    scans: int = 0
    problems: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)


def check_l0(
    path: Path, settings: Settings, *, decode: bool = True, told: Callable[[str], None] = lambda scan: None
) -> Findings:
    """Look through an L0 store: documents, arrays, chunks, and whether each science scan has loads and OFFs.

    Parameters
    ----------
    path
        The store.
    settings
        Limits, whether checksums are required, and what else decides which loads serve a scan.
    decode
        Decode every chunk; else only names, sizes and headers are looked at.
    told
        Is told each scan as it begins.

    Raises
    ------
    StoreUnusable
        The store cannot be opened.
    """
    store = open_l0(path, settings)
    found, workers = Findings(), Workers(settings.workers or default_workers())
    found.problems += [f"{name}: {error}" for name, error in store.strange_scans().items()]
    found.doubts += list(_ignored(store))
    ids = store.scan_ids()
    finder = LoadFinder(LoadIndex.of(store, settings), settings, lambda scan: True)
    try:
        for scan in ids:
            told(str(scan))
            found.scans += 1
            _Scan(store, scan, found, workers).check(settings, finder, decode=decode)
    finally:
        workers.close()
    return found


def _ignored(store: L0Store) -> Iterator[str]:
    """Entries of the store that are not read at all."""
    for name in sorted(os.listdir(store.path)):
        known = name in ("zarr.json", ".zgroup", ".zattrs", ".zmetadata") or guard.scan_number(name) is not None
        if not known and guard.shown(name) not in store.strange_scans():
            yield f"{guard.shown(name)}: not read"


class _Scan:
    """The checks of one scan or band."""

    def __init__(self, store: L0Store, scan: ScanId, found: Findings, workers: Workers) -> None:
        self.store, self.scan, self.found, self.workers = store, scan, found, workers

    def check(self, settings: Settings, finder: LoadFinder, *, decode: bool) -> None:
        """Both groups and their counts, then what the scan needs from others."""
        present = [name for name in GROUPS if self.store.has(self.scan, name)]
        if not present:
            self.found.doubts.append(f"{self.scan}: neither source nor calibration")
        sound = True
        for name in present:
            try:
                group = self.store.group(self.scan, name)
            except ScanFailure as error:
                self._problem(error)
                sound = False
            else:
                self.found.doubts += [f"{self.scan}: {text}" for text in group.warnings]
                self._chunks(group, decode=decode)
        if sound and "source" in present and is_science(self.store, self.scan):
            self._serve(settings, finder)

    def _chunks(self, group: CountGroup, *, decode: bool) -> None:
        counts = group.counts
        if isinstance(counts, ChunkedArray):
            problems = chunk_problems(counts, decode=decode, run=lambda task, files: self.workers.map(task, files))
            self.found.problems += [f"{self.scan}: {text}" for text in problems]

    def _serve(self, settings: Settings, finder: LoadFinder) -> None:
        """Mode, frequency frame, OFFs and loads, as metadata tell."""
        try:
            opened, _ = open_scan(self.store, self.scan, settings)
            if not opened.source.of_kind("OFF"):
                raise NoReference("no OFF subscan", array="source/sobsmode", rule="an OFF to subtract")
            choice = finder.find(self.scan, opened.source)
        except CalibError as error:
            self._problem(error)
            return
        more = replace(opened, warnings=opened.warnings[len(opened.source.warnings) :]).warnings
        self.found.doubts += [f"{self.scan}: {text}" for text in (*more, *choice.warnings)]

    def _problem(self, error: CalibError) -> None:
        told = str(error.at(str(self.scan)))
        if told not in self.found.problems:  # both groups of a scan that cannot be read
            self.found.problems.append(told)
