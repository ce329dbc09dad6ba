"""A scan is named in one way by all commands: by its number, or as commands print it."""

from __future__ import annotations

from pathlib import Path

import pytest

from calib_gpu import Settings, calibrate
from calib_gpu.cli.common import parse_scan, parse_scans
from calib_gpu.errors import ConfigError
from calib_gpu.inspection import inspect_store
from calib_gpu.qa.plots import Request, plot_scan
from calib_gpu.records import ScanId
from calib_gpu.selection import known
from small_scan import two_bands


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("131", ScanId(131)), ("scan_000131", ScanId(131)), ("131/band_F0I1P0", ScanId(131, "band_F0I1P0")),
        ("scan_000131/band_F0I1P0", ScanId(131, "band_F0I1P0")), (" 25650 ", ScanId(25650)),
    ],
)  # fmt: skip
def test_names_of_scans(text: str, expected: ScanId) -> None:
    assert parse_scan(text) == expected
    assert parse_scan(str(expected)) == expected
    assert parse_scans(text) == [expected.number]


def test_lists_of_scans() -> None:
    text = "25650, scan_025652-scan_025654,scan_000131/band_F0I1P0,25660-25661"
    assert parse_scans(text) == [25650, 25652, 25653, 25654, 131, 25660, 25661]
    assert parse_scans(None) is None


@pytest.mark.parametrize(
    "text", ["", "scan", "scan_x", "131/F0", "131/", "131//band_A", "-1", "1.5", "1-2-3", "1234567890"]
)
def test_what_is_no_scan(text: str) -> None:
    with pytest.raises(ConfigError, match="e\\.g\\."):
        parse_scan(text)
    with pytest.raises(ConfigError):
        parse_scans(text)
    with pytest.raises(ConfigError, match="ascending"):
        parse_scans("7-5")


def test_scans_that_are_there() -> None:
    assert (
        known([ScanId(25653), ScanId(25650, "band_A"), ScanId(25650, "band_B"), ScanId(25652)]) == "25650,25652-25653"
    )
    assert known([]) == "none"
    text = known([ScanId(n) for n in range(1, 1000, 2)])
    assert text.startswith("1,3,5,")
    assert text.endswith(",...,999")
    assert len(text) < 120


def test_bands(tmp_path: Path) -> None:
    l0, l1 = two_bands(tmp_path / "l0.zarr"), tmp_path / "l1.zarr"
    calibrate(l0, l1, Settings(workers=1, pwv=0.6))
    for store in (l0, l1):
        for which, there in ((ScanId(25650), {"band_HFA", "band_LFA"}), (ScanId(25650, "band_LFA"), {"band_LFA"})):
            titles = [table.title for table in inspect_store(store, which, Settings(workers=1))]
            assert {band for band in ("band_HFA", "band_LFA") if any(band in title for title in titles)} == there
        with pytest.raises(ConfigError, match="band_X"):
            inspect_store(store, ScanId(25650, "band_X"), Settings(workers=1))
    pytest.importorskip("matplotlib")
    with pytest.raises(ConfigError, match=r"scan 25650 has 2 bands; rule: band_HFA \| band_LFA; give one of them"):
        plot_scan(l1, Request(25650, "spectrum", []), tmp_path / "x.png")
    assert plot_scan(l1, Request(25650, "spectrum", [], "band_LFA"), tmp_path / "x.png").exists()
