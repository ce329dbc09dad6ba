"""What is in an L0 or L1 store, as tables of text: the logic behind ``calib-gpu inspect``."""

from __future__ import annotations

from pathlib import Path

from calib_gpu.errors import StoreUnusable
from calib_gpu.inspection.l0 import l0_overview, l0_scan
from calib_gpu.inspection.l1 import l1_tables
from calib_gpu.inspection.tables import Table, chosen
from calib_gpu.records import ScanId
from calib_gpu.settings import Settings
from calib_gpu.store.kinds import kind_of, refuse_no_folder
from calib_gpu.store.l0 import open_l0

__all__ = ["Table", "inspect_store"]


def inspect_store(path: Path, which: ScanId | None, settings: Settings) -> list[Table]:
    """Tables about a store, or about one scan of it.

    Raises
    ------
    StoreUnusable
        ``path`` is no Zarr group.
    ConfigError
        The scan is not in the store.
    """
    refuse_no_folder(path, "L0 or L1")
    if kind_of(path) == "L1":
        return l1_tables(path, which)
    store = open_l0(path, settings)
    ids = store.scan_ids()
    if not ids:
        raise StoreUnusable("holds no scans", array=str(path), rule="groups named scan_NNNNNN")
    if which is None:
        return [l0_overview(store, ids, settings)]
    return [table for scan in chosen(ids, which, path) for table in l0_scan(store, scan, settings)]
