"""The run over a store: resume, failures, reports, exit codes, and bytes that depend on nothing but input and settings."""

from __future__ import annotations

import hashlib
import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

import calib_gpu
from calib_gpu import ConfigError, OutputError, Settings, StoreUnusable
from calib_gpu.errors import Exit
from calib_gpu.pipeline import Progress, calibrate
from calib_gpu.records import ScanId
from calib_gpu.scan_report import ScanReport
from calib_gpu.store import disk
from calib_gpu.store.l0 import L0Store
from calib_gpu.store.l0_write import L0Writer
from calib_gpu.store.l1_store import published_scans
from small_scan import small_scan

SHAPE = (32, 3, 1, 2)


def night(folder: Path, numbers: tuple[int, ...] = (25650, 25651, 25652), broken: tuple[int, ...] = ()) -> Path:
    """A store of small scans ten minutes apart; broken ones have no OFF."""
    store = L0Writer(folder / "l0.zarr", {})
    for k, number in enumerate(numbers):
        scan = small_scan(number, shape=SHAPE, mjd=60000.0 + k / 144.0, seed=k)
        if number in broken:
            scan.source["sobsmode"] = ["ON"] * 5
        scan.write(store, "int32")
    return folder / "l0.zarr"


def tree(folder: Path) -> dict[str, str]:
    """sha256 of every file below a folder."""
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in folder.rglob("*")
        if p.is_file()
    }


def statuses(report: Any) -> list[str]:
    return [scan.status for scan in report.scans]


@pytest.mark.parametrize(("broken", "code", "expected"), [
    ((), Exit.ALL, ["ok", "ok", "ok"]), ((25651,), Exit.SOME, ["ok", "failed", "ok"]),
    ((25650, 25651, 25652), Exit.NONE, ["failed"] * 3),
])  # fmt: skip
def test_exit_codes(tmp_path: Path, broken: tuple[int, ...], code: Exit, expected: list[str]) -> None:
    report = calibrate(night(tmp_path, broken=broken), tmp_path / "l1.zarr")
    assert (report.exit_code, statuses(report)) == (code, expected)
    assert (tmp_path / "l1.zarr" / "failures.json").exists() == bool(broken)


def test_an_empty_store_is_exit_1(tmp_path: Path) -> None:
    L0Writer(tmp_path / "l0.zarr", {})
    assert calibrate(tmp_path / "l0.zarr", tmp_path / "l1.zarr").exit_code == Exit.NONE


def test_input_that_is_no_store(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing", tmp_path):
        with pytest.raises(StoreUnusable, match=path.name):
            calibrate(path, tmp_path / "out" / "l1.zarr")
    assert not (tmp_path / "out").exists()


def test_report_has_a_line_a_scan(tmp_path: Path) -> None:
    calibrate(night(tmp_path, broken=(25651,)), tmp_path / "l1.zarr")
    lines = [json.loads(line) for line in (tmp_path / "l1.zarr.run" / "report.jsonl").read_text().splitlines()]
    assert [(line["scan"], line["status"]) for line in lines] == [
        ("scan_025650", "ok"), ("scan_025651", "failed"), ("scan_025652", "ok"),
    ]  # fmt: skip
    for name in ("load_ms", "resolve_ms", "atm_ms", "prepare_ms", "calibrate_ms", "write_ms"):
        assert lines[0][name] > 0.0
    files = [p for p in (tmp_path / "l1.zarr" / "scan_025650").rglob("*") if p.is_file()]
    assert lines[0]["bytes_written"] == sum(p.stat().st_size for p in files)
    assert lines[0]["bytes_read"] > 0
    assert lines[0]["flag_counts"] == {}


def test_a_rerun_skips_what_is_done_and_writes_nothing(tmp_path: Path) -> None:
    l0 = night(tmp_path)
    calibrate(l0, tmp_path / "l1.zarr")
    before = tree(tmp_path / "l1.zarr")
    report = calibrate(l0, tmp_path / "l1.zarr")
    assert (report.exit_code, statuses(report)) == (Exit.ALL, ["skipped"] * 3)
    assert tree(tmp_path / "l1.zarr") == before


def test_a_rerun_does_what_is_missing_and_clears_the_failure(tmp_path: Path) -> None:
    l0 = night(tmp_path, broken=(25651,))
    calibrate(l0, tmp_path / "l1.zarr")
    report = calibrate(l0, tmp_path / "l1.zarr", scans=[25650])
    assert statuses(report) == ["skipped"]
    (kept,) = json.loads((tmp_path / "l1.zarr" / "failures.json").read_bytes())
    assert kept["scan"] == "scan_025651"  # not tried: still listed
    classes = small_scan().source["sobsmode"]
    group = zarr.open_group(str(l0), mode="r+")["scan_025651/source"]
    group["sobsmode"][:] = np.array(classes, dtype=object)
    report = calibrate(l0, tmp_path / "l1.zarr")
    assert statuses(report) == ["skipped", "skipped", "ok"]
    assert not (tmp_path / "l1.zarr" / "failures.json").exists()


@pytest.mark.parametrize(
    "change", [{"eta_f": 0.9}, {"pwv": 0.7}, {"dtype": "float32"}, {"trec_convention": "callen_welton"}], ids=str
)
def test_other_settings_are_refused_unless_overwrite(tmp_path: Path, change: dict[str, Any]) -> None:
    l0 = night(tmp_path)
    calibrate(l0, tmp_path / "l1.zarr")
    before = tree(tmp_path / "l1.zarr")
    with pytest.raises(
        ConfigError,
        match=r"3 scan\(s\) are done differently.*scan_025650 \(other settings: \w+ .* -> .*\).*--overwrite",
    ):
        calibrate(l0, tmp_path / "l1.zarr", Settings(**change))
    assert tree(tmp_path / "l1.zarr") == before
    report = calibrate(l0, tmp_path / "l1.zarr", Settings(overwrite=True, **change))
    assert statuses(report) == ["ok"] * 3
    calibrate(l0, tmp_path / "fresh.zarr", Settings(**change))
    assert tree(tmp_path / "l1.zarr") == tree(tmp_path / "fresh.zarr")


@pytest.mark.parametrize(
    "change", [{"workers": 1}, {"level": 3}, {"memory": 32 * 2**20}, {"backend": "numpy"}], ids=str
)
def test_settings_that_change_no_number_are_not_others(tmp_path: Path, change: dict[str, Any]) -> None:
    l0 = night(tmp_path, (25650,))
    calibrate(l0, tmp_path / "l1.zarr")
    assert statuses(calibrate(l0, tmp_path / "l1.zarr", Settings(**change))) == ["skipped"]


def test_other_input_is_refused(tmp_path: Path) -> None:
    l0 = night(tmp_path, (25650,))
    calibrate(l0, tmp_path / "l1.zarr")
    zarr.open_group(str(l0), mode="r+")["scan_025650/source/tamb"][:] = 271.0
    with pytest.raises(ConfigError, match=r"other input \(scan_025650/source\)"):
        calibrate(l0, tmp_path / "l1.zarr")


def test_bytes_do_not_depend_on_workers_tiles_or_prefetch(tmp_path: Path) -> None:
    store = L0Writer(tmp_path / "l0.zarr", {})
    for k in range(2):
        small_scan(25650 + k, shape=(4096, 9, 2, 3), mjd=60000 + k / 100).write(store, "int32")
    runs = [
        {"workers": 1},
        {"workers": 2},
        {"workers": 4},
        {"workers": 2, "memory": 16 * 2**20},
        {"workers": 3, "memory": 2**30},
    ]
    trees = []
    for k, options in enumerate(runs):
        calibrate(tmp_path / "l0.zarr", tmp_path / f"{k}.zarr", Settings(**options))
        trees.append(tree(tmp_path / f"{k}.zarr"))
    calibrate(tmp_path / "l0.zarr", tmp_path / "one.zarr", scans=[25651])
    assert all(t == trees[0] for t in trees[1:])
    one = tree(tmp_path / "one.zarr")
    assert {k: v for k, v in one.items() if k.startswith("scan_025651")} == {
        k: v for k, v in trees[0].items() if k.startswith("scan_025651")
    }


def test_tile_sizes_of_the_test_above_differ(tmp_path: Path) -> None:
    """Guard: 16 MiB give one pixel a tile, 1 GiB all six."""
    from calib_gpu.store.l0 import L0Store
    from calib_gpu.workers import Blocks

    store = L0Writer(tmp_path / "l0.zarr", {})
    small_scan(shape=(4096, 9, 2, 3)).write(store, "int32")
    l0 = L0Store(tmp_path / "l0.zarr")
    group = l0.group(l0.scan_ids()[0], "source")
    assert Blocks.plan(group, 14, 600_000) == Blocks(1, 1)
    assert Blocks.plan(group, 14, 2**30) == Blocks(2, 3)


def test_no_path_clock_or_host_in_l1(tmp_path: Path) -> None:
    l0 = night(tmp_path, (25650,))
    calibrate(l0, tmp_path / "l1.zarr")
    calibrate(l0, tmp_path / "elsewhere" / "l1.zarr")
    assert tree(tmp_path / "l1.zarr") == tree(tmp_path / "elsewhere" / "l1.zarr")
    for path in (tmp_path / "l1.zarr").rglob("zarr.json"):
        assert str(tmp_path) not in path.read_text()


def test_output_that_cannot_be_written(tmp_path: Path) -> None:
    l0 = night(tmp_path, (25650,))
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "l1.zarr"):
        with pytest.raises(OutputError, match="file"):
            calibrate(l0, path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="not an L1 store"):
        calibrate(l0, tmp_path / "other")
    assert (tmp_path / "other" / "notes.txt").read_text() == "mine"


def test_output_inside_the_input_is_refused(tmp_path: Path) -> None:
    l0 = night(tmp_path, (25650,))
    before = tree(l0)
    for path in (l0, l0 / "l1.zarr", tmp_path):
        with pytest.raises(ConfigError, match="overlap"):
            calibrate(l0, path)
    assert tree(l0) == before


def test_a_full_disk_fails_the_scan_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    l0 = night(tmp_path)
    calls = {"n": 0}
    append = disk.OutputFile.append

    def full(self: Any, data: bytes) -> None:
        if "scan_025651" in str(self.path):
            calls["n"] += 1
            if calls["n"] > 5:
                raise OutputError("cannot write: No space left on device", array=str(self.path))
        append(self, data)

    left: list[Path] = []

    class AtEnd(Progress):
        def end(self, report: ScanReport) -> None:
            left.extend((tmp_path / "l1.zarr.run" / "staging").glob(f"*/{report.scan}"))

    monkeypatch.setattr(disk.OutputFile, "append", full)
    report = calibrate(l0, tmp_path / "l1.zarr", progress=AtEnd())
    assert left == []  # what a failed scan staged is gone before the next one needs the space
    assert statuses(report) == ["ok", "failed", "ok"]
    assert "No space left" in report.scans[1].message
    assert not (tmp_path / "l1.zarr" / "scan_025651").exists()
    assert not any((tmp_path / "l1.zarr.run" / "staging").iterdir())
    monkeypatch.undo()
    assert statuses(calibrate(l0, tmp_path / "l1.zarr")) == ["skipped", "skipped", "ok"]


def test_stop_ends_the_run_and_a_rerun_goes_on(tmp_path: Path) -> None:
    l0 = night(tmp_path)
    stop = threading.Event()

    class StopAfterOne(Progress):
        def end(self, report: ScanReport) -> None:
            stop.set()

    report = calibrate(l0, tmp_path / "l1.zarr", progress=StopAfterOne(), stop=stop)
    assert (report.exit_code, statuses(report)) == (Exit.STOPPED, ["ok"])
    assert not any((tmp_path / "l1.zarr.run" / "staging").iterdir())
    report = calibrate(l0, tmp_path / "l1.zarr")
    assert sorted(statuses(report)) == ["ok", "ok", "skipped"]
    calibrate(l0, tmp_path / "whole.zarr")
    assert tree(tmp_path / "l1.zarr") == tree(tmp_path / "whole.zarr")


def test_scans_are_selected_by_number(tmp_path: Path) -> None:
    l0 = night(tmp_path)
    report = calibrate(l0, tmp_path / "l1.zarr", scans=[25652])
    assert [s.scan for s in report.scans] == ["scan_025652"]
    with pytest.raises(ConfigError, match="25999"):
        calibrate(l0, tmp_path / "l1.zarr", scans=[25999])


def test_bands_are_calibrated_each_on_its_own(tmp_path: Path) -> None:
    from calib_gpu.records import ScanId

    store = L0Writer(tmp_path / "l0.zarr", {})
    for k, band in enumerate(("band_HFA", "band_LFA")):
        scan = small_scan(shape=SHAPE, seed=k)
        where = ScanId(scan.number, band)
        store.scan(where, scan.attrs)
        for name, counts, arrays in (
            ("source", scan.counts, scan.source),
            ("calibration", scan.loads, scan.calibration),
        ):
            assert counts is not None
            store.group(where, name, arrays, counts.shape, "float64").write_all(counts)  # type: ignore[arg-type]
    report = calibrate(tmp_path / "l0.zarr", tmp_path / "l1.zarr")
    assert [s.scan for s in report.scans] == ["scan_025650/band_HFA", "scan_025650/band_LFA"]
    for k, band in enumerate(("band_HFA", "band_LFA")):
        l1 = zarr.open_group(str(tmp_path / "l1.zarr"), mode="r")[f"scan_025650/{band}"]
        np.testing.assert_allclose(l1["spectra"][:], small_scan(shape=SHAPE, seed=k).truth["ta"], atol=1e-8)
    assert calib_gpu.calibrate(tmp_path / "l0.zarr", tmp_path / "l1.zarr").count("skipped") == 2


@pytest.mark.parametrize("damage", ["format", "json"])
def test_a_damaged_document_of_the_store_is_named_and_written_anew(tmp_path: Path, damage: str) -> None:
    l0, l1 = night(tmp_path), tmp_path / "l1.zarr"
    calibrate(l0, l1)
    before, document = tree(l1), l1 / "zarr.json"
    text = document.read_text()
    document.write_text(text.replace("l1-heterodyne", "l1-heterodyme") if damage == "format" else text[:40])
    with pytest.raises(OutputError, match="document of this L1 store is damaged"):
        calibrate(l0, l1)
    with pytest.raises(StoreUnusable, match="document of this L1 store is damaged"):
        published_scans(l1)
    report = calibrate(l0, l1, Settings(overwrite=True), scans=[25650])
    assert (report.count("ok"), tree(l1)) == (1, before)


def test_a_group_that_was_forgotten_is_read_anew(tmp_path: Path) -> None:
    l0, scan = night(tmp_path, (25650,)), ScanId(25650)
    store = L0Store(l0)
    store.group(scan, "source")
    before = store.input_digest("scan_025650", "source")
    zarr.open_array(str(l0 / "scan_025650" / "source" / "tamb"), mode="r+")[...] = 280.0
    assert store.input_digest("scan_025650", "source") == before  # that of what was read
    store.forget("scan_025650/source")
    assert store.input_digest("scan_025650", "source") != before
