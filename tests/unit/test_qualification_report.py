"""The report of the qualification suite: it says what was seen, and passes only if all is tested and nothing failed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from calib_gpu.testing.qualification import PROMISES, Outcome, Report, as_markdown, figure_rows, main, run_fuzzing, take

TESTS = Path(__file__).parents[1]

SUITE = {
    "test_p01_good.py": """
def test_good(figure):
    figure("P1", "points | that are right", 7, 7)
""",
    "test_p02_bad.py": """
import pytest

def test_bad(figure):
    figure("P2", "scans lost", 3, 0)
    assert 3 == 0, "three scans are lost"

def test_skipped():
    pytest.skip("a tmpfs cannot be mounted here")
""",
}


def whole() -> Report:
    """A report in which every promise has a test that passed."""
    return Report("abc", False, "now", outcomes=[Outcome(f"test of {p}", "passed", p) for p in PROMISES])


def test_it_passes_only_if_all_is_tested_and_nothing_failed() -> None:
    assert whole().passed
    report = whole()
    report.outcomes.pop()
    assert report.state("P20") == "missing"
    assert not report.passed
    for promise in ("P3", ""):
        report = whole()
        report.outcomes.append(Outcome("another", "failed", promise))
        assert not report.passed
    report = whole()
    report.outcomes[4] = Outcome("test of P5", "skipped", "P5", "no such package")
    assert report.state("P5") == "skipped"
    assert not report.passed  # a promise that was not looked at is none
    report.outcomes.append(Outcome("another test of P5", "passed", "P5"))
    assert report.passed
    assert "no such package" in as_markdown(report)


def test_notes_of_tests() -> None:
    report = whole()
    lines = [
        {"kind": "figure", "test": "t", "promise": "P9", "text": "rounds", "value": 12, "limit": 12},
        {"kind": "test", "test": "t", "promise": "P9", "outcome": "failed", "reason": "because", "seconds": 1.5},
    ]
    take(report, map(json.dumps, lines))
    assert not report.passed
    assert "| P9 | rounds | 12 | 12 |" in figure_rows(report.as_json())
    page = as_markdown(report)
    assert "**FAILED**" in page
    assert "`t`: because" in page


def test_a_suite_is_run_and_told(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "top/tests/qualification"
    folder.mkdir(parents=True)
    shutil.copy(TESTS / "qualification/conftest.py", folder)
    for name, text in SUITE.items():
        (folder / name).write_text(text)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]))
    code = main(["--top", str(tmp_path / "top"), "--out", str(tmp_path / "out"), "-n", "1"])
    assert code == 1
    found = json.loads((tmp_path / "out/report.json").read_text())
    assert [(f["promise"], f["value"], f["limit"]) for f in found["figures"]] == [("P1", 7, 7), ("P2", 3, 0)]
    outcomes = {o["test"].rpartition("::")[2]: (o["promise"], o["outcome"]) for o in found["outcomes"]}
    assert outcomes == {"test_good": ("P1", "passed"), "test_bad": ("P2", "failed"), "test_skipped": ("P2", "skipped")}
    page = (tmp_path / "out/report.md").read_text()
    assert r"points \| that are right" in page
    assert "three scans are lost" in page
    assert "a tmpfs cannot be mounted here" in page
    assert "P1: points | that are right: 7 (promised: 7)" in capfd.readouterr().out


def test_a_suite_that_cannot_be_run_has_not_passed(tmp_path: Path) -> None:
    (tmp_path / "tests/qualification").mkdir(parents=True)
    (tmp_path / "tests/qualification/test_p01_broken.py").write_text("import nothing_of_this_name\n")
    assert main(["--top", str(tmp_path), "--out", str(tmp_path / "out"), "-n", "1"]) == 1
    assert json.loads((tmp_path / "out/report.json").read_text())["passed"] is False


@pytest.mark.parametrize(("ends", "outcome"), [("0", "passed"), ("77", "failed")])
def test_fuzzing(tmp_path: Path, ends: str, outcome: str) -> None:
    (tmp_path / "tests/fuzz").mkdir(parents=True)
    text = f"import sys\nassert sys.argv[1] == '-max_total_time=3'\nprint('crash-1234', file=sys.stderr)\nsys.exit({ends})\n"
    (tmp_path / "tests/fuzz/fuzz_json.py").write_text(text)
    report = whole()
    run_fuzzing(report, tmp_path, 3)
    last = report.outcomes[-1]
    assert (last.test, last.outcome, last.promise) == ("tests/fuzz/fuzz_json.py", outcome, "P8")
    assert last.reason.strip() == ("crash-1234" if outcome == "failed" else "")


@pytest.mark.parametrize(("options", "extras"), [((), "dev"), (("-n", "2", "--full"), "dev,fuzz")])
def test_fuzzing_is_installed_where_it_is_asked_for(tmp_path: Path, options: tuple[str, ...], extras: str) -> None:
    """The script with a stand-in for env.sh, which says what it would install."""
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    shutil.copy(TESTS.parent / "scripts" / "qualify", scripts)
    (scripts / "env.sh").write_text('echo "$1"; exit 0\n')
    done = subprocess.run([str(scripts / "qualify"), *options], capture_output=True, text=True, check=True)
    assert done.stdout == f"{extras}\n"
    assert extras.split(",")[-1] in (TESTS.parent / "pyproject.toml").read_text()
