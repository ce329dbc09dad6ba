"""P18: a rerun over a finished store costs next to nothing and changes nothing; what was made differently is refused."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from calib_gpu import ConfigError
from calib_gpu.store.metadata import group_attrs
from calib_gpu.testing.faulty_disk import CHANGES, FaultyDisk
from invariant import Figure, Night, count, make_night, tree


@pytest.fixture(scope="module")
def finished(module_folder: Path) -> tuple[Night, Path]:
    """A night without failures and its L1."""
    night = make_night(module_folder / "finished", count(20, 200), broken=False)
    night.run(module_folder / "finished" / "l1.zarr")
    return night, module_folder / "finished" / "l1.zarr"


def test_a_rerun_is_cheap(finished: tuple[Night, Path], figure: Figure) -> None:
    night, l1 = finished
    spent, waited = [], []
    for _ in range(5):
        begin, begin_cpu = time.perf_counter(), time.process_time()
        report = night.run(l1)
        waited.append(time.perf_counter() - begin)
        spent.append(time.process_time() - begin_cpu)  # what others do on this machine is not counted
        assert report.count("skipped") == len(night.good)
    each, wall = (1e3 * min(times) / len(night.good) for times in (spent, waited))
    text = f"ms of processor time a scan, rerun over {len(night.good)} finished scans ({wall:.1f} ms by the clock)"
    figure("P18", text, round(each, 2), 10.0)
    assert each <= 10.0


def test_a_rerun_changes_nothing(finished: tuple[Night, Path], figure: Figure) -> None:
    night, l1 = finished
    times = {p: p.stat().st_mtime_ns for p in [l1, *l1.rglob("*")]}
    with FaultyDisk(l1, calls=CHANGES) as disk:
        night.run(l1)
    figure("P18", "calls of a rerun that change something in L1", len(disk.names), 0)
    assert disk.names == []
    assert {p: p.stat().st_mtime_ns for p in [l1, *l1.rglob("*")]} == times
    night.check_whole(l1)


@pytest.mark.parametrize(
    "change",
    [{"eta_f": 0.9}, {"pwv": 0.7}, {"dtype": "float32"}, {"reference": "interp"}, {"fit_weights": "radiometer"}],
    ids=str,
)
def test_other_settings_are_refused(finished: tuple[Night, Path], change: dict[str, object]) -> None:
    night, l1 = finished
    with pytest.raises(ConfigError, match=next(iter(change))):
        night.run(l1, **change)
    night.check_whole(l1)


def test_another_version_is_refused(finished: tuple[Night, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    night, l1 = finished
    monkeypatch.setattr("calib_gpu.scan_run.__version__", "99.0")
    with pytest.raises(ConfigError, match="engine version"):
        night.run(l1)
    night.check_whole(l1)


def test_a_byte_of_the_input_is_noticed(fast: Path, figure: Figure) -> None:
    """One byte of each file of metadata and of small arrays, of the scan and of its loads, and the length of one of counts."""
    night = make_night(fast / "night", 1, broken=False)
    l1 = fast / "l1.zarr"
    night.run(l1)
    scan = night.l0 / "scan_025650"
    files = sorted(p for group in ("source", "calibration") for p in (scan / group).rglob("*") if p.is_file())
    small = [p for p in files if not ("data_5d" in p.parts and p.name != "zarr.json")]
    noticed: list[str] = []
    for path in small:
        raw = path.read_bytes()
        path.write_bytes(raw[: len(raw) // 2] + bytes([raw[len(raw) // 2] ^ 1]) + raw[len(raw) // 2 + 1 :])
        with pytest.raises(ConfigError, match="scan_025650") as caught:
            night.run(l1)
        noticed.append(str(caught.value))
        path.write_bytes(raw)
    assert night.run(l1).count("skipped") == 1
    counts = next(p for p in files if p not in small)
    with counts.open("ab") as file:
        file.write(b"\0")
    with pytest.raises(ConfigError, match=r"other input \(scan_025650"):
        night.run(l1)
    figure(
        "P18", f"changed files of input, of {len(small) + 1}, that a rerun refuses", len(noticed) + 1, len(small) + 1
    )
    night.visible(l1)


def test_overwrite_replaces_what_was_made_differently(fast: Path) -> None:
    night = make_night(fast / "night")
    night.run(fast / "l1.zarr", eta_f=0.9)
    with pytest.raises(ConfigError, match="--overwrite"):
        night.run(fast / "l1.zarr")
    night.run(fast / "l1.zarr", overwrite=True)
    night.check_whole(fast / "l1.zarr")


def test_the_key_holds_all_that_changes_numbers(finished: tuple[Night, Path]) -> None:
    """Settings, version, and the digests of the scan and of the loads it uses; no time, host or path."""
    night, l1 = finished
    attrs = group_attrs(l1 / "scan_025651")
    assert attrs["engine_version"]
    assert len(attrs["settings_digest"]) >= 40
    assert {"scan_025651/source", "scan_025651/calibration"} <= set(attrs["inputs"]["sha256"])
    text = b"".join(tree(l1 / "scan_025651").values())
    assert str(night.l0.parent).encode() not in text


def test_a_lost_list_of_failures_is_made_again(fast: Path) -> None:
    night = make_night(fast / "night")
    night.run(fast / "l1.zarr")
    for damage in (b"", b"{", b"[1, null]", b'[{"scan": 3}]', b"\xff\xfe"):
        (fast / "l1.zarr" / "failures.json").write_bytes(damage)
        night.run(fast / "l1.zarr")
        night.check_whole(fast / "l1.zarr")
    shutil.rmtree(fast / "l1.zarr.run")
    night.run(fast / "l1.zarr")
    night.check_whole(fast / "l1.zarr")
