"""The memory plan of a run: tiles, slots and bytes of every scan, from metadata alone; no GPU is needed."""

from __future__ import annotations

import math
from pathlib import Path

from calib_gpu.encoded import CODEC
from calib_gpu.inspection.tables import Table, size_text
from calib_gpu.modes import detect_mode
from calib_gpu.records import CountGroup, ScanId
from calib_gpu.schema import SUBSCAN_CLASSES
from calib_gpu.selection import select_scans
from calib_gpu.settings import Settings
from calib_gpu.store.l0 import open_l0
from calib_gpu.store.l0_group import subscan_class
from calib_gpu.tile_plan import TilePlan, device_plan
from calib_gpu.workers import usable_cores

COLUMNS = (
    "scan",
    "channels",
    "dumps",
    "pixels",
    "ON",
    "pixels/tile",
    "tiles",
    "tile",
    "slots",
    "device",
    "page-locked",
)


def plan_store(path: Path, settings: Settings, numbers: list[int] | None = None) -> Table:
    """What a run of a store would allocate on a GPU, scan by scan.

    Raises
    ------
    StoreUnusable, ScanFailure
        The store, or a scan of it, cannot be read.
    """
    store = open_l0(path, settings)
    workers = settings.workers or usable_cores()
    rows, most = [], 0
    for scan in select_scans(store, numbers):
        source = store.group(scan, "source")
        plan = _plan(source, settings, workers)
        most = max(most, plan.device_bytes)
        rows.append(_row(scan, source, plan))
    limit = f" of {size_text(settings.device_memory)} allowed" if settings.device_memory else ""
    notes = [
        f"{workers} workers; the largest scan takes {size_text(most)} of GPU memory{limit}",
        "beside it: what loads and OFFs (a pixel of a subscan, at least 8 MB) and the fit of the water vapour (64 MB) take, "
        "and the CUDA context (some hundred MB)",
    ]
    if settings.gpu_reader != "host":
        notes.append("with gpu_reader a slot takes its input once more, and about three times its counts for nvCOMP")
    if settings.codec_used == CODEC:
        notes.append(f"with codec {CODEC} a slot takes its spectra once more, and about six times that for nvCOMP")
    return Table(
        f"Tiles on a GPU: {path.name}", COLUMNS, rows,
        tuple(notes),
    )  # fmt: skip


def _plan(source: CountGroup, settings: Settings, workers: int) -> TilePlan:
    c, d, r, a, _ = source.shape
    classes = [subscan_class(str(v)) for v in source.arrays["sobsmode"].ravel()]
    n_off = sum(SUBSCAN_CLASSES.get(name) == "OFF" for name in classes)
    only_mean = detect_mode(classes, settings.mode).off_is_mean or settings.tp_ref == "mean" or d == 1
    offs = [8 * c * r * a * n_off] * (1 if only_mean else 2)
    return device_plan(source, settings, offs, 2, workers)


def _row(scan: ScanId, source: CountGroup, plan: TilePlan) -> tuple[str, ...]:
    c, d, r, a, _ = source.shape
    n_on, largest = len(source.of_kind("ON")), plan.largest
    tiles = n_on * math.ceil(r / largest.r) * math.ceil(a / largest.a)
    return (
        str(scan), str(c), str(d), f"{r} x {a}", str(n_on), f"{largest.r} x {largest.a}", str(tiles),
        size_text(plan.slot_bytes), str(plan.slots), size_text(plan.device_bytes), size_text(plan.device_bytes),
    )  # fmt: skip
