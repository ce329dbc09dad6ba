"""``python -m calib_gpu.testing.qualification``: the qualification suite run, and a report of all its figures.

``scripts/qualify`` calls this. The tests lie in ``tests/qualification`` and note their figures and outcomes, a line of JSON
each, in the file that ``CALIB_GPU_FIGURES`` names; targets of fuzzing lie in ``tests/fuzz``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from calib_gpu._version import __version__
from calib_gpu.doctor import examine

PROMISES: Final = {
    "P1": "kill -9 at any point, then the same command again: the same bytes",
    "P2": "power loss: each scan whole or absent",
    "P3": "disk full: the scan fails with path and bytes, staging is removed, a rerun is right",
    "P4": "read-only output is told before any work; L0 is never touched",
    "P5": "corrupt L0 is never silent",
    "P6": "bad metadata is named",
    "P7": "bad counts: NaN and flags agree, and each flag is counted",
    "P8": "hostile input: refused in bounded time and memory, nothing run or written elsewhere",
    "P9": "several writers over one output: the bytes of one; nobody waits for the dead",
    "P10": "clocks: that of the host changes nothing; odd times in the data are paired right or refused",
    "P11": "out of GPU memory: smaller tiles, same bytes",
    "P12": "asynchronous CUDA errors: nothing of the scan is published",
    "P13": "SIGTERM and SIGINT end the run within 10 s; a rerun is right",
    "P14": "slow or stuck disk: memory as in a fast run, the stuck path is named",
    "P15": "memory is bounded by the settings, whatever the number and size of scans",
    "P16": "bytes do not depend on how it ran",
    "P17": "order of streams: every planted fault is found",
    "P18": "resume is cheap and strict",
    "P19": "L1 can be proven later",
    "P20": "exit codes",
}
"""The promises, in few words; docs/qualification.md says them in full."""

FUZZ_SECONDS: Final = 300
FUZZ_GRACE_S: Final = 60


@dataclass
class Outcome:
    """One test, or one target of fuzzing."""

    test: str
    outcome: str
    promise: str = ""
    reason: str = ""
    seconds: float = 0.0


@dataclass
class Report:
    """All that was seen: ``figures`` with promise, text, value and limit, and the outcome of every test."""

    commit: str
    full: bool
    begun: str
    seconds: float = 0.0
    machine: list[dict[str, str]] = field(default_factory=list)
    figures: list[dict[str, Any]] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)

    def state(self, promise: str) -> str:
        """``passed``, ``failed``, ``skipped`` if no test of it ran, or ``missing`` if there is none."""
        found = {o.outcome for o in self.outcomes if o.promise == promise}
        return "missing" if not found else next(s for s in ("failed", "passed", "skipped") if s in found)

    @property
    def passed(self) -> bool:
        """True if no test failed and of each promise at least one test ran; tests that were skipped say why."""
        states = {self.state(promise) for promise in PROMISES}
        return states == {"passed"} and all(o.outcome != "failed" for o in self.outcomes)

    def as_json(self) -> dict[str, Any]:
        """The report as JSON holds it."""
        return {"version": __version__, "passed": self.passed, **asdict(self)}


def take(report: Report, lines: Iterable[str]) -> None:
    """Add what tests noted."""
    for line in lines:
        entry = json.loads(line)
        if entry.pop("kind") == "figure":
            report.figures.append(entry)
        else:
            report.outcomes.append(Outcome(**entry))


def figure_rows(found: dict[str, Any]) -> list[str]:
    """Rows of a Markdown table of all figures of a report in JSON, promise by promise."""
    rows = ["| promise | figure | seen | promised |", "|---|---|---|---|"]
    for promise in PROMISES:
        figures = [f for f in found["figures"] if f["promise"] == promise]
        rows += [f"| {promise} | {_cell(f['text'])} | {_cell(f['value'])} | {_cell(f['limit'])} |" for f in figures]
    return rows


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")


def as_markdown(report: Report) -> str:
    """The report as a page."""
    kind = "large counts, fuzzing" if report.full else "the counts of every change"
    head = [
        "# Qualification",
        f"calib-gpu {__version__}, commit {report.commit or 'unknown'}, {report.begun}, {report.seconds:.0f} s, {kind}: "
        f"**{'passed' if report.passed else 'FAILED'}**",
        "## Promises",
    ]
    rows = ["| | promise | tests | outcome |", "|---|---|---|---|"]
    for promise, text in PROMISES.items():
        n = sum(o.promise == promise for o in report.outcomes)
        rows.append(f"| {promise} | {text} | {n} | {report.state(promise)} |")
    machine = ["| | | |", "|---|---|---|"]
    machine += [f"| {f['area']} | {f['name']} | {_cell(f['found'])} |" for f in report.machine]
    parts = [*head, "\n".join(rows), "## Figures", "\n".join(figure_rows(report.as_json()))]
    for outcome, title in (("failed", "Failed"), ("skipped", "Skipped")):
        listed = [f"- `{o.test}`: {_cell(o.reason)}" for o in report.outcomes if o.outcome == outcome]
        parts += [f"## {title}", "\n".join(listed)] if listed else []
    return "\n\n".join([*parts, "## Machine", "\n".join(machine)]) + "\n"


def run_tests(report: Report, top: Path, out: Path, processes: int) -> None:
    """Run the suite, its tests side by side."""
    lines = out / "lines.jsonl"
    lines.unlink(missing_ok=True)
    given = {"CALIB_GPU_FIGURES": str(lines), "CALIB_GPU_QUALIFY": "full" if report.full else ""}
    call = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/qualification"]
    call += ["-n", str(processes), "--dist", "worksteal"] if processes > 1 else []
    code = subprocess.run(call, cwd=top, env=os.environ | given, check=False).returncode
    if lines.is_file():
        take(report, lines.read_text(encoding="utf-8").splitlines())
    if code and all(o.outcome != "failed" for o in report.outcomes):
        report.outcomes.append(Outcome("pytest", "failed", reason=f"ended with {code}"))


def run_fuzzing(report: Report, top: Path, seconds: int) -> None:
    """Run each target for so many seconds; what it prints last is the reason of a failure."""
    for target in sorted((top / "tests" / "fuzz").glob("fuzz_*.py")):
        call, begin = [sys.executable, str(target), f"-max_total_time={seconds}"], time.perf_counter()
        print(f"== {target.name}, {seconds} s", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            try:
                done = subprocess.run(
                    call, cwd=top, capture_output=True, text=True, check=False, timeout=seconds + FUZZ_GRACE_S,
                    env=os.environ | {"TMPDIR": folder},
                )  # fmt: skip
                outcome, reason = ("failed" if done.returncode else "passed"), done.stderr[-2000:]
            except subprocess.TimeoutExpired:
                outcome, reason = "failed", f"did not end within {seconds + FUZZ_GRACE_S} s"
        spent = round(time.perf_counter() - begin, 1)
        reason = reason if outcome == "failed" else ""
        report.outcomes.append(Outcome(target.relative_to(top).as_posix(), outcome, "P8", reason, spent))


def _commit(top: Path) -> str:
    call = ["git", "-C", str(top), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(call, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all, write the report; 0 only if everything passed."""
    parser = argparse.ArgumentParser(prog="scripts/qualify", description="Run the qualification suite; write a report.")
    parser.add_argument("--full", action="store_true", help="large counts, and fuzzing; half an hour")
    parser.add_argument("--out", type=Path, default=Path("qualification"), help="folder of the report")
    parser.add_argument("--top", type=Path, default=Path.cwd(), help="folder of the sources")
    parser.add_argument(
        "--fuzz-seconds", type=int, default=FUZZ_SECONDS, help="seconds a target of fuzzing, with --full"
    )
    parser.add_argument("-n", type=int, default=len(os.sched_getaffinity(0)), help="tests side by side")
    chosen = parser.parse_args(arguments)
    top, out = chosen.top.resolve(), chosen.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    begin, now = time.perf_counter(), datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    report = Report(_commit(top), chosen.full, now)
    report.machine = [{"area": f.area, "name": f.name, "found": f.found} for f in examine()]
    run_tests(report, top, out, chosen.n)
    if chosen.full:
        run_fuzzing(report, top, chosen.fuzz_seconds)
    report.seconds = round(time.perf_counter() - begin, 1)
    (out / "report.json").write_text(json.dumps(report.as_json(), indent=1) + "\n", encoding="utf-8")
    (out / "report.md").write_text(as_markdown(report), encoding="utf-8")
    print(f"qualification {'passed' if report.passed else 'FAILED'}: {out / 'report.md'}, {out / 'report.json'}")
    return 0 if report.passed else 1


if __name__ == "__main__":
    sys.exit(main())
