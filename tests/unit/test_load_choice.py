"""Which loads serve which scan (formats 7.3), and what they do to the numbers."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from calib_gpu import Settings
from calib_gpu.load_index import LoadIndex
from calib_gpu.pipeline import calibrate
from calib_gpu.records import ScanId
from calib_gpu.store.l0 import L0Store
from calib_gpu.store.l0_write import L0Writer
from calib_gpu.testing.faulty_disk import FaultyDisk, fail
from invariant import tree
from small_scan import SmallScan, small_scan

SHAPE = (32, 2, 1, 1)
START = 60000.0
MINUTE = 1.0 / 1440.0


def scan_at(number: int, minute: float, *, own: bool = True, gain: float = 1.0, **attrs: Any) -> SmallScan:
    scan = small_scan(number, shape=SHAPE, mjd=START + minute * MINUTE)
    scan.attrs |= attrs
    assert scan.loads is not None
    scan.loads *= gain
    if not own:
        scan.loads = None
    return scan


def run(folder: Path, scans: list[SmallScan], reference_only: tuple[int, ...] = (), **options: Any) -> Any:
    store = L0Writer(folder / "l0.zarr", {})
    for scan in scans:
        scan.write(store, with_source=scan.number not in reference_only)
    return calibrate(folder / "l0.zarr", folder / "l1.zarr", Settings(workers=1, **options))


def l1(folder: Path, number: int) -> Any:
    return zarr.open_group(str(folder / "l1.zarr"), mode="r")[f"scan_{number:06d}"]


def served_by(folder: Path, number: int) -> list[int]:
    return list(l1(folder, number).attrs["load_scans"])


def test_own_loads_come_first(tmp_path: Path) -> None:
    second = scan_at(2, 5)
    second.source["lloadsn"] = np.full(5, 1, np.int32)
    run(tmp_path, [scan_at(1, 4), second])
    assert served_by(tmp_path, 2) == [2]


def test_lloadsn_beats_the_nearest(tmp_path: Path) -> None:
    pointing = scan_at(3, 6, own=False)
    pointing.source["lloadsn"] = np.array([-1, 1, 2, 2, 2], np.int32)  # the first positive counts
    report = run(tmp_path, [scan_at(1, 0), scan_at(2, 5), pointing], (1, 2))
    assert [s.scan for s in report.scans] == ["scan_000003"]
    assert served_by(tmp_path, 3) == [1]


def test_lloadsn_older_than_the_limit_is_used_and_flagged(tmp_path: Path) -> None:
    pointing = scan_at(3, 60, own=False)
    pointing.source["lloadsn"] = np.full(5, 1, np.int32)
    run(tmp_path, [scan_at(1, 0), pointing], (1,))
    assert served_by(tmp_path, 3) == [1]
    assert l1(tmp_path, 3).attrs["scan_flags"] & 4
    assert l1(tmp_path, 3).attrs["qa"]["load_age_s"] == pytest.approx(3600.0 + 75.0 + 40.0 - 25.0, abs=60.0)


@pytest.mark.parametrize("target", [9, 1])
def test_lloadsn_to_nothing_usable_falls_back_with_a_warning(tmp_path: Path, target: int) -> None:
    useless = scan_at(1, 0, tuning_id="other")
    pointing = scan_at(3, 6, own=False, tuning_id="mine")
    pointing.source["lloadsn"] = np.full(5, target, np.int32)
    run(tmp_path, [useless, scan_at(2, 20, tuning_id="mine"), pointing], (1, 2))
    assert served_by(tmp_path, 3) == [2]
    assert f"lloadsn points to scan {target}" in " ".join(l1(tmp_path, 3).attrs["warnings"])


def test_nearest_in_time_of_the_same_tuning(tmp_path: Path) -> None:
    other = scan_at(2, 9)
    for name, shift in (("signal_freq", 5e9), ("image_freq", -5e9)):
        other.source[name] = other.source[name] + shift
        other.calibration[name] = other.calibration[name] + shift
    run(tmp_path, [scan_at(1, 0), other, scan_at(3, 10, own=False), scan_at(4, 25)], (1, 2, 4))
    assert served_by(tmp_path, 3) == [1]


def test_a_tie_goes_to_the_earlier_set(tmp_path: Path) -> None:
    science = scan_at(2, 10, own=False)
    # ON subscans 1, 2 and 4: mean mid-time 70 s after the start; loads at -45 s: sets 115 s before and after
    sets = [scan_at(1, 10), scan_at(3, 10)]
    for loads, offset in zip(sets, (-115.0, 115.0), strict=True):
        loads.calibration["mjd"] = START + 10 * MINUTE + (70.0 + offset + np.array([-15.0, 15.0])) / 86400.0
    run(tmp_path, [sets[1], science, sets[0]], (1, 3))
    assert served_by(tmp_path, 2) == [1]


def test_too_old_is_no_loads(tmp_path: Path) -> None:
    report = run(tmp_path, [scan_at(1, 0), scan_at(2, 40, own=False)], (1,))
    assert [s.error for s in report.scans] == ["NoLoads"]
    assert "max_load_age" in report.scans[0].message
    report = calibrate(tmp_path / "l0.zarr", tmp_path / "l1.zarr", Settings(max_load_age=3000.0))
    assert [s.status for s in report.scans] == ["ok"]


def test_hot_and_cold_more_than_two_minutes_apart_are_no_set(tmp_path: Path) -> None:
    apart = scan_at(1, 0)
    apart.calibration["mjd"] = START + np.array([0.0, 121.0]) / 86400.0
    report = run(tmp_path, [apart])
    assert [s.error for s in report.scans] == ["NoLoads"]
    assert "121 s apart" in report.scans[0].message


def test_a_set_whose_hot_is_all_missing_is_passed_over(tmp_path: Path) -> None:
    empty = scan_at(2, 9)
    assert empty.loads is not None
    empty.loads[..., 0] = np.nan
    run(tmp_path, [scan_at(1, 0), empty, scan_at(3, 10, own=False)], (1, 2))
    assert served_by(tmp_path, 3) == [1]


def test_previous_takes_the_set_before(tmp_path: Path) -> None:
    scans = [scan_at(1, 0), scan_at(2, 10, own=False), scan_at(3, 12)]
    run(tmp_path, scans, (1, 3), loads="previous")
    assert served_by(tmp_path, 2) == [1]


def test_linear_interpolates_counts_between_two_sets(tmp_path: Path) -> None:
    """Loads with gain 1 and 1.2 around the scan: T_A* of each ON scales with the interpolated difference."""
    run(tmp_path, [scan_at(1, 0), scan_at(2, 10, own=False), scan_at(3, 20, gain=1.2)], (1, 3), loads="linear", pwv=0.6)
    assert served_by(tmp_path, 2) == [1, 3]
    times = {n: START * 86400.0 + m * 60.0 for n, m in ((1, 0), (2, 10), (3, 20))}
    first, second = times[1] - 45.0, times[3] - 45.0
    truth = small_scan(2, shape=SHAPE).truth["ta"]
    for k, subscan in enumerate((1, 2, 4)):
        share = (times[2] + 30.0 * subscan - first) / (second - first)
        expected = truth[..., k] / ((1.0 - share) + 1.2 * share)
        np.testing.assert_allclose(l1(tmp_path, 2)["spectra"][..., k], expected, rtol=1e-6, atol=1e-6)
    assert not l1(tmp_path, 2).attrs["scan_flags"] & 8


@pytest.mark.parametrize("case", ["one side", "gap", "tuning"])
def test_linear_with_one_usable_set_says_so(tmp_path: Path, case: str) -> None:
    scans = [scan_at(1, 0, tuning_id="a"), scan_at(2, 10, own=False, tuning_id="a")]
    if case != "one side":
        scans.append(scan_at(3, 20, tuning_id="b" if case == "tuning" else "a"))
    limit = 600.0 if case == "gap" else 1800.0
    run(tmp_path, scans, (1, 3), loads="linear", max_load_gap=limit)
    assert served_by(tmp_path, 2) == [3 if case == "gap" else 1]  # set 3 is the nearer one
    assert l1(tmp_path, 2).attrs["scan_flags"] & 8


def test_gain_drift_compares_consecutive_sets(tmp_path: Path) -> None:
    run(tmp_path, [scan_at(1, 0), scan_at(2, 10, gain=1.05)])
    assert l1(tmp_path, 1).attrs["qa"]["gain_drift"] is None
    assert l1(tmp_path, 2).attrs["qa"]["gain_drift"][0][0] == pytest.approx(0.05, rel=1e-9)
    assert "gain_drift" in l1(tmp_path, 2).attrs["qa"]["warnings"]


def test_a_hole_in_the_loads_sets_a_flag_and_padding_does_not(tmp_path: Path) -> None:
    hole, padded = scan_at(1, 0), scan_at(2, 60)
    assert hole.loads is not None
    assert padded.loads is not None
    hole.loads[3, 0, 0, 0, 0] = np.nan
    padded.loads[:, 1] = np.nan
    run(tmp_path, [hole, padded])
    assert l1(tmp_path, 1).attrs["scan_flags"] & 256
    assert not l1(tmp_path, 2).attrs["scan_flags"] & 256


def test_loads_that_arrive_later_are_told_and_the_new_scans_are_done(tmp_path: Path) -> None:
    """A night that grows: the scan that is done stays, with a warning; a rerun never stops for it."""
    first = [scan_at(1, 0), scan_at(2, 20, own=False)]
    store = L0Writer(tmp_path / "l0.zarr", {})
    for scan in first:
        scan.write(store, with_source=scan.number != 1)
    calibrate(tmp_path / "l0.zarr", tmp_path / "l1.zarr")
    assert served_by(tmp_path, 2) == [1]
    scan_at(3, 22).write(store)
    report = calibrate(tmp_path / "l0.zarr", tmp_path / "l1.zarr")
    assert [(s.scan, s.status) for s in report.scans] == [("scan_000002", "skipped"), ("scan_000003", "ok")]
    assert "scan_000003" in report.scans[0].warnings[0]
    assert served_by(tmp_path, 2) == [1]
    calibrate(tmp_path / "l0.zarr", tmp_path / "l1.zarr", Settings(overwrite=True))
    assert served_by(tmp_path, 2) == [3]


@pytest.mark.parametrize("loads", ["nearest", "previous"])
def test_of_two_sets_at_one_time_the_one_of_the_lower_number_serves(tmp_path: Path, loads: str) -> None:
    run(tmp_path, [scan_at(5, -10), scan_at(2, 0), scan_at(1, 0), scan_at(3, 5, own=False)], (1, 2, 5), loads=loads)
    assert served_by(tmp_path, 3) == [1]


def test_the_index_is_in_the_order_of_times(tmp_path: Path) -> None:
    store = L0Writer(tmp_path / "l0.zarr", {})
    for number, minute in ((1, 30), (2, 10), (3, 20), (4, 10)):
        scan_at(number, minute).write(store)
    index = LoadIndex.of(L0Store(tmp_path / "l0.zarr"), Settings())
    assert [c.scan.number for c in index.candidates] == [2, 4, 3, 1]
    last = index.candidates[-1].time_us
    assert [c.scan.number for c in index.before(last)] == [3, 2, 4]
    assert [c.scan.number for c in index.before(last + 1.0)] == [1, 3, 2, 4]
    assert index.by_scan[ScanId(3)].scan == ScanId(3)


def test_the_set_before_must_not_be_older_than_the_limit(tmp_path: Path) -> None:
    report = run(tmp_path, [scan_at(1, 0), scan_at(2, 20, own=False)], (1,), loads="previous", max_load_age=600.0)
    assert [(s.status, s.error) for s in report.scans] == [("failed", "NoLoads")]


def test_the_index_holds_little_of_each_set(tmp_path: Path) -> None:
    """A thousand sets are in it: no attributes, and of the small arrays what is needed to read a set."""
    index = LoadIndex.of(L0Store(small_scan(shape=(64, 3, 2, 2)).store(tmp_path / "l0.zarr")), Settings())
    (candidate,) = index.candidates
    assert set(candidate.group.arrays) == {"thot", "tcold"}
    assert candidate.group.attrs == {}


# --- sets whose metadata cannot be read


def broken_night(folder: Path, *scans: SmallScan) -> Path:
    """Loads alone at 0 and 10 minutes (scans 1 and 2), and the scans given; nothing is calibrated yet."""
    store = L0Writer(folder / "l0.zarr", {})
    for scan in (scan_at(1, 0), scan_at(2, 10), *scans):
        scan.write(store, with_source=scan.number > 2)
    return folder / "l0.zarr"


def test_damaged_metadata_of_the_nearest_set_are_told(tmp_path: Path) -> None:
    l0 = broken_night(tmp_path, scan_at(3, 12, own=False), scan_at(4, 40), scan_at(5, 45), scan_at(6, 50, own=False))
    (l0 / "scan_000002" / "calibration" / "thot" / "zarr.json").write_bytes(b"{")
    report = calibrate(l0, tmp_path / "l1.zarr", Settings(workers=1))
    told = {line.scan: [w for w in line.warnings if "damaged loads are passed over" in w] for line in report.scans}
    assert [line.status for line in report.scans] == ["ok"] * 4
    assert served_by(tmp_path, 3) == [1]
    assert [len(told[f"scan_{k:06d}"]) for k in (3, 4, 5, 6)] == [1, 1, 0, 0]  # 4 may lack the set before its own
    (text,) = told["scan_000003"]
    assert text.startswith("damaged loads are passed over: scan_000002: calibration/thot/zarr.json: not valid JSON")
    assert text in l1(tmp_path, 3).attrs["warnings"]
    assert str(tmp_path) not in text


def test_damaged_metadata_of_the_set_that_is_pointed_to_are_told(tmp_path: Path) -> None:
    pointing = scan_at(9, 60, own=False)
    pointing.source["lloadsn"] = np.full(5, 2, np.int32)
    l0 = broken_night(tmp_path, scan_at(8, 55), pointing)
    (l0 / "scan_000002" / "calibration" / "thot" / "zarr.json").write_bytes(b"{")
    report = calibrate(l0, tmp_path / "l1.zarr", Settings(workers=1))
    assert served_by(tmp_path, 9) == [8]
    assert any("passed over: scan_000002: calibration/thot" in w for w in report.scans[-1].warnings)


def test_where_all_loads_are_damaged_the_failure_says_so(tmp_path: Path) -> None:
    l0 = broken_night(tmp_path, scan_at(3, 60, own=False))
    (l0 / "scan_000002" / "calibration" / "thot" / "zarr.json").write_bytes(b"{")
    report = calibrate(l0, tmp_path / "l1.zarr", Settings(workers=1))
    assert [line.error for line in report.scans] == ["NoLoads"]
    assert "damaged loads are passed over: scan_000002: calibration/thot" in report.scans[0].message


@pytest.mark.parametrize("loads", ["nearest", "previous", "linear"])
def test_loads_that_the_disk_does_not_give_fail_the_scans_that_might_need_them(tmp_path: Path, loads: str) -> None:
    """Scans with loads of their own, and those with a sound set between, are what they would be without the error."""
    l0 = broken_night(tmp_path, scan_at(3, 12, own=False), scan_at(4, 40), scan_at(5, 45), scan_at(6, 50, own=False))
    options = Settings(workers=1, loads=loads)
    calibrate(l0, tmp_path / "whole.zarr", options)
    with FaultyDisk(l0 / "scan_000002", fail(errno.ESTALE), calls=("open",), lasting=True):
        report = calibrate(l0, tmp_path / "l1.zarr", options)
    assert [line.error for line in report.scans] == ["ReadFailed", "ReadFailed", "", ""]
    assert "scan_000002: calibration" in report.scans[0].message
    assert "Stale file handle" in report.scans[0].message
    whole = tree(tmp_path / "whole.zarr")
    published = {name: data for name, data in tree(tmp_path / "l1.zarr").items() if name != "failures.json"}
    assert published.items() <= whole.items()
    calibrate(l0, tmp_path / "l1.zarr", options)
    assert tree(tmp_path / "l1.zarr") == whole


@pytest.mark.parametrize("lost", ["scan_000001", "scan_000002", "scan_000003"])
def test_done_scans_stay_done_where_the_disk_does_not_give_their_input(tmp_path: Path, lost: str) -> None:
    l0 = broken_night(tmp_path, scan_at(3, 20, own=False))
    calibrate(l0, tmp_path / "l1.zarr", Settings(workers=1))
    with FaultyDisk(l0 / lost, fail(errno.ESTALE), calls=("open",), lasting=True):
        report = calibrate(l0, tmp_path / "l1.zarr", Settings(workers=1))
    (line,) = report.scans
    assert line.status == "skipped"
    assert "cannot be told now" in line.warnings[0]


def test_an_index_tries_again_what_the_disk_did_not_give(tmp_path: Path) -> None:
    l0 = L0Store(broken_night(tmp_path))
    with FaultyDisk(l0.path / "scan_000002", fail(errno.ESTALE), calls=("open",), lasting=True):
        index = LoadIndex.of(l0, Settings())
    assert index.not_given == [ScanId(2)]
    index.add(l0, [], Settings())
    assert index.not_given == []
    assert [c.scan.number for c in index.candidates] == [1, 2]
