"""The L0 store: which scans there are, their attributes and digests. Groups are read by :mod:`calib_gpu.store.l0_group`."""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any, Final

from calib_gpu import schema
from calib_gpu.errors import StoreUnusable, Unreadable
from calib_gpu.records import CountGroup, ScanId
from calib_gpu.store.chunks import ChunkedArray
from calib_gpu.store.group_files import GroupFiles
from calib_gpu.store.kinds import SCAN_NAME, refuse_no_folder, refuse_other_kind
from calib_gpu.store.l0_group import GroupReader, subscan_class, texts
from calib_gpu.store.metadata import group_attrs, has_array, node_kind

BAND_NAME: Final = re.compile(r"band_[A-Za-z0-9._-]{1,60}")


class L0Store:
    """An L0 session store, opened for reading; nothing below ``path`` is ever written.

    Raises
    ------
    StoreUnusable
        ``path`` is not a Zarr group.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._digests: dict[tuple[str, str], str] = {}
        refuse_no_folder(self.path, "L0")
        try:
            kind = node_kind(self.path)
            self.attrs = group_attrs(self.path)
        except Unreadable as error:
            raise StoreUnusable(str(error), fix="check the store's zarr.json") from None
        if kind != "group":
            rule = "zarr.json (or .zgroup) of a group at the top"
            raise StoreUnusable("not a Zarr group", array=str(path), rule=rule, fix="is this the right directory?")
        refuse_other_kind(self.path, "L0")

    def scan_ids(self) -> list[ScanId]:
        """All scan groups and bands, in the order of their numbers; calibration-only ones too."""
        ids: list[ScanId] = []
        for entry in sorted(os.scandir(self.path), key=lambda e: e.name):
            match = SCAN_NAME.fullmatch(entry.name)
            if not match or entry.name != f"scan_{int(match[1]):06d}" or not entry.is_dir():
                continue
            if not os.access(entry.path, os.R_OK | os.X_OK):
                ids.append(ScanId(int(match[1])))  # the reader names the damage
                continue
            bands = sorted(
                b.name
                for b in os.scandir(entry.path)
                if BAND_NAME.fullmatch(b.name) and b.is_dir() and _is_group(Path(b.path))
            )
            ids += [ScanId(int(match[1]), band) for band in bands] or [ScanId(int(match[1]))]
        return sorted(ids)

    def has(self, scan: ScanId, group: str) -> bool:
        """True if the scan has a ``source`` or ``calibration`` group."""
        return _is_group(self.path / scan.path / group)

    def scan_attrs(self, scan: ScanId) -> dict[str, Any]:
        """Attributes of the store, those of the scan over them, those of the band over these."""
        attrs = {**self.attrs, **group_attrs(self.path / f"scan_{scan.number:06d}")}
        return attrs | group_attrs(self.path / scan.path) if scan.band else attrs

    def group(self, scan: ScanId, name: str) -> CountGroup:
        """Metadata of ``source`` or ``calibration``: every small array is read, the counts are opened."""
        table = schema.L0_SOURCE if name == "source" else schema.L0_CALIBRATION
        reader = GroupReader(self.path / scan.path / name, name, table, self.scan_attrs(scan))
        self._digests[scan.path, name] = self._digest(scan, reader.files)
        return reader.read()

    def subscan_classes(self, scan: ScanId, group: str) -> list[str] | None:
        """The sobsmode strings of ``source`` or ``calibration``, cleaned; None if the array is missing.

        Cheap: for telling science scans.
        """
        array = self.path / scan.path / group / "sobsmode"
        if not has_array(array):
            return None
        values = ChunkedArray(array, f"{group}/sobsmode", absent_is_fill=True).values()
        return [subscan_class(text) for text in texts(values)]

    def input_digest(self, scan: str, group: str) -> str:
        """sha256 over a group's metadata, its small arrays, name and size of every file of its counts, and attributes.

        It sees any change of metadata, times or layout, and of the attributes of scan and store that the engine reads; the
        bytes of the counts are not read for it. It is that of what :meth:`group` read, where that was called.
        """
        if (scan, group) not in self._digests:
            number, _, band = scan.removeprefix("scan_").partition("/")
            files = GroupFiles(self.path / scan / group, counts="data_5d")
            self._digests[scan, group] = self._digest(ScanId(int(number), band), files)
        return self._digests[scan, group]

    def _digest(self, scan: ScanId, files: GroupFiles) -> str:
        attrs = self.scan_attrs(scan)
        read = {name: attrs[name] for name in schema.READ_ATTRIBUTES if name in attrs}
        return hashlib.sha256((files.digest + json.dumps(read, sort_keys=True)).encode()).hexdigest()


def _is_group(path: Path) -> bool:
    try:
        return node_kind(path) == "group"
    except Unreadable:
        return True  # let the reader name the damage
