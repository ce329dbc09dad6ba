"""P20: every outcome of a run, and of a watch that ends, has its exit code."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zarr
from test_pipeline import night

from calib_gpu import Settings
from calib_gpu.pipeline import calibrate
from calib_gpu.store.l0_write import L0Writer
from engine_process import finish, start, until_fault

Figure = Callable[[str, str, Any, Any], None]

pytestmark = pytest.mark.slow


def outcomes(folder: Path) -> dict[str, tuple[int, list[str]]]:
    """Exit code and arguments of ``run`` (without the word) of each outcome; paths are below ``folder``."""
    for name, numbers, broken in (("good", (1, 2), ()), ("some", (1, 2), (2,)), ("bad", (1, 2), (1, 2))):
        (folder / name).mkdir()
        night(folder / name, numbers, broken)
    (folder / "empty").mkdir()
    L0Writer(folder / "empty" / "l0.zarr", {})
    (folder / "plain").mkdir()
    (folder / "file").write_text("")
    (folder / "foreign").mkdir()
    (folder / "foreign" / "notes").write_text("mine")
    shutil.copytree(folder / "good", folder / "damaged")
    (folder / "damaged" / "l0.zarr" / "zarr.json").write_text("{")
    calibrate(folder / "good/l0.zarr", folder / "done.zarr")
    calibrate(folder / "some/l0.zarr", folder / "partly.zarr")
    calibrate(folder / "good/l0.zarr", folder / "other.zarr", Settings(pwv=0.5))
    good = "good/l0.zarr"
    return {
        "all are calibrated": (0, [good, "new0.zarr"]),
        "all were calibrated before": (0, [good, "done.zarr"]),
        "those asked for are calibrated": (0, ["some/l0.zarr", "new1.zarr", "--set", "pwv=0.5"]),
        "none is": (1, ["bad/l0.zarr", "new2.zarr"]),
        "there is none": (1, ["empty/l0.zarr", "new3.zarr"]),
        "some are": (2, ["some/l0.zarr", "new4.zarr"]),
        "some were before, the others fail again": (2, ["some/l0.zarr", "partly.zarr"]),
        "no arguments": (64, []),
        "an option that there is not": (64, [good, "new5.zarr", "--nonsense"]),
        "a setting that there is not": (64, [good, "new5.zarr", "--set", "nothing=1"]),
        "a value out of bounds": (64, [good, "new5.zarr", "--set", "eta_f=2"]),
        "a profile that there is not": (64, [good, "new5.zarr", "--profile", "nowhere"]),
        "a log format that there is not": (64, [good, "new5.zarr", "--log-format", "xml"]),
        "other settings than before": (64, [good, "other.zarr"]),
        "output inside the input": (64, [good, "good/l0.zarr/l1.zarr"]),
        "no such input": (65, ["nowhere.zarr", "new5.zarr"]),
        "input that is no store": (65, ["plain", "new5.zarr"]),
        "input that is a file": (65, ["file", "new5.zarr"]),
        "input whose document is damaged": (65, ["damaged/l0.zarr", "new5.zarr"]),
        "output that is a file": (73, [good, "file"]),
        "output below a file": (73, [good, "file/l1.zarr"]),
        "output that is something else": (73, [good, "foreign"]),
        "metrics that cannot be written": (73, [good, "new6.zarr", "--metrics", "file/metrics.prom"]),
    }


def test_every_outcome(tmp_path: Path, figure: Figure) -> None:
    """By ``run``, and by ``watch`` where it can come to that."""
    table = outcomes(tmp_path)
    table["those asked for are calibrated"] = (0, ["some/l0.zarr", "new1.zarr", "--scans", "1"])
    wrong, n = [], 0
    for outcome, (code, arguments) in table.items():
        commands = [["run", *arguments]]
        if arguments and "--scans" not in arguments:
            again = [f"watched-{a}" if a.startswith("new") else a for a in arguments]
            commands.append(["watch", *again, "--settle", "0", "--poll", "0.05", "--until-idle", "0.2"])
        for command in commands:
            found, _, err = finish(start(tmp_path, *command))
            n += 1
            if found != code or "Traceback" in err or (found and not err):
                wrong.append(f"{command[0]}: {outcome}: {found} instead of {code}: {err[-300:]}")
    assert not (tmp_path / "new5.zarr").exists()
    assert not (tmp_path / "watched-new5.zarr").exists()
    for command, *pace in (("run",), ("watch", "--settle", "0")):
        process = start(
            tmp_path,
            command,
            "good/l0.zarr",
            f"{command}.zarr",
            *pace,
            stuck="scan_000002/source/data_5d/c",
            seconds=600,
        )
        until_fault(process)
        process.send_signal(signal.SIGTERM)
        found = finish(process)[0]
        n += 1
        if found != 75:
            wrong.append(f"{command}: stopped: {found} instead of 75")
    marked = zarr.open_group(str(tmp_path / "some/l0.zarr/scan_000002"), mode="r+")
    marked.attrs["complete"] = False
    found, _, err = finish(
        start(tmp_path, "watch", "some/l0.zarr", "held.zarr", "--settle", "0", "--poll", "0.05", "--until-idle", "0.2")
    )
    n += 1
    if found != 2 or "scan_000002" not in err:
        wrong.append(f"watch: a scan is not complete: {found} instead of 2: {err[-300:]}")
    figure("P20", f"outcomes with a wrong exit code, of {n}", len(wrong), 0)
    assert wrong == []


def test_a_wrong_call_is_told_in_json_as_well(tmp_path: Path) -> None:
    code, _, err = finish(start(tmp_path, "run", "nowhere.zarr", "l1.zarr", "--log-format", "json"))
    (line,) = [json.loads(text) for text in err.splitlines()]
    assert (code, line["level"], line["error"]) == (65, "error", "StoreUnusable")
