"""A store of the wrong kind: every command says what it was given and what to do."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from calib_gpu.errors import StoreUnusable
from calib_gpu.simulate import realistic, simulate
from calib_gpu.store.kinds import kind_of, refuse_no_folder
from calib_gpu.testing.faulty_disk import FaultyDisk, fail
from report_page import calibrated


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kinds")
    simulate(folder / "l0.zarr", realistic("tiny", n_scans=1, night=False), workers=1)
    calibrated(folder / "l0.zarr").rename(folder / "l1.zarr")
    (folder / "night.fits").write_text("SIMPLE  =")
    return folder


def said(folder: Path, *arguments: str) -> str:
    """The error of a command that must end with 65 and write nothing."""
    before = sorted(p.name for p in folder.iterdir())
    call = [sys.executable, "-c", "from calib_gpu.cli import main; main()", *arguments]
    done = subprocess.run(call, cwd=folder, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (65, ""), done.stderr
    assert sorted(p.name for p in folder.iterdir()) == before
    return done.stderr


WANT_L1 = {
    "report": ["report", "{}", "-o", "new.html"],
    "plot": ["plot", "{}", "--scan", "25650", "--what", "map", "-o", "new.png"],
    "export": ["export", "sdfits", "{}", "-o", "new.fits"],
    "explain": ["explain", "l0.zarr", "25650", "512", "0", "1", "3", "0", "--l1", "{}"],
}
WANT_L0 = {"run": ["run", "{}", "new.zarr"], "explain": ["explain", "{}", "25650", "512", "0", "1", "3", "0"]}


@pytest.mark.parametrize("command", WANT_L1)
def test_l0_where_l1_is_meant(night: Path, command: str) -> None:
    text = said(night, *(a.format("l0.zarr") for a in WANT_L1[command]))
    assert "not an L1 store: these are raw counts (L0)" in text
    assert "calib-gpu run l0.zarr L1.zarr" in text


@pytest.mark.parametrize("command", WANT_L0)
def test_l1_where_l0_is_meant(night: Path, command: str) -> None:
    text = said(night, *(a.format("l1.zarr") for a in WANT_L0[command]))
    assert "not an L0 store: these are calibrated spectra (L1)" in text
    assert "give the L0 store, l0.zarr, that it was made from" in text


@pytest.mark.parametrize(
    ("path", "word"),
    [
        ("nothing.zarr", "no such directory"),
        ("night.fits", "is a file"),
        ("l0.truth.zarr", "truth of a simulation"),
        ("l1.zarr/scan_025650", "a scan, not a store; give l1.zarr"),
        ("l0.zarr/scan_025650", "a scan, not a store; give l0.zarr"),
    ],
)
@pytest.mark.parametrize("command", [["report", "{}", "-o", "new.html"], ["run", "{}", "new.zarr"]], ids=lambda c: c[0])
def test_what_is_no_store_at_all(night: Path, command: list[str], path: str, word: str) -> None:
    assert word in said(night, *(a.format(path) for a in command))


def test_raw_counts_are_no_output(night: Path) -> None:
    call = [sys.executable, "-c", "from calib_gpu.cli import main; main()", "run", "l0.zarr", "copy.zarr"]
    (night / "copy.zarr").symlink_to("l0.zarr")
    before = (night / "l0.zarr" / "zarr.json").read_bytes()
    done = subprocess.run(call, cwd=night, capture_output=True, text=True, check=False)
    (night / "copy.zarr").unlink()
    assert done.returncode in (64, 73)
    assert (night / "l0.zarr" / "zarr.json").read_bytes() == before


@pytest.mark.parametrize(("store", "word"), [("l0.zarr", "raw counts"), ("l1.zarr", "calibrated spectra")])
def test_a_store_is_no_opacity_table(night: Path, store: str, word: str) -> None:
    from calib_gpu.atm.files import read_table
    from calib_gpu.errors import ConfigError

    with pytest.raises(ConfigError, match=f"not an opacity table: these are {word}"):
        read_table(night / store)


def test_a_scan_that_failed_says_why(tmp_path: Path) -> None:
    """Asked for by its number, it is not "no such scan"."""
    from calib_gpu.errors import StoreUnusable
    from calib_gpu.qa.plots import Request, plot_scan

    simulate(tmp_path / "l0.zarr", realistic("tiny"), workers=1)
    l1 = calibrated(tmp_path / "l0.zarr")
    with pytest.raises(StoreUnusable, match=r"not calibrated \(value: 25654\).*no OFF subscan"):
        plot_scan(l1, Request(25654, "map", []), tmp_path / "x.png")
    with pytest.raises(StoreUnusable, match="no such scan"):
        plot_scan(l1, Request(25699, "map", []), tmp_path / "x.png")


def test_kinds(night: Path) -> None:
    from calib_gpu.atm.builtin import TABLES, table_folder, table_name

    assert [kind_of(night / name) for name in ("l0.zarr", "l1.zarr", "l0.truth.zarr")] == ["L0", "L1", "truth"]
    assert kind_of(table_folder() / table_name(*TABLES[0])) == "table"
    assert [kind_of(night / name) for name in ("nothing", "night.fits", "l1.zarr/scan_025650")] == [""] * 3


def test_a_folder_that_the_disk_does_not_give_now(tmp_path: Path) -> None:
    """As on a network file system whose server was started anew."""
    with (
        FaultyDisk(tmp_path, fail(errno.ESTALE), at=0, calls=("stat",), lasting=True),
        pytest.raises(StoreUnusable, match="cannot be read: Stale file handle"),
    ):
        refuse_no_folder(tmp_path, "L0")
