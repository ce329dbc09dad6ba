"""Publishing: scans are staged beside the store and appear in it by one rename each; what is visible is complete.

``<L1>.run/`` beside the store holds all that is not Zarr: what runs note (:mod:`calib_gpu.store.run_records`) and
``staging/<run>/``, one folder for each running process, which holds a lock on it. Folders whose lock is free are
left-overs and are removed at start.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import threading
from pathlib import Path
from typing import Any

import google_crc32c

from calib_gpu._version import __version__
from calib_gpu.errors import OutputError, Stopped, Unreadable
from calib_gpu.records import ScanId
from calib_gpu.store import disk, system
from calib_gpu.store.documents import dump_json, group_document, sealed
from calib_gpu.store.kinds import L1_FORMAT, kind_of
from calib_gpu.store.l1_store import format_of, looks_like_l1
from calib_gpu.store.metadata import group_attrs

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
        self._gate, self._closed = threading.Lock(), False
        self._handles: dict[Path, int] = {}
        self._refuse_foreign(overwrite=overwrite)
        try:
            disk.make_dirs(self.run / "staging")
        except OutputError as error:
            error.array, error.rule = str(l1), f"{self.run.name} is made beside it"
            raise
        self._remove_leftovers()
        self._staging, self._lock = self._claim()
        try:
            self._create_store(attrs, overwrite)
        except BaseException:
            self.close()
            raise

    def _refuse_foreign(self, *, overwrite: bool) -> None:
        # what is there is asked before the document, which another run may be writing as the first file of all
        if not disk.exists(self.path) or (disk.is_dir(self.path) and not disk.entries(self.path)):
            return
        foreign = True
        if disk.is_file(self.path / "zarr.json"):
            foreign = format_of(self.path) != L1_FORMAT
            if foreign and looks_like_l1(self.path):
                if overwrite:
                    return
                raise OutputError(
                    "the document of this L1 store is damaged", array=str(self.path / "zarr.json"),
                    fix="look with calib-gpu check; --overwrite writes it anew (with --scans N for that scan only)",
                )  # fmt: skip
        if foreign:
            raw = kind_of(self.path) == "L0"
            raise OutputError(
                f"exists and is not an L1 store of this engine{': these are raw counts (L0)' if raw else ''}",
                array=str(self.path),
                fix="give another output path" + (", the second one: calib-gpu run L0 L1" if raw else ""),
            )

    def _create_store(self, attrs: dict[str, Any], overwrite: bool) -> None:
        document, path = dump_json(sealed(group_document(attrs))[0]), self.path / "zarr.json"
        if not disk.is_file(path):
            disk.make_dirs(self.path, durable=True)
            self.replace_file(path, document)
        elif overwrite and disk.measure(path) != (len(document), google_crc32c.value(document)):
            self.replace_file(path, document)

    def replace_file(self, path: Path, data: bytes) -> None:
        """Write a file of the store so that it is the old or the new one; what a killed run leaves lies in its staging."""
        disk.replace_file(path, data, self._staging)

    def _claim(self) -> tuple[Path, int | None]:
        """A staging folder of our own and its lock; taken anew if another run cleaned it up before it was locked.

        Where the file system has no locks it goes on without: they only save work, the rename is what counts.
        """
        for _ in range(3):
            folder = self.run / "staging" / f"{os.getpid()}-{secrets.token_hex(4)}"
            disk.make_dirs(folder)
            lock, kept = _lock(folder), False
            try:
                kept = lock is not None and disk.is_dir(folder)
            finally:
                if not kept:
                    disk.remove_tree(folder)
                    if lock is not None:
                        system.close(lock)
            if kept:
                return folder, lock
        disk.make_dirs(folder)
        return folder, None

    def _remove_leftovers(self) -> None:
        for name in disk.entries(self.run / "staging"):
            folder = self.run / "staging" / name
            if disk.is_dir(folder) and (lock := _lock(folder)) is not None:
                # moved first: where locks do not hold across nodes its owner may live, and must not find a part of it
                dead = folder.with_name(f"left-over-{secrets.token_hex(4)}")
                try:
                    with contextlib.suppress(OutputError):
                        disk.rename(folder, dead)
                    disk.remove_tree(dead)
                finally:
                    system.close(lock)

    def done(self, scan: ScanId) -> dict[str, Any] | None:
        """Attributes of a published scan, None if there is none.

        Raises
        ------
        OutputError
            Its document cannot be read, so that nobody can tell how it was made.
        """
        path = self.path / scan.path / "zarr.json"
        if not disk.is_file(path):
            return None
        try:
            return group_attrs(path.parent)
        except Unreadable as error:
            fix = f"look with calib-gpu check; --overwrite --scans {scan.number} replaces it"
            raise OutputError(f"how it was made cannot be told: {error.what}", array=str(path), fix=fix) from None

    def settings_digest(self, scan: ScanId) -> str | None:
        """That of the settings which a published scan was made with; None if that cannot be told."""
        try:
            return (self.done(scan) or {}).get("settings_digest")
        except OutputError:
            return None

    def stage(self, scan: ScanId) -> Path:
        """A fresh staging folder for a scan; several may be filled at a time."""
        folder = self._staging / scan.path.replace("/", ".")
        self.discard(folder)
        with contextlib.suppress(OSError):
            # each scan hears by a handle of its own of what the file system could not write since then: what is told on
            # one because of another scan is told on its own as well
            self._handles[folder] = system.open(self._staging, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        return folder

    def discard(self, staged: Path) -> None:
        """Remove a staging folder."""
        disk.remove_tree(staged)
        self._let_go(staged)

    def _let_go(self, staged: Path) -> None:
        handle = self._handles.pop(staged, None)
        if handle is not None:
            system.close(handle)

    def publish(self, scan: ScanId, staged: Path, *, overwrite: bool) -> bool:
        """Move a staged scan into the store by one rename; False if another run published the same scan first.

        With ``overwrite`` it changes places with the scan that stands there. Whether it is there is told by its digest, for
        a file system on the network can lose the reply of a rename that was done. Nothing is published after :meth:`close`.
        """
        disk.make_durable(staged, self._handles.get(staged))
        if gone := _gone(staged):
            raise OutputError(
                "files of the staged scan are gone", array=str(staged), value=", ".join(gone[:3]),
                fix="do locks hold across nodes? (docs/hpc.md)",
            )  # fmt: skip
        with self._gate:
            if self._closed:
                raise Stopped("the run was given up")
            moved = self._move(scan, staged, overwrite=overwrite)
            self._let_go(staged)
            return moved

    def _move(self, scan: ScanId, staged: Path, *, overwrite: bool) -> bool:
        target, mine = self.path / scan.path, _digest(staged)
        group = target.parent
        if scan.band and not disk.is_file(group / "zarr.json") and self._publish_first_band(staged, target):
            return True
        try:
            moved = self._replace(staged, target) if overwrite and disk.is_dir(target) else disk.rename(staged, target)
        except OutputError:
            if _digest(target) != mine:
                raise
            moved = True
        theirs = mine if moved else _digest(target)
        moved = moved or not disk.exists(staged)
        if moved and theirs == mine:
            self._confirm(scan, group)  # before what was replaced is removed: a power loss must not leave that half
        disk.remove_tree(staged)
        if theirs != mine:
            raise OutputError(
                "another run published this scan with other settings" if theirs else "is there, but is no scan",
                array=str(target),
                fix="use one output store for one set of settings, or --overwrite",
            )
        return moved

    def _publish_first_band(self, staged: Path, target: Path) -> bool:
        """Publish a band together with the group of its scan, so that no scan without bands is ever seen."""
        scan = self._staging / f"{target.parent.name}-{secrets.token_hex(4)}"
        disk.write_file(scan / "zarr.json", dump_json(sealed(group_document({}))[0]))
        disk.rename(staged, scan / target.name)
        disk.make_durable(scan, self._handles.get(staged))
        if disk.rename(scan, target.parent):
            self._confirm(target, target.parent.parent)
            return True
        disk.rename(scan / target.name, staged)  # another run made the group meanwhile
        return False

    def _replace(self, staged: Path, target: Path) -> bool:
        """Put a staged scan in the place of another, in one step where the file system can do that."""
        if disk.exchange(staged, target):
            return True
        aside = self._staging / f"replaced-{secrets.token_hex(4)}"
        disk.rename(target, aside)
        try:
            return disk.rename(staged, target)
        except OutputError:
            disk.rename(aside, target)  # rather the old scan than none
            raise

    @staticmethod
    def _confirm(what: object, folder: Path) -> None:
        """Make an entry of the store durable; it is there and complete, so that no failure of this is one of the scan."""
        try:
            disk.sync_dir(folder)
        except OutputError as error:
            log.warning("%s is published, but the file system did not confirm it: %s", what, error)

    def close(self, wait_s: float = -1.0) -> None:
        """Remove this run's staging folder and give up its lock; nothing is published any more.

        ``wait_s`` bounds the wait for a rename that is going on (-1: no bound); after it all is left as it is.
        """
        if not self._gate.acquire(timeout=wait_s):
            return
        try:
            self._closed = True
        finally:
            self._gate.release()
        disk.remove_tree(self._staging)
        for staged in list(self._handles):
            self._let_go(staged)
        if self._lock is not None:
            system.close(self._lock)
            self._lock = None


def _digest(folder: Path) -> str | None:
    """The digest that stands in the document of a scan; None if there is none."""
    try:
        return group_attrs(folder).get("digest")
    except Unreadable:
        return None


def _lock(folder: Path) -> int | None:
    """Take the lock of a staging folder; None if its owner is alive, or where there are no locks."""
    try:
        handle = system.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        system.lock(handle)
    except OSError:
        system.close(handle)
        return None
    return handle


def _gone(staged: Path) -> list[str]:
    """Files that the document of a staged scan lists and that are not there in their size."""
    if not disk.is_file(staged / "zarr.json"):
        return ["zarr.json"]

    def size(name: str) -> int:
        try:
            return system.stat(f"{staged}/{name}").st_size
        except OSError:
            return -1

    files = group_attrs(staged).get("files", {})
    return [name for name, mark in files.items() if size(name) != int(mark.partition(":")[0])]


def scans_in_work(l1: Path) -> list[str]:
    """Scans that running processes are staging: in a folder whose lock is held."""
    found = []
    for folder in (run_folder(l1) / "staging").glob("*-*"):
        lock = _lock(folder)
        if lock is None:
            found += [path.name.replace(".", "/", 1) for path in folder.glob("scan_*")]
        else:
            system.close(lock)
    return sorted(found)
