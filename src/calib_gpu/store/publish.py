"""Publishing: scans are staged beside the store and appear in it by one rename each; what is visible is complete.

``<L1>.run/`` beside the store holds all that is not Zarr: ``report.jsonl`` and ``staging/<run>/``, one folder for
each running process, which holds a lock on it. Folders whose lock is free are left-overs and are removed at start.
"""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
from pathlib import Path
from typing import Any

from calib_gpu._version import __version__
from calib_gpu.errors import OutputError, StoreUnusable, Unreadable
from calib_gpu.records import ScanId
from calib_gpu.store import disk
from calib_gpu.store.documents import dump_json, group_document, sealed
from calib_gpu.store.kinds import L1_FORMAT, SCAN_NAME, kind_of, refuse_no_folder, refuse_other_kind
from calib_gpu.store.metadata import group_attrs, read_json

log = logging.getLogger("calib_gpu")

FORMAT_VERSION = "1.0"
ENGINE = "calib-gpu"


def run_folder(l1: Path) -> Path:
    """``<L1>.run`` beside the store."""
    return l1.with_name(l1.name + ".run")


class Publisher:
    """The L1 store of one run: staging, publishing, what is done already.

    Raises
    ------
    OutputError
        The folder cannot be written, or is something else than an L1 store.
    """

    def __init__(self, l1: Path, input_name: str, config: dict[str, Any], *, overwrite: bool) -> None:
        self.path, self.run = l1, run_folder(l1)
        attrs = {
            "format": L1_FORMAT, "format_version": FORMAT_VERSION, "engine": ENGINE, "engine_version": __version__,
            "config": config, "input_store": input_name,
        }  # fmt: skip
        self._refuse_foreign()
        disk.make_dirs(self.run / "staging")
        self._remove_leftovers()
        self._staging, self._lock = self._claim()
        try:
            self._create_store(attrs, overwrite)
        except BaseException:
            self.close()
            raise

    def _refuse_foreign(self) -> None:
        if (self.path / "zarr.json").is_file():
            foreign = group_attrs(self.path).get("format") != L1_FORMAT
        else:
            foreign = self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir()))
        if foreign:
            raw = kind_of(self.path) == "L0"
            raise OutputError(
                f"exists and is not an L1 store of this engine{': these are raw counts (L0)' if raw else ''}",
                array=str(self.path),
                fix="give another output path" + (", the second one: calib-gpu run L0 L1" if raw else ""),
            )

    def _create_store(self, attrs: dict[str, Any], overwrite: bool) -> None:
        document, path = dump_json(sealed(group_document(attrs))[0]), self.path / "zarr.json"
        disk.make_dirs(self.path)
        if not path.is_file() or (overwrite and path.read_bytes() != document):
            disk.replace_file(path, document)

    def _claim(self) -> tuple[Path, int | None]:
        """A staging folder of our own and its lock; taken anew if another run cleaned it up before it was locked.

        Where the file system has no locks it goes on without: they only save work, the rename is what counts.
        """
        for _ in range(3):
            folder = self.run / "staging" / f"{os.getpid()}-{secrets.token_hex(4)}"
            disk.make_dirs(folder)
            lock = _lock(folder)
            if lock is not None and folder.is_dir():
                return folder, lock
            if lock is not None:
                os.close(lock)
            disk.remove_tree(folder)
        return folder, None

    def _remove_leftovers(self) -> None:
        for folder in (self.run / "staging").iterdir():
            if folder.is_dir() and (lock := _lock(folder)) is not None:
                disk.remove_tree(folder)
                os.close(lock)

    def done(self, scan: ScanId) -> dict[str, Any] | None:
        """Attributes of a published scan, None if there is none."""
        if not (self.path / scan.path / "zarr.json").is_file():
            return None
        try:
            return group_attrs(self.path / scan.path)
        except Unreadable:
            return {}

    def stage(self, scan: ScanId) -> Path:
        """A fresh staging folder for a scan."""
        folder = self._staging / scan.path.replace("/", ".")
        disk.remove_tree(folder)
        return folder

    def publish(self, scan: ScanId, staged: Path, *, overwrite: bool) -> bool:
        """Move a staged scan into the store by one rename; False if another run published the same scan first.

        With ``overwrite`` the scan that stands there is moved out of the store first.
        """
        disk.make_durable(staged, self._lock)
        target = self.path / scan.path
        if scan.band and not (target.parent / "zarr.json").is_file():
            disk.make_dirs(target.parent)
            disk.replace_file(target.parent / "zarr.json", dump_json(sealed(group_document({}))[0]))
        if overwrite and target.is_dir():
            disk.rename(target, self._staging / f"replaced-{secrets.token_hex(4)}")
        if disk.rename(staged, target):
            try:
                disk.sync_dir(target.parent)
            except OutputError as error:  # it is there and complete: not a failure of the scan
                log.warning("%s is published, but the file system did not confirm it: %s", scan, error)
            return True
        mine, theirs = group_attrs(staged), group_attrs(target)
        disk.remove_tree(staged)
        if mine.get("digest") != theirs.get("digest"):
            raise OutputError(
                "another run published this scan with other settings",
                array=str(target),
                fix="use one output store for one set of settings",
            )
        return False

    def close(self) -> None:
        """Remove this run's staging folder and give up its lock."""
        disk.remove_tree(self._staging)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _lock(folder: Path) -> int | None:
    """Take the lock of a staging folder; None if its owner is alive."""
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    return handle


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
        raise StoreUnusable(str(error)) from None
    refuse_other_kind(l1, "L1")
    if attrs.get("format") != L1_FORMAT:
        raise StoreUnusable(
            "not an L1 store", array=str(l1), rule=f"attribute format = {L1_FORMAT}", fix="is this the right directory?"
        )
    scans = []
    for folder in sorted(l1.glob("scan_*")):
        if not (match := SCAN_NAME.fullmatch(folder.name)):
            continue
        bands = sorted(b.name for b in folder.glob("band_*") if (b / "zarr.json").is_file())
        scans += [ScanId(int(match[1]), band) for band in bands] or [ScanId(int(match[1]))]
    return sorted(scans)


def check_store(l1: Path) -> tuple[int, list[str]]:
    """Number of scans in an L1 store, and the files that are not what was written (paths inside the store)."""
    scans = published_scans(l1)
    groups = [l1, *sorted({(l1 / scan.path).parent for scan in scans if scan.band})]
    bad = [(g / "zarr.json").relative_to(l1).as_posix() for g in groups if not _document_intact(g)]
    for scan in scans:
        bad += [f"{scan.path}/{name}" for name in differing_files(l1 / scan.path)]
    return len(scans), bad
