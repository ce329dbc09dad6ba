"""What runs note of a store: the scans that failed, and a line for each scan that was tried.

Several runs, the tasks of a batch job for instance, may share one store and end at the same moment. So each failure is
a file of its own in ``<L1>.run/failures``, ``failures.json`` is made from these files whenever they have changed, and
lines of ``report.jsonl`` are appended whole. No locks are needed for the failures to be right.
"""

from __future__ import annotations

import contextlib
import json
import logging
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import google_crc32c

from calib_gpu.errors import OutputError
from calib_gpu.store import disk, system

log = logging.getLogger("calib_gpu")

MARK: Final = ".from-failures-json"
"""Keeps the folder of failures from being empty, for a rename replaces an empty folder."""


MAX_BYTES: Final = 64 * 1024 * 1024

Replace = Callable[[Path, bytes], None]
"""Writes a file so that it is the old or the new one."""


class RunRecords:
    """Failures and report lines of one L1 store; ``run`` is the folder beside it.

    Raises
    ------
    OutputError
        The folder cannot be written.
    """

    def __init__(self, l1: Path, run: Path, replace: Replace = disk.replace_file) -> None:
        self.path, self._report, self._folder = l1 / "failures.json", run / "report.jsonl", run / "failures"
        self._replace = replace
        self._unwritten: dict[str, Mapping[str, Any] | None] = {}
        if not disk.is_dir(self._folder):
            self._adopt(run)

    def _adopt(self, run: Path) -> None:
        """Make the folder from ``failures.json``, where the folder was deleted; of several runs the first one does."""
        entries = read_failures(self.path)
        fresh = run / f"failures.{secrets.token_hex(4)}" if entries else self._folder
        disk.make_dirs(fresh)
        with contextlib.suppress(OutputError):  # another run, that makes the same folder, was faster
            disk.write_file(fresh / MARK, b"")
        if not entries:
            return
        for entry in entries:
            disk.write_file(fresh / _name(entry["scan"]), _dump(entry))
        disk.make_durable(fresh)
        if not disk.rename(fresh, self._folder):
            disk.remove_tree(fresh)

    def report(self, line: Mapping[str, Any]) -> None:
        """Append a line to ``report.jsonl``; that it cannot be written is no reason to stop."""
        try:
            disk.append_line(self._report, json.dumps(line, allow_nan=False).encode())
        except OutputError as error:
            log.warning("%s has no line in the report: %s", line.get("scan"), error)

    def failed(self, scan: str, stage: str, error: str, message: str) -> None:
        """Note that a scan failed."""
        self._note(scan, {"scan": scan, "stage": stage, "error": error, "message": message})

    def done(self, scan: str) -> None:
        """Note that a scan is in the store."""
        self._note(scan, None)

    def forget(self, stale: Callable[[str], bool]) -> None:
        """Take back the failures of scans of which ``stale`` says that they are none."""
        for entry in self.failures():
            if stale(str(entry["scan"])):
                self.done(str(entry["scan"]))

    def _note(self, scan: str, entry: Mapping[str, Any] | None) -> None:
        """Write or remove the file of a scan; what a full disk does not take is tried again by :meth:`publish`."""
        self._unwritten.pop(scan, None)
        try:
            self._write(scan, entry)
        except OutputError:
            self._unwritten[scan] = entry

    def _write(self, scan: str, entry: Mapping[str, Any] | None) -> None:
        if entry is None:
            _remove(self._folder / _name(scan))
        else:
            self._replace(self._folder / _name(scan), _dump(entry))

    def publish(self) -> None:
        """Bring ``failures.json`` up to date: absent if no scan has failed.

        A run that notes a failure calls this afterwards, and looks again after it has written: so whichever run writes
        last has seen all that was noted before.
        """
        for scan, entry in list(self._unwritten.items()):
            self._note(scan, entry)
        seen = None
        while (found := self._state()) != seen:
            seen = found
            entries = sorted(self.failures(), key=lambda entry: str(entry["scan"]))
            if not entries:
                _remove(self.path)
                continue
            text = json.dumps(entries, indent=1).encode() + b"\n"
            if disk.measure(self.path) != (len(text), google_crc32c.value(text)):
                self._replace(self.path, text)

    def failures(self) -> list[dict[str, Any]]:
        """The failures that are noted: of each scan that of its last try."""
        found = {name: self._noted(name) for name in self._state()}
        found |= {_name(scan): [] if entry is None else [dict(entry)] for scan, entry in self._unwritten.items()}
        return [entry for entries in found.values() for entry in entries]

    def _noted(self, name: str) -> list[dict[str, Any]]:
        """The failure in a file of the folder: one that cannot be read is that of the scan in its name all the same."""
        try:
            return _read(self._folder / name)
        except OSError as error:
            what = f"cannot be read: {error.strerror}"
        except (ValueError, RecursionError):
            what = "is damaged"
        scan = name.removesuffix(".json").replace(".", "/", 1)
        message = f"{scan}: failed, but the note of its failure {what}; run again"
        return [{"scan": scan, "stage": "", "error": "Unreadable", "message": message}]

    def _state(self) -> dict[str, tuple[int, int]]:
        """Name, number and time of the file of each failure; OutputError if they cannot be listed."""
        found = {}
        try:
            with contextlib.suppress(FileNotFoundError), system.scandir(self._folder) as entries:
                for entry in entries:
                    if entry.name.endswith(".json"):
                        with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                            status = entry.stat()
                            found[entry.name] = (status.st_ino, status.st_mtime_ns)
        except OSError as error:
            raise disk.cannot_read(self._folder, error) from None
        return found


def noted_failures(l1: Path, run: Path) -> list[dict[str, Any]]:
    """The failures that are noted beside a store, without making anything; those of ``failures.json`` before a first run."""
    folder = run / "failures"
    if not folder.is_dir():
        return read_failures(l1 / "failures.json")
    return [entry for path in sorted(folder.glob("*.json")) for entry in read_failures(path)]


def read_failures(path: Path) -> list[dict[str, Any]]:
    """Entries of a ``failures.json``; none if it is absent or damaged, OutputError if the disk does not give it."""
    try:
        return [entry for entry in _read(path) if isinstance(entry.get("scan"), str)]
    except (ValueError, RecursionError):
        return []
    except OSError as error:
        raise disk.cannot_read(path, error) from None


def _read(path: Path) -> list[dict[str, Any]]:
    """Entries of a file, none if it is absent; ValueError or RecursionError if it is damaged, OSError as the system has it."""
    try:
        found = json.loads(disk.read_file(path, MAX_BYTES))
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [entry for entry in (found if isinstance(found, list) else [found]) if isinstance(entry, dict)]


def _remove(path: Path) -> None:
    """Remove a file; a rerun in which nothing has changed changes nothing."""
    if disk.exists(path):
        disk.remove_file(path)


def _dump(entry: Mapping[str, Any]) -> bytes:
    return json.dumps(entry).encode() + b"\n"


def _name(scan: str) -> str:
    """File name of a scan or band: its group path with dots."""
    return scan.replace("/", ".") + ".json"
