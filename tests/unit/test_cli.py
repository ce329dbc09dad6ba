"""The command line as a user meets it: in a process of its own, with exit codes and messages."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from calib_gpu.settings import knobs
from small_scan import small_scan


def cli(folder: Path, *arguments: str, timeout: float = 120.0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from calib_gpu.cli import main; main()", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=timeout, check=False)


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("night")
    made = cli(folder, "simulate", "night.zarr", "--preset", "tiny")
    assert made.returncode == 0, made.stderr
    assert "truth:    night.truth.zarr" in made.stdout
    return folder


def test_a_night_from_simulate_to_check(night: Path) -> None:
    done = cli(night, "run", "night.zarr", "l1.zarr")
    assert done.returncode == 2, done.stderr
    assert "3 done, 0 skipped, 1 failed" in done.stdout
    assert "NoReference" in (night / "l1.zarr" / "failures.json").read_text()
    assert re.search(
        r"scan_025650: ok load_ms=\d+ resolve_ms=\d+ atm_ms=\d+ prepare_ms=\d+ calibrate_ms=\d+ write_ms=\d+",
        done.stderr,
    )
    again = cli(night, "run", "night.zarr", "l1.zarr", "--quiet")
    assert (again.returncode, again.stdout) == (2, "")
    assert cli(night, "run", "night.zarr", "l1.zarr", "--scans", "25650,25652-25653").returncode == 0
    checked = cli(night, "check", "l1.zarr")
    assert (checked.returncode, checked.stdout) == (0, "3 scan(s) checked, all as written\n")
    victim = night / "l1.zarr" / "scan_025652" / "t_sys" / "c.0.0.0.1"
    raw = bytearray(victim.read_bytes())
    raw[100] ^= 1
    victim.write_bytes(raw)
    checked = cli(night, "check", "l1.zarr")
    assert checked.returncode == 1
    assert "scan_025652/t_sys/c.0.0.0.1" in checked.stdout
    assert "--overwrite --scans 25652" in checked.stdout


def test_inspect_l0_shows_who_serves_whom(night: Path) -> None:
    shown = cli(night, "inspect", "night.zarr").stdout
    row = next(line for line in shown.splitlines() if "scan_025652" in line)
    assert "scan_025651" in row  # the calibration-only scan serves it
    assert "calibration" in next(line for line in shown.splitlines() if line.strip("│ ").startswith("scan_025651"))
    detail = cli(night, "inspect", "night.zarr", "--scan", "25650").stdout
    assert "reference of each ON" in detail
    assert "T_rec,DSB" in detail
    assert cli(night, "inspect", "night.zarr", "--scan", "1").returncode == 64


def test_inspect_l1(night: Path) -> None:
    cli(night, "run", "night.zarr", "inspected.zarr", "--quiet")
    assert "scan_025650" in cli(night, "inspect", "inspected.zarr").stdout
    assert "tau_signal" in cli(night, "inspect", "inspected.zarr", "--scan", "25650").stdout


@pytest.mark.parametrize("arguments", [
    ["run"], ["run", "night.zarr"], ["run", "night.zarr", "x.zarr", "--mode", "fsw"],
    ["run", "night.zarr", "x.zarr", "--nonsense"],
    ["run", "night.zarr", "x.zarr", "--set", "eta_f"], ["run", "night.zarr", "x.zarr", "--set", "nothing=1"],
    ["run", "night.zarr", "x.zarr", "--scans", "a-b"], ["run", "night.zarr", "x.zarr", "--scans", "99"],
    ["run", "night.zarr", "x.zarr", "--memory", "lots"], ["run", "night.zarr", "x.zarr", "--pwv", "wet"],
    ["run", "night.zarr", "x.zarr", "--workers", "two"], ["run", "night.zarr", "x.zarr", "--backend", "cupy"],
    ["run", "night.zarr", "x.zarr", "--atmosphere", "nowhere.zarr"], ["run", "night.zarr", "x.zarr", "--profile", "alma"],
    ["run", "night.zarr", "night.zarr/inside"], ["simulate", "y.zarr", "--preset", "XXL"], ["nonsense"],
], ids=" ".join)  # fmt: skip
def test_wrong_usage_is_64(night: Path, arguments: list[str]) -> None:
    done = cli(night, *arguments)
    assert done.returncode == 64, done.stderr
    assert done.stderr.strip()
    assert "Traceback" not in done.stderr
    assert not (night / "x.zarr").exists()


def test_unusable_input_is_65_and_output_73(night: Path) -> None:
    (night / "empty").mkdir(exist_ok=True)
    (night / "file").write_text("")
    for path in ("nowhere.zarr", "empty"):
        done = cli(night, "run", path, "x.zarr")
        assert (done.returncode, path in done.stderr) == (65, True)
    assert cli(night, "check", "empty").returncode == 65
    done = cli(night, "run", "night.zarr", "file/x.zarr")
    assert (done.returncode, "file/x.zarr" in done.stderr) == (73, True)
    assert cli(night, "simulate", "night.zarr", "--preset", "tiny").returncode == 73


def test_help_names_every_option_of_run() -> None:
    shown = cli(Path.cwd(), "run", "--help").stdout
    for option in ("--scans", "--mode", "--reference", "--loads", "--atmosphere", "--pwv", "--pwv-scope", "--profile", "--config",
                   "--set", "--backend", "--workers", "--memory", "--dtype", "--level", "--overwrite", "--quiet"):  # fmt: skip
        assert option in shown


def test_set_takes_any_setting(tmp_path: Path) -> None:
    small_scan(shape=(32, 2, 1, 1)).store(tmp_path / "l0.zarr")
    values = {
        name: knob.default for name, knob in knobs().items() if knob.default is not None and name not in ("atmosphere",)
    }
    arguments = [part for name, value in values.items() for part in ("--set", f"{name}={value}")]
    done = cli(tmp_path, "run", "l0.zarr", "l1.zarr", *arguments)
    assert done.returncode == 0, done.stderr


def test_profile_and_config_files(tmp_path: Path) -> None:
    small_scan(shape=(32, 2, 1, 1)).store(tmp_path / "l0.zarr")
    (tmp_path / "mine.toml").write_text('t_atm = "factor"\neta_f = 0.5\n')
    (tmp_path / "night.toml").write_text("pwv = 0.6\n")
    done = cli(
        tmp_path,
        "run",
        "l0.zarr",
        "l1.zarr",
        "--profile",
        "mine.toml",
        "--config",
        "night.toml",
        "--set",
        "trec_convention=callen_welton",
    )
    assert done.returncode == 0, done.stderr
    attrs = json.loads((tmp_path / "l1.zarr/scan_025650/zarr.json").read_bytes())["attributes"]
    settings = json.loads(attrs["settings"])
    assert (settings["t_atm"], settings["pwv"], attrs["trec_convention"]) == ("factor", 0.6, "callen_welton")
    assert attrs["receiver"]["eta_f"] == {"value": 0.95, "from": "store"}  # the store outranks a profile


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_with_75_and_a_rerun_finishes(tmp_path: Path, number: signal.Signals) -> None:
    n_scan = 12  # seconds of work: the first scan is published long before the last
    assert cli(tmp_path, "simulate", "night.zarr", "--preset", "S", "--scans", str(n_scan)).returncode == 0
    command = [sys.executable, "-c", "from calib_gpu.cli import main; main()", "run", "night.zarr", "l1.zarr"]
    done = lambda: len(list((tmp_path / "l1.zarr").glob("scan_*")))  # noqa: E731
    with subprocess.Popen(
        [*command, "--workers", "1", "--level", "5"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, env=os.environ,
    ) as process:  # fmt: skip
        while not done() and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(number)
        begin = time.monotonic()
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 75, stderr
    assert time.monotonic() - begin < 10.0
    assert "run the same command again" in stderr
    assert 1 <= done() < n_scan - 2
    assert not any((tmp_path / "l1.zarr.run" / "staging").iterdir())
    assert cli(tmp_path, "run", "night.zarr", "l1.zarr", "--workers", "1", "--level", "5").returncode == 2
    assert done() > n_scan - 3


def test_the_demo_replaces_only_its_own(tmp_path: Path) -> None:
    (tmp_path / "mine" / "calibrated.zarr").mkdir(parents=True)
    (tmp_path / "mine" / "calibrated.zarr" / "notes").write_text("precious")
    done = cli(tmp_path, "demo", "--out", "mine", "--preset", "tiny")
    assert (done.returncode, "not empty" in done.stderr) == (73, True)
    assert (tmp_path / "mine" / "calibrated.zarr" / "notes").read_text() == "precious"
    for _ in range(2):
        done = cli(tmp_path, "demo", "--out", "new", "--preset", "tiny")
        assert done.returncode == 0, done.stderr
    assert "not calibrated, as it should be: scan_025654" in done.stdout
    rows = [line.split("│")[1:-1] for line in done.stdout.splitlines() if "│ scan_" in line]
    assert len(rows) == 3
    for row in rows:
        scale, error = (float(x) for x in row[5].split("±"))
        assert abs(scale - 1.0) < 5.0 * error
        assert float(row[6]) == pytest.approx(1.0, abs=0.05)
        assert float(row[1]) == pytest.approx(float(row[2].split("±")[0]), abs=0.003)
    assert cli(tmp_path, "demo", "--preset", "L").returncode == 64


def test_the_library_prints_nothing_by_itself(night: Path) -> None:
    code = "import calib_gpu; print(calib_gpu.calibrate('night.zarr', 'library.zarr', scans=[25654]).exit_code)"
    done = subprocess.run([sys.executable, "-c", code], cwd=night, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("1\n", "")
    assert cli(night, "check", "library.zarr").stdout == (
        "no scan in it yet: calib-gpu run L0 library.zarr calibrates some; "
        "library.zarr/failures.json says why none was calibrated\n"
    )


def test_a_command_without_a_log_still_warns(night: Path) -> None:
    code = "import logging; from calib_gpu.observe.logs import silenced, warnings_to_stderr; warnings_to_stderr()\n"
    code += "log = logging.getLogger('calib_gpu'); log.warning('told'); log.info('not told')\n"
    code += "with silenced(): log.error('kept')\n"
    code += "log.error('again')"
    done = subprocess.run([sys.executable, "-c", code], cwd=night, capture_output=True, text=True, check=True)
    assert done.stderr == "told\nagain\n"


def test_the_self_test_keeps_the_failure_that_it_expects_to_itself() -> None:
    """The night of the self-test has a scan without an OFF on purpose."""
    code = "import tempfile, pathlib; from calib_gpu.observe.logs import warnings_to_stderr; warnings_to_stderr()\n"
    code += (
        "from calib_gpu.selftest.night import compare_night, CASES; from calib_gpu.backend.numpy_ import NumpyBackend\n"
    )
    code += "[CASES.pop(name) for name in list(CASES)[1:]]\n"
    code += "with tempfile.TemporaryDirectory() as f: print(compare_night(NumpyBackend(), pathlib.Path(f))[0].status)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("ok\n", "")


def test_wrong_kinds_of_input_are_told_apart(night: Path) -> None:
    cli(night, "run", "night.zarr", "kinds.zarr", "--quiet")
    for path, word in (("kinds.zarr", "not an L0 store"), ("night.truth.zarr", "not an L0 store"),
                       ("night.zarr/scan_025650", "a scan, not a store"), ("missing.zarr", "no such directory")):  # fmt: skip
        done = cli(night, "run", path, "new.zarr")
        assert (done.returncode, word in done.stderr) == (65, True), done.stderr
        assert not (night / "new.zarr").exists()
    done = cli(night, "run", "night.zarr", "new.zarr", "--scans", "25651")
    assert "loads only: scan_025651" in done.stderr
    done = cli(night, "run", "night.zarr", "x.zarr", "--set", "eta_ff=0.9")
    assert "did you mean eta_f" in done.stderr


def test_messages_name_what_was_given(night: Path) -> None:
    (night / "file").write_text("")
    (night / "a.fits").write_text("")
    cli(night, "run", "night.zarr", "given.zarr", "--quiet")
    for arguments, word in (
        (("inspect", "nope.zarr"), "give the path of an L0 or L1 Zarr store"),
        (("check", "nope.zarr"), "give the path of an L0 or L1 Zarr store"),
        (("inspect", "given.zarr", "--scan", "99"), "scans of given.zarr: 25650,25652-25653"),
        (("report", "given.zarr", "-o", "file/night.html"), "file/night.html: cannot"),
        (("run", "night.zarr", "file/l1.zarr"), "file/l1.zarr: cannot write"),
    ):
        done = cli(night, *arguments)
        assert word in done.stderr, done.stderr
        assert ".tmp" not in done.stderr
        assert "staging" not in done.stderr
    done = cli(night, "ingest", "sdfits", "a.fits", "a.fits")
    assert done.returncode == 64
    assert "the last argument is the output store" in " ".join(done.stderr.replace("│", " ").split())
