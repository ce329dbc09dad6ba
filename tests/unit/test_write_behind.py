"""A scan is written while the next one is calibrated: one at a time, in order, and whatever happens it ends."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from calib_gpu.errors import OutputError
from calib_gpu.pipeline import Progress, calibrate
from calib_gpu.scan_report import ScanReport
from calib_gpu.scan_run import ScanRunner
from calib_gpu.settings import Settings
from calib_gpu.simulate import realistic, simulate
from calib_gpu.store.publish import Publisher
from calib_gpu.write_behind import WriteBehind


@pytest.fixture(scope="module")
def l0(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("behind") / "l0.zarr"
    simulate(path, realistic("tiny", night=False, n_scans=4))
    return path


def test_work_is_done_in_order_one_at_a_time_and_to_its_end() -> None:
    done: list[int] = []
    go = threading.Event()

    def first() -> None:
        go.wait(10)
        done.append(1)

    def two_and_a_failure() -> None:
        with WriteBehind() as behind:
            behind.begin(first)
            assert behind.busy
            threading.Timer(0.05, go.set).start()
            behind.begin(lambda: done.append(2))
            assert done[:1] == [1]
            raise KeyError

    with pytest.raises(KeyError):
        two_and_a_failure()
    assert done == [1, 2]


def test_what_fails_is_told_where_it_is_waited_for() -> None:
    def fail() -> None:
        raise ValueError("disk")

    with WriteBehind() as behind:
        behind.begin(fail)
        with pytest.raises(ValueError, match="disk"):
            behind.wait()
        assert not behind.busy


class Order(Progress):
    """Notes what begins and ends."""

    def __init__(self) -> None:
        self.ended: list[tuple[str, str]] = []

    def end(self, report: ScanReport) -> None:
        self.ended.append((report.scan, report.status))


def test_a_scan_is_published_while_the_next_one_is_calibrated(
    l0: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first scan is not published before the second one has its tiles: one after the other would wait for ever."""
    second_has_tiles = threading.Event()
    publish, run = Publisher.publish, ScanRunner.calibrate

    def late(self: Publisher, scan: Any, staged: Path, *, overwrite: bool) -> bool:
        if scan.number == 25650:
            assert second_has_tiles.wait(20)
        return publish(self, scan, staged, overwrite=overwrite)

    def noted(self: ScanRunner, loaded: Any, *args: Any, **kwargs: Any) -> Any:
        out = run(self, loaded, *args, **kwargs)
        if loaded.scan.id.number != 25650:
            second_has_tiles.set()
        return out

    monkeypatch.setattr(Publisher, "publish", late)
    monkeypatch.setattr(ScanRunner, "calibrate", noted)
    order = Order()
    report = calibrate(l0, tmp_path / "l1.zarr", Settings(), progress=order)
    names = [f"scan_{n:06d}" for n in range(25650, 25654)]
    assert [s.scan for s in report.scans] == names
    assert order.ended == [(name, "ok") for name in names]


def test_a_failure_while_it_is_written_is_that_of_its_scan(
    l0: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish = Publisher.publish

    def full(self: Publisher, scan: Any, staged: Path, *, overwrite: bool) -> bool:
        if scan.number == 25651:
            raise OutputError("cannot write: No space left on device")
        return publish(self, scan, staged, overwrite=overwrite)

    monkeypatch.setattr(Publisher, "publish", full)
    order = Order()
    report = calibrate(l0, tmp_path / "l1.zarr", Settings(), progress=order)
    assert [s.status for s in report.scans] == ["ok", "failed", "ok", "ok"]
    assert [status for _, status in order.ended] == ["ok", "failed", "ok", "ok"]
    assert report.scans[1].stage == "write"
    assert report.scans[1].message.startswith("scan_025651")
    assert not any((tmp_path / "l1.zarr.run" / "staging").iterdir())
