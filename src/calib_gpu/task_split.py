"""Splitting the scans of a store into tasks of about equal cost."""

from __future__ import annotations

import heapq
import math
import re
from collections.abc import Iterable, Mapping
from typing import Final

from calib_gpu.errors import CalibError, ConfigError
from calib_gpu.records import ScanId
from calib_gpu.store.l0 import L0Store
from calib_gpu.store.metadata import array_meta

TASK_BYTES: Final = 32 * 1024**3
"""Counts of a task with ``--array auto``: a minute of work or more, beside which its start is little."""
SCAN_BYTES: Final = 16 * 1024**2
"""What a scan costs beside its counts, as bytes of counts."""
MAX_TASKS: Final = 1000
"""Tasks of an array; SLURM's own limit is 1001 unless the site sets another."""


def scan_cost(store: L0Store, scan: ScanId) -> int:
    """Bytes of counts of a scan, as its metadata tell, and a constant; what cannot be read costs the constant."""
    total = SCAN_BYTES
    for group in ("source", "calibration"):
        try:
            meta = array_meta(store.path / scan.path / group / "data_5d")
        except CalibError:
            continue
        total += math.prod(meta.shape) * (meta.dtype.itemsize if meta.dtype is not None else 1)
    return total


def costs_by_number(store: L0Store, scans: Iterable[ScanId]) -> dict[int, int]:
    """Cost of each scan; the bands of a scan stay together."""
    costs: dict[int, int] = {}
    for scan in scans:
        costs[scan.number] = costs.get(scan.number, 0) + scan_cost(store, scan)
    return costs


def partition(costs: Mapping[int, int], n_tasks: int) -> tuple[tuple[int, ...], ...]:
    """Split scans into tasks of about equal cost: the costliest first, each to the task that has least.

    The longest task takes at most 4/3 of what the best split would (Graham 1969).
    """
    tasks = [(0, k, list[int]()) for k in range(min(n_tasks, len(costs)))]
    for number, cost in sorted(costs.items(), key=lambda item: (-item[1], item[0])):
        total, k, scans = heapq.heappop(tasks)
        heapq.heappush(tasks, (total + cost, k, [*scans, number]))
    return tuple(sorted(tuple(sorted(scans)) for _, _, scans in tasks))


def array_size(array: str, costs: Mapping[int, int]) -> tuple[int, int | None]:
    """Number of tasks, and how many may run at a time, for ``auto``, ``N`` or ``N%M`` (``auto%M``).

    Raises
    ------
    ConfigError
        Not one of these.
    """
    match = re.fullmatch(r"(auto|[1-9]\d{0,3})(?:%([1-9]\d*))?", array)
    if not match or (match[1] != "auto" and int(match[1]) > MAX_TASKS):
        rule = f"auto or a number up to {MAX_TASKS}, then %M for M at a time"
        raise ConfigError("not a size of an array", array="--array", value=array, rule=rule)
    wanted = math.ceil(sum(costs.values()) / TASK_BYTES) if match[1] == "auto" else int(match[1])
    return max(1, min(wanted, len(costs), MAX_TASKS)), int(match[2]) if match[2] else None
