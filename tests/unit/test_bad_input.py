"""Bad input: a clear error naming scan, array, value and rule, the other scans done, nothing half-written."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import calib_gpu
from calib_gpu import Settings
from calib_gpu.errors import StoreUnusable
from calib_gpu.inspection import inspect_store
from calib_gpu.inspection.check_l0 import check_l0
from calib_gpu.store import system
from calib_gpu.store.l0_write import L0Writer
from calib_gpu.testing.faulty_disk import FaultyDisk, fail
from small_scan import SmallScan, small_scan, two_bands

BAD, GOOD = 25651, 25650
SHAPE = (32, 2, 1, 1)


def remove(folder: str, name: str) -> Callable[[Path], None]:
    return lambda scan: shutil.rmtree(scan / folder / name)


def document(name: str, **changes: Any) -> Callable[[Path], None]:
    def apply(scan: Path) -> None:
        path = scan / name / "zarr.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return apply


def attributes(**changes: Any) -> Callable[[SmallScan], None]:
    return lambda scan: scan.attrs.update(changes)


def source(name: str, value: Any) -> Callable[[SmallScan], None]:
    def apply(scan: SmallScan) -> None:
        scan.source[name] = np.full_like(np.asarray(scan.source[name], dtype=float), value)

    return apply


def one_value(group: str, name: str, value: float) -> Callable[[SmallScan], None]:
    def apply(scan: SmallScan) -> None:
        getattr(scan, group)[name] = np.array(getattr(scan, group)[name], float)
        getattr(scan, group)[name][1] = value

    return apply


def classes(*names: str) -> Callable[[SmallScan], None]:
    return lambda scan: scan.source.update(sobsmode=list(names))


def drop_loads(scan: SmallScan) -> None:
    scan.loads = None
    scan.source["signal_freq"] = scan.source["signal_freq"] + 1e9  # no other scan's loads fit
    scan.source["image_freq"] = scan.source["image_freq"] - 1e9


def dead_loads(scan: SmallScan) -> None:
    assert scan.loads is not None
    scan.loads[...] = 0.0
    drop = scan.source["signal_freq"]
    scan.source["signal_freq"] = drop + 0.0
    scan.attrs["tuning_id"] = "another"


def swapped_loads(scan: SmallScan) -> None:
    assert scan.loads is not None
    scan.loads = scan.loads[..., ::-1].copy()


def cut(scan: Path) -> None:
    path = sorted(p for p in (scan / "source" / "data_5d").glob("c.*") if p.is_file())[0]
    path.write_bytes(path.read_bytes()[:-40])


def unlink(scan: Path) -> None:
    sorted(p for p in (scan / "source" / "data_5d").glob("c.*") if p.is_file())[0].unlink()


def flip(scan: Path) -> None:
    path = sorted(p for p in (scan / "source" / "data_5d").glob("c.*") if p.is_file())[0]
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 3] ^= 4
    path.write_bytes(raw)


BEFORE: dict[str, tuple[Callable[[SmallScan], Any], str, tuple[str, ...]]] = {
    "no loads": (drop_loads, "NoLoads", ("calibration", "HOT and COLD")),
    "loads without a valid dump": (dead_loads, "NoLoads", ("calibration",)),
    "swapped loads": (swapped_loads, "NoValidLoads", ("HOT", "COLD")),
    "no OFF": (classes("OTF-ON", "OTF-ON", "ON", "ON", "ON"), "NoReference", ("sobsmode", "OFF")),
    "unknown mode": (classes("A", "B", "C", "D", "E"), "UnknownMode", ("sobsmode", "A")),
    "chopped": (classes("SWA-ON", "SWA-OFF", "SWB-ON", "SWB-OFF", "ON"), "UnsupportedMode", ("sobsmode", "SWA-ON")),
    "elevation 0": (one_value("source", "elevation", 0.0), "BadElevation", ("elevation", "0 rad", "5 deg")),
    "elevation missing": (one_value("source", "elevation", np.nan), "BadElevation", ("elevation", "nan")),
    "elevation in degrees": (one_value("source", "elevation", 52.0), "BadElevation", ("elevation", "rad")),
    "frequency outside the table": (
        lambda s: [source("signal_freq", 700e9)(s), source("image_freq", 688e9)(s)], "AtmRange", ("GHz", "--atmosphere"),
    ),
    "two frequencies": (one_value("source", "signal_freq", 492.9e9), "FrequencyMismatch", ("signal_freq", "half a channel")),
    "channel spacing 0": (source("freq_res", 0.0), "FrequencyMismatch", ("freq_res", "0")),
    "frequency not a number": (source("signal_freq", np.nan), "FrequencyMismatch", ("signal_freq", "nan")),
    "time not a number": (one_value("source", "mjd", np.nan), "MissingValue", ("mjd",)),
    "no pressure": (source("pamb", np.nan), "MissingValue", ("pamb",)),
    "no ambient temperature": (source("tamb", -1.0), "MissingValue", ("tamb", "-1")),
    "no load temperature": (lambda s: s.calibration.update(thot=np.full(2, np.nan)), "MissingValue", ("calibration/thot",)),
    "forward efficiency": (lambda s: s.source.update(eta_f=np.array(1.5)), "ConfigError", ("eta_f", "1.5")),
    "gain 0": (lambda s: s.source.update(gain_sig=np.zeros((1, 1))), "ConfigError", ("gain_sig", "0")),
    "one gain": (lambda s: s.source.pop("gain_img"), "ConfigError", ("gain_sig", "gain_img")),
    "time_ref unknown": (attributes(time_ref="end"), "BadType", ("time_ref", "end", "mid")),
    "exptime_kind a number": (attributes(exptime_kind=3), "BadType", ("exptime_kind",)),
    "lsrk without velocity": (attributes(frequency_frame="lsrk"), "MissingValue", ("frame_velocity_m_s",)),
    "saturation a text": (attributes(adc_saturation="high"), "BadType", ("adc_saturation", "high")),
    "too many dumps": (lambda s: s.source.update(n_dump=np.full(5, 9)), "BadShape", ("n_dump", "9")),
}  # fmt: skip

AFTER: dict[str, tuple[Callable[[Path], None], str, tuple[str, ...]]] = {
    **{f"no {name}": (remove("source", name), "MissingValue", (f"source/{name}",))
       for name in ("data_5d", "mjd", "signal_freq", "image_freq", "freq_res", "ref_channel")},
    "no sobsmode": (remove("source", "sobsmode"), "MissingValue", ("source/sobsmode",)),
    "no elevation": (remove("source", "elevation"), "MissingValue", ("elevation",)),
    "no tcold": (remove("calibration", "tcold"), "MissingValue", ("calibration/tcold",)),
    "missing chunk": (unlink, "Unreadable", ("source/data_5d", "c.0.0.0.0", "missing")),
    "chunk cut": (cut, "Unreadable", ("source/data_5d", "c.0.0.0.0")),
    "bit flipped": (flip, "Unreadable", ("source/data_5d", "c.0.0.0.0")),
    "complex counts": (document("source/data_5d", data_type="complex64"), "BadType", ("source/data_5d",)),
    "rank 4": (document("source/data_5d", shape=[32, 2, 1, 1]), "Unreadable", ("data_5d",)),
    "axes turned": (document("source/data_5d", dimension_names=list("SDRAC")), "BadShape", ("data_5d", "C, D, R, A, S")),
    "mjd too short": (document("source/mjd", shape=[4]), "BadShape", ("source/mjd", "[4]", "[5]")),
    "complex elevation": (
        document("source/elevation", data_type="complex64", fill_value=[0.0, 0.0]), "BadType", ("source/elevation",),
    ),
    "a group for an array": (document("source/mjd", node_type="group"), "Unreadable", ("source/mjd", "array is expected")),
    "metadata cut": (lambda scan: (scan / "source/data_5d/zarr.json").write_text('{"a'), "Unreadable", ("data_5d",)),
    "scan attributes damaged": (lambda scan: (scan / "zarr.json").write_text("[]"), "Unreadable", ("zarr.json",)),
}  # fmt: skip


def run_night(folder: Path, prepare: Callable[[SmallScan], Any] | None, damage: Callable[[Path], Any] | None) -> Any:
    store = L0Writer(folder / "l0.zarr", {})
    small_scan(GOOD, shape=SHAPE).write(store, "int32")
    bad = small_scan(BAD, shape=SHAPE, mjd=60000.2)
    if prepare is not None:
        prepare(bad)
    bad.write(store, "int32")
    if damage is not None:
        damage(folder / "l0.zarr" / f"scan_{BAD:06d}")
    return calib_gpu.calibrate(folder / "l0.zarr", folder / "l1.zarr", Settings(workers=1, max_load_age=60.0))


def check_failed(folder: Path, report: Any, kind: str, words: tuple[str, ...]) -> None:
    assert [s.status for s in report.scans] == ["ok", "failed"]
    assert report.exit_code == 2
    (failure,) = json.loads((folder / "l1.zarr" / "failures.json").read_bytes())
    assert failure["error"] == kind, failure
    assert failure["scan"] == f"scan_{BAD:06d}"
    assert failure["scan"] in failure["message"]
    for word in words:
        assert word in failure["message"], failure["message"]
    assert sorted(p.name for p in (folder / "l1.zarr").iterdir()) == ["failures.json", f"scan_{GOOD:06d}", "zarr.json"]
    assert not any((folder / "l1.zarr.run" / "staging").iterdir())


@pytest.mark.parametrize("name", BEFORE)
def test_bad_values(tmp_path: Path, name: str) -> None:
    prepare, kind, words = BEFORE[name]
    check_failed(tmp_path, run_night(tmp_path, prepare, None), kind, words)


@pytest.mark.parametrize("name", AFTER)
def test_damaged_stores(tmp_path: Path, name: str) -> None:
    damage, kind, words = AFTER[name]
    check_failed(tmp_path, run_night(tmp_path, None, damage), kind, words)


def test_a_defect_of_ours_fails_one_scan_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from calib_gpu import scan_run

    def broken(*arguments: Any) -> Any:
        if arguments[0].id.number == BAD:
            raise ZeroDivisionError("planted")
        return real(*arguments)

    real = scan_run.resolve
    monkeypatch.setattr(scan_run, "resolve", broken)
    check_failed(tmp_path, run_night(tmp_path, None, None), "InternalError", ("stage resolve", "planted"))


def test_unknown_subscans_among_known_ones_are_ignored(tmp_path: Path) -> None:
    scan = small_scan(shape=SHAPE)
    scan.source["sobsmode"] = ["OTF-OFF", "OTF-ON", "STRANGE", "OTF-OFF", "OTF-ON"]
    report = calib_gpu.calibrate(scan.store(tmp_path / "l0.zarr"), tmp_path / "l1.zarr")
    attrs = json.loads((tmp_path / "l1.zarr/scan_025650/zarr.json").read_bytes())["attributes"]
    assert report.exit_code == 0
    assert attrs["scan_flags"] & 64
    assert "STRANGE" in " ".join(attrs["warnings"])


def test_missing_chunks_are_missing_samples_where_the_fill_value_says_so(tmp_path: Path) -> None:
    scan = small_scan(shape=SHAPE)
    l0 = scan.store(tmp_path / "l0.zarr", "int32")
    document("source/data_5d", fill_value=-(2**31))(l0 / "scan_025650")
    unlink(l0 / "scan_025650")
    report = calib_gpu.calibrate(l0, tmp_path / "l1.zarr", Settings(pwv=0.6))
    assert [s.error for s in report.scans] == ["NoReference"]  # the OFFs lie in that shard too


def denied(folder: Path) -> AbstractContextManager[None]:
    """A folder as it is for a user who may not read it; root may read everything, so the calls are replaced."""

    def unless(call: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(path: Any, *arguments: Any, **options: Any) -> Any:
            at = Path(path)
            if folder in at.parents or (at == folder and (call is os.scandir or str(path).endswith("/."))):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
            return call(path, *arguments, **options)

        return guarded

    return system.replaced(scandir=unless(os.scandir), stat=unless(os.stat))


def test_a_scan_whose_folder_cannot_be_read_is_a_failure(tmp_path: Path) -> None:
    said = f"scan_{BAD:06d}: cannot be read: Permission denied"
    with denied(tmp_path / "l0.zarr" / f"scan_{BAD:06d}"):
        report = run_night(tmp_path, None, None)
        check_failed(tmp_path, report, "Unreadable", (said,))
        alone = calib_gpu.calibrate(tmp_path / "l0.zarr", tmp_path / "alone.zarr", Settings(workers=1), scans=[BAD])
        assert (alone.exit_code, alone.scans[0].message) == (1, said)
        assert check_l0(tmp_path / "l0.zarr", Settings(workers=1)).problems == [said]
        (overview,) = inspect_store(tmp_path / "l0.zarr", None, Settings(workers=1))
        (row,) = [row for row in overview.rows if row[0] == f"scan_{BAD:06d}"]
        assert row[1] == "unusable"
        assert "Permission denied" in " ".join(row)
    assert os.listdir(tmp_path / "l0.zarr" / f"scan_{BAD:06d}")


def test_a_band_whose_folder_cannot_be_read_is_a_failure(tmp_path: Path) -> None:
    l0 = two_bands(tmp_path / "l0.zarr")
    with denied(l0 / "scan_025650" / "band_LFA"):
        report = calib_gpu.calibrate(l0, tmp_path / "l1.zarr", Settings(workers=1, pwv=0.6))
    assert [(s.scan, s.status) for s in report.scans] == [
        ("scan_025650/band_HFA", "ok"),
        ("scan_025650/band_LFA", "failed"),
    ]
    assert report.scans[1].message == "scan_025650/band_LFA: cannot be read: Permission denied"


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EACCES])
@pytest.mark.parametrize("place", ["", "source", "calibration", "zarr.json", "source/data_5d/zarr.json"])
def test_an_error_of_the_disk_is_not_taken_for_absence(tmp_path: Path, place: str, number: int) -> None:
    """Whether something is there cannot be told: the scan fails by name, and does not vanish."""
    lost = tmp_path / "l0.zarr" / f"scan_{BAD:06d}" / place
    with FaultyDisk(lost, fail(number), calls=("stat",), lasting=True) as disk:
        report = run_night(tmp_path, None, None)
    assert disk.names
    error = "ReadFailed" if number == errno.ESTALE else "Unreadable"
    check_failed(tmp_path, report, error, (f"scan_{BAD:06d}", os.strerror(number)))


def test_a_store_that_cannot_be_listed_is_unusable(tmp_path: Path) -> None:
    l0 = small_scan(GOOD, shape=SHAPE).store(tmp_path / "l0.zarr")
    with (
        FaultyDisk(l0, fail(errno.ESTALE), calls=("scandir",), lasting=True),
        pytest.raises(StoreUnusable, match="Stale file handle"),
    ):
        calib_gpu.calibrate(l0, tmp_path / "l1.zarr", Settings(workers=1))


def test_bands_that_could_not_be_listed_once_do_not_vanish(tmp_path: Path) -> None:
    l0 = two_bands(tmp_path / "l0.zarr")
    with FaultyDisk(l0 / "scan_025650", fail(errno.EIO), at=0, calls=("scandir",)) as disk:
        report = calib_gpu.calibrate(l0, tmp_path / "l1.zarr", Settings(workers=1, pwv=0.6))
    assert disk.names
    assert {s.error for s in report.scans} == {"ReadFailed"}
