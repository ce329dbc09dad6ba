"""Metrics of a run in the text format of Prometheus, for the textfile collector of its node exporter."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from calib_gpu._version import __version__
from calib_gpu.errors import Exit, OutputError
from calib_gpu.scan_report import TIMINGS, Progress, ScanReport
from calib_gpu.store import disk, reads

log = logging.getLogger("calib_gpu")

SPACING_S: Final = 5.0
"""Least time between two writings of the file while scans end one after the other."""


class Metric(NamedTuple):
    """A metric: name behind ``calib_gpu_``, type, meaning."""

    name: str
    kind: str
    meaning: str


METRICS: Final = (
    Metric("info", "gauge", "Version of the engine."),
    Metric("start_time_seconds", "gauge", "When the run began, Unix time."),
    Metric("running", "gauge", "1 while the run goes on, 0 after its end."),
    Metric("exit_code", "gauge", "Exit code of the run; absent while it goes on."),
    Metric("scans", "gauge", "Scans by status: ok, skipped, failed, and waiting for their turn."),
    Metric("last_scan_time_seconds", "gauge", "When the last scan was done or failed, Unix time."),
    Metric("read_bytes_total", "counter", "Compressed bytes of counts read."),
    Metric("written_bytes_total", "counter", "Bytes of L1 files written."),
    Metric("samples_total", "counter", "Samples of spectra calibrated."),
    Metric("stage_seconds_total", "counter", "Wall time of the stages."),
    Metric("flagged_samples_total", "counter", "Samples with each flag."),
    Metric("failures_total", "counter", "Scans that failed, by error."),
    Metric("longest_read_seconds", "gauge", "How long the longest read of the moment has been going on."),
)
"""All metrics, in the order of the file."""


class RunMetrics(Progress):
    """Adds up what scans report, and writes the file: at the beginning, after scans, at every beat, at the end.

    Raises
    ------
    OutputError
        The file cannot be written at the beginning. Later that is a warning.
    """

    def __init__(self, path: Path, l1: Path) -> None:
        self._path, self._labels = path, {"store": str(l1)}
        if task := os.environ.get("SLURM_ARRAY_TASK_ID"):  # files of two tasks on one node must differ in their labels
            self._labels["task"] = task
        self._lock, self._written, self._warned = threading.Lock(), 0.0, False
        self._values: dict[str, dict[str, float]] = {metric.name: defaultdict(float) for metric in METRICS}
        self._total, self._status = 0, dict[str, str]()
        self._start, self._last, self._exit = time.time(), 0.0, int(Exit.ALL)
        self._over = False
        self._write()

    def scans(self, total: int) -> None:
        """The number of scans is known."""
        self._total = total

    def end(self, report: ScanReport) -> None:
        """A scan is done, skipped or has failed."""
        with self._lock:
            v = self._values
            self._status[report.scan], self._last = report.status, time.time()
            v["read_bytes_total"][""] += report.bytes_read
            v["written_bytes_total"][""] += report.bytes_written
            v["samples_total"][""] += report.samples
            for stage, ms in report.timings_ms.items():
                v["stage_seconds_total"][stage] += ms / 1e3
            for flag, count in report.flag_counts.items():
                v["flagged_samples_total"][flag] += count
            if report.status == "failed":
                v["failures_total"][report.error] += 1
        if time.monotonic() - self._written >= SPACING_S:
            self.write()

    def finish(self, exit_code: int) -> None:
        """The run is over: write the file for the last time."""
        self._exit, self._over = exit_code, True
        self.write()

    def write(self) -> None:
        """Write the file; that it cannot be written is told once."""
        try:
            self._write()
        except OutputError as error:
            if not self._warned:
                log.warning("metrics: %s", error)
            self._warned = True

    def _write(self) -> None:
        self._written = time.monotonic()
        disk.replace_file(self._path, self.text().encode())

    def text(self) -> str:
        """The content of the file."""
        with self._lock:
            status = Counter(self._status.values())
            read = reads.longest()
            samples: dict[str, Iterable[tuple[Mapping[str, str], float]]] = {
                "info": [({"version": __version__}, 1)],
                "start_time_seconds": [({}, self._start)],
                "running": [({}, 0 if self._over else 1)],
                "exit_code": [({}, self._exit)] if self._over else [],
                "scans": [({"status": name}, status[name]) for name in ("ok", "skipped", "failed")]
                + [({"status": "waiting"}, max(0, self._total - len(self._status)))],
                "last_scan_time_seconds": [({}, self._last)] if self._last else [],
                "stage_seconds_total": [({"stage": s}, self._values["stage_seconds_total"][s]) for s in TIMINGS],
                "flagged_samples_total": self._by("flagged_samples_total", "flag"),
                "failures_total": self._by("failures_total", "error"),
                "longest_read_seconds": [({}, 0.0 if read is None or self._over else round(read.seconds, 3))],
            }
            lines = []
            for metric in METRICS:
                name = f"calib_gpu_{metric.name}"
                lines += [f"# HELP {name} {metric.meaning}", f"# TYPE {name} {metric.kind}"]
                found = samples[metric.name] if metric.name in samples else [({}, self._values[metric.name][""])]
                lines += [f"{name}{_labels({**self._labels, **labels})} {value!r}" for labels, value in found]
        return "\n".join(lines) + "\n"

    def _by(self, name: str, label: str) -> list[tuple[Mapping[str, str], float]]:
        return [({label: key}, value) for key, value in sorted(self._values[name].items())]


def _labels(labels: Mapping[str, str]) -> str:
    """The labels of a sample, escaped as the format wants it."""

    def escaped(text: str) -> str:
        return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")

    return "{" + ",".join(f'{name}="{escaped(text)}"' for name, text in labels.items()) + "}"
