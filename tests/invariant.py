"""The one invariant behind all promises, and tiny nights to try it on.

A scan that is visible in L1 is complete and equal, byte for byte, to that of an uninterrupted run of one worker; every other
scan is named in ``failures.json`` or is not done yet.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calib_gpu import Settings
from calib_gpu.pipeline import RunReport, calibrate
from calib_gpu.store.l0_write import L0Writer
from small_scan import SmallScan, small_scan

Figure = Callable[[str, str, Any, Any], None]
"""The fixture ``figure``: promise, text, value, limit."""

FULL = os.environ.get("CALIB_GPU_QUALIFY") == "full"
FIRST = 25650
SHAPE = (16, 2, 1, 1)


def count(pull_request: int, full: int) -> int:
    """How often a test tries: few times for every change, many times where ``CALIB_GPU_QUALIFY=full``."""
    return full if FULL else pull_request


def tree(folder: Path) -> dict[str, bytes]:
    """Bytes of every file below a folder."""
    return {
        os.path.relpath(os.path.join(root, name), folder): Path(root, name).read_bytes()
        for root, _, names in os.walk(folder)
        for name in names
    }


def scan_of(name: str) -> str:
    """Name of the scan that a file of a store belongs to; empty for files of the store itself."""
    match = re.match(r"scan_\d+", name)
    return match[0] if match else ""


def tiny_scan(number: int, shape: tuple[int, int, int, int] = SHAPE) -> SmallScan:
    """A small scan of its own numbers, ten minutes after the one before it."""
    return small_scan(number, shape=shape, mjd=60000.0 + (number - FIRST) / 144.0, seed=number - FIRST)


@dataclass
class Night:
    """An L0 store and what comes of it: files of the reference L1, names of the scans that fail."""

    l0: Path
    reference: dict[str, bytes]
    failing: set[str]

    @property
    def good(self) -> set[str]:
        """Names of the scans that can be calibrated."""
        return {scan_of(name) for name in self.reference} - {""}

    def run(self, l1: Path, **settings: Any) -> RunReport:
        """Calibrate the night with one worker, unless the settings say another number."""
        return calibrate(self.l0, l1, Settings(**{"workers": 1, **settings}))

    def visible(self, l1: Path) -> set[str]:
        """Names of the scans that are in L1; the invariant holds for each of them, or the test fails."""
        found = tree(l1)
        surplus = {name for name in found if not scan_of(name)} - {"zarr.json", "failures.json"}
        assert not surplus, f"files that are not of a store: {sorted(surplus)}"
        names = {path.name for path in l1.glob("scan_*")} if l1.is_dir() else set()
        assert names <= self.good, f"scans that cannot be there: {sorted(names - self.good)}"
        for scan in names:
            ours = {name: data for name, data in found.items() if scan_of(name) == scan}
            expected = {name: data for name, data in self.reference.items() if scan_of(name) == scan}
            assert ours == expected, f"{scan} differs: {differing(ours, expected)}"
        return names

    def check(self, l1: Path) -> None:
        """The invariant after a run that went through: what is not there is named as failed."""
        missing = (self.good | self.failing) - self.visible(l1)
        assert missing == failed_scans(l1), f"missing {sorted(missing)}, named as failed {sorted(failed_scans(l1))}"

    def check_or_failed(self, l1: Path) -> None:
        """The invariant after a run on a disk that failed: scans that could have been done may be named as failed too."""
        visible, failed = self.visible(l1), failed_scans(l1)
        assert self.failing <= failed
        assert (self.good | self.failing) - visible <= failed, (
            f"neither there nor named: {self.good - visible - failed}"
        )

    def check_whole_scans(self, l1: Path) -> None:
        """All scans that can be there are there, and right."""
        assert self.visible(l1) == self.good

    def check_whole(self, l1: Path) -> None:
        """All that can be there is there, the store's own documents too."""
        self.check(l1)
        found = tree(l1)
        assert found == self.reference, f"differs: {differing(found, self.reference)}"


def fault(check: Callable[[Path], Any], l1: Path) -> list[str]:
    """What a check finds wrong, so that a test can go on and count; nothing if all is right."""
    try:
        check(l1)
    except AssertionError as error:
        return [str(error).partition("\n")[0]]
    return []


def differing(one: dict[str, bytes], other: dict[str, bytes]) -> list[str]:
    """Names of the files that are not the same in both."""
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))[:5]


def failed_scans(l1: Path) -> set[str]:
    """Names in ``failures.json``."""
    path = l1 / "failures.json"
    return {line["scan"] for line in json.loads(path.read_bytes())} if path.is_file() else set()


def make_night(
    folder: Path, n_good: int = 2, *, broken: bool = True, shape: tuple[int, int, int, int] = SHAPE, **settings: Any
) -> Night:
    """A night of tiny scans; a broken one, which lacks its OFFs, is the second."""
    writer = L0Writer(folder / "l0.zarr", {})
    failing = set()
    for number in range(FIRST, FIRST + n_good + broken):
        scan = tiny_scan(number, shape)
        if broken and number == FIRST + 1:
            scan.source["sobsmode"] = ["ON"] * 5
            failing.add(f"scan_{number:06d}")
        scan.write(writer, "int32")
    night = Night(folder / "l0.zarr", {}, failing)
    night.run(folder / "reference.zarr", **settings)
    night.reference = tree(folder / "reference.zarr")
    shutil.rmtree(folder / "reference.zarr.run")
    assert {scan_of(name) for name in night.reference} - {""} == {
        f"scan_{n:06d}" for n in range(FIRST, FIRST + n_good + broken)
    } - failing
    return night
