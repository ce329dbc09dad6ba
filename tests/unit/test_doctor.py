"""``calib-gpu doctor``: what it finds, what it says that it costs, and that it leaves nothing behind."""

from __future__ import annotations

import fcntl
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import google_crc32c
import pytest

from calib_gpu import doctor
from calib_gpu.backend import BACKENDS
from calib_gpu.doctor import Finding, file_system, gpu, machine, software
from calib_gpu.store import codecs
from calib_gpu.store.codecs import DECODERS


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


def doctor_cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    call = [sys.executable, "-c", "from calib_gpu.cli import main; main()", "doctor", *arguments]
    return subprocess.run(call, capture_output=True, text=True, check=False)


def test_every_state_is_known_and_every_loss_is_told() -> None:
    for finding in doctor.examine():
        assert finding.state in doctor.STATES
        assert (finding.state == "ok") == (finding.cost == ""), finding


def test_json_and_text(tmp_path: Path) -> None:
    done = doctor_cli("--json", str(tmp_path))
    report = json.loads(done.stdout)
    assert (done.returncode, report["usable"]) == (0, True)
    found = {f["name"]: f for f in report["findings"]}
    assert {"calib-gpu", "Python", "numpy", "cores", "RAM", "driver", "backends", *DECODERS, "flock", "fsync"} <= set(
        found
    )
    named = f"{found['backends']['found']} {found['backends']['cost']}"
    assert all(name in named for name in BACKENDS)
    assert (found["backends"]["state"] == "ok") == (found["backends"]["found"] == ", ".join(BACKENDS))
    shown = doctor_cli().stdout
    assert "google-crc32c" in shown
    assert "flock" not in shown  # only where a path is given
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_says_what_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    real = software._version
    monkeypatch.setattr(software, "_version", lambda name: None if name in ("astropy", "zarr") else real(name))
    found = by_name(software.packages())
    assert found["astropy"].state == "missing"
    assert "SDFITS" in found["astropy"].cost
    assert "calib-gpu[fits]" in found["astropy"].cost
    assert found["zarr"].state == "broken"


def test_the_extras_that_are_named_exist() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    for names, _, extra in software.OPTIONAL:
        assert any(re.match(r"[\w-]+", need)[0] in names for need in extras[extra]), extra  # type: ignore[index]
    needed = {re.match(r"[\w-]+", need)[0] for need in project["dependencies"]}  # type: ignore[index]
    assert needed == set(software.NEEDED)


def test_a_damaged_codec_and_slow_checksums_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> None:
        raise RuntimeError("wrong library")

    monkeypatch.setattr(codecs, "decode_small_zstd", fails)
    monkeypatch.setattr(google_crc32c, "implementation", "python")
    found = by_name(software.codecs())
    assert (found["zstd"].state, found["gzip"].state, found["crc32c"].state) == ("broken", "ok", "slow")
    assert not doctor.usable(list(found.values()))


@pytest.mark.parametrize(
    ("files", "cpus", "memory"),
    [
        ({"cpu.max": "150000 100000", "memory.max": "1073741824"}, 1.5, 1 << 30),
        ({"cpu.max": "max 100000", "memory.max": "max"}, None, None),
        ({"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000",
          "memory/memory.limit_in_bytes": "536870912"}, 4.0, 1 << 29),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000",
          "memory/memory.limit_in_bytes": "9223372036854771712"}, None, None),
        ({}, None, None),
    ],
    ids=["v2", "v2 without limit", "v1", "v1 without limit", "none"],
)  # fmt: skip
def test_limits_of_control_groups(
    tmp_path: Path, files: dict[str, str], cpus: float | None, memory: int | None
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    assert machine.cgroup_cpus(tmp_path) == cpus
    assert machine.cgroup_memory(tmp_path) == memory


class FakeDriver:
    """libcuda with two devices, as far as it is asked; pointers come as ctypes.byref makes them."""

    def __init__(self, status: int = 0, devices: int = 2) -> None:
        self.status, self.devices = status, devices

    def cuInit(self, flags: int) -> int:
        return self.status

    def cuDriverGetVersion(self, out: Any) -> int:
        out._obj.value = 13010
        return 0

    def cuDeviceGetCount(self, out: Any) -> int:
        out._obj.value = self.devices
        return 0

    def cuDeviceGet(self, out: Any, k: int) -> int:
        out._obj.value = k
        return 0

    def cuDeviceGetName(self, out: Any, size: int, device: Any) -> int:
        out.value = f"NVIDIA H{device.value}00"[: size - 1].encode()
        return 0

    def cuDeviceTotalMem_v2(self, out: Any, device: Any) -> int:
        out._obj.value = 141 << 30
        return 0

    def cuDeviceGetAttribute(self, out: Any, attribute: int, device: Any) -> int:
        out._obj.value = {75: 9, 76: 0}[attribute]
        return 0


def test_gpus_and_their_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu.ctypes, "CDLL", lambda name: FakeDriver())
    monkeypatch.setattr(gpu, "_version", lambda path: "580.95.05")
    found = by_name(gpu.gpu())
    assert found["driver"].found == "580.95.05 (up to CUDA 13.1)"
    assert found["device 1"].found == "NVIDIA H100, 141 GiB, sm_90"
    monkeypatch.setattr(gpu.ctypes, "CDLL", lambda name: FakeDriver(devices=0))
    assert by_name(gpu.gpu())["devices"].state == "missing"
    monkeypatch.setattr(gpu.ctypes, "CDLL", lambda name: FakeDriver(status=100))
    found = by_name(gpu.gpu())
    assert (found["driver"].state, "cuInit fails with 100" in found["driver"].found) == ("missing", True)


def test_a_quota_below_the_cores_names_the_workers() -> None:
    (found,) = machine._cpu_quota(2.5, 8)
    assert (found.state, found.cost) == ("slow", "8 workers would be throttled: use --workers 2")
    assert machine._cpu_quota(8.0, 8)[0].state == "ok"


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)  # as some network file systems do: every lock is granted
    found = by_name(file_system.file_system(tmp_path))
    assert (found["flock"].found, found["flock"].state) == ("accepts a second lock", "missing")
    assert found["rename"].state == "ok"


def test_a_path_that_does_not_exist_yet(tmp_path: Path) -> None:
    found = by_name(file_system.file_system(tmp_path / "new" / "l1.zarr"))
    assert found["path"].found == str(tmp_path)
    assert not (tmp_path / "new").exists()


def test_a_path_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(file_system.tempfile, "mkdtemp", refuse)
    found = file_system.file_system(tmp_path)
    assert (found[-1].state, "Permission denied" in found[-1].found) == ("broken", True)


def test_a_full_disk_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    found = file_system.file_system(tmp_path)
    assert (found[-1].state, "No space left" in found[-1].found) == ("broken", True)
    assert list(tmp_path.iterdir()) == []
