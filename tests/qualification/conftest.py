"""What all qualification tests share: their figures, and where these go.

A test is named after its promise, ``test_pNN_name.py``. ``scripts/qualify`` sets ``CALIB_GPU_FIGURES`` to the file that gets a
line of JSON for each figure and for the outcome of each test.
"""

from __future__ import annotations

import json
import logging
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from invariant import Figure, Night, make_night


def _note(**line: Any) -> None:
    """Append a line to the file of figures, by one write, for tests run side by side."""
    if file := os.environ.get("CALIB_GPU_FIGURES"):
        handle = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        os.write(handle, json.dumps(line, default=str).encode() + b"\n")
        os.close(handle)


@pytest.fixture
def figure(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> Figure:
    """``figure(promise, text, value, limit)``: print what was seen and what is promised, and keep it for the report."""

    def note(promise: str, text: str, value: Any, limit: Any) -> None:
        with capsys.disabled():
            print(f"\n{promise}: {text}: {value} (promised: {limit})")
        _note(kind="figure", test=request.node.nodeid, promise=promise, text=text, value=value, limit=limit)

    return note


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report = yield
    if report.when == "call" or report.outcome != "passed":
        promise = re.match(r"test_p(\d\d)_", Path(item.path).name)
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr or "")
        _note(
            kind="test", test=item.nodeid, promise=f"P{int(promise[1])}" if promise else "", outcome=report.outcome,
            reason=reason[-2000:], seconds=round(report.duration, 2),
        )  # fmt: skip
    return report


@pytest.fixture(scope="session")
def fast_folder() -> Iterator[Path]:
    """A folder in memory where there is one: thousands of runs would wait for the disk, whose speed is not what is tested."""
    shared = Path("/dev/shm")
    place = shared if os.access(shared, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="calib-qualify-", dir=place) as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def module_folder(fast_folder: Path) -> Iterator[Path]:
    """A folder of the module's own there; a new one if the module's fixtures are made again (``--dist worksteal`` may do so)."""
    with tempfile.TemporaryDirectory(dir=fast_folder) as folder:
        yield Path(folder)


@pytest.fixture
def fast(fast_folder: Path) -> Iterator[Path]:
    """A folder of the test's own there."""
    with tempfile.TemporaryDirectory(dir=fast_folder) as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def night(fast_folder: Path) -> Night:
    """Two tiny scans and one that fails."""
    return make_night(fast_folder / "night")


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """The log of thousands of runs is not kept."""
    log = logging.getLogger("calib_gpu")
    level = log.level
    log.setLevel(logging.CRITICAL)
    yield
    log.setLevel(level)
