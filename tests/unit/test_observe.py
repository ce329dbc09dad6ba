"""What a run lets others see: log lines, progress lines, metrics, a read that is stuck; and how it is given up."""

from __future__ import annotations

import json
import logging
import os
import re
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from test_cli import cli
from test_pipeline import night

from calib_gpu import Settings
from calib_gpu.errors import OutputError, Stopped
from calib_gpu.inspection.check_l0 import check_l0
from calib_gpu.observe.heartbeat import STUCK_S, Heartbeat
from calib_gpu.observe.logs import JsonLines
from calib_gpu.observe.metrics import METRICS, RunMetrics
from calib_gpu.observe.several import Several
from calib_gpu.pipeline import calibrate
from calib_gpu.records import ScanId
from calib_gpu.scan_report import ScanReport
from calib_gpu.stopping import Stop
from calib_gpu.store import reads
from calib_gpu.store.documents import dump_json, group_document
from calib_gpu.store.publish import Publisher
from calib_gpu.testing.faulty_disk import READS, Call, FaultyDisk


def samples(path: Path) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """Values of a metrics file by name and labels, without the label that names the store."""
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(path.read_text()):
        assert family.documentation
        assert family.type in ("gauge", "counter")
        for sample in family.samples:
            labels = tuple(sorted((k, v) for k, v in sample.labels.items() if k != "store"))
            assert labels not in found.setdefault(sample.name, {})
            found[sample.name][labels] = sample.value
    return found


def test_metrics_of_a_run_are_what_its_report_says(tmp_path: Path) -> None:
    """Against the sums over ``report.jsonl``."""
    night(tmp_path, broken=(25651,))
    done = cli(tmp_path, "run", "l0.zarr", "l1.zarr", "--metrics", "node/run.prom")
    assert done.returncode == 2, done.stderr
    lines = [json.loads(line) for line in (tmp_path / "l1.zarr.run" / "report.jsonl").read_text().splitlines()]
    found = samples(tmp_path / "node" / "run.prom")
    assert os.listdir(tmp_path / "node") == ["run.prom"]
    assert {name.removeprefix("calib_gpu_") for name in found} == {m.name for m in METRICS} - {"flagged_samples_total"}
    assert {k[0][1]: v for k, v in found["calib_gpu_scans"].items()} == {
        "ok": 2,
        "skipped": 0,
        "failed": 1,
        "waiting": 0,
    }
    for name in ("read_bytes", "written_bytes", "samples"):
        field = {"read_bytes": "bytes_read", "written_bytes": "bytes_written"}.get(name, name)
        assert found[f"calib_gpu_{name}_total"][()] == sum(line[field] for line in lines) > 0
    for (_, stage), seconds in ((k[0], v) for k, v in found["calib_gpu_stage_seconds_total"].items()):
        assert seconds == pytest.approx(sum(line[f"{stage}_ms"] for line in lines) / 1e3, abs=1e-5)
    assert found["calib_gpu_failures_total"] == {(("error", "NoReference"),): 1}
    assert found["calib_gpu_exit_code"] == {(): 2}
    assert found["calib_gpu_running"] == {(): 0}
    assert abs(found["calib_gpu_start_time_seconds"][()] - time.time()) < 60.0


def test_metrics_in_the_course_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    monkeypatch.setattr("calib_gpu.observe.metrics.SPACING_S", 0.0)
    metrics = RunMetrics(tmp_path / "m.prom", Path('a "night"\\of\nmine'))
    metrics.scans(3)
    metrics.end(ScanReport("scan_000001", flag_counts={"OPAQUE": 5, "FILL_VALUE": 2}))
    metrics.end(ScanReport("scan_000002", status="failed", error="NoLoads"))
    metrics.end(ScanReport("scan_000002", flag_counts={"OPAQUE": 1}))  # as watch does
    text = (tmp_path / "m.prom").read_text()
    (first,) = [s for f in text_string_to_metric_families(text) for s in f.samples if s.name == "calib_gpu_running"]
    assert first.labels == {"store": 'a "night"\\of\nmine', "task": "3"}
    found = samples(tmp_path / "m.prom")
    task = ("task", "3")
    assert found["calib_gpu_flagged_samples_total"] == {
        (("flag", "FILL_VALUE"), task): 2.0, (("flag", "OPAQUE"), task): 6.0,
    }  # fmt: skip
    assert {k[0][1]: v for k, v in found["calib_gpu_scans"].items()} == {
        "ok": 2,
        "skipped": 0,
        "failed": 0,
        "waiting": 1,
    }
    assert "calib_gpu_exit_code" not in found
    assert text.endswith("\n")


def test_a_metrics_file_that_fails_later_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "node").mkdir()
    metrics = RunMetrics(tmp_path / "node" / "m.prom", tmp_path)
    (tmp_path / "node" / "m.prom").unlink()
    (tmp_path / "node").rmdir()
    (tmp_path / "node").write_text("")
    metrics.write()
    metrics.write()
    assert len([r for r in caplog.records if "metrics" in r.message]) == 1
    with pytest.raises(OutputError):
        RunMetrics(tmp_path / "node" / "m.prom", tmp_path)


def test_json_lines(tmp_path: Path) -> None:
    """Every line on standard error is an object; the fields of a scan are those of its report."""
    night(tmp_path, broken=(25651,))
    done = cli(tmp_path, "run", "l0.zarr", "l1.zarr", "--log-format", "json")
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert all({"time", "level", "message"} <= set(line) for line in lines)
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", line["time"]) for line in lines)
    (failed,) = [line for line in lines if line["level"] == "error"]
    assert (failed["scan"], failed["error"], failed["stage"]) == ("scan_025651", "NoReference", "load")
    told = {line["scan"]: line for line in lines if line.get("status") == "ok"}
    noted = [json.loads(line) for line in (tmp_path / "l1.zarr.run" / "report.jsonl").read_text().splitlines()]
    for line in noted:
        if line["status"] == "ok":
            assert {k: v for k, v in told[line["scan"]].items() if k in set(line) - {"message"}} == {
                k: v for k, v in line.items() if k != "message"
            }
    assert cli(tmp_path, "run", "l0.zarr", "x.zarr", "--log-format", "xml").returncode == 64


def test_a_json_line_keeps_its_own_fields_and_the_traceback() -> None:
    try:
        raise ValueError("odd")
    except ValueError as error:
        record = logging.LogRecord(
            "calib_gpu", logging.ERROR, "", 0, "a\n%s", ("b",), (ValueError, error, error.__traceback__)
        )
    record.data = {"level": "mine", "scan": "scan_000001", "path": Path("x")}
    line = JsonLines().format(record)
    assert "\n" not in line
    found = json.loads(line)
    assert (found["level"], found["message"], found["scan"], found["path"]) == ("error", "a\nb", "scan_000001", "x")
    assert "ValueError: odd" in found["traceback"]


def test_the_heartbeat_tells_how_far_it_is(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    heart = Heartbeat(lines=True)
    all_of_it = Several([heart])
    all_of_it.scans(3)
    all_of_it.end(ScanReport("scan_000001", status="failed"))
    all_of_it.begin("scan_000002", 200)
    all_of_it.advance(50)
    heart.tell()
    heart.tell()
    all_of_it.end(ScanReport("scan_000002"))
    heart.tell()
    heart.tell()  # nothing has happened and nothing is in work: no line
    texts = [r.message.partition("; ") for r in caplog.records]
    assert [t[0] for t in texts] == ["progress: 1 of 3 scans, 1 failed"] * 2 + ["progress: 2 of 3 scans, 1 failed"]
    assert texts[0][2].startswith("scan_000002 25 %; ")


def test_a_stuck_read_is_a_warning_for_quiet_runs_too(caplog: pytest.LogCaptureFixture) -> None:
    begun, over = threading.Event(), threading.Event()

    def stuck() -> None:
        with reads.noted(Path("/night/scan_000001/c.0")):
            begun.set()
            over.wait(30)

    thread = threading.Thread(target=stuck)
    thread.start()
    begun.wait(5)
    try:
        heart = Heartbeat(lines=False)
        heart.tell()
        assert caplog.records == []
        reads._now[thread.ident] = (reads._now[thread.ident][0], time.monotonic() - STUCK_S - 37.0)  # type: ignore[index]
        heart.tell()
    finally:
        over.set()
        thread.join()
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "reading for 42 s: /night/scan_000001/c.0" in record.message
    assert reads.longest() is None


def test_reads_of_a_run_are_noted(tmp_path: Path) -> None:
    before = reads.count()
    calibrate(night(tmp_path, (25650,)), tmp_path / "l1.zarr")
    files = sum(p.is_file() for p in (tmp_path / "l0.zarr" / "scan_025650").rglob("*"))
    assert reads.count() - before >= files
    assert reads.longest() is None


def test_no_call_that_may_hang_goes_unnoted(tmp_path: Path) -> None:
    """Each call of a run, and of a check, that asks the disk of L0: a disk that is stuck there can be named."""
    l0, unnoted = night(tmp_path, (25650, 25651)), set[str]()

    def seen(call: Call) -> Any:
        if threading.get_ident() not in reads._now:
            unnoted.add(f"{call.name} {call.path.relative_to(tmp_path)}")
        return call.go()

    with FaultyDisk(l0, seen, calls=[name for name in READS if name != "fstat"], lasting=True) as disk:
        calibrate(l0, tmp_path / "l1.zarr")
        calibrate(l0, tmp_path / "l1.zarr")  # which looks whether the input is the same
        check_l0(l0, Settings(workers=1), decode=False)
    assert {"open", "read", "scandir", "stat"} <= set(disk.names)
    assert unnoted == set()


def test_reads_of_all_threads_are_counted() -> None:
    def read() -> None:
        for _ in range(2000):
            with reads.noted("file"):
                pass

    before = reads.count()
    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert reads.count() - before == 8000
    assert reads.count() - before == 8000  # asking changes nothing


def test_a_read_within_another_is_the_one_that_is_named() -> None:
    with reads.noted("/folder"):
        with reads.noted("/folder/file"):
            assert (read := reads.longest()) is not None
            assert read.path == "/folder/file"
        assert (read := reads.longest()) is not None
        assert read.path == "/folder"
    assert reads.longest() is None


def test_the_heartbeat_beats(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    beats: list[None] = []
    with Heartbeat(lines=True, also=lambda: beats.append(None), interval=0.02) as heart:
        heart.begin("scan_000001", 10)
        deadline = time.monotonic() + 10.0
        while len(beats) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
    assert len(beats) >= 3
    assert sum("progress" in r.message for r in caplog.records) >= 3


def test_nothing_is_published_after_a_run_was_given_up(tmp_path: Path) -> None:
    """The disk brings a scan to the disk at last, when what was staged is being removed already."""
    one = Publisher(tmp_path / "l1.zarr", "l0.zarr", {}, overwrite=False)
    staged = one.stage(ScanId(1))
    one.close(wait_s=1.0)
    staged.mkdir(parents=True)
    (staged / "zarr.json").write_bytes(dump_json(group_document({"files": {}})))
    with pytest.raises(Stopped):
        one.publish(ScanId(1), staged, overwrite=False)
    assert not (tmp_path / "l1.zarr" / "scan_000001").exists()


def test_giving_up_does_what_was_noted_and_does_not_wait_for_ever() -> None:
    stop, seen = Stop(), list[str]()
    stop.at_abandon(lambda: time.sleep(60))
    stop.at_abandon(lambda: seen.append("first noted of these"))
    stop.at_abandon(lambda: 1 / 0)
    stop.at_abandon(lambda: seen.append("last noted"))
    begin = time.monotonic()
    stop.abandon(0.3)
    assert time.monotonic() - begin < 5.0
    assert seen == ["last noted", "first noted of these"]
