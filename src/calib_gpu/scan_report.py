"""What a run tells: how it goes on, what happened to each scan (a line of ``report.jsonl``, lines of the log), its result."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any, Final

from calib_gpu.errors import Exit, OutputError

TIMINGS: Final = ("load", "resolve", "atm", "prepare", "calibrate", "write")
"""Names of the stages in timings: those of the stages, ``atm`` for atmosphere."""


@dataclass(slots=True)
class ScanReport:
    """What happened to one scan: a line of ``report.jsonl``. A run keeps those of all its scans, so that they are small."""

    scan: str
    status: str = "ok"
    stage: str = ""
    error: str = ""
    message: str = ""
    bytes_read: int = 0
    bytes_written: int = 0
    samples: int = 0
    flag_counts: dict[str, int] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    """How it was run, for the report alone: nothing of it is in L1."""
    pwv_mm: float | None = None
    pwv_status: str = ""
    t_sys_k: float | None = None
    flagged: float = 0.0
    qa_warnings: tuple[str, ...] = ()
    digest: str = ""
    _spent: array[float] = field(default_factory=lambda: array("d", [0.0] * len(TIMINGS)), repr=False)

    @property
    def timings_ms(self) -> Mapping[str, float]:
        """Times of the stages, ms; 0 for those that were not reached."""
        return MappingProxyType(dict(zip(TIMINGS, self._spent, strict=True)))

    def spend(self, stage: str, ms: float) -> None:
        """Add to the time of a stage, one of :data:`TIMINGS`."""
        self._spent[TIMINGS.index(stage)] += ms

    def failure(self) -> dict[str, str]:
        """The entry of ``failures.json``."""
        return {"scan": self.scan, "stage": self.stage, "error": self.error, "message": self.message}

    def as_dict(self) -> dict[str, Any]:
        """The line: stage times under their own names (load_ms, ...), 0 for stages that were not reached."""
        line = {f.name: getattr(self, f.name) for f in fields(self) if not f.name.startswith("_")}
        line["bytes"] = self.bytes_read + self.bytes_written
        return line | {f"{name}_ms": round(ms, 3) for name, ms in self.timings_ms.items()}


def summary_line(line: ScanReport) -> str:
    """The log line of what a scan gave: water vapour, system temperature, flagged samples, QA warnings."""
    pwv = "no atmosphere" if line.pwv_mm is None else f"PWV {line.pwv_mm:.3f} mm ({line.pwv_status})"
    t_sys = "" if line.t_sys_k is None else f", T_sys {line.t_sys_k:.0f} K"
    qa = f", QA: {', '.join(line.qa_warnings)}" if line.qa_warnings else ""
    return f"{line.scan}: {pwv}{t_sys}, {100.0 * line.flagged:.1f} % flagged{qa}"


def timing_line(line: ScanReport) -> str:
    """The log line of a scan: stage times in ms under the names of ``report.jsonl``."""
    if line.status == "skipped":
        return f"{line.scan}: skipped, done with the same settings"
    times = " ".join(f"{name}_ms={ms:.0f}" for name, ms in line.timings_ms.items())
    return f"{line.scan}: {line.status} {times} bytes={line.bytes_read + line.bytes_written}"


class Progress:
    """What a run tells while it goes on; this one tells nothing."""

    def scans(self, total: int) -> None:
        """The number of scans is known."""

    def begin(self, scan: str, samples: int) -> None:
        """The tiles of a scan begin: so many samples."""

    def advance(self, samples: int) -> None:
        """So many samples are calibrated; called from worker threads."""

    def end(self, report: ScanReport) -> None:
        """A scan is done, skipped or has failed."""


@dataclass
class RunReport:
    """Result of a run: a report for each scan, and the exit code that follows.

    ``waiting`` are scans that ``watch`` left, for they were not complete.
    """

    l0: str
    l1: str
    backend: str
    backend_reason: str = ""
    scans: list[ScanReport] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    stopped: bool = False
    unrecorded: bool = False
    seconds: float = 0.0
    _place: dict[str, int] = field(default_factory=dict, repr=False)

    def add(self, line: ScanReport) -> None:
        """Take the report of a scan, in the place of an earlier one of the same scan."""
        place = self._place.setdefault(line.scan, len(self.scans))
        self.scans[place : place + 1] = [line]

    def drop(self, scan: str) -> None:
        """Forget a scan that is not in the store any more."""
        self.scans = [line for line in self.scans if line.scan != scan]
        self._place = {line.scan: k for k, line in enumerate(self.scans)}

    def line(self, scan: str) -> ScanReport | None:
        """The report of the last try of a scan; None before any."""
        return self.scans[self._place[scan]] if scan in self._place else None

    def count(self, *status: str) -> int:
        """Number of scans with one of these states: ok, skipped, failed."""
        return sum(s.status in status for s in self.scans)

    @property
    def failures(self) -> list[ScanReport]:
        """The scans that failed."""
        return [s for s in self.scans if s.status == "failed"]

    @property
    def exit_code(self) -> Exit:
        """0 all scans done, 1 none, 2 some; 73 if nothing, or not the list of failures, could be written; 75 if stopped."""
        if self.stopped:
            return Exit.STOPPED
        if self.unrecorded:
            return Exit.CANNOT_WRITE
        done = self.count("ok", "skipped")
        if done and not self.failures and not self.waiting:
            return Exit.ALL
        if done:
            return Exit.SOME
        if self.failures and all(f.error == OutputError.__name__ for f in self.failures):
            return Exit.CANNOT_WRITE
        return Exit.NONE
