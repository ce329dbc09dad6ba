"""P20: the exit code tells what happened, for every way in which a run can end."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import calib_gpu
from calib_gpu import Settings
from calib_gpu.cli import main
from calib_gpu.scan_run import ScanRunner
from calib_gpu.testing.tamper import BAD, GOOD, attributes, inside, sound_store

Arrange = Callable[[Path], list[str]]
"""Prepares a folder with a sound ``l0.zarr``, and gives the arguments of ``calib-gpu``."""


def run(*more: str, l0: str = "l0.zarr", l1: str = "l1.zarr") -> Arrange:
    return lambda folder: ["run", str(folder / l0), str(folder / l1), "--workers", "1", "--quiet", *more]


def after(*changes: Callable[[Path], Any], then: Arrange | None = None) -> Arrange:
    """Changes of the folder first."""

    def arrange(folder: Path) -> list[str]:
        for change in changes:
            change(folder)
        return (then or run())(folder)

    return arrange


def spoil(*numbers: int) -> Callable[[Path], None]:
    """Take the times of scans away."""

    def change(folder: Path) -> None:
        for number in numbers:
            shutil.rmtree(folder / "l0.zarr" / f"scan_{number:06d}" / "source" / "mjd")

    return change


def calibrated(**settings: Any) -> Callable[[Path], Any]:
    return lambda folder: calib_gpu.calibrate(folder / "l0.zarr", folder / "l1.zarr", Settings(workers=1, **settings))


def only_loads(folder: Path) -> None:
    for scan in (folder / "l0.zarr").glob("scan_*"):
        shutil.rmtree(scan / "source")


def damage_l1(folder: Path) -> None:
    (folder / "l1.zarr" / f"scan_{GOOD:06d}" / "tau_signal" / "c.0").unlink()


def unpublish(folder: Path) -> None:
    shutil.rmtree(folder / "l1.zarr" / f"scan_{BAD:06d}")


CHECK_L0: Arrange = lambda folder: ["check", str(folder / "l0.zarr")]  # noqa: E731
CHECK_L1: Arrange = lambda folder: ["check", str(folder / "l1.zarr")]  # noqa: E731
MATRIX: dict[str, tuple[int, Arrange]] = {
    "all scans": (0, run()),
    "all scans, done before": (0, after(calibrated())),
    "one scan asked for": (0, run("--scans", str(GOOD))),
    "no scan is good": (1, after(spoil(GOOD, BAD))),
    "no science scan": (1, after(only_loads)),
    "some scans": (2, after(spoil(BAD))),
    "some scans, the good one done before": (2, after(calibrated(), spoil(BAD), unpublish)),
    "no argument": (64, lambda folder: ["run"]),
    "no such option": (64, run("--no-such-option")),
    "no such command": (64, lambda folder: ["no-such-command"]),
    "no such setting": (64, run("--set", "etaf=1")),
    "setting out of bounds": (64, run("--set", "eta_f=1.5")),
    "no such scan": (64, run("--scans", "1")),
    "no such profile": (64, run("--profile", "no-such-profile")),
    "done with other settings": (64, after(calibrated(eta_f=0.9))),
    "output inside the input": (64, run(l1="l0.zarr/l1.zarr")),
    "input is not there": (65, run(l0="nothing.zarr")),
    "input is a file": (65, after(lambda f: (f / "file").touch(), then=run(l0="file"))),
    "input is no Zarr group": (65, after(lambda f: (f / "l0.zarr/zarr.json").unlink())),
    "input is damaged at the top": (65, after(lambda f: (f / "l0.zarr/zarr.json").write_text("{"))),
    "input is an L1 store": (65, after(calibrated(), then=run(l0="l1.zarr", l1="other.zarr"))),
    "output is a file": (73, after(lambda f: (f / "l1.zarr").touch())),
    "output is something else": (73, after(lambda f: (f / "l1.zarr/data").mkdir(parents=True))),
    "output below a file": (73, after(lambda f: (f / "file").touch(), then=run(l1="file/l1.zarr"))),
    "check, sound L0": (0, CHECK_L0),
    "check, damaged L0": (1, after(spoil(BAD), then=CHECK_L0)),
    "check, sound L1": (0, after(calibrated(), then=CHECK_L1)),
    "check, damaged L1": (1, after(calibrated(), damage_l1, then=CHECK_L1)),
    "check, no store": (65, lambda folder: ["check", str(folder)]),
}  # fmt: skip


def exit_code(arguments: list[str]) -> int:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    return int(left.value.code or 0)


@pytest.mark.parametrize("outcome", MATRIX)
def test_exit_codes(tmp_path: Path, outcome: str, figure: Any, capsys: pytest.CaptureFixture[str]) -> None:
    expected, arrange = MATRIX[outcome]
    sound_store(tmp_path / "l0.zarr")
    code = exit_code(arrange(tmp_path))
    said = capsys.readouterr()
    figure("P20", outcome, code, expected)
    assert code == expected, said.err
    assert "Traceback" not in said.err
    if expected >= 64:
        assert said.err.strip(), "nothing is said"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped(tmp_path: Path, number: signal.Signals, figure: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sound_store(tmp_path / "l0.zarr")
    load, sent = ScanRunner.load, []

    def signalled(runner: ScanRunner, *arguments: Any) -> Any:
        if not sent:  # a second one would end this process at once
            sent.append(number)
            os.kill(os.getpid(), number)
        return load(runner, *arguments)

    monkeypatch.setattr(ScanRunner, "load", signalled)
    code = exit_code(run()(tmp_path))
    monkeypatch.undo()
    figure("P20", f"stopped by {number.name}", code, 75)
    assert code == 75
    assert exit_code(run()(tmp_path)) == 0, "the same command goes on"


def test_a_scan_that_tampers_with_another_number(tmp_path: Path, figure: Any) -> None:
    """A scan that is left out, because it says that it is another one, is told by the exit code."""
    sound_store(tmp_path / "l0.zarr")
    attributes(inside(), scan_number=GOOD)(tmp_path / "l0.zarr")
    code = exit_code(run()(tmp_path))
    figure("P20", "a scan that contradicts its name", code, 2)
    assert code == 2
