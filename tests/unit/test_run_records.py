"""Several runs note their failures and report lines beside one store, and lose none."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from calib_gpu.errors import OutputError
from calib_gpu.store import disk
from calib_gpu.store.run_records import RunRecords, read_failures
from calib_gpu.testing.faulty_disk import FaultyDisk, fail


def records(folder: Path) -> RunRecords:
    (folder / "l1.zarr").mkdir(exist_ok=True)
    return RunRecords(folder / "l1.zarr", folder / "l1.zarr.run")


def listed(folder: Path) -> list[str]:
    """Scans in ``failures.json``."""
    path = folder / "l1.zarr" / "failures.json"
    return [entry["scan"] for entry in json.loads(path.read_bytes())] if path.exists() else []


def test_a_failure_is_listed_until_the_scan_is_done(tmp_path: Path) -> None:
    one = records(tmp_path)
    one.failed("scan_000002/band_A", "load", "NoLoads", "two")
    one.failed("scan_000001", "load", "NoLoads", "one")
    one.publish()
    assert listed(tmp_path) == ["scan_000001", "scan_000002/band_A"]
    one.done("scan_000001")
    one.publish()
    assert listed(tmp_path) == ["scan_000002/band_A"]
    one.done("scan_000002/band_A")
    one.publish()
    assert not (tmp_path / "l1.zarr" / "failures.json").exists()


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_failure_noted_while_another_run_writes_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """The other run notes and writes just before, or just after, this one moves its older list into place."""
    one, other = records(tmp_path), records(tmp_path)
    one.failed("scan_000001", "load", "NoLoads", "one")
    replace, calls = disk.replace_file, []

    def meanwhile() -> None:
        other.failed("scan_000002", "load", "NoLoads", "two")
        other.publish()

    def slow(path: Path, data: bytes) -> None:
        if path.name != "failures.json" or calls:
            return replace(path, data)
        calls.append(path)
        if moment == "before":
            meanwhile()
        replace(path, data)
        if moment == "after":
            meanwhile()
        return None

    monkeypatch.setattr(one, "_replace", slow)
    one.publish()
    assert calls
    assert listed(tmp_path) == ["scan_000001", "scan_000002"]


NOTING = """
import sys
from pathlib import Path
from calib_gpu.store.run_records import RunRecords
folder, me = Path(sys.argv[1]), int(sys.argv[2])
one = RunRecords(folder / "l1.zarr", folder / "l1.zarr.run")
sys.stdin.readline()
for k in range(15):
    one.failed(f"scan_{100 * me + k:06d}", "load", "NoLoads", "x" * 3000)
    one.report({"scan": 100 * me + k, "text": "y" * 20000})
    if k % 3 == 2:
        one.done(f"scan_{100 * me + k:06d}")
    one.publish()
"""


def test_processes_at_one_time_lose_nothing(tmp_path: Path) -> None:
    (tmp_path / "l1.zarr").mkdir()
    (tmp_path / "l1.zarr" / "failures.json").write_text('[{"scan": "scan_000007", "message": "old"}]')
    running = [
        subprocess.Popen([sys.executable, "-c", NOTING, str(tmp_path), str(k)], stdin=subprocess.PIPE, text=True)
        for k in range(4)
    ]
    for process in running:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.close()
    assert [process.wait(60) for process in running] == [0] * 4
    expected = {f"scan_{100 * p + k:06d}" for p in range(4) for k in range(15) if k % 3 != 2} | {"scan_000007"}
    assert set(listed(tmp_path)) == expected
    lines = [json.loads(line) for line in (tmp_path / "l1.zarr.run" / "report.jsonl").read_text().splitlines()]
    assert sorted(line["scan"] for line in lines) == sorted(100 * p + k for p in range(4) for k in range(15))
    assert not [name for name in os.listdir(tmp_path / "l1.zarr.run") if name.startswith("failures.")]


def test_a_deleted_run_folder_is_made_again_from_failures_json(tmp_path: Path) -> None:
    (tmp_path / "l1.zarr").mkdir()
    entries = [{"scan": "scan_000001", "message": "kept"}, "damage", {"no": "scan"}, {"scan": 3}]
    (tmp_path / "l1.zarr" / "failures.json").write_text(json.dumps(entries))
    records(tmp_path).publish()
    assert listed(tmp_path) == ["scan_000001"]


def test_a_late_run_does_not_bring_back_what_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two runs make the folder of failures at one time; the first has noted that the scan is done when the other comes."""
    (tmp_path / "l1.zarr").mkdir()
    (tmp_path / "l1.zarr" / "failures.json").write_text('[{"scan": "scan_000001"}]')
    rename: Any = disk.rename

    def late(source: Path, target: Path) -> bool:
        monkeypatch.setattr(disk, "rename", rename)
        first = records(tmp_path)
        first.done("scan_000001")
        first.publish()
        return bool(rename(source, target))

    monkeypatch.setattr(disk, "rename", late)
    records(tmp_path).publish()
    assert listed(tmp_path) == []


def test_a_line_that_was_cut_short_stays_by_itself(tmp_path: Path) -> None:
    one = records(tmp_path)
    one.report({"scan": 1})
    with (tmp_path / "l1.zarr.run" / "report.jsonl").open("a") as file:
        file.write('{"scan": 2, "cut')
    one.report({"scan": 3})
    lines = (tmp_path / "l1.zarr.run" / "report.jsonl").read_text().splitlines()
    assert lines == ['{"scan": 1}', '{"scan": 2, "cut', '{"scan": 3}']


def test_a_full_disk_loses_no_failure_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What could not be written when it happened is in ``failures.json`` all the same."""
    one, replace = records(tmp_path), disk.replace_file

    def full(path: Path, data: bytes) -> None:
        if path.parent.name == "failures":
            raise OutputError("cannot write: No space left on device", array=str(path))
        replace(path, data)

    monkeypatch.setattr(one, "_replace", full)
    one.failed("scan_000001", "write", "OutputError", "full")
    one.publish()
    assert listed(tmp_path) == ["scan_000001"]


def test_a_note_that_the_disk_does_not_give_is_still_a_failure(tmp_path: Path) -> None:
    """Else ``failures.json`` would lose a scan that failed; nor may it keep others from being listed."""
    one = records(tmp_path)
    one.failed("scan_000001/band_A", "load", "NoLoads", "one")
    one.publish()
    folder = tmp_path / "l1.zarr.run" / "failures"
    later = records(tmp_path)
    later.failed("scan_000002", "load", "NoLoads", "two")
    for damage in (b"", b"{", b"\xff\xfe"):
        (folder / "scan_000001.band_A.json").write_bytes(damage)
        later.publish()
        assert listed(tmp_path) == ["scan_000001/band_A", "scan_000002"]
    with FaultyDisk(tmp_path, fail(errno.EIO), at=0, calls=("read",), lasting=True):
        assert {entry["scan"] for entry in later.failures()} == {"scan_000001/band_A", "scan_000002"}
    (folder / "scan_000001.band_A.json").unlink()
    later.publish()
    assert listed(tmp_path) == ["scan_000002"]
    with (
        FaultyDisk(tmp_path, fail(errno.EIO), at=0, calls=("read",), lasting=True),
        pytest.raises(OutputError, match="cannot be read"),
    ):
        read_failures(tmp_path / "l1.zarr" / "failures.json")
