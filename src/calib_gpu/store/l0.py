"""The L0 store: which scans there are, their attributes and digests. Groups are read by :mod:`calib_gpu.store.l0_group`."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calib_gpu import schema
from calib_gpu.errors import BadShape, BadType, StoreUnusable, Unreadable
from calib_gpu.records import CountGroup, ScanId
from calib_gpu.store import guard, reads, system
from calib_gpu.store.chunks import ChunkedArray
from calib_gpu.store.group_files import GroupFiles, counts_state
from calib_gpu.store.guard import BAND_NAME, DEFAULT_LIMITS, Limits
from calib_gpu.store.kinds import refuse_no_folder, refuse_other_kind
from calib_gpu.store.l0_group import GroupReader, group_files, subscan_class, texts
from calib_gpu.store.metadata import GROUP_NODES, array_meta, group_attrs, has_array, node_kind

if TYPE_CHECKING:
    from calib_gpu.settings import Settings


class L0Store:
    """An L0 session store, opened for reading; nothing below ``path`` is ever written. ``limits`` says what is refused.

    Raises
    ------
    StoreUnusable
        ``path`` is not a Zarr group.
    """

    def __init__(self, path: str | os.PathLike[str], limits: Limits = DEFAULT_LIMITS) -> None:
        self.path, self.limits = Path(path), limits
        self._digests: dict[str, str] = {}
        self._states: dict[str, bytes] = {}
        self._unlisted: dict[ScanId, OSError] = {}
        refuse_no_folder(self.path, "L0")
        try:
            kind = node_kind(self.path)
            self.attrs = group_attrs(self.path, limits=limits)
        except Unreadable as error:
            raise StoreUnusable(str(error), fix="check the store's zarr.json") from None
        if kind != "group":
            rule = "zarr.json (or .zgroup) of a group at the top"
            raise StoreUnusable("not a Zarr group", array=str(path), rule=rule, fix="is this the right directory?")
        refuse_other_kind(self.path, "L0")

    def scan_ids(self) -> list[ScanId]:
        """All scan groups and bands, in the order of their numbers; calibration-only ones too."""
        ids: list[ScanId] = []
        for entry in self._scan_folders()[0]:
            scan = ScanId(int(entry.name.removeprefix("scan_")))
            try:
                with reads.noted(entry.path), system.scandir(entry.path) as found:
                    bands = sorted(b.name for b in found if BAND_NAME.fullmatch(b.name) and _is_band(b))
                    system.stat(f"{entry.path}/.")
            except (FileNotFoundError, NotADirectoryError):
                bands = []
            except OSError as error:
                self._unlisted.setdefault(scan, error)  # the reader names the damage
                bands = []
            ids += [ScanId(scan.number, band) for band in bands] or [scan]
        return sorted(ids)

    def strange_scans(self) -> dict[str, Unreadable]:
        """What a person would take for scans of this store, but is not read as such: name as shown, and why."""
        return self._scan_folders()[1]

    def _scan_folders(self) -> tuple[list[os.DirEntry[str]], dict[str, Unreadable]]:
        """The folders of scans, and what only looks like one."""
        folders: list[os.DirEntry[str]] = []
        strange: dict[str, Unreadable] = {}
        for entry in self._entries():
            is_folder, named = entry.is_dir(follow_symlinks=False), guard.scan_number(entry.name) is not None
            if is_folder and named:
                folders.append(entry)
            elif named or (guard.looks_like_scan(entry.name) and not entry.is_file(follow_symlinks=False)):
                what = "is a symbolic link" if entry.is_symlink() else "is no folder" if named else "not a scan's name"
                rule = "scan_NNNNNN, a folder of the store itself"
                strange[guard.shown(entry.name)] = Unreadable(what, rule=rule, fix="rename it, or move it away")
            if len(folders) + len(strange) > self.limits.max_scans:
                rule = f"<= {self.limits.max_scans} (max_scans)"
                raise StoreUnusable("too many scans", array=str(self.path), rule=rule)
        return folders, dict(sorted(strange.items()))

    def _entries(self) -> Iterator[os.DirEntry[str]]:
        """What is in the store's folder."""
        try:
            with reads.noted(self.path), system.scandir(self.path) as entries:
                yield from entries
        except OSError as error:
            raise StoreUnusable(f"cannot be read: {error.strerror}", array=str(self.path), fix="run again") from None

    def has(self, scan: ScanId, group: str) -> bool:
        """True if the scan has a ``source`` or ``calibration``, be it a sound one or not: the reader names the damage.

        True also where that cannot be told, for the folder of the scan cannot be read: no scan may be left out in silence.
        """
        try:
            return self.holds(scan, group)
        except Unreadable:
            return True

    def holds(self, scan: ScanId, group: str) -> bool:
        """True if the scan has a ``source`` or ``calibration``; :class:`Unreadable` if that cannot be told."""
        found = guard.is_there(self.path / scan.path / group)
        if not found:
            for folder in {ScanId(scan.number), scan}:
                self._check_listed(folder)
        return found

    def _check_listed(self, scan: ScanId) -> None:
        """:class:`Unreadable` if the folder of a scan or band cannot be listed, or could not when its bands were sought."""
        error = self._unlisted.get(scan) or _denied(self.path / scan.path)
        if error is not None:
            raise reads.failure(error, "cannot be read", array="")

    def scan_attrs(self, scan: ScanId) -> dict[str, Any]:
        """Attributes of the store, those of the scan over them, those of the band over these."""
        top = ScanId(scan.number)
        own = self._attrs_of(top)
        number = own.get("scan_number", scan.number)
        if isinstance(number, bool) or str(number) not in (str(scan.number), f"{scan.number}.0"):
            rule = f"that of the group's name, {scan.number}"
            raise BadType("attribute contradicts the name of the group", array="scan_number", value=number, rule=rule)
        return {**self.attrs, **own, **(self._attrs_of(scan) if scan.band else {})}

    def _attrs_of(self, scan: ScanId) -> dict[str, Any]:
        folder = self.path / scan.path
        guard.check_folders(self.path, Path(scan.path).parts)
        self._check_listed(scan)
        if not any(guard.is_there(folder / name) for name in GROUP_NODES):
            raise Unreadable("document of the group is missing", array=str(folder), rule="zarr.json (or .zgroup)")
        return group_attrs(folder, limits=self.limits)

    def group(self, scan: ScanId, name: str) -> CountGroup:
        """Metadata of ``source`` or ``calibration``: every small array is read, the counts are opened."""
        attrs = self.scan_attrs(scan)
        guard.check_folders(self.path / scan.path, (name,))
        reader = GroupReader(self.path / scan.path / name, name, attrs, self.limits)
        key = f"{scan.path}/{name}"
        self._digests[key], self._states[key] = _digest(attrs, reader.files), reader.files.state
        return reader.read()

    def check_unchanged(self, groups: Iterable[str]) -> None:
        """:class:`Unreadable` if the counts of these groups (``scan_025650/source``) changed since :meth:`group` read them."""
        for name in groups:
            if name in self._states and counts_state(self.path / name, "data_5d") != self._states[name]:
                rule = "sizes and times of all files stay as they are"
                raise Unreadable("changed while it was read", array=name, rule=rule, fix="run again when it is written")

    def forget(self, group: str) -> None:
        """Drop what is kept of a group that is done with (``scan_025650/source``): a night has thousands."""
        self._digests.pop(group, None)
        self._states.pop(group, None)

    def subscan_classes(self, scan: ScanId, group: str) -> list[str] | None:
        """The sobsmode strings of ``source`` or ``calibration``, cleaned; None if the array is missing.

        Cheap: for telling science scans.
        """
        array = self.path / scan.path / group / "sobsmode"
        if not has_array(array):
            return None
        values = ChunkedArray(array, f"{group}/sobsmode", absent_is_fill=False, limits=self.limits).values()
        counts = self.path / scan.path / group / "data_5d"
        if not values.size and has_array(counts) and array_meta(counts).shape[-1:] != (0,):
            raise BadShape("empty", array=f"{group}/sobsmode", value=[0], rule="one a subscan of data_5d")
        return [subscan_class(text) for text in texts(values)]

    def input_digest(self, scan: str, group: str) -> str:
        """sha256 over a group's metadata, its small arrays, name and size of every file of its counts, and attributes.

        It sees any change of metadata, times or layout, and of the attributes of scan and store that the engine reads; the
        bytes of the counts are not read for it. It is that of what :meth:`group` read, where that was called.
        """
        key = f"{scan}/{group}"
        if key not in self._digests:
            number, _, band = scan.removeprefix("scan_").partition("/")
            files = group_files(self.path / scan / group, group)
            self._digests[key] = _digest(self.scan_attrs(ScanId(int(number), band)), files)
        return self._digests[key]


def open_l0(path: str | os.PathLike[str], settings: Settings) -> L0Store:
    """An L0 store, read within the limits of the settings: the one way in which the engine opens one."""
    return L0Store(path, Limits.of(settings))


def _digest(attrs: Mapping[str, Any], files: GroupFiles) -> str:
    read = {name: attrs[name] for name in schema.READ_ATTRIBUTES if name in attrs}
    return hashlib.sha256((files.digest + json.dumps(read, sort_keys=True)).encode()).hexdigest()


def _denied(folder: str | os.PathLike[str]) -> OSError | None:
    """Why the entries of a folder cannot be listed or reached; None if they can, or if there is no such folder."""
    try:
        with reads.noted(folder), system.scandir(folder):
            system.stat(f"{os.fspath(folder)}/.")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        return error
    return None


def _is_band(entry: os.DirEntry[str]) -> bool:
    """True for a band group, be it sound or not: the reader names the damage."""
    if entry.is_symlink():
        return True
    try:
        return entry.is_dir() and (_denied(entry.path) is not None or node_kind(Path(entry.path)) == "group")
    except OSError:
        return True
