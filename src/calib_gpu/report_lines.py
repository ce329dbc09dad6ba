"""The log lines of a scan: what it gave, and where its time went."""

from __future__ import annotations

from calib_gpu.records import TIMINGS, ScanReport


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
