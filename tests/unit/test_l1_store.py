"""Writing L1: what other readers find in it, how it lies on disk, how damage is found, how scans are published."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numcodecs.zstd
import numpy as np
import pytest
import tensorstore
import xarray
import zarr

import calib_gpu
from calib_gpu import Settings, schema
from calib_gpu.errors import Exit, OutputError, StoreUnusable
from calib_gpu.records import ScanId
from calib_gpu.store import codecs, disk, publish, shards, system
from calib_gpu.store.chunks import ChunkedArray
from calib_gpu.store.l1 import LaneWriter, ScanWriter
from calib_gpu.store.l1_store import check_store, differing_files, published_scans
from calib_gpu.store.publish import Publisher
from small_scan import SmallScan, small_scan

SCAN = "scan_025650"
C, D, R, A, S = SHAPE = (64, 7, 2, 3, 3)
TABLE = {row.name: row for row in schema.L1_ARRAYS if row.name != "quantum"}  # quantum: test_precision.py
# (CHUNK_BYTES, MAX_SHARD_BYTES): one block of dumps or three (of 3, 3 and 1), a subscan in one shard, or rows, or parts of rows
ONE, BLOCKS = 1 << 20, 3 * C * 8
PIXEL = C * 9 * 8  # with the padding of three blocks
LAYOUTS = {
    "one block, one shard": (ONE, 1 << 28), "blocks": (BLOCKS, 1 << 28), "blocks, a shard a row": (BLOCKS, 3 * PIXEL),
    "blocks, parts of rows": (BLOCKS, 2 * PIXEL), "one block, a shard a pixel": (ONE, 1),
}  # fmt: skip


def full_scan() -> SmallScan:
    """A noisy scan whose L0 has every optional array that L1 takes over."""
    scan = small_scan(shape=(C, D, R, A))
    rng = np.random.default_rng(2)
    n = scan.counts.shape[-1]
    scan.counts *= 1.0 + 1e-3 * rng.normal(size=scan.counts.shape)
    scan.source["pixel_offset_lon"], scan.source["pixel_offset_lat"] = (
        rng.normal(size=(R, A)),
        rng.normal(size=(R, A, n)),
    )
    scan.source["otf_lon"], scan.source["otf_lat"] = rng.normal(size=(D, n)), rng.normal(size=n)
    return scan


def run(l0: Path, l1: Path, **settings: Any) -> Any:
    report = calib_gpu.calibrate(l0, l1, Settings(pwv_scope="per_pixel", t_atm="table", **settings))
    assert report.failures == [], report.failures
    return report


@pytest.fixture(scope="module")
def l0(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return full_scan().store(tmp_path_factory.mktemp("l0") / "l0.zarr", "int32")


@pytest.fixture(scope="module", params=LAYOUTS.values(), ids=LAYOUTS)
def l1(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, l0: Path) -> Path:
    """The scan calibrated, its dumps and pixels cut in several ways."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "CHUNK_BYTES", request.param[0])
        patch.setattr(shards, "MAX_SHARD_BYTES", request.param[1])
        path = tmp_path_factory.mktemp("l1") / "l1.zarr"
        run(l0, path)
    return path


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, l0: Path) -> Path:
    """The scan calibrated as it is by default."""
    path = tmp_path_factory.mktemp("plain") / "l1.zarr"
    run(l0, path)
    return path


def tree(folder: Path) -> dict[str, bytes]:
    """Name and bytes of every file."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def contents(l1: Path) -> dict[str, np.ndarray]:
    return {name: array[...] for name, array in zarr.open_group(str(l1), mode="r")[SCAN].arrays()}


# --- what is in it, as others read it --------------------------------------------------------------------------------


def test_the_arrays_are_those_of_the_table(l1: Path) -> None:
    group = zarr.open_group(str(l1), mode="r")[SCAN]
    found = dict(group.arrays())
    assert set(found) == set(TABLE)
    sizes = dict(zip(schema.COUNT_AXES, SHAPE, strict=True)) | {"ref": 2, "off": 2}
    for name, array in found.items():
        row = TABLE[name]
        axes = array.metadata.dimension_names
        assert axes in row.axes, name
        assert array.shape == tuple(sizes[axis] for axis in axes), name
        assert str(array.dtype).startswith("StringDType" if row.dtype == "str" else row.dtype), name
        assert array.attrs.get("units", "") == row.unit, name
        assert array.attrs["long_name"] == row.meaning, name
    assert found["trec"].attrs["trec_kind"] == "dsb"
    assert group.attrs["complete"] is True


def test_what_l0_lacks_l1_lacks(tmp_path: Path) -> None:
    scan = small_scan(shape=(16, 2, 1, 1))
    for name in ("otf_lon", "otf_lat", "frontend_backends"):
        del scan.source[name]
    calib_gpu.calibrate(scan.store(tmp_path / "l0.zarr"), tmp_path / "l1.zarr", Settings(dtype="float32"))
    found = contents(tmp_path / "l1.zarr")
    optional = {"otf_lon", "otf_lat", "frontend_backends", "pixel_offset_lon", "pixel_offset_lat", "pwv"}
    optional |= {"t_atm_signal", "t_atm_image"}
    assert set(found) == set(TABLE) - optional
    assert found["spectra"].dtype == np.float32


def test_values_do_not_depend_on_the_layout(l1: Path, plain: Path) -> None:
    expected = contents(plain)
    for name, values in contents(l1).items():
        np.testing.assert_array_equal(values, expected[name], err_msg=name)
    assert np.isfinite(expected["spectra"]).all()
    assert len(np.unique(expected["spectra"])) > 0.99 * expected["spectra"].size  # so that a wrong order would be seen


def test_coordinates_are_those_of_l0(plain: Path) -> None:
    scan, found, on = full_scan(), contents(plain), [1, 2, 4]
    source = scan.source
    assert found["on_index"].tolist() == on
    assert found["sobsmode"].tolist() == ["OTF-ON"] * 3
    np.testing.assert_array_equal(found["frontend_backends"], source["frontend_backends"].astype(str))
    np.testing.assert_array_equal(found["otf_lon"], source["otf_lon"][:, on])
    np.testing.assert_array_equal(found["otf_lat"], np.broadcast_to(source["otf_lat"][on], (D, S)))
    np.testing.assert_array_equal(found["pixel_offset_lat"], source["pixel_offset_lat"][..., on])
    np.testing.assert_array_equal(
        found["pixel_offset_lon"], np.repeat(source["pixel_offset_lon"][..., None], S, axis=2)
    )
    for name in ("mjd", "elevation"):
        np.testing.assert_array_equal(found[name], source[name][on])


def test_tensorstore_reads_it(l1: Path) -> None:
    group = zarr.open_group(str(l1), mode="r")[SCAN]
    for name, row in TABLE.items():
        if row.dtype == "str":  # a type that tensorstore has not
            continue
        spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(l1 / SCAN / name)}}
        store = tensorstore.open(spec, open=True, read=True).result()
        assert store.dtype.name == row.dtype
        assert store.domain.labels == group[name].metadata.dimension_names
        np.testing.assert_array_equal(store.read().result(), group[name][...], err_msg=name)


def test_our_own_reader_reads_it(l1: Path) -> None:
    for name, values in contents(l1).items():
        array = ChunkedArray(l1 / SCAN / name, name, absent_is_fill=False)
        assert array.meta.layout is not None
        np.testing.assert_array_equal(array.values(), values, err_msg=name)


def test_xarray_reads_it_labelled(l1: Path) -> None:
    with xarray.open_zarr(str(l1), group=SCAN, consolidated=False) as data:
        assert dict(data.sizes) == dict(zip(schema.COUNT_AXES, SHAPE, strict=True)) | {"ref": 2, "off": 2}
        assert data["spectra"].dims == ("C", "D", "R", "A", "S")
        assert set(data.coords) == set(schema.L1_COORDINATES)
        assert set(data.data_vars) == set(TABLE) - set(schema.L1_COORDINATES)
        assert set(data["tau_signal"].coords) == {"frequency_signal", "frequency_image"}
        for name, row in TABLE.items():
            assert data[name].attrs.get("units", "") == row.unit
            if row.dtype != "str":
                assert data[name].dtype == row.dtype
        assert data.attrs["ta_scale"] == "ssb_line"
        assert data.attrs["scan_number"] == 25650
        for name, values in contents(l1).items():
            np.testing.assert_array_equal(data[name].values, values, err_msg=name)


def test_flag_attributes_name_every_bit(plain: Path) -> None:
    attrs = dict(zarr.open_group(str(plain), mode="r")[f"{SCAN}/flags"].attrs)
    assert attrs["flag_masks"] == [1 << k for k in range(12)]
    names = attrs["flag_meanings"].split()
    assert names == [str(f.name).lower() for f in schema.Flag]
    assert (names[0], names[1], names[11]) == ("bad_channel", "fill_value", "nonfinite")
    assert len(attrs["flag_descriptions"]) == 12


def test_documents_are_strict_json(plain: Path) -> None:
    def refuse(name: str) -> None:
        pytest.fail(f"{name} is not JSON")

    documents = list(plain.rglob("zarr.json"))
    assert len(documents) == 2 + len(TABLE)
    for path in documents:
        json.loads(path.read_bytes(), parse_constant=refuse)


# --- how it lies on disk ---------------------------------------------------------------------------------------------


def index_of(file: Path, n_inner: int) -> np.ndarray:
    """The index of a shard, which is its last part; its checksum is right."""
    raw = file.read_bytes()
    body, crc = raw[-n_inner * 16 - 4 : -4], raw[-4:]
    assert codecs.crc32c(body) == int.from_bytes(crc, "little")
    return np.frombuffer(body, "<u8").reshape(n_inner, 2)


def test_shards_are_dense_and_in_a_fixed_order(l1: Path) -> None:
    """Inner chunks lie pixel by pixel, dump block by dump block, without gaps; the index comes last."""
    absent = np.uint64(2**64 - 1)
    for name in ("spectra", "flags", "t_sys"):
        document = json.loads((l1 / SCAN / name / "zarr.json").read_text())
        chunk = document["chunk_grid"]["configuration"]["chunk_shape"]
        inner = document["codecs"][0]["configuration"]["chunk_shape"]
        assert document["codecs"][0]["configuration"]["index_location"] == "end"
        n_block, step_r, step_a = (1, *chunk[1:3]) if name == "t_sys" else (chunk[1] // inner[1], *chunk[2:4])
        files = list((l1 / SCAN / name).glob("c.*"))
        assert len(files) == S * math.ceil(R / step_r) * math.ceil(A / step_a)
        for file in files:
            at_r, at_a = (int(part) for part in file.name.split(".")[-3:-1])
            index = index_of(file, n_block * step_r * step_a).reshape(n_block, step_r, step_a, 2)
            position = 0
            for r, a, k in np.ndindex(step_r, step_a, n_block):
                offset, size = index[k, r, a]
                if at_r * step_r + r >= R or at_a * step_a + a >= A:
                    assert (offset, size) == (absent, absent)
                    continue
                assert offset == position
                position += int(size)
            assert file.stat().st_size == position + index.nbytes + 4


def test_the_last_dump_block_is_padded(l0: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "CHUNK_BYTES", BLOCKS)
    run(l0, tmp_path / "l1.zarr")
    found = contents(tmp_path / "l1.zarr")
    for name, kind, padding in (("spectra", "<f8", np.nan), ("flags", "<u2", 0)):
        file = tmp_path / "l1.zarr" / SCAN / name / "c.0.0.0.0.1"
        index = index_of(file, 3 * R * A).reshape(3, R, A, 2)
        for k, first in enumerate((0, 3, 6)):
            offset, size = (int(v) for v in index[k, 1, 2])
            frame = file.read_bytes()[offset : offset + size]
            assert frame[4] & 4, "no checksum in the zstd frame"
            block = np.frombuffer(numcodecs.zstd.decompress(frame), kind).reshape(C, 3)
            n = min(3, D - first)
            np.testing.assert_array_equal(block[:, :n], found[name][:, first : first + n, 1, 2, 1])
            np.testing.assert_array_equal(block[:, n:], np.full((C, 3 - n), padding))


@pytest.mark.parametrize(("n_channel", "n_dump", "itemsize", "block"), [
    (64, 7, 8, 7), (65536, 100, 8, 2), (16384, 40, 8, 8), (16384, 60, 4, 15), (1 << 20, 5, 8, 1), (16384, 9, 8, 5), (1, 1, 8, 1),
])  # fmt: skip
def test_dump_blocks_are_about_a_mebibyte(n_channel: int, n_dump: int, itemsize: int, block: int) -> None:
    assert shards.dump_block(n_channel, n_dump, itemsize) == block
    assert block == 1 or block * n_channel * itemsize <= 1 << 20


@pytest.mark.parametrize(("shape", "pixels_in_256_mib", "block"), [
    ((1, 7), 7, (1, 7)), ((3, 7), 20, (2, 7)), ((3, 7), 7, (1, 7)), ((2, 64), 32, (1, 32)), ((2, 64), 63, (1, 32)),
    ((2, 3), 0.5, (1, 1)), ((5, 2), 9, (3, 2)),
])  # fmt: skip
def test_pixel_blocks(shape: tuple[int, int], pixels_in_256_mib: float, block: tuple[int, int]) -> None:
    assert shards.pixel_block(shape, int((1 << 28) / pixels_in_256_mib)) == block


def in_blocks(values: np.ndarray, writer: ScanWriter) -> np.ndarray:
    """``[C, D]`` in blocks of dumps ``[B, C, d]``."""
    out = np.zeros((writer.n_block * writer.dump_block, values.shape[0]), values.dtype)
    out[: values.shape[1]] = values.T
    return np.ascontiguousarray(out.reshape(writer.n_block, writer.dump_block, -1).transpose(0, 2, 1))


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_streamed_arrays_return_every_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str) -> None:
    """NaN payloads, signed zeros, infinities and every flag, whatever the order in which lanes are written."""
    monkeypatch.setattr(shards, "CHUNK_BYTES", BLOCKS)
    monkeypatch.setattr(shards, "MAX_SHARD_BYTES", 2 * PIXEL)
    rng = np.random.default_rng(9)
    bits = rng.integers(0, 2**63, SHAPE, np.uint64).astype(f"u{np.dtype(dtype).itemsize}")
    spectra, flags = bits.view(dtype), rng.integers(0, 2**16, SHAPE).astype(np.uint16)
    t_sys = rng.integers(0, 2**63, (C, R, A, S), np.uint64).view(np.float64)
    writer = ScanWriter(tmp_path / SCAN, SHAPE, dtype, codecs.Compressor("zstd", 1), 1)
    writer.write_streamed_documents(corrected=True)
    for lane in reversed(list(writer.lanes())):
        shard = LaneWriter(writer, lane)
        for r in range(lane.r.start, lane.r.stop):
            for a in range(lane.a.start, lane.a.stop):
                shard.append(
                    r, a, *(in_blocks(x[..., r, a, lane.on], writer) for x in (spectra, flags)),
                    np.ascontiguousarray(t_sys[:, r, a, lane.on]),
                )  # fmt: skip
        shard.close()
    writer.finish({})
    group = zarr.open_group(str(tmp_path / SCAN), mode="r")
    for name, written in (("spectra", spectra), ("flags", flags), ("t_sys", t_sys)):
        kind = f"u{written.dtype.itemsize}"
        np.testing.assert_array_equal(group[name][...].view(kind), written.view(kind))
        ours = ChunkedArray(tmp_path / SCAN / name, name, absent_is_fill=False).values()
        np.testing.assert_array_equal(ours.view(kind), written.view(kind))
    assert differing_files(tmp_path / SCAN) == []
    assert writer.bytes_written == sum(p.stat().st_size for p in tmp_path.rglob("*") if p.is_file())


@pytest.mark.parametrize("settings", [{"workers": 1}, {"workers": 3, "memory": 16 << 20}], ids=str)
def test_the_same_bytes_however_it_ran(l0: Path, tmp_path: Path, plain: Path, settings: dict[str, Any]) -> None:
    report = run(l0, tmp_path / "l1.zarr", **settings)
    assert tree(tmp_path / "l1.zarr") == tree(plain)
    assert report.scans[0].digest == zarr.open_group(str(plain), mode="r")[SCAN].attrs["digest"]


def test_no_clock_host_or_path_in_it(plain: Path, l0: Path) -> None:
    text = b"\n".join(tree(plain).values())
    for trace in (os.uname().nodename, str(plain.parent), str(l0.parent), str(os.getpid())):
        if len(trace) > 4:
            assert trace.encode() not in text, trace


# --- check -----------------------------------------------------------------------------------------------------------


def test_check_finds_a_flipped_bit_in_every_file(l1: Path) -> None:
    assert check_store(l1) == (1, [])
    files, rng = tree(l1), np.random.default_rng(len(l1.parts) + sum(map(ord, l1.parent.name)))
    assert len(files) > 2 * len(TABLE)
    for name, raw in files.items():
        damaged = bytearray(raw)
        damaged[int(rng.integers(len(raw)))] ^= 1 << int(rng.integers(8))
        (l1 / name).write_bytes(damaged)
        if name == "zarr.json":  # it may no longer be the document of an L1 store
            assert found_in_root(l1)
        else:
            assert check_store(l1) == (1, [name])
        (l1 / name).write_bytes(raw)
    assert check_store(l1) == (1, [])


def found_in_root(l1: Path) -> bool:
    try:
        return check_store(l1) == (1, ["zarr.json"])
    except StoreUnusable as error:
        return str(l1) in str(error)


def test_check_finds_every_bit_of_the_documents(tmp_path: Path) -> None:
    one = publisher(tmp_path / "l1.zarr")
    one.publish(ONE_SCAN, staged(one), overwrite=False)
    one.close()
    raw = (tmp_path / "l1.zarr/zarr.json").read_bytes()
    for bit in range(8 * len(raw)):
        damaged = bytearray(raw)
        damaged[bit // 8] ^= 1 << (bit % 8)
        (tmp_path / "l1.zarr/zarr.json").write_bytes(damaged)
        assert found_in_root(tmp_path / "l1.zarr"), bit
    (tmp_path / "l1.zarr/zarr.json").write_bytes(raw)
    document = tmp_path / "l1.zarr" / SCAN / "zarr.json"
    raw = document.read_bytes()
    for bit in range(8 * len(raw)):
        damaged = bytearray(raw)
        damaged[bit // 8] ^= 1 << (bit % 8)
        document.write_bytes(damaged)
        assert differing_files(document.parent) == ["zarr.json"], bit


def test_check_names_what_is_missing_and_what_is_too_much(plain: Path, tmp_path: Path) -> None:
    folder, files = plain / SCAN, tree(plain)
    for name in ("spectra/c.0.0.0.0.1", "spectra/zarr.json", "mjd/c.0", "zarr.json"):
        (folder / name).rename(tmp_path / "away")
        assert check_store(plain) == (1, [f"{SCAN}/{name}"])
        (tmp_path / "away").rename(folder / name)
    for name in ("surplus", "spectra/c.0.0.0.0.9", ".hidden", "mjd/zarr.json.tmp"):
        (folder / name).write_bytes(b"")
        assert check_store(plain) == (1, [f"{SCAN}/{name}"])
        (folder / name).unlink()
    (folder / "link").symlink_to(tmp_path)
    assert check_store(plain) == (1, [f"{SCAN}/link"])
    (folder / "link").unlink()
    shard = folder / "t_sys/c.0.0.0.0"
    shard.rename(tmp_path / "away")
    os.mkfifo(shard)  # must not block
    assert check_store(plain) == (1, [f"{SCAN}/t_sys/c.0.0.0.0"])
    shard.unlink()
    (tmp_path / "away").rename(shard)
    assert check_store(plain) == (1, [])
    assert tree(plain) == files


def test_check_of_something_else(tmp_path: Path, l0: Path) -> None:
    for path, word in (
        (l0, "not an L1 store: these are raw counts"),
        (tmp_path, "not an L1 store"),
        (tmp_path / "nothing", "not an L1 store"),
    ):
        with pytest.raises(StoreUnusable, match=word):
            check_store(path)


# --- publishing ------------------------------------------------------------------------------------------------------

ONE_SCAN = ScanId(25650)


def publisher(l1: Path, *, overwrite: bool = False, **config: Any) -> Publisher:
    return Publisher(l1, "l0.zarr", config, overwrite=overwrite)


def staged(by: Publisher, scan: ScanId = ONE_SCAN, value: float = 1.0) -> Path:
    """A scan of one small array, ready to be published."""
    folder = by.stage(scan)
    writer = ScanWriter(folder, (4, 1, 1, 1, 1), "float64", codecs.Compressor("zstd", 1), 1)
    writer.write("tau_signal", np.full(4, value), ("C",))
    writer.finish({"value": value})
    return folder


def value_of(l1: Path, scan: ScanId = ONE_SCAN) -> float:
    return float(zarr.open_group(str(l1), mode="r")[f"{scan.path}/tau_signal"][0])


def test_a_scan_appears_whole_and_once(tmp_path: Path) -> None:
    l1 = tmp_path / "l1.zarr"
    first, second = publisher(l1), publisher(l1)
    a, b = staged(first), staged(second)
    assert first.done(ONE_SCAN) is None
    assert published_scans(l1) == []
    assert first.publish(ONE_SCAN, a, overwrite=False) is True
    done = second.done(ONE_SCAN)
    assert done is not None
    assert done["value"] == 1.0
    before = tree(l1)
    assert second.publish(ONE_SCAN, b, overwrite=False) is False
    assert tree(l1) == before
    assert not b.exists()
    with pytest.raises(OutputError, match=r"scan_025650.*other settings"):
        second.publish(ONE_SCAN, staged(second, value=2.0), overwrite=False)
    assert tree(l1) == before
    for one in (first, second):
        one.close()
    assert check_store(l1) == (1, [])
    assert list((tmp_path / "l1.zarr.run/staging").iterdir()) == []


def test_each_staged_scan_hears_of_lost_writes_by_a_handle_of_its_own(tmp_path: Path) -> None:
    """One handle for all would tell of what was lost once: to the first scan that asks, not to that whose files they are."""
    one, other = ScanId(25650), ScanId(25651)
    heard: list[int] = []
    opened_before: list[bool] = []
    with contextlib.closing(Publisher(tmp_path / "l1.zarr", "l0", {}, overwrite=False)) as publisher:
        first, second = staged(publisher, one), staged(publisher, other)
        open_now = set(os.listdir("/proc/self/fd"))

        def syncfs(handle: int) -> None:
            heard.append(handle)
            opened_before.append(str(handle) in open_now)

        with system.replaced(syncfs=syncfs):
            assert publisher.publish(one, first, overwrite=False)
            assert publisher.publish(other, second, overwrite=False)
        assert len(set(heard)) == 2
        assert opened_before == [True, True]
        third = staged(publisher, ScanId(25652))
        publisher.discard(third)
        assert not third.exists()
        for handle in heard:
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.fstat(handle)


def test_a_folder_that_another_run_makes_meanwhile_is_no_failure(tmp_path: Path) -> None:
    target = tmp_path / "l1.run" / "staging"

    def mkdir(path: Any, mode: int = 0o777) -> None:
        if str(path) == str(target) and not target.exists():
            try:
                os.mkdir(path, mode)
            finally:
                target.mkdir(parents=True, exist_ok=True)
        else:
            os.mkdir(path, mode)

    with system.replaced(mkdir=mkdir):
        disk.make_dirs(target)
    assert target.is_dir()


def test_overwrite_replaces_a_scan(tmp_path: Path) -> None:
    l1 = tmp_path / "l1.zarr"
    one = publisher(l1)
    one.publish(ONE_SCAN, staged(one, value=1.0), overwrite=False)
    (l1 / SCAN / "old").write_text("of the old scan")
    assert one.publish(ONE_SCAN, staged(one, value=2.0), overwrite=True) is True
    assert value_of(l1) == 2.0
    assert check_store(l1) == (1, [])
    one.close()
    assert sorted(p.name for p in l1.iterdir()) == [SCAN, "zarr.json"]
    assert list((tmp_path / "l1.zarr.run/staging").iterdir()) == []


def test_overwrite_renews_the_roots_document(tmp_path: Path) -> None:
    l1 = tmp_path / "l1.zarr"
    publisher(l1, eta_f=0.9).close()
    publisher(l1, eta_f=0.8).close()
    assert json.loads((l1 / "zarr.json").read_text())["attributes"]["config"] == {"eta_f": 0.9}
    publisher(l1, eta_f=0.8, overwrite=True).close()
    assert json.loads((l1 / "zarr.json").read_text())["attributes"]["config"] == {"eta_f": 0.8}
    assert check_store(l1) == (0, [])


def test_bands_are_checked_with_their_scan(tmp_path: Path) -> None:
    l1, bands = tmp_path / "l1.zarr", [ScanId(25650, "band_A"), ScanId(25650, "band_B")]
    one = publisher(l1)
    for k, scan in enumerate(bands):
        assert one.publish(scan, staged(one, scan, value=k), overwrite=False)
    one.close()
    assert published_scans(l1) == bands
    assert [value_of(l1, scan) for scan in bands] == [0.0, 1.0]
    assert check_store(l1) == (2, [])
    for name, raw in tree(l1 / SCAN).items():
        (l1 / SCAN / name).write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
        assert check_store(l1) == (2, [f"{SCAN}/{name}"])
        (l1 / SCAN / name).write_bytes(raw)


def test_a_scan_without_its_list_of_files_differs(tmp_path: Path) -> None:
    one = publisher(tmp_path / "l1.zarr")
    folder = one.stage(ONE_SCAN)
    document, _ = publish.sealed(publish.group_document({}))
    disk.write_file(folder / "zarr.json", publish.dump_json(document))
    assert differing_files(folder) == ["zarr.json"]
    one.close()


FOREIGN = {
    "a file": lambda path: path.write_text("notes"),
    "a folder with a file": lambda path: (path.mkdir(), (path / "notes").write_text("notes")),
    "another Zarr group": lambda path: zarr.create_group(str(path), attributes={"format": "l0-heterodyne"}),
    "a Zarr array": lambda path: zarr.create_array(str(path), shape=(1,), dtype="f8"),
}


@pytest.mark.parametrize("make", FOREIGN.values(), ids=FOREIGN)
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_path_that_is_no_l1_store_is_refused(tmp_path: Path, l0: Path, make: Any, overwrite: bool) -> None:
    make(tmp_path / "l1.zarr")
    before = tree(tmp_path)
    with pytest.raises(OutputError, match=r"l1\.zarr.*not an L1 store") as caught:
        calib_gpu.calibrate(l0, tmp_path / "l1.zarr", Settings(overwrite=overwrite))
    assert caught.value.exit_code == Exit.CANNOT_WRITE
    assert tree(tmp_path) == before
    assert [p.name for p in tmp_path.iterdir()] == ["l1.zarr"], "nothing is written beside a path that is refused"


def test_an_empty_folder_is_used(tmp_path: Path) -> None:
    (tmp_path / "l1.zarr").mkdir()
    publisher(tmp_path / "l1.zarr").close()
    assert check_store(tmp_path / "l1.zarr") == (0, [])


@pytest.mark.parametrize("moment", ["while it is written", "when it is written"])
def test_a_staging_folder_that_another_node_removes_fails_its_scan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """On a file system whose locks do not hold across nodes a run that starts elsewhere takes it for a left-over."""
    from calib_gpu.pipeline import calibrate
    from calib_gpu.scan_report import Progress
    from calib_gpu.scan_run import ScanRunner

    real, met = ScanRunner.write, list[str]()

    def elsewhere() -> None:
        met.append(moment)
        with monkeypatch.context() as patch:
            patch.setattr(publish, "_lock", lambda folder: os.open(folder, os.O_RDONLY))
            publisher(tmp_path / "l1.zarr").close()

    class Tiles(Progress):
        def advance(self, samples: int) -> None:
            if moment == "while it is written" and not met:
                elsewhere()

    def written(*arguments: Any, **named: Any) -> None:
        real(*arguments, **named)
        if moment == "when it is written":
            elsewhere()

    monkeypatch.setattr(ScanRunner, "write", written)
    l0 = small_scan(shape=(64, 3, 2, 2)).store(tmp_path / "l0.zarr")
    report = calibrate(l0, tmp_path / "l1.zarr", Settings(workers=1), progress=Tiles())
    assert met == [moment]
    assert [(s.status, s.error) for s in report.scans] == [("failed", "OutputError")]
    assert published_scans(tmp_path / "l1.zarr") == []


def test_a_run_that_starts_while_another_makes_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tasks of an array start together; whatever one has written of the store, the next takes it for one, or for none."""
    real, before = disk.write_file, list[bool]()

    def meanwhile(path: Path | str, data: bytes) -> tuple[int, int]:
        if Path(path).name.startswith(".zarr.json") and not before:
            before.append(True)
            done = real(path, data)
            publisher(tmp_path / "l1.zarr").close()
            return done
        return real(path, data)

    monkeypatch.setattr(disk, "write_file", meanwhile)
    publisher(tmp_path / "l1.zarr").close()
    assert len(before) == 1
    assert check_store(tmp_path / "l1.zarr") == (0, [])


def test_nothing_is_written_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    l0 = full_scan().store(tmp_path / "in" / "l0.zarr", "int32")
    (tmp_path / "neighbour").write_text("untouched")
    before = tree(tmp_path)
    run(l0, tmp_path / "out" / "l1.zarr")
    assert {name: raw for name, raw in tree(tmp_path).items() if not name.startswith("out/")} == before
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["l1.zarr", "l1.zarr.run"]
    assert sorted(p.name for p in (tmp_path / "out/l1.zarr").iterdir()) == [SCAN, "zarr.json"]
    assert sorted(p.name for p in (tmp_path / "out/l1.zarr.run").iterdir()) == ["failures", "report.jsonl", "staging"]
    assert list((tmp_path / "out/l1.zarr.run/staging").iterdir()) == []


OWNER = """
import sys, time
from pathlib import Path
from calib_gpu.store.publish import Publisher
one = Publisher(Path(sys.argv[1]), "l0.zarr", {}, overwrite=False)
folder = one.stage(__import__("calib_gpu.records").records.ScanId(25650))
folder.mkdir()
(folder / "half").write_text("half a scan")
print(folder, flush=True)
time.sleep(600)
"""


def test_left_overs_of_the_dead_are_removed_and_of_the_living_are_not(tmp_path: Path) -> None:
    l1 = tmp_path / "l1.zarr"
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(l1)], stdout=subprocess.PIPE, text=True)
    try:
        assert owner.stdout is not None
        folder = Path(owner.stdout.readline().strip())
        assert (folder / "half").is_file()
        old = l1.with_name("l1.zarr.run") / "staging" / "1234-of-the-dead"
        (old / "scan_025650/spectra").mkdir(parents=True)
        (old / "scan_025650/spectra/zarr.json").write_text("{}")
        publisher(l1).close()
        assert not old.exists()
        assert (folder / "half").is_file(), "its owner is alive"
        owner.send_signal(signal.SIGKILL)
        owner.wait(10)
        assert folder.exists(), "nobody removes it at the moment of the kill"
        publisher(l1).close()
        assert not folder.parent.exists()
        assert list((l1.with_name("l1.zarr.run") / "staging").iterdir()) == []
    finally:
        owner.kill()
        owner.wait()
        if owner.stdout is not None:
            owner.stdout.close()


@pytest.mark.parametrize("opened", [False, True])
def test_a_staging_folder_that_is_cleaned_before_it_is_locked_is_taken_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: bool
) -> None:
    """Another run may see the folder between its creation and its lock, before it is opened or after."""
    real, taken = publish._lock, []

    def late(folder: Path) -> int | None:
        taken.append(folder)
        if len(taken) > 1:
            return real(folder)
        handle = real(folder) if opened else None
        disk.remove_tree(folder)
        return handle if opened else real(folder)

    monkeypatch.setattr(publish, "_lock", late)
    before = open_files()
    one = publisher(tmp_path / "l1.zarr")
    assert len(taken) == 2
    assert taken[1].is_dir()
    assert real(taken[1]) is None, "it is locked"
    one.close()
    assert open_files() == before


def test_without_locks_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish, "_lock", lambda folder: None)
    one = publisher(tmp_path / "l1.zarr")
    assert one.publish(ONE_SCAN, staged(one, value=1.0), overwrite=False)
    assert one.publish(ONE_SCAN, staged(one, value=2.0), overwrite=True)
    one.close()
    assert check_store(tmp_path / "l1.zarr") == (1, [])
    assert list((tmp_path / "l1.zarr.run/staging").iterdir()) == []


# --- a disk that fails -----------------------------------------------------------------------------------------------


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def attempt(l0: Path, l1: Path, operation: str, fails: int) -> tuple[int, Any]:
    """Calibrate while the k-th call of a function of ``os`` fails; how often it was called, and the report."""
    real, calls = getattr(system, operation), 0

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == fails:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*args, **kwargs)

    publisher(l1).close()  # the root's document is there already
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(system, operation, counted)
        if operation == "fsync":
            patch.setattr(system, "_SYNCFS", None)  # an older kernel: file by file
        report = calib_gpu.calibrate(l0, l1, Settings(pwv_scope="per_pixel", workers=1))
    return calls, report


PARTS = (0.1, 0.35, 0.5, 0.6, 0.7, 0.9)


@pytest.mark.parametrize(
    ("operation", "part"),
    [*((name, part) for name in ("write", "fsync") for part in PARTS), ("mkdir", 0.6), ("rename", 0.0)],
)
def test_a_disk_that_fails_fails_the_scan_and_leaves_nothing(
    l0: Path, plain: Path, tmp_path: Path, operation: str, part: float
) -> None:
    """One operation of the disk fails: the scan fails by name, no file stays open, a rerun gives the same bytes."""
    n, report = attempt(l0, tmp_path / "undisturbed.zarr", operation, 0)
    assert report.failures == []
    before, l1 = open_files(), tmp_path / "l1.zarr"
    _, report = attempt(l0, l1, operation, 1 + int(part * n))
    assert open_files() == before
    (failed,) = report.failures
    assert failed.error == "OutputError"
    assert "cannot write: No space left on device" in failed.message
    assert not (l1 / SCAN).exists()
    assert list((tmp_path / "l1.zarr.run/staging").iterdir()) == []
    run(l0, l1)
    assert tree(l1 / SCAN) == tree(plain / SCAN)
    assert not (l1 / "failures.json").exists()


def test_a_file_system_that_does_not_sync_fails_the_scan(
    l0: Path, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(handle: int) -> int:
        ctypes.set_errno(errno.EIO)
        return -1

    monkeypatch.setattr(system, "_SYNCFS", fails)
    report = calib_gpu.calibrate(l0, tmp_path / "l1.zarr", Settings(pwv_scope="per_pixel"))
    assert "Input/output error" in report.failures[0].message
    assert not (tmp_path / "l1.zarr" / SCAN).exists()
    monkeypatch.undo()
    run(l0, tmp_path / "l1.zarr")
    assert tree(tmp_path / "l1.zarr" / SCAN) == tree(plain / SCAN)


def test_a_scan_that_is_published_is_no_failure(
    l0: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = disk.sync_dir

    def fails(path: Path) -> None:
        if (path / SCAN).exists():
            raise OutputError("cannot write: Input/output error", array=str(path))
        real(path)

    monkeypatch.setattr(disk, "sync_dir", fails)
    assert calib_gpu.calibrate(l0, tmp_path / "l1.zarr").failures == []
    assert "did not confirm" in caplog.text


def test_a_file_is_closed_once(tmp_path: Path) -> None:
    file = disk.OutputFile(tmp_path / "a")
    file.append(b"123456789")
    assert file.close() == (9, 0xE3069283)  # the check value of CRC-32C
    other = os.open(tmp_path / "a", os.O_RDONLY)  # takes the number of the closed file
    file.abandon()
    assert os.read(other, 3) == b"123"
    os.close(other)
    assert disk.measure(tmp_path / "a") == (9, 0xE3069283)
    with pytest.raises(OutputError, match="File exists"):
        disk.write_file(tmp_path / "a", b"")
