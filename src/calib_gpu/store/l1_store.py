"""An L1 store that is there: its scans, and whether its files are what was written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from calib_gpu.errors import StoreUnusable, Unreadable
from calib_gpu.records import ScanId
from calib_gpu.store import disk, guard
from calib_gpu.store.documents import dump_json, sealed
from calib_gpu.store.guard import SCAN_NAME
from calib_gpu.store.kinds import L1_FORMAT, described, refuse_no_folder, refuse_other_kind
from calib_gpu.store.metadata import group_attrs, read_json


def published_scans(l1: Path) -> list[ScanId]:
    """Scans and bands of an L1 store, in their order.

    Raises
    ------
    StoreUnusable
        ``l1`` is not an L1 store.
    """
    refuse_no_folder(l1, "L1")
    try:
        attrs = group_attrs(l1)
    except Unreadable as error:
        raise _damaged(l1) if looks_like_l1(l1) else StoreUnusable(str(error)) from None
    if attrs.get("format") != L1_FORMAT and looks_like_l1(l1):
        raise _damaged(l1)
    refuse_other_kind(l1, "L1")
    if attrs.get("format") != L1_FORMAT:
        raise _not_l1(l1)
    return _scans_below(l1)


def _damaged(l1: Path) -> StoreUnusable:
    fix = f"look with calib-gpu check; calib-gpu run L0 {l1} --overwrite writes it anew"
    return StoreUnusable("the document of this L1 store is damaged", array=str(l1 / "zarr.json"), fix=fix)


def _not_l1(path: Path) -> StoreUnusable:
    return StoreUnusable(f"not an L1 store{described(path)}", array=str(path), rule=f"attribute format = {L1_FORMAT}")


def _scans_below(l1: Path) -> list[ScanId]:
    scans = []
    for folder in sorted(l1.glob("scan_*")):
        if not (match := SCAN_NAME.fullmatch(folder.name)):
            continue
        bands = sorted(b.name for b in folder.glob("band_*") if (b / "zarr.json").is_file())
        scans += [ScanId(int(match[1]), band) for band in bands] or [ScanId(int(match[1]))]
    return sorted(scans)


def looks_like_l1(path: Path) -> bool:
    """True for an L1 store, be its top document sound or not: then its scans tell, which list their files."""
    if format_of(path) == L1_FORMAT:
        return True
    return path.is_dir() and any(b'"files": {' in _head(path / s.path / "zarr.json") for s in _scans_below(path)[:10])


def _head(document: Path) -> bytes:
    try:
        handle, size = guard.open_file(document, str(document))
    except (FileNotFoundError, Unreadable):
        return b""
    with os.fdopen(handle, "rb") as file:
        return file.read(min(size, guard.MAX_DOCUMENT_BYTES))


def format_of(folder: Path) -> Any:
    """What the document of a store says that it is; None if it cannot be read."""
    try:
        return group_attrs(folder).get("format")
    except Unreadable:
        return None


def check_store(l1: Path) -> tuple[int, list[str]]:
    """Number of scans in an L1 store, and the files that are not what was written (paths inside the store).

    The top document may be one of them.

    Raises
    ------
    StoreUnusable
        Neither the top document nor any scan is that of an L1 store.
    """
    if not looks_like_l1(l1):
        raise _not_l1(l1)
    scans = _scans_below(l1)
    groups = [l1, *sorted({(l1 / scan.path).parent for scan in scans if scan.band})]
    bad = [(g / "zarr.json").relative_to(l1).as_posix() for g in groups if not _document_intact(g)]
    for scan in scans:
        bad += [f"{scan.path}/{name}" for name in differing_files(l1 / scan.path)]
    return len(scans), bad


def differing_files(folder: Path) -> list[str]:
    """Files of a published scan that are missing, surplus, or differ from the digests written with it."""
    if not _document_intact(folder):
        return ["zarr.json"]
    files = group_attrs(folder).get("files")
    if not isinstance(files, dict):
        return ["zarr.json"]
    found = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_symlink() or not p.is_dir()}
    found.discard("zarr.json")
    bad = found ^ set(files)
    for name in found & set(files):
        size, crc = disk.measure(folder / name)
        if files[name] != f"{size}:{crc:08x}":
            bad.add(name)
    return sorted(bad)


def _document_intact(folder: Path) -> bool:
    path = folder / "zarr.json"
    try:
        return path.read_bytes() == dump_json(sealed(read_json(path))[0])
    except (Unreadable, LookupError, TypeError, ValueError, OSError):
        return False
