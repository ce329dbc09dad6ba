"""The codec nvcomp_zstd over whole runs, on a simulated device: any reader finds the spectra of the host's codec."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore
import zarr

from calib_gpu import ConfigError, Settings, encoded
from calib_gpu.backend import decoder as libraries
from calib_gpu.backend import encoder
from calib_gpu.backend.numpy_ import NumpyBackend
from calib_gpu.backend.on_device import DeviceBackend
from calib_gpu.errors import Exit
from calib_gpu.inspection.plan import plan_store
from calib_gpu.pipeline import RunReport, calibrate
from calib_gpu.scan_run import ScanRunner
from calib_gpu.selftest.gpu_nights import arrays_of, depends_on_the_encoder
from calib_gpu.settings import knobs
from calib_gpu.store import shards
from calib_gpu.store.codecs import Compressor
from calib_gpu.store.l0_write import L0Writer
from calib_gpu.store.l1_store import check_store
from calib_gpu.testing.sim import Faults, SimDevice
from calib_gpu.testing.sim_decoder import SimDecoder, SimEncoder
from device_night import tree
from small_scan import small_scan

SHAPE = (512, 16, 2, 2)
SCANS = ("scan_025650", "scan_025651")
CHAIN = ["bytes", "zstd", "crc32c"]
SAID = "codec=nvcomp_zstd: simulated encoder"


@pytest.fixture(scope="module")
def l0(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scans whose counts a GPU could decode, too."""
    path = tmp_path_factory.mktemp("night") / "l0.zarr"
    store = L0Writer(path, {}, Compressor("zstd_crc32c", 1))
    for k, name in enumerate(SCANS):
        small_scan(int(name[-6:]), shape=SHAPE, mjd=60000.0 + k / 144.0, seed=k).write(store, "int32")
    return path


@pytest.fixture(autouse=True)
def made(monkeypatch: pytest.MonkeyPatch) -> list[SimEncoder]:
    """The encoders that were opened for the simulated device."""
    opened: list[SimEncoder] = []

    def opener(device: Any) -> SimEncoder:
        opened.append(SimEncoder(device))
        return opened[-1]

    monkeypatch.setitem(encoder.ENCODERS, "sim", opener)
    monkeypatch.setitem(libraries.DECODERS, "sim", SimDecoder)
    return opened


def run(l0: Path, out: Path, device: SimDevice | None = None, **values: Any) -> RunReport:
    backend = NumpyBackend() if device is None else DeviceBackend(device)
    return calibrate(l0, out, Settings(**{"workers": 2, **values}), backend=backend)


def on_gpu(l0: Path, out: Path, device: SimDevice | None = None, **values: Any) -> RunReport:
    return run(l0, out, device or SimDevice(), codec="nvcomp_zstd", **values)


def notes(report: RunReport) -> set[str]:
    return {note for scan in report.scans for note in scan.notes}


def chain(store: Path, scan: str, name: str) -> list[str]:
    """Codecs of the inner chunks, as the document of the array says."""
    (sharding,) = json.loads((store / scan / name / "zarr.json").read_text())["codecs"]
    return [codec["name"] for codec in sharding["configuration"]["codecs"]]


def assert_same_numbers(found: Path, expected: Path) -> None:
    """Spectra and flags to the bit; every file that holds no spectra to the byte; nothing damaged; the right codecs."""
    assert arrays_of(found) == arrays_of(expected)
    mine, other = ({n: d for n, d in tree(path).items() if not depends_on_the_encoder(n)} for path in (found, expected))
    assert mine == other
    assert check_store(found) == (2, [])
    assert [chain(found, scan, "spectra") for scan in SCANS] == [CHAIN, CHAIN]
    assert chain(found, SCANS[0], "flags") == ["bytes", "zstd"]


@pytest.mark.parametrize("values", [
    {}, {"dtype": "float32"}, {"precision": "auto"}, {"gpu_reader": "nvcomp"}, {"slots": 1, "workers": 1},
], ids=str)  # fmt: skip
@pytest.mark.parametrize("block", [1, 4])
def test_the_numbers_are_those_of_the_host(
    l0: Path,
    tmp_path: Path,
    values: dict[str, Any],
    block: int,
    made: list[SimEncoder],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In one chunk a pixel, and in several, the last of which has padding."""
    if block > 1:
        monkeypatch.setattr(shards, "CHUNK_BYTES", 5 * SHAPE[0] * (4 if values.get("dtype") else 8))
    run(l0, tmp_path / "numpy.zarr", **{k: v for k, v in values.items() if k in ("dtype", "precision")})
    report = on_gpu(l0, tmp_path / "gpu.zarr", **values)
    reader = {"gpu_reader=nvcomp: simulated decoder"} if "gpu_reader" in values else set()
    assert (report.count("ok"), notes(report)) == (2, {SAID} | reader)
    assert_same_numbers(tmp_path / "gpu.zarr", tmp_path / "numpy.zarr")
    assert sum(e.n_frame for e in made) == 2 * 3 * SHAPE[2] * SHAPE[3] * block


def test_other_readers_find_the_same(l0: Path, tmp_path: Path) -> None:
    run(l0, tmp_path / "numpy.zarr")
    on_gpu(l0, tmp_path / "gpu.zarr")
    for scan in SCANS:
        expected, path = (
            zarr.open_array(tmp_path / "numpy.zarr" / scan / "spectra")[...],
            tmp_path / "gpu.zarr" / scan / "spectra",
        )
        spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path)}}
        for found in (zarr.open_array(path)[...], tensorstore.open(spec).result().read().result()):
            np.testing.assert_array_equal(found, expected)


def test_the_bytes_are_others_but_for_the_host(l0: Path, tmp_path: Path) -> None:
    """Else this would prove nothing."""
    run(l0, tmp_path / "numpy.zarr")
    on_gpu(l0, tmp_path / "gpu.zarr")
    mine, other = tree(tmp_path / "gpu.zarr"), tree(tmp_path / "numpy.zarr")
    differing = {n for n in mine if mine[n] != other.get(n)}
    assert differing == {n for n in mine if depends_on_the_encoder(n)}


def test_explicit_choice_only(l0: Path, tmp_path: Path, made: list[SimEncoder]) -> None:
    for value in ("auto", "zstd"):
        assert Settings(codec=value).codec_used == "zstd"
        run(l0, tmp_path / f"{value}.zarr", SimDevice(), codec=value)
    assert made == []
    assert not knobs()["codec"].metadata["numeric"]
    assert Settings(codec="nvcomp_zstd").digest() == Settings().digest()


# --- without what it needs: refused before there is an output


def test_without_a_gpu_it_is_refused(l0: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nvcomp_zstd.*--backend cupy.*--codec zstd"):
        run(l0, tmp_path / "l1.zarr", codec="nvcomp_zstd")
    assert list(tmp_path.iterdir()) == []


def test_without_nvcomp_it_is_refused(l0: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(encoder.ENCODERS, "sim")
    with pytest.raises(ConfigError, match=r"sim.*--codec zstd"):
        on_gpu(l0, tmp_path / "l1.zarr")
    assert list(tmp_path.iterdir()) == []


def test_the_command_says_so(l0: Path, tmp_path: Path) -> None:
    arguments = ["run", str(l0), str(tmp_path / "l1.zarr"), "--backend", "numpy", "--codec", "nvcomp-zstd"]
    command = [sys.executable, "-m", "calib_gpu", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == Exit.USAGE, done.stderr
    assert "nvcomp_zstd" in done.stderr
    assert "--codec zstd" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_library_is_not_imported_unless_asked_for(l0: Path, tmp_path: Path) -> None:
    before = "nvidia.libnvcomp" in sys.modules
    run(l0, tmp_path / "l1.zarr", SimDevice())
    assert ("nvidia.libnvcomp" in sys.modules) == before


# --- where the host encodes after all: the same codecs, the same numbers, a note


def host_bytes(l0: Path, out: Path) -> dict[str, bytes]:
    """The spectra as the host writes zstd + crc32c."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoded, "MAX_CHUNK_BYTES", 1)
        report = on_gpu(l0, out)
    assert notes(report) == {"codec=nvcomp_zstd: encoded on the host, for chunks of 65536 bytes, at most 1"}
    return tree(out)


def test_chunks_that_are_too_large_are_encoded_by_the_host(l0: Path, tmp_path: Path, made: list[SimEncoder]) -> None:
    run(l0, tmp_path / "numpy.zarr")
    host_bytes(l0, tmp_path / "host.zarr")
    assert_same_numbers(tmp_path / "host.zarr", tmp_path / "numpy.zarr")
    assert sum(e.n_frame for e in made) == 0


def test_a_small_device_takes_smaller_tiles_then_encodes_on_the_host_then_does_nothing(
    l0: Path, tmp_path: Path
) -> None:
    run(l0, tmp_path / "numpy.zarr")
    seen = []
    for k, memory in enumerate((1 << 40, 1_700_000, 600_000, 460_000)):
        out, device = tmp_path / f"{k}.zarr", SimDevice(faults=Faults(memory=memory))
        report = on_gpu(l0, out, device, backend="auto")
        assert report.count("ok") == 2
        assert_same_numbers(out, tmp_path / "numpy.zarr")
        text = "\n".join(notes(report))
        seen.append(
            [part in text for part in ("halved", "no tile fits the GPU with its frames", "calibrated on the host")]
        )
    assert seen == [[False] * 3, [True, False, False], [True, True, False], [True] * 3]
    host = host_bytes(l0, tmp_path / "host.zarr")
    assert tree(tmp_path / "2.zarr") == tree(tmp_path / "3.zarr") == host


def test_chunks_whose_frames_are_not_sound_are_counted(
    l0: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        encoder.ENCODERS, "sim", lambda device: SimEncoder(device, lambda k, frame: frame[: -(k % 2) or None])
    )
    run(l0, tmp_path / "numpy.zarr")
    report = on_gpu(l0, tmp_path / "gpu.zarr")
    assert_same_numbers(tmp_path / "gpu.zarr", tmp_path / "numpy.zarr")
    said = [note for scan in report.scans for note in scan.notes if note != SAID]
    assert all("chunks encoded on the host: " in note for note in said), said
    assert any("zstd frame of" in note for note in said)
    assert sum(int(note.split()[1]) for note in said) == 2 * 3 * SHAPE[2] * SHAPE[3] // 2


# --- memory


def test_device_memory_bounds_it(l0: Path, tmp_path: Path) -> None:
    device, limit, most = SimDevice(), 1_500_000, 0
    empty = device.empty

    def watched(nbytes: int) -> Any:
        nonlocal most
        block = empty(nbytes)
        most = max(most, (1 << 40) - device.free_bytes())
        return block

    device.empty = watched  # type: ignore[method-assign]
    assert on_gpu(l0, tmp_path / "l1.zarr", device, device_memory=limit).count("ok") == 2
    assert 0 < most < limit + 1_000_000, "beside the tiles there are the loads"


def test_plan_says_that_it_takes_more(l0: Path) -> None:
    texts = {codec: str(dataclasses.asdict(plan_store(l0, Settings(codec=codec)))) for codec in ("zstd", "nvcomp_zstd")}
    assert "nvcomp_zstd" in texts["nvcomp_zstd"]
    assert "nvcomp" not in texts["zstd"]


# --- resume, several runs, failures


def test_what_another_codec_has_done_is_done(l0: Path, tmp_path: Path) -> None:
    out = tmp_path / "l1.zarr"
    calibrate(l0, out, Settings(workers=1), scans=[25650], backend=NumpyBackend())
    before = tree(out / SCANS[0])
    report = on_gpu(l0, out)
    assert [scan.status for scan in report.scans] == ["skipped", "ok"] or report.count("skipped") == 1
    assert tree(out / SCANS[0]) == before
    assert check_store(out) == (2, [])
    assert [chain(out, scan, "spectra") for scan in SCANS] == [["bytes", "zstd"], CHAIN]
    assert run(l0, out).count("skipped") == 2
    assert on_gpu(l0, out, overwrite=True).count("ok") == 2
    assert chain(out, SCANS[0], "spectra") == CHAIN


@pytest.mark.parametrize("codec", ["blosc_zstd", "nvcomp_zstd"])
def test_a_run_with_another_codec_beside_it(
    l0: Path, tmp_path: Path, codec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever comes second with the same scan finds other digests: the same for every codec."""
    out, write = tmp_path / "l1.zarr", ScanRunner.write
    others: list[RunReport] = []

    def beaten(self: ScanRunner, done: Any) -> None:
        write(self, done)
        if not others:
            others.append(RunReport("", "", "", ""))
            others[0] = calibrate(l0, out, Settings(workers=1), scans=[25650], backend=NumpyBackend())

    monkeypatch.setattr(ScanRunner, "write", beaten)
    report = run(l0, out, SimDevice(), codec=codec)
    assert others[0].count("ok") == 1
    assert [(scan.status, scan.error) for scan in report.scans] == [("failed", "OutputError"), ("ok", "")]
    assert check_store(out) == (2, [])


@pytest.mark.parametrize("operation", range(0, 120, 13))
def test_a_device_that_fails_publishes_nothing_half(l0: Path, tmp_path: Path, operation: int) -> None:
    on_gpu(l0, tmp_path / "whole.zarr")
    report = on_gpu(l0, tmp_path / "l1.zarr", SimDevice(faults=Faults(operation=operation)))
    done, whole = tree(tmp_path / "l1.zarr"), tree(tmp_path / "whole.zarr")
    for scan in report.scans:
        mine = {n: d for n, d in done.items() if n.startswith(scan.scan)}
        if scan.status == "ok":
            assert mine == {n: d for n, d in whole.items() if n.startswith(scan.scan)}
        else:
            assert (scan.error, mine) == ("DeviceLost", {})
