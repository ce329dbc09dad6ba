"""The disk that fails on request does what it says, and what the engine makes of each of its faults."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import numpy as np
import pytest

import calib_gpu
from calib_gpu.errors import OutputError
from calib_gpu.store import disk as engine
from calib_gpu.store import system
from calib_gpu.store.documents import sealed
from calib_gpu.store.l1_store import check_store
from calib_gpu.testing.faulty_disk import (
    CHANGES,
    READS,
    FaultyDisk,
    SimulatedCrash,
    crash,
    delay,
    drop,
    fail,
    garble,
    lose_reply,
)  # fmt: skip
from invariant import FIRST, Night, make_night, tiny_scan, tree
from small_scan import two_bands

DATA = bytes(range(200))


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Night:
    return make_night(tmp_path_factory.mktemp("night"))


# --- the double ------------------------------------------------------------------------------------------------------


def test_every_call_has_a_double(tmp_path: Path) -> None:
    """Whoever adds a call to the seam has it doubled, and named as a change or as a question."""
    public = {name for name, value in vars(system).items() if callable(value) and name[0] != "_"}
    own = {name for name in public if getattr(getattr(system, name), "__module__", "") in ("posix", system.__name__)}
    assert set(system.CALLS) == own - {"replaced", "block_size"}
    assert set(system.CALLS) <= {*CHANGES, *READS, "close", "lock", "start_writing"}
    before = [getattr(system, name) for name in system.CALLS]
    with FaultyDisk(tmp_path):
        assert not any(getattr(system, name) in before for name in system.CALLS)
    assert [getattr(system, name) for name in system.CALLS] == before


def test_calls_are_counted_below_the_folder(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with FaultyDisk(tmp_path / "in") as disk:
        engine.write_file(tmp_path / "in/a", DATA)
        engine.write_file(tmp_path / "b", DATA)
        engine.rename(tmp_path / "b", tmp_path / "in/b")
        assert engine.read_file(tmp_path / "in/a", 1000) == DATA
    assert disk.names == ["create", "write", "rename"]
    assert [call.data for call in disk.log if call.name == "write"] == [DATA]


def test_the_kth_call_fails_once_or_from_then_on(tmp_path: Path) -> None:
    for lasting, good in ((False, [0, 2, 3]), (True, [0])):
        done = []
        with FaultyDisk(tmp_path, fail(errno.ENOSPC), at=1, lasting=lasting, calls=["mkdir"]):
            for k in range(4):
                try:
                    system.mkdir(tmp_path / f"{lasting}-{k}")
                    done.append(k)
                except OSError as error:
                    last = error
        assert last.errno == errno.ENOSPC
        assert done == good


@pytest.mark.parametrize(("when", "left"), [("before", 0), ("inside", 100), ("after", 200)])
def test_a_crash(tmp_path: Path, when: str, left: int) -> None:
    """Nothing is done after it, no file stays open, and it cannot be taken for an error."""
    before = len(os.listdir("/proc/self/fd"))
    with FaultyDisk(tmp_path, crash(when), at=1) as disk:
        try:
            engine.write_file(tmp_path / "a", DATA)
        except Exception:
            pytest.fail("a crash is no exception that the engine could catch")
    assert disk.dead
    assert (tmp_path / "a").read_bytes() == DATA[:left]
    assert len(os.listdir("/proc/self/fd")) == before
    with FaultyDisk(tmp_path, crash("before")) as disk:
        with pytest.raises(SimulatedCrash):
            system.mkdir(tmp_path / "b")
        with pytest.raises(SimulatedCrash):
            system.unlink(tmp_path / "a")
    assert (tmp_path / "a").exists()


def test_a_reply_that_is_lost(tmp_path: Path) -> None:
    with FaultyDisk(tmp_path, lose_reply(errno.EIO)), pytest.raises(OSError, match="Input/output"):
        system.mkdir(tmp_path / "a")
    assert (tmp_path / "a").is_dir()


def test_a_delay(tmp_path: Path) -> None:
    begin = time.perf_counter()
    with FaultyDisk(tmp_path, delay(0.05)):
        system.mkdir(tmp_path / "a")
    assert time.perf_counter() - begin >= 0.05


def test_writes_that_are_lost_or_wrong(tmp_path: Path) -> None:
    with FaultyDisk(tmp_path, drop, calls=["write"]):
        assert engine.write_file(tmp_path / "a", DATA)[0] == 200
    assert (tmp_path / "a").read_bytes() == b""
    with FaultyDisk(tmp_path, garble, calls=["write"]):
        engine.write_file(tmp_path / "b", DATA)
    wrong = np.unpackbits(np.frombuffer((tmp_path / "b").read_bytes(), np.uint8) ^ np.frombuffer(DATA, np.uint8))
    assert wrong.sum() == 1


# --- what the engine makes of it -------------------------------------------------------------------------------------


def test_l0_that_is_read_wrong_is_named(tmp_path: Path) -> None:
    """Each read of counts in turn gives one wrong bit, or an error: the scan fails by name, or is right."""
    l0 = tiny_scan(FIRST).store(tmp_path / "l0.zarr", "int32")
    with FaultyDisk(l0, calls=("preadv", "readv")) as disk:
        calib_gpu.calibrate(l0, tmp_path / "reference.zarr", calib_gpu.Settings(workers=1))
    seen = 0
    for k in range(len(disk.names)):
        for name, fault in (("garbled", garble), ("failing", fail(errno.EIO))):
            l1 = tmp_path / f"{k}-{name}.zarr"
            with FaultyDisk(l0, fault, at=k, calls=("preadv", "readv"), keep_out=l0):
                report = calib_gpu.calibrate(l0, l1, calib_gpu.Settings(workers=1))
            if not report.failures:  # tried again in another way
                assert tree(l1) == tree(tmp_path / "reference.zarr")
                continue
            (failed,) = report.failures
            assert failed.error == ("Unreadable" if name == "garbled" else "ReadFailed"), failed
            assert "source/" in failed.message or "calibration/" in failed.message
            assert not (l1 / "scan_025650").exists()
            seen += 1
    assert seen > len(disk.names)


def test_a_scan_whose_write_was_lost_is_found(night: Night, tmp_path: Path) -> None:
    """What is missing is seen before the scan is published; bytes that a disk garbles are seen by check, later."""
    with FaultyDisk(tmp_path, drop, at=60, calls=["write"]) as disk:
        report = night.run(tmp_path / "0.zarr")
    name = disk.log[60].path.as_posix().partition("/scan_025650/")[2]
    assert name in next(f for f in report.failures if f.scan == "scan_025650").message
    assert not (tmp_path / "0.zarr" / "scan_025650").exists()
    with FaultyDisk(tmp_path, garble, at=60, calls=["write"]):
        night.run(tmp_path / "1.zarr")
    assert check_store(tmp_path / "1.zarr")[1] == [f"scan_025650/{name}"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_rename_whose_reply_was_lost_is_no_failure(night: Night, tmp_path: Path, overwrite: bool) -> None:
    """Icechunk's rule: before it is called a failure, look whether what stands there is ours."""
    move = "exchange" if overwrite else "rename"
    for k in (0, 1) if overwrite else (1, 3):  # between them: the store's own document, the note of the scan that fails
        l1 = tmp_path / f"{k}.zarr"
        if overwrite:
            night.run(l1, eta_f=0.9)
        with FaultyDisk(tmp_path, lose_reply(errno.EIO), at=k, calls=[move]) as disk:
            report = night.run(l1, overwrite=overwrite)
        assert disk.log[k].target in (l1 / "scan_025650", l1 / "scan_025652")
        assert [f.error for f in report.failures] == ["NoReference"]
        night.check_whole_scans(l1)


def test_a_reply_that_is_lost_for_the_store_itself(night: Night, tmp_path: Path) -> None:
    with FaultyDisk(tmp_path, lose_reply(errno.EIO), calls=["rename"]), pytest.raises(OutputError, match=r"zarr\.json"):
        night.run(tmp_path / "l1.zarr")
    night.run(tmp_path / "l1.zarr")
    night.check_whole(tmp_path / "l1.zarr")


def test_a_scan_that_cannot_be_replaced_stays(night: Night, tmp_path: Path) -> None:
    """Without the exchange of names: the old scan is put back if the new one cannot take its place."""

    def no_exchange(one: Path, other: Path) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    l1 = tmp_path / "l1.zarr"
    night.run(l1, eta_f=0.9)
    with system.replaced(exchange=no_exchange):
        with FaultyDisk(tmp_path, fail(errno.EIO), at=2, calls=["rename"]) as disk:
            report = night.run(l1, overwrite=True)
        assert disk.log[2].target == l1 / "scan_025650"
        assert [f.error for f in report.failures] == ["OutputError", "NoReference"]
        assert check_store(l1) == (2, [])
        assert '"eta_f": 0.9' in (l1 / "scan_025650/zarr.json").read_text().replace("\\", "")
        night.run(l1, overwrite=True)
    night.check_whole(l1)


def test_no_scan_is_seen_without_its_bands(tmp_path: Path) -> None:
    l0 = two_bands(tmp_path / "l0.zarr")
    out = tmp_path / "out"
    with FaultyDisk(out) as disk:
        calib_gpu.calibrate(l0, out / "l1.zarr", calib_gpu.Settings(workers=1))
    in_l1 = {
        k
        for k, call in enumerate(disk.log)
        for p in (call.path, call.target)
        if p and p.is_relative_to(out / "l1.zarr")
    }
    assert len(in_l1) >= 6
    for k in in_l1 | {k - 1 for k in in_l1}:
        out = tmp_path / f"{k}"
        with FaultyDisk(out, crash("after"), at=k):
            calib_gpu.calibrate(l0, out / "l1.zarr", calib_gpu.Settings(workers=1))
        if (out / "l1.zarr/zarr.json").is_file():
            assert check_store(out / "l1.zarr")[1] == []


def test_a_line_cut_short_stays_a_line_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "report.jsonl"
    engine.append_line(path, b'{"scan": 1}')
    with FaultyDisk(tmp_path, crash("inside"), calls=["write"]):
        engine.append_line(path, b'{"scan": 2, "status": "ok"}')
    engine.append_line(path, b'{"scan": 3}')
    assert path.read_bytes().splitlines() == [b'{"scan": 1}', b'{"scan": 2, "s', b'{"scan": 3}']


def test_a_full_disk_for_the_list_of_failures(night: Night, tmp_path: Path) -> None:
    """The report of the run comes all the same; the exit code says that something could not be written."""
    with FaultyDisk(tmp_path, calls=["create"]) as disk:
        night.run(tmp_path / "probe.zarr")
    (at,) = (k for k, call in enumerate(disk.log) if "failures.json" in call.path.name)
    with FaultyDisk(tmp_path, fail(errno.ENOSPC), at=at, calls=["create"]):
        report = night.run(tmp_path / "l1.zarr")
    assert report.unrecorded
    assert report.exit_code == 73
    assert report.count("ok") == 2
    night.run(tmp_path / "l1.zarr")
    night.check_whole(tmp_path / "l1.zarr")


def test_a_document_that_is_no_scan_in_its_place(night: Night, tmp_path: Path) -> None:
    """A folder of somebody else where a scan belongs is named, and not touched."""
    night.run(tmp_path / "l1.zarr")
    document = tmp_path / "l1.zarr/scan_025650/zarr.json"
    document.unlink()
    report = night.run(tmp_path / "l1.zarr")
    assert "is there, but is no scan" in next(f for f in report.failures if f.scan == "scan_025650").message
    assert sealed({"attributes": {}})[1]
    night.run(tmp_path / "l1.zarr", overwrite=True)
    night.check_whole(tmp_path / "l1.zarr")


@pytest.mark.parametrize("damage", ["unreadable", "no JSON"])
def test_a_published_scan_whose_document_cannot_be_read(night: Night, tmp_path: Path, damage: str) -> None:
    """It is not taken for one that was made differently, and --overwrite replaces it."""
    l1 = tmp_path / "l1.zarr"
    night.run(l1)
    document = l1 / "scan_025652/zarr.json"
    if damage == "no JSON":
        document.write_bytes(document.read_bytes()[:50])
    with FaultyDisk(document, fail(errno.EIO), calls=["open"] if damage == "unreadable" else [], lasting=True):
        with pytest.raises(OutputError, match=r"how it was made cannot be told.*--overwrite --scans 25652") as caught:
            night.run(l1)
        assert str(document) in str(caught.value)
    night.run(l1, overwrite=True)
    night.check_whole(l1)


def test_failures_that_cannot_be_listed_are_told(night: Night, tmp_path: Path) -> None:
    """Scans are published all the same, and the exit code says that the list is not up to date."""
    l1 = tmp_path / "l1.zarr"
    with FaultyDisk(
        tmp_path / "l1.zarr.run" / "failures", fail(errno.ESTALE), calls=("scandir",), lasting=True
    ) as disk:
        report = night.run(l1)
    assert disk.names
    assert report.exit_code == 73
    night.check_whole_scans(l1)
    assert night.run(l1).exit_code == 2
    night.check_whole(l1)
