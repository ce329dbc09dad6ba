"""Which scans of a store are to be calibrated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from calib_gpu.errors import ConfigError, ScanFailure
from calib_gpu.records import ScanId
from calib_gpu.schema import CHOPPED_PREFIXES, SUBSCAN_CLASSES
from calib_gpu.store.guard import scan_number
from calib_gpu.store.l0 import L0Store

LISTED: Final = 100
"""Most characters of a list of scans in a message."""


def is_science(store: L0Store, scan: ScanId) -> bool:
    """True for scans to be calibrated: ``source`` with ON subscans, or with none of a known class (which then fails)."""
    if not store.has(scan, "source"):
        return False
    try:
        classes = store.subscan_classes(scan, "source")
    except ScanFailure:
        return True
    if classes is None:
        return True  # the reader says what is missing
    if not classes:
        return False
    known = {SUBSCAN_CLASSES[c] for c in classes if c in SUBSCAN_CLASSES}
    return "ON" in known or not known or any(c.startswith(CHOPPED_PREFIXES) for c in classes)


def select_scans(store: L0Store, numbers: Sequence[int] | None) -> list[ScanId]:
    """The science scans of a store, or those of them that are asked for.

    Raises
    ------
    ConfigError
        A number that is asked for is not in the store.
    """
    ids = store.scan_ids()
    if numbers is not None:
        missing = sorted(set(numbers) - {scan.number for scan in ids})
        if missing:
            raise ConfigError(
                "not in the store",
                array="--scans",
                value=", ".join(map(str, missing[:10])),
                rule=f"scans of {store.path.name}: {known(ids)}",
            )
        ids = [scan for scan in ids if scan.number in set(numbers)]
    return [scan for scan in ids if is_science(store, scan)]


def scans_text(numbers: Sequence[int]) -> str:
    """Numbers as option ``--scans`` takes them: neighbours as ranges."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(str(r[0]) if len(r) == 1 else f"{r[0]}-{r[-1]}" for r in runs)


def known(ids: Sequence[ScanId]) -> str:
    """Which scans there are, for a message: what is absent between them is not named, and a long list is cut."""
    text = scans_text(sorted({scan.number for scan in ids})) or "none"
    if len(text) <= LISTED:
        return text
    return f"{text[:LISTED].rpartition(',')[0]},...,{text.rpartition(',')[2]}"


def numbers_without_science(store: L0Store, numbers: Sequence[int] | None, ids: Sequence[ScanId]) -> list[str]:
    """Scans that were asked for by number but are not science scans."""
    if numbers is None:
        return []
    wanted = set(numbers)
    return [str(scan) for scan in store.scan_ids() if scan.number in wanted and scan not in ids]


def others(store: L0Store, numbers: Sequence[int] | None, ids: Sequence[ScanId]) -> Callable[[str], bool]:
    """Tells of a name whether it is that of a scan that was asked for and is not to be calibrated.

    A scan that could not be looked into is taken for one to be calibrated, and fails; the next run knows better.
    """
    chosen = {str(scan) for scan in ids}
    asked = {scan.number for scan in store.scan_ids() if numbers is None or scan.number in set(numbers)}
    return lambda name: name not in chosen and scan_number(name.partition("/")[0]) in asked
