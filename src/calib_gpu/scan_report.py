"""What happened to one scan: a line of ``report.jsonl``, and the lines of the log."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

TIMINGS: Final = ("load", "resolve", "atm", "prepare", "calibrate", "write")
"""Names of the stages in timings: those of the stages, ``atm`` for atmosphere."""


@dataclass
class ScanReport:
    """What happened to one scan: a line of ``report.jsonl``."""

    scan: str
    status: str = "ok"
    stage: str = ""
    error: str = ""
    message: str = ""
    timings_ms: dict[str, float] = field(default_factory=dict)
    bytes_read: int = 0
    bytes_written: int = 0
    samples: int = 0
    flag_counts: dict[str, int] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """How it was run, for the report alone: nothing of it is in L1."""
    pwv_mm: float | None = None
    pwv_status: str = ""
    t_sys_k: float | None = None
    flagged: float = 0.0
    qa_warnings: list[str] = field(default_factory=list)
    digest: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The line: stage times under their own names (load_ms, ...), 0 for stages that were not reached."""
        line = dict(self.__dict__)
        timings = line.pop("timings_ms")
        line["bytes"] = self.bytes_read + self.bytes_written
        return line | {f"{name}_ms": round(timings.get(name, 0.0), 3) for name in TIMINGS}


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
    times = " ".join(f"{name}_ms={line.timings_ms.get(name, 0.0):.0f}" for name in TIMINGS)
    return f"{line.scan}: {line.status} {times} bytes={line.bytes_read + line.bytes_written}"
