"""Watching a store that is being written: what is taken when, in whatever order, equals a run over the finished store."""

from __future__ import annotations

import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from test_cli import cli
from test_pipeline import tree

from calib_gpu import ConfigError, Settings
from calib_gpu.arrivals import signature_of
from calib_gpu.errors import Exit, OutputError, ReadFailed, Stopped, StoreUnusable
from calib_gpu.observe.logs import JsonLines
from calib_gpu.pipeline import Session, calibrate
from calib_gpu.records import ScanId
from calib_gpu.scan_report import Progress
from calib_gpu.stopping import Stop
from calib_gpu.store import reads, system
from calib_gpu.store.l0 import L0Store
from calib_gpu.store.l0_write import L0Writer
from calib_gpu.watch import Pace, Watcher, watch
from small_scan import small_scan

SHAPE = (32, 2, 1, 1)
MINUTE = 1.0 / 1440.0


class Night:
    """A finished store, from which scans come one by one into the one that is watched; the clock is set by hand."""

    def __init__(self, folder: Path, settings: Settings | None = None, **pace: Any) -> None:
        self.folder, self.now, self.settings = folder, 1000.0, settings or Settings(workers=1)
        self.source, self.l0, self.l1 = folder / "finished.zarr", folder / "l0.zarr", folder / "l1.zarr"
        self._store = L0Writer(self.source, {})
        self.l0.mkdir()
        shutil.copy(self.source / "zarr.json", self.l0)
        self.pace = Pace(**({"settle": 60.0} | pace))
        self.session: Session | None = None

    def scan(self, number: int, minute: float, *, loads: bool = True, source: bool = True, **arrays: Any) -> None:
        """Add a scan to the finished store."""
        scan = small_scan(number, shape=SHAPE, mjd=60000.0 + minute * MINUTE, seed=number)
        scan.source.update(arrays)
        if not loads:
            scan.loads = None
        scan.write(self._store, with_source=source)

    def comes(self, number: int, *, complete: bool | None = None, leave_out: str = "") -> None:
        """Copy a scan, or the rest of it, into the store that is watched."""
        name = f"scan_{number:06d}"
        ignore = shutil.ignore_patterns(leave_out) if leave_out else None
        shutil.copytree(self.source / name, self.l0 / name, dirs_exist_ok=True, ignore=ignore)
        if complete is not None:
            self.mark(number, complete)

    def mark(self, number: int, complete: bool) -> None:
        zarr.open_group(str(self.l0 / f"scan_{number:06d}"), mode="r+").attrs["complete"] = complete

    def __enter__(self) -> Night:
        self.session = Session(L0Store(self.l0), self.l1, self.settings, Progress(), Stop())
        self.watcher = Watcher(self.session, self.l0, self.pace, lambda: self.now)
        return self

    def __exit__(self, *_: object) -> None:
        assert self.session is not None
        self.session.__exit__(None, None, None)

    def looks(self, after: float = 0.0) -> list[str]:
        """The scans that are published after one more look, so many seconds later."""
        self.now += after
        self.watcher.step()
        return sorted(p.name for p in self.l1.glob("scan_*"))

    def failed(self) -> list[str]:
        path = self.l1 / "failures.json"
        return [f["scan"] for f in json.loads(path.read_bytes())] if path.exists() else []

    def equals_a_run(self) -> bool:
        calibrate(self.source, self.folder / "run.zarr", self.settings)
        mine, theirs = tree(self.l1), tree(self.folder / "run.zarr")
        return {k: v for k, v in mine.items() if k != "zarr.json"} == {
            k: v for k, v in theirs.items() if k != "zarr.json"
        }


def test_the_marker_counts_at_first_sight(tmp_path: Path) -> None:
    night = Night(tmp_path)
    night.scan(1, 0.0)
    night.scan(2, 10.0)
    night.comes(1, complete=False)
    with night:
        assert night.looks() == []
        assert night.looks(after=10_000.0) == []  # false: however long it takes
        night.mark(1, True)
        assert night.looks() == ["scan_000001"]
        night.comes(2, complete=True)
        assert night.looks() == ["scan_000001", "scan_000002"]
    assert night.equals_a_run()


def test_a_marker_of_the_store_counts_for_its_scans(tmp_path: Path) -> None:
    night = Night(tmp_path)
    night.scan(1, 0.0)
    night.comes(1)
    zarr.open_group(str(night.l0), mode="r+").attrs["complete"] = True
    with night:
        assert night.looks() == ["scan_000001"]


def test_without_a_marker_a_scan_must_be_unchanged_for_a_while(tmp_path: Path) -> None:
    night = Night(tmp_path)
    night.scan(1, 0.0)
    night.comes(1, leave_out="tamb")
    with night:
        assert night.looks() == []
        assert night.looks(after=59.0) == []
        night.comes(1)  # the rest
        assert night.looks(after=2.0) == []
        assert night.looks(after=59.0) == []
        assert night.looks(after=2.0) == ["scan_000001"]
    assert night.equals_a_run()


@pytest.mark.parametrize("jump", [-86_400.0, 86_400.0])
def test_times_of_files_are_compared_with_each_other_only(tmp_path: Path, jump: float) -> None:
    """A writer whose clock is a day off, or was set while it wrote."""
    night = Night(tmp_path)
    night.scan(1, 0.0)
    night.comes(1)
    document = night.l0 / "scan_000001" / "source" / "data_5d" / "zarr.json"
    with night:
        assert night.looks() == []
        os.utime(document, (document.stat().st_mtime + jump,) * 2)
        assert night.looks(after=61.0) == []  # it has changed, whenever its file says
        assert night.looks(after=61.0) == ["scan_000001"]


def test_a_scan_waits_while_nearer_loads_may_come(tmp_path: Path) -> None:
    """Loads at minutes 0 and 14, a scan without at 10: a set before 19 would serve it better than the first."""
    night = Night(tmp_path)
    night.scan(1, 0.0)
    night.scan(2, 10.0, loads=False)
    night.scan(3, 14.0, source=False)
    with night:
        night.comes(1, complete=True)
        night.comes(2, complete=True)
        assert night.looks() == ["scan_000001"]
        night.comes(3, complete=True)
        assert night.looks() == ["scan_000001", "scan_000002"]
    assert json.loads((night.l1 / "scan_000002/zarr.json").read_bytes())["attributes"]["load_scans"] == [3]
    assert night.equals_a_run()


def test_a_later_scan_ends_the_wait(tmp_path: Path) -> None:
    night = Night(tmp_path)
    night.scan(1, 0.0)
    night.scan(2, 10.0, loads=False)
    night.scan(3, 30.0)
    with night:
        night.comes(1, complete=True)
        night.comes(2, complete=True)
        assert night.looks() == ["scan_000001"]
        night.comes(3, complete=True)
        assert len(night.looks()) == 3
    assert night.equals_a_run()


def test_loads_that_lloadsn_names_are_not_waited_for_unless_they_are_being_written(tmp_path: Path) -> None:
    night = Night(tmp_path)
    night.scan(1, 0.0, source=False)
    night.scan(2, 4.0, source=False)
    night.scan(3, 10.0, loads=False, lloadsn=np.full(5, 2))
    with night:
        night.comes(1, complete=True)
        night.comes(2, complete=False)
        night.comes(3, complete=True)
        assert night.looks() == []
        night.mark(2, True)
        assert night.looks() == ["scan_000003"]
    assert night.equals_a_run()


def test_previous_loads_need_no_wait(tmp_path: Path) -> None:
    night = Night(tmp_path, Settings(loads="previous", workers=1))
    night.scan(1, 0.0)
    night.scan(2, 10.0, loads=False)
    with night:
        night.comes(1, complete=True)
        night.comes(2, complete=True)
        assert len(night.looks()) == 2
    assert night.equals_a_run()


def test_linear_loads_wait_for_the_set_behind(tmp_path: Path) -> None:
    night = Night(tmp_path, Settings(loads="linear", workers=1))
    night.scan(1, 0.0, source=False)
    night.scan(2, 10.0, loads=False)
    night.scan(3, 20.0, source=False)
    with night:
        night.comes(1, complete=True)
        night.comes(2, complete=True)
        assert night.looks() == []
        night.comes(3, complete=True)
        assert night.looks() == ["scan_000002"]
    assert night.equals_a_run()


def test_a_scan_without_loads_is_tried_again_when_loads_come(tmp_path: Path) -> None:
    """It fails when no set can come any more by its time; one that comes late all the same clears the failure."""
    night = Night(tmp_path)
    night.scan(1, 0.0, loads=False)
    night.scan(2, 5.0, source=False)
    night.scan(3, 60.0)
    with night:
        night.comes(1, complete=True)
        assert (night.looks(), night.failed()) == ([], [])
        night.comes(3, complete=True)
        assert (night.looks(), night.failed()) == (["scan_000003"], ["scan_000001"])
        assert night.looks() == ["scan_000003"]
        night.comes(2, complete=True)
        assert len(night.looks()) + len(night.looks()) >= 3
        assert (sorted(p.name for p in night.l1.glob("scan_*")), night.failed()) == (
            ["scan_000001", "scan_000003"],
            [],
        )
    assert night.equals_a_run()


def test_a_scan_that_failed_is_tried_again_when_it_changes(tmp_path: Path) -> None:
    night = Night(tmp_path)
    night.scan(1, 0.0)
    night.comes(1, leave_out="sobsmode")
    with night:
        night.looks()
        assert (night.looks(after=61.0), night.failed()) == ([], ["scan_000001"])
        night.comes(1)
        assert (night.looks(), night.failed()) == ([], ["scan_000001"])
        assert (night.looks(after=61.0), night.failed()) == (["scan_000001"], [])


def test_what_changes_while_it_is_read_is_not_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from calib_gpu.scan_run import ScanRunner

    night = Night(tmp_path)
    night.scan(1, 0.0)
    night.comes(1)
    real = ScanRunner.write

    def meanwhile(*arguments: Any, **named: Any) -> None:
        real(*arguments, **named)
        (night.l0 / "scan_000001" / "source" / "late").write_text("")

    with night:
        night.looks()
        monkeypatch.setattr(ScanRunner, "write", meanwhile)
        assert (night.looks(after=61.0), night.failed()) == ([], ["scan_000001"])
        assert "changed while it was read" in (night.l1 / "failures.json").read_text()
        monkeypatch.undo()
        night.looks()
        assert (night.looks(after=61.0), night.failed()) == (["scan_000001"], [])


@pytest.mark.parametrize("marked", [True, False])
def test_loads_that_change_after_they_were_taken_are_read_anew(tmp_path: Path, *, marked: bool) -> None:
    """The scan of the loads is calibrated already; who wrote it comes back and corrects the temperature of HOT."""
    night = Night(tmp_path, Settings(loads="previous", workers=1))
    night.scan(1, 0.0)
    night.scan(2, 10.0, loads=False)
    with night:
        night.comes(1, complete=True if marked else None)
        night.looks()
        assert night.looks(after=61.0) == ["scan_000001"]
        for store in (night.l0, night.source):
            zarr.open_group(str(store / "scan_000001" / "calibration"), mode="r+")["thot"][:] = 285.0
        night.comes(2, complete=True)
        assert night.looks() == ["scan_000001"]
        night.looks()
        assert night.looks(after=61.0) == ["scan_000001", "scan_000002"]
    calibrate(night.source, tmp_path / "run.zarr", night.settings)
    assert tree(night.l1 / "scan_000002") == tree(tmp_path / "run.zarr" / "scan_000002")


def test_loads_that_change_while_they_serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from calib_gpu.scan_run import ScanRunner

    night = Night(tmp_path, Settings(loads="previous", workers=1))
    night.scan(1, 0.0, source=False)
    night.scan(2, 10.0, loads=False)
    real = ScanRunner.calibrate

    def meanwhile(*arguments: Any, **named: Any) -> Any:
        calibrated = real(*arguments, **named)
        for store in (night.l0, night.source):
            zarr.open_group(str(store / "scan_000001" / "calibration"), mode="r+")["thot"][:] = 285.0
        return calibrated

    with night:
        night.comes(1, complete=True)
        night.comes(2, complete=True)
        monkeypatch.setattr(ScanRunner, "calibrate", meanwhile)
        assert (night.looks(), night.failed()) == ([], ["scan_000002"])
        monkeypatch.undo()
        assert (night.looks(), night.failed()) == (["scan_000002"], [])
    assert night.equals_a_run()


def test_loads_first_and_source_later(tmp_path: Path) -> None:
    """The loads of a scan settle before its source is there: they serve others, and the scan is taken when it is whole."""
    night = Night(tmp_path)
    night.scan(1, 0.0)
    night.comes(1, leave_out="source")
    with night:
        night.looks()
        assert night.looks(after=61.0) == []
        night.comes(1)
        night.looks(after=1.0)
        night.looks(after=1.0)
        assert night.looks(after=61.0) == ["scan_000001"]


def test_until_idle_ends_with_the_codes_of_run(tmp_path: Path) -> None:
    night = Night(tmp_path)
    night.scan(1, 0.0)
    night.scan(2, 10.0, loads=False)
    night.scan(3, 11.0)
    night.comes(1)
    night.comes(2)
    pace = Pace(settle=0.05, poll=0.02, until_idle=0.2)
    report = watch(night.l0, night.l1, night.settings, pace, Progress(), Stop())
    assert (report.exit_code, sorted(s.scan for s in report.scans)) == (Exit.ALL, ["scan_000001", "scan_000002"])
    night.comes(3, complete=False)
    report = watch(night.l0, night.l1, night.settings, pace, Progress(), Stop())
    assert (report.exit_code, report.waiting) == (Exit.SOME, ["scan_000003"])
    assert [s.status for s in report.scans] == ["skipped", "skipped"]


def test_the_beginning_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    night = Night(tmp_path, poll=0.01, settle=0.0)
    night.scan(1, 0.0)
    night.comes(1, complete=True)
    stop = Stop()
    stop.set()
    with caplog.at_level(logging.INFO, "calib_gpu"):
        watch(night.l0, night.l1, night.settings, Pace(settle=30.0, poll=2.5), Progress(), stop)
    (told,) = [r for r in caplog.records if r.getMessage().startswith("watching")]
    assert told.getMessage() == (
        f"watching {night.l0}: 1 scan(s) seen; a scan is taken when it is marked complete or unchanged for 30 s; "
        "looked at every 2.5 s; Ctrl-C ends"
    )
    line = json.loads(JsonLines().format(told))
    assert (line["scans_seen"], line["settle_s"], line["poll_s"]) == (1, 30.0, 2.5)


def test_other_settings_are_refused_at_once(tmp_path: Path) -> None:
    night = Night(tmp_path)
    night.scan(1, 0.0)
    calibrate(night.source, night.l1, Settings(pwv=0.5))
    with pytest.raises(ConfigError, match=r"1 scan\(s\) are done differently.*pwv"):
        watch(night.l0, night.l1, Settings(), Pace(until_idle=0.0), Progress(), Stop())


def test_a_store_that_is_away_for_a_while_does_not_end_the_night(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A network file system that comes back; told once."""
    night = Night(tmp_path)
    night.scan(1, 0.0)
    night.comes(1, complete=True)
    with night:
        night.l0.rename(tmp_path / "away")
        assert [night.looks(), night.looks(), night.looks()] == [[]] * 3
        assert len([r for r in caplog.records if "no such directory" in r.message]) == 1
        (tmp_path / "away").rename(night.l0)
        assert night.looks() == ["scan_000001"]


def test_a_stop_ends_it_with_75(tmp_path: Path) -> None:
    night = Night(tmp_path)
    night.scan(1, 0.0)
    stop = Stop()
    stop.set()
    report = watch(night.l0, night.l1, night.settings, Pace(), Progress(), stop)
    assert report.exit_code == Exit.STOPPED


def test_one_scan_that_cannot_be_looked_up_costs_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An output that gives an error once, while it is asked what is done: the scans before and after it are calibrated."""
    night = Night(tmp_path)
    for k in (1, 2, 3):
        night.scan(k, 10.0 * k)
        night.comes(k, complete=True)
    with night:
        assert night.session is not None
        publisher = night.session.publisher
        real = publisher.done

        def stale(scan: ScanId) -> dict[str, Any] | None:
            if scan.number == 2:
                raise OutputError("Stale file handle", array=str(scan))
            return real(scan)

        monkeypatch.setattr(publisher, "done", stale)
        assert (night.looks(), night.failed()) == (["scan_000001", "scan_000003"], ["scan_000002"])
        assert [line.scan for line in night.session.report.scans] == ["scan_000002", "scan_000001", "scan_000003"]


def test_what_a_stop_leaves_is_still_pending(tmp_path: Path) -> None:
    """A scan leaves the list of those to be calibrated when its report line is there, not before."""
    night = Night(tmp_path)
    for k in (1, 2):
        night.scan(k, 10.0 * k)
        night.comes(k, complete=True)
    with night:
        assert night.session is not None
        night.session.workers.stop.set()
        with pytest.raises(Stopped):
            night.looks()
        assert list(night.watcher._pending) == [ScanId(1), ScanId(2)]
        night.session.workers.stop.clear()
        assert night.looks() == ["scan_000001", "scan_000002"]


def test_what_looks_like_a_scan_but_is_none_is_told(tmp_path: Path) -> None:
    """As by a run: listed as failed, exit code 2; and gone from the list when it was moved away, as advised."""
    night = Night(tmp_path)
    night.scan(1, 0.0)
    night.comes(1, complete=True)
    with night:
        night.looks()
        (night.l0 / "scan_25653").mkdir()
        (night.l0 / "scan_000002").symlink_to(night.l0 / "scan_000001")
        night.looks()
        assert night.failed() == ["scan_000002", "scan_25653"]
        assert night.session is not None
        assert night.session.report.exit_code == Exit.SOME
        (night.l0 / "scan_25653").rename(night.l0 / "old")
        night.looks()
        assert night.failed() == ["scan_000002"]
        (night.l0 / "scan_000002").unlink()
        night.looks()
        assert (night.failed(), night.session.report.exit_code) == ([], Exit.ALL)


def test_what_cannot_be_read_now_is_tried_again_with_growing_pauses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from calib_gpu.scan_run import ScanRunner

    night = Night(tmp_path, until_idle=100.0)
    night.scan(1, 0.0)
    night.comes(1, complete=True)
    tries: list[float] = []
    real, error = ScanRunner.load, [ReadFailed("Input/output error", array="source/data_5d")]

    def bad(*arguments: Any) -> Any:
        tries.append(night.now)
        if error:
            raise error[0]
        return real(*arguments)

    monkeypatch.setattr(ScanRunner, "load", bad)
    with night:
        assert (night.looks(), night.failed()) == ([], ["scan_000001"])
        for _ in range(40):
            night.looks(after=1.0)
        assert np.diff(tries).tolist() == [2.0, 4.0, 8.0, 16.0]
        for _ in range(61):
            night.looks(after=1.0)
        assert night.watcher._arrivals.is_idle()  # tries that fail like the one before are no event
        error.clear()
        night.looks(after=300.0)
        assert (night.looks(), night.failed()) == (["scan_000001"], [])


def test_a_full_disk_that_is_freed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    night = Night(tmp_path)
    night.scan(1, 0.0)
    night.comes(1, complete=True)
    with night:
        assert night.session is not None

        def full(*_: Any, **__: Any) -> bool:
            raise OutputError("No space left on device", array="l1.zarr")

        monkeypatch.setattr(night.session.publisher, "publish", full)
        assert (night.looks(), night.failed()) == ([], ["scan_000001"])
        monkeypatch.undo()
        assert night.looks(after=1.0) == []
        assert (night.looks(after=1.5), night.failed()) == (["scan_000001"], [])


def test_loads_that_cannot_be_read_now_are_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that is away for a moment must not decide which loads serve a scan."""
    night = Night(tmp_path, Settings(loads="previous", workers=1))
    night.scan(1, 0.0, source=False)
    night.scan(2, 10.0, source=False)
    night.scan(3, 12.0, loads=False)
    real = L0Store.group

    def stale(store: L0Store, scan: ScanId, name: str) -> Any:
        if scan.number == 2:
            raise ReadFailed("Stale file handle", array=name)
        return real(store, scan, name)

    with night:
        for k in (1, 2, 3):
            night.comes(k, complete=True)
        monkeypatch.setattr(L0Store, "group", stale)
        assert (night.looks(), night.looks(after=1.0), night.failed()) == ([], [], [])
        monkeypatch.undo()
        assert night.looks(after=2.0) == ["scan_000003"]
    assert night.equals_a_run()


def test_scans_that_are_renamed_away_are_waited_for_no_more(tmp_path: Path) -> None:
    """One that was settling, and one that had failed."""
    night = Night(tmp_path, until_idle=30.0)
    night.scan(1, 0.0)
    night.scan(2, 10.0)
    night.comes(1)
    night.comes(2, complete=True)
    (night.l0 / "scan_000002/source/sobsmode/zarr.json").unlink()
    with night:
        assert (night.looks(), night.failed()) == ([], ["scan_000002"])
        (night.l0 / "scan_000001").rename(night.l0 / "old1")
        (night.l0 / "scan_000002").rename(night.l0 / "old2")
        night.looks()
        night.looks(after=31.0)
        assert (night.watcher._arrivals.is_idle(), night.failed()) == (True, [])


def test_a_scan_that_grew_since_it_was_done_is_not_called_done(tmp_path: Path) -> None:
    """Taken by its silence, and then it went on: the next watch says what a run says."""
    night = Night(tmp_path)
    night.scan(1, 0.0)
    night.scan(2, 10.0)
    night.comes(1, complete=True)
    night.comes(2, complete=True)
    pace = Pace(settle=0.0, poll=0.01, until_idle=0.0)
    assert watch(night.l0, night.l1, night.settings, pace, Progress(), Stop()).exit_code == Exit.ALL
    zarr.open_group(str(night.l0 / "scan_000001" / "source"), mode="r+")["tamb"][:] = 281.0
    report = watch(night.l0, night.l1, night.settings, pace, Progress(), Stop())
    assert (report.exit_code, [(s.scan, s.status) for s in report.scans]) == (
        Exit.SOME, [("scan_000001", "failed"), ("scan_000002", "skipped")],
    )  # fmt: skip
    assert "other input (scan_000001/source)" in report.scans[0].message
    with pytest.raises(ConfigError, match=r"other input \(scan_000001/source\)"):
        calibrate(night.l0, night.l1, night.settings)


def test_what_it_waits_for_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    night = Night(tmp_path)
    night.scan(1, 0.0)
    night.scan(2, 10.0, loads=False)
    night.scan(3, 11.0)
    night.scan(4, 12.0)
    night.comes(1, complete=True)
    night.comes(2, complete=True)
    night.comes(3)
    night.comes(4, complete=False)
    caplog.set_level("INFO", "calib_gpu")

    def told() -> list[str]:
        words = ("settling", "complete", "waits")
        found = [r.getMessage() for r in caplog.records if any(word in r.getMessage() for word in words)]
        caplog.clear()
        return found

    settling = "scan_000003: settling, must be unchanged for 60 s"
    waits, marked = "scan_000002: waits for loads that may serve it better", "scan_000004: marked as not complete"
    with night:
        night.looks()
        assert sorted(told()) == [waits, settling, marked]
        night.looks()
        assert told() == []
        night.mark(3, False)
        night.looks()
        assert told() == ["scan_000003: marked as not complete"]
        night.watcher.tell_what_is_left()
        assert sorted(told()) == [waits, "scan_000003, scan_000004: marked as not complete"]
        night.mark(4, True)
        night.looks()
        night.watcher.tell_what_is_left()
        assert told() == ["scan_000003: marked as not complete"]


def test_the_limits_of_the_settings_hold(tmp_path: Path) -> None:
    night = Night(tmp_path, Settings(max_scan_bytes=1000, workers=1))
    night.scan(1, 0.0)
    night.comes(1, complete=True)
    with night:
        assert (night.looks(), night.failed()) == ([], ["scan_000001"])
    assert "max_scan_bytes" in (night.l1 / "failures.json").read_text()
    night.scan(2, 10.0)
    night.comes(2, complete=True)
    with pytest.raises(StoreUnusable, match="max_scans"):
        watch(night.l0, tmp_path / "other.zarr", Settings(max_scans=1), Pace(until_idle=0.0), Progress(), Stop())


def test_watch_has_the_options_of_run(tmp_path: Path) -> None:
    """An array without checksum, as most writers make them: refused where that is asked for."""
    night = Night(tmp_path)
    night.scan(1, 0.0)
    group = zarr.open_group(str(night.source / "scan_000001" / "source"), mode="r+")
    group.create_array("tamb", data=np.asarray(group["tamb"]), compressors=None, overwrite=True)
    night.comes(1, complete=True)
    call = ("watch", "l0.zarr", "l1.zarr", "--until-idle", "0", "--poll", "0.01")
    some = ("--workers", "1", "--dtype", "float32", "--codec", "zstd", "--backend", "numpy", "--memory", "300M")
    refused = cli(tmp_path, *call, *some, "--require-checksum")
    assert (refused.returncode, "checksum" in refused.stderr) == (Exit.NONE, True), refused.stderr
    assert cli(tmp_path, *call, *some).returncode == Exit.ALL
    run = cli(tmp_path, "run", "l0.zarr", "run.zarr", *some)
    assert run.returncode == Exit.ALL, run.stderr
    assert tree(night.l1 / "scan_000001") == tree(tmp_path / "run.zarr" / "scan_000001")


def test_a_look_at_a_scan_can_be_named_where_it_is_stuck(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "source").mkdir()
    scandir, named = system.scandir, list[str]()

    def slow(path: Any) -> Any:
        read = reads.longest()
        named.append("" if read is None else read.path)
        return scandir(path)

    monkeypatch.setattr(system, "scandir", slow)
    assert signature_of(tmp_path)
    assert named == [str(tmp_path), str(tmp_path / "source")]
