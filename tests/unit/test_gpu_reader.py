"""The setting gpu_reader over whole runs, on a simulated device: same files as without, and a note wherever the host decodes."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import pytest
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec

from backends import make_backend
from calib_gpu import ConfigError, Settings
from calib_gpu.backend import decoder as libraries
from calib_gpu.backend import encoder
from calib_gpu.backend.numpy_ import NumpyBackend
from calib_gpu.backend.on_device import DeviceBackend
from calib_gpu.inspection.plan import plan_store
from calib_gpu.pipeline import RunReport, calibrate
from calib_gpu.selftest import readers
from calib_gpu.settings import knobs
from calib_gpu.store.codecs import Compressor
from calib_gpu.store.l0_write import COMPRESSOR, L0Writer
from calib_gpu.testing.sim import Faults, SimDevice
from calib_gpu.testing.sim_decoder import SimDecoder, SimEncoder, SimFiles
from device_night import tree
from small_scan import small_scan

SHAPE = (512, 16, 2, 2)
ZSTD_CRC = Compressor("zstd_crc32c", 1)
KINDS = ("nvcomp", "kvikio")
ON_DEVICE = {"nvcomp": "simulated decoder", "kvikio": "simulated file reader, simulated decoder"}


def night(folder: Path, counts: Compressor = ZSTD_CRC, dtype: str = "int32") -> Path:
    store = L0Writer(folder / "l0.zarr", {}, counts)
    for k, number in enumerate((25650, 25651)):
        small_scan(number, shape=SHAPE, mjd=60000.0 + k / 144.0, seed=k).write(store, dtype)
    return folder / "l0.zarr"


@pytest.fixture(autouse=True)
def libraries_of_the_simulated_device(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What was opened, by name."""
    opened: dict[str, Any] = {}

    def opener(name: str, kind: Any) -> Any:
        def open_it(device: Any) -> Any:
            opened[name] = kind(device)
            return opened[name]

        return open_it

    monkeypatch.setitem(libraries.DECODERS, "sim", opener("decoder", SimDecoder))
    monkeypatch.setitem(libraries.FILES, "sim", opener("files", SimFiles))
    monkeypatch.setitem(encoder.ENCODERS, "sim", opener("encoder", SimEncoder))
    return opened


def run(l0: Path, out: Path, *, device: SimDevice | None = None, **values: Any) -> RunReport:
    backend = NumpyBackend() if device is None else DeviceBackend(device)
    return calibrate(l0, out, Settings(**values, workers=2), backend=backend)


def notes(report: RunReport) -> set[str]:
    return {note for scan in report.scans for note in scan.notes}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["int32", "float32"])
def test_the_files_of_l1_are_the_same(
    tmp_path: Path, kind: str, dtype: str, libraries_of_the_simulated_device: dict[str, Any]
) -> None:
    l0, opened = night(tmp_path, dtype=dtype), libraries_of_the_simulated_device
    run(l0, tmp_path / "numpy.zarr")
    report = run(l0, tmp_path / "device.zarr", device=SimDevice(), gpu_reader=kind)
    assert report.count("ok") == 2
    assert notes(report) == {f"gpu_reader={kind}: {ON_DEVICE[kind]}"}
    assert tree(tmp_path / "device.zarr") == tree(tmp_path / "numpy.zarr")
    n_on_tile = 2 * 3 * SHAPE[2] * SHAPE[3]
    assert opened["decoder"].n_frame == n_on_tile
    assert "files" not in opened or opened["files"].n_read == n_on_tile


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_read_are_those_of_the_host(tmp_path: Path, kind: str) -> None:
    """But for the four bytes of each crc32c, which are no part of a frame."""
    l0 = night(tmp_path)
    host = run(l0, tmp_path / "a.zarr", device=SimDevice())
    packed = run(l0, tmp_path / "b.zarr", device=SimDevice(), gpu_reader=kind)
    assert host.scans[0].bytes_read - packed.scans[0].bytes_read == 4 * 3 * 4


def test_host_is_the_default_and_opens_nothing(
    tmp_path: Path, libraries_of_the_simulated_device: dict[str, Any]
) -> None:
    assert Settings().gpu_reader == "host"
    assert notes(run(night(tmp_path), tmp_path / "l1.zarr", device=SimDevice())) == set()
    assert libraries_of_the_simulated_device == {}


def test_it_changes_no_number() -> None:
    assert not knobs()["gpu_reader"].metadata["numeric"]
    assert Settings(gpu_reader="nvcomp").digest() == Settings().digest()


# --- wherever the host decodes after all: a note, the same files


FALLBACKS: dict[str, tuple[dict[str, Any], str]] = {
    "no crc32c": ({}, "stored with zstd, not with zstd + crc32c"),
    "precision": ({"precision": "auto"}, "precision"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FALLBACKS)
def test_fallbacks(tmp_path: Path, name: str, kind: str, libraries_of_the_simulated_device: dict[str, Any]) -> None:
    values, reason = FALLBACKS[name]
    l0 = night(tmp_path, COMPRESSOR if name == "no crc32c" else ZSTD_CRC)
    run(l0, tmp_path / "numpy.zarr", **values)
    report = run(l0, tmp_path / "device.zarr", device=SimDevice(), gpu_reader=kind, **values)
    assert report.count("ok") == 2
    (note,) = notes(report)
    assert note.startswith("gpu_reader: decoded on the host, for")
    assert reason in note
    assert tree(tmp_path / "device.zarr") == tree(tmp_path / "numpy.zarr")
    assert libraries_of_the_simulated_device["decoder"].n_frame == 0


@pytest.mark.parametrize("kind", KINDS)
def test_chunks_of_several_subscans_are_laid_out_anew(tmp_path: Path, kind: str) -> None:
    l0 = night(tmp_path)
    for scan in ("scan_025650", "scan_025651"):
        path = l0 / scan / "source" / "data_5d"
        old = zarr.open_array(path)
        values, attributes = old[...], dict(old.attrs)
        new = zarr.create_array(
            path, shape=values.shape, chunks=(512, 16, 1, 1, 5), dtype="int32", attributes=attributes, overwrite=True,
            compressors=(ZstdCodec(level=1), Crc32cCodec()), fill_value=0,
        )  # fmt: skip
        new[...] = values
    report = run(l0, tmp_path / "device.zarr", device=SimDevice(), gpu_reader=kind)
    assert (report.count("ok"), notes(report)) == (
        2, {"gpu_reader: decoded on the host, for the counts were laid out anew"}
    )  # fmt: skip


def test_the_numpy_backend_decodes_on_the_host(tmp_path: Path) -> None:
    report = run(night(tmp_path), tmp_path / "l1.zarr", gpu_reader="nvcomp")
    assert report.count("ok") == 2
    assert notes(report) == {"gpu_reader=nvcomp: decoded on the host, for there is no GPU in use"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_library_that_is_not_there(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the decoder the host decodes; without kvikio it reads, and the decoder is used all the same."""

    def missing(device: Any) -> Any:
        raise ConfigError("not installed", array="gpu_reader", fix="pip install it")

    monkeypatch.setitem(libraries.FILES, "sim", missing)
    report = run(night(tmp_path), tmp_path / "a.zarr", device=SimDevice(), gpu_reader="kvikio")
    assert notes(report) == {
        "gpu_reader=kvikio: read by the host, decoded on the GPU (gpu_reader: not installed; pip install it)",
        "gpu_reader=kvikio: simulated decoder",
    }
    monkeypatch.setitem(libraries.DECODERS, "sim", missing)
    report = run(tmp_path / "l0.zarr", tmp_path / "b.zarr", device=SimDevice(), gpu_reader=kind)
    assert notes(report) == {f"gpu_reader={kind}: decoded on the host (gpu_reader: not installed; pip install it)"}
    assert tree(tmp_path / "a.zarr") == tree(tmp_path / "b.zarr")


# --- damage: the same scans fail with the same words


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("damage", ["a bit of a frame", "the index", "cut", "gone"])
def test_damage_fails_as_on_the_host(tmp_path: Path, kind: str, damage: str) -> None:
    l0 = night(tmp_path)
    file = sorted((l0 / "scan_025650" / "source" / "data_5d").glob("c.*"))[-1]
    data = bytearray(file.read_bytes())
    if damage == "gone":
        file.unlink()
    else:
        # subscan 1 is an ON; it lies behind the OFF
        at = {"a bit of a frame": len(data) // 2, "the index": len(data) - 9, "cut": 0}[damage]
        data[at] ^= 16
        file.write_bytes(bytes(data[: len(data) // 2] if damage == "cut" else data))
    host = run(l0, tmp_path / "host.zarr", device=SimDevice())
    packed = run(l0, tmp_path / "packed.zarr", device=SimDevice(), gpu_reader=kind)
    assert [s.status for s in host.scans] == ["failed", "ok"]
    assert [(s.status, s.error, s.message) for s in packed.scans] == [
        (s.status, s.error, s.message) for s in host.scans
    ]
    assert packed.exit_code == host.exit_code


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("operation", range(0, 120, 17))
def test_a_device_that_fails_publishes_nothing_half(tmp_path: Path, kind: str, operation: int) -> None:
    l0 = night(tmp_path)
    run(l0, tmp_path / "numpy.zarr")
    device = SimDevice(faults=Faults(operation=operation))
    report = run(l0, tmp_path / "device.zarr", device=device, gpu_reader=kind)
    done, reference = tree(tmp_path / "device.zarr"), tree(tmp_path / "numpy.zarr")
    for scan in report.scans:
        if scan.status == "ok":
            mine = {n: h for n, h in done.items() if n.startswith(scan.scan)}
            assert mine == {n: h for n, h in reference.items() if n.startswith(scan.scan)}
        else:
            assert scan.error == "DeviceLost"
            assert not any(name.startswith(scan.scan) for name in done)


# --- memory


def test_a_small_device_takes_smaller_tiles(tmp_path: Path) -> None:
    l0 = night(tmp_path)
    run(l0, tmp_path / "numpy.zarr")
    device = SimDevice(faults=Faults(memory=1_700_000))
    report = run(l0, tmp_path / "device.zarr", device=device, gpu_reader="nvcomp")
    assert report.count("ok") == 2
    assert any("do not fit" in note for note in notes(report))
    assert tree(tmp_path / "device.zarr") == tree(tmp_path / "numpy.zarr")


def test_device_memory_counts_what_is_beside_the_tiles(tmp_path: Path) -> None:
    l0 = night(tmp_path)
    device = SimDevice()
    limit = 1_500_000
    most = 0
    empty = device.empty

    def watched(nbytes: int) -> Any:
        nonlocal most
        block = empty(nbytes)
        most = max(most, (1 << 40) - device.free_bytes())
        return block

    device.empty = watched  # type: ignore[method-assign]
    report = run(l0, tmp_path / "l1.zarr", device=device, gpu_reader="nvcomp", device_memory=limit)
    assert report.count("ok") == 2
    assert 0 < most < limit + 1_000_000, "beside the tiles there are the loads"


def test_plan_says_that_it_takes_more(tmp_path: Path) -> None:
    l0 = night(tmp_path)
    texts = {kind: str(dataclasses.asdict(plan_store(l0, Settings(gpu_reader=kind)))) for kind in ("host", "nvcomp")}
    assert "gpu_reader" in texts["nvcomp"]
    assert "gpu_reader" not in texts["host"]


# --- imports


@pytest.mark.parametrize("name", ["kvikio", "nvidia.libnvcomp"])
def test_the_libraries_are_not_imported_unless_asked_for(tmp_path: Path, name: str) -> None:
    before = name in sys.modules
    run(night(tmp_path), tmp_path / "l1.zarr", device=SimDevice())
    assert (name in sys.modules) == before


def test_a_device_without_libraries_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    device = SimDevice()
    monkeypatch.delitem(libraries.DECODERS, "sim")
    monkeypatch.delitem(libraries.FILES, "sim")
    monkeypatch.delitem(encoder.ENCODERS, "sim")
    for opener in (libraries.open_decoder, libraries.open_files, encoder.open_encoder):
        with pytest.raises(ConfigError, match="sim"):
            opener(device)


# --- what a machine with a GPU runs


def test_the_check_of_the_readers_finds_nothing_on_the_simulated_device(tmp_path: Path) -> None:
    said: list[str] = []
    device = SimDevice()
    assert readers.run(DeviceBackend(device), tmp_path, said.append, small=True), "\n".join(said)
    assert sum(line.startswith("ok ") for line in said) == 6 + 1 + 15 + 2
    assert not [line for line in said if line.startswith(("differs", "FAILED"))]
    assert sum("GB/s" in line for line in said) == 2 + 1 + 2 + 4 + 4


@pytest.mark.gpu
def test_the_check_of_the_readers_on_a_gpu(tmp_path: Path) -> None:
    said: list[str] = []
    backend = make_backend("cupy")
    for opener in (libraries.open_decoder, libraries.open_files, encoder.open_encoder):
        try:
            opener(backend.device)  # type: ignore[arg-type]
        except ConfigError as error:
            pytest.skip(f"not run: {error}")
    assert readers.run(backend, tmp_path, said.append, small=True), "\n".join(said)


@pytest.mark.parametrize("what", ["decoder", "files", "encoder"])
def test_the_check_of_the_readers_says_what_is_wrong(
    tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, made = {
        "decoder": (libraries.DECODERS, lambda device: SimDecoder(device, lambda k, status: 12 * (k == 40))),
        "files": (libraries.FILES, lambda device: SimFiles(device, lambda data: data[::-1])),
        "encoder": (encoder.ENCODERS, lambda device: SimEncoder(device, lambda k, frame: frame[:-1])),
    }[what]  # fmt: skip
    monkeypatch.setitem(table, "sim", made)  # type: ignore[arg-type]
    said: list[str] = []
    assert not readers.run(DeviceBackend(SimDevice()), tmp_path, said.append, small=True)
    assert any(line.startswith("differs") for line in said)
    missing: list[str] = []
    monkeypatch.delitem(table, "sim")  # type: ignore[arg-type]
    (tmp_path / "again").mkdir()
    assert not readers.run(DeviceBackend(SimDevice()), tmp_path / "again", missing.append, small=True)
    assert any("cannot be used" in line and "ConfigError" in line for line in missing)
