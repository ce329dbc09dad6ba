"""Any chunking of the counts: every chunk is decoded once, and L1 is the same."""

from __future__ import annotations

import itertools
import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import calib_gpu
from calib_gpu.errors import OutputError
from calib_gpu.simulate import realistic, simulate
from calib_gpu.store import chunks, reads, small_chunks, system
from calib_gpu.store.chunks import ChunkedArray
from calib_gpu.store.codecs import Compressor
from calib_gpu.store.documents import array_document
from calib_gpu.store.scratch import ScratchFile
from calib_gpu.store.tile_order import in_tile_order

AXES = ("C", "D", "R", "A", "S")
SCAN = "scan_025650"


def write_counts(folder: Path, values: np.ndarray, chunk: tuple[int, ...], attributes: dict[str, Any]) -> None:
    """``values`` [C,D,R,A,S] in chunks of that shape: bytes + zstd."""
    folder.mkdir(parents=True)
    compressor = Compressor("zstd", 1)
    document = array_document(
        values.shape, values.dtype.name, chunk, AXES, attributes, fill_value=0, compressor=compressor
    )
    (folder / "zarr.json").write_text(json.dumps(document))
    for coords in itertools.product(*(range(-(-n // k)) for n, k in zip(values.shape, chunk, strict=True))):
        part = values[tuple(slice(i * k, (i + 1) * k) for i, k in zip(coords, chunk, strict=True))]
        block = np.zeros(chunk, values.dtype)
        block[tuple(slice(0, n) for n in part.shape)] = part
        (folder / ".".join(["c", *map(str, coords)])).write_bytes(compressor.encode(block))


def rechunked(source: Path, target: Path, chunk: tuple[int, ...]) -> Path:
    """A copy of an L0 store whose counts lie in other chunks (at most the size of the array)."""
    shutil.copytree(source, target)
    for folder in target.glob("scan_*/*/data_5d"):
        array = ChunkedArray(folder, "counts", absent_is_fill=False)
        values = array.values()
        shutil.rmtree(folder)
        write_counts(folder, values, tuple(map(min, chunk, values.shape)), dict(array.meta.attrs))
    return target


def products(l1: Path) -> dict[str, bytes]:
    """Files of the arrays of a store: all but the documents of groups, which name the input."""
    return {
        str(p.relative_to(l1)): p.read_bytes()
        for p in l1.rglob("*")
        if p.is_file() and len(p.relative_to(l1).parts) > 2
    }


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    folder = tmp_path_factory.mktemp("chunks")
    simulate(folder / "l0.zarr", realistic("tiny"))
    calib_gpu.calibrate(folder / "l0.zarr", folder / "l1.zarr")
    return folder, products(folder / "l1.zarr")


CHUNKINGS = {
    "one subscan": (1024, 8, 1, 1, 1), "whole array": (1024, 8, 1, 2, 99), "a dump and some channels": (100, 1, 1, 1, 1),
    "subscans innermost": (1024, 8, 1, 1, 99), "two subscans": (300, 3, 1, 2, 2), "all pixels": (1024, 8, 1, 2, 1),
    "one channel": (1, 8, 1, 2, 99), "longer than the array": (4096, 9, 1, 2, 400),
}  # fmt: skip


@pytest.mark.parametrize("name", CHUNKINGS)
def test_l1_does_not_depend_on_the_chunking(
    night: tuple[Path, dict[str, bytes]], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, expected = night
    l0 = rechunked(folder / "l0.zarr", tmp_path / "l0.zarr", CHUNKINGS[name])
    decoded: list[tuple[str, tuple[int, ...]]] = []
    usual = ChunkedArray._decode_into

    def counted(self: ChunkedArray, layout: Any, coords: tuple[int, ...], *rest: Any) -> int:
        if self.path.endswith("/data_5d"):
            decoded.append((str(self.path), coords))
        return usual(self, layout, coords, *rest)

    monkeypatch.setattr(ChunkedArray, "_decode_into", counted)
    report = calib_gpu.calibrate(l0, tmp_path / "l1.zarr", calib_gpu.Settings(workers=2))
    assert report.count("ok") == 3
    assert products(tmp_path / "l1.zarr") == expected
    if name not in ("a dump and some channels", "one subscan"):  # these are read row by row, another way
        assert decoded
        assert [d for d in set(decoded) if decoded.count(d) > 1] == []  # every chunk once
    assert not any((tmp_path / "l1.zarr.run" / "staging").iterdir())


def test_pixels_that_do_not_fit_a_tile_are_decoded_once(
    night: tuple[Path, dict[str, bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, expected = night
    l0 = rechunked(folder / "l0.zarr", tmp_path / "l0.zarr", CHUNKINGS["all pixels"])
    made: list[int] = []
    monkeypatch.setattr("calib_gpu.scan_run.LOAD_TILE_BYTES", 200_000)  # of 393,216 for a tile of both pixels
    monkeypatch.setattr("calib_gpu.stages.load.ScratchFile", lambda at: made.append(1) or ScratchFile(at))
    assert calib_gpu.calibrate(l0, tmp_path / "l1.zarr").count("ok") == 3
    assert made
    assert products(tmp_path / "l1.zarr") == expected


def test_a_full_disk_fails_the_scan_and_says_where(
    night: tuple[Path, dict[str, bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = night
    l0 = rechunked(folder / "l0.zarr", tmp_path / "l0.zarr", CHUNKINGS["subscans innermost"])

    def full(*given: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(system, "pwrite", full)
    report = calib_gpu.calibrate(l0, tmp_path / "l1.zarr")
    assert report.count("ok") == 0
    assert "No space left on device" in report.scans[0].message
    assert "l1.zarr.run" in report.scans[0].message


shapes = st.tuples(st.integers(1, 7), st.integers(1, 5), st.integers(1, 2), st.integers(1, 3), st.integers(1, 5))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(shape=shapes, chunk=shapes, data=st.data())
def test_any_region_of_any_chunking(
    tmp_path_factory: pytest.TempPathFactory, shape: tuple[int, ...], chunk: tuple[int, ...], data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("region")
    values = np.random.default_rng(3).integers(1, 1000, shape).astype(np.int32)
    write_counts(folder / "x", values, chunk, {})
    array = ChunkedArray(folder / "x", "x", absent_is_fill=False)
    piece = data.draw(st.sampled_from([1, 100, 1 << 20]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("calib_gpu.store.tile_order.PIECE_BYTES", piece)
        laid_out, n_read = in_tile_order(array, ScratchFile(folder), 2, lambda task, parts: [task(p) for p in parts])
    assert n_read == sum(p.stat().st_size for p in (folder / "x").glob("c.*"))
    for _ in range(3):
        starts = [data.draw(st.integers(0, n - 1)) for n in shape]
        region = tuple(slice(k, data.draw(st.integers(k + 1, n))) for k, n in zip(starts, shape, strict=True))
        for order in ((0, 1, 2, 3, 4), (4, 2, 3, 0, 1), (1, 0, 4, 3, 2)):
            sizes = [region[axis].stop - region[axis].start for axis in order]
            for reader in (laid_out, array):  # the latter row by row where the chunks are narrow
                out = np.full(sizes, -1, np.int32).transpose(np.argsort(order))
                reader.read(region, out)
                np.testing.assert_array_equal(out, values[region])
    laid_out.close()
    with pytest.raises((OutputError, ValueError)):
        laid_out.read(tuple(slice(0, 1) for _ in shape), np.empty((1,) * 5, np.int32))


@pytest.mark.parametrize(
    "damage",
    ["missing", "short", "empty", "bytes behind", "other size", "a bit", "hides the next", "twice", "folder", "fifo"],
)
def test_rows_of_small_chunks_name_the_damaged_one(tmp_path: Path, damage: str) -> None:
    import os

    values = np.arange(8 * 6, dtype=np.int32).reshape(8, 6, 1, 1, 1)
    write_counts(tmp_path / "x", values, (4, 1, 1, 1, 1), {})
    file = tmp_path / "x" / "c.1.3.0.0.0"
    raw = file.read_bytes()
    file.unlink()
    wrong = Compressor("zstd", 1).encode(np.zeros(5, np.int32))
    following = (tmp_path / "x" / "c.1.4.0.0.0").stat().st_size
    damaged = {
        "short": raw[:-3], "empty": b"", "bytes behind": raw + b"x", "other size": wrong, "twice": raw + raw,
        "a bit": raw[:-6] + bytes([raw[-6] ^ 4]) + raw[-5:],
        "hides the next": raw + b"\x50\x2a\x4d\x18" + following.to_bytes(4, "little"),  # a frame that is to be skipped
    }  # fmt: skip
    if damage == "folder":
        file.mkdir()
    elif damage == "fifo":
        os.mkfifo(file)
    elif damage != "missing":
        file.write_bytes(damaged[damage])
    array = ChunkedArray(tmp_path / "x", "source/data_5d", absent_is_fill=False)
    with pytest.raises(calib_gpu.CalibError, match=r"data_5d: .*c\.1\.3\.0\.0\.0"):
        array.values()
    whole = (slice(0, 4), slice(0, 6), slice(0, 1), slice(0, 1), slice(0, 1))
    out = np.empty((4, 6, 1, 1, 1), np.int32)
    array.read(whole, out)
    np.testing.assert_array_equal(out, values[:4])


def test_a_frame_that_hides_the_next_is_seen_in_the_smallest_chunks(tmp_path: Path) -> None:
    """Four bytes a chunk: what is lacking at the end is no more than that."""
    values = np.arange(11, 17, dtype=np.int32).reshape(6, 1, 1, 1, 1)
    write_counts(tmp_path / "x", values, (1, 1, 1, 1, 1), {})
    file, following = (tmp_path / "x" / f"c.{k}.0.0.0.0" for k in (2, 3))
    hiding = b"\x50\x2a\x4d\x18" + following.stat().st_size.to_bytes(4, "little")
    file.write_bytes(file.read_bytes() + hiding)
    with pytest.raises(calib_gpu.CalibError, match=r"c\.2\.0"):
        ChunkedArray(tmp_path / "x", "x", absent_is_fill=False).values()


def test_every_file_of_a_row_is_noted_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is slow is not stuck, and what is stuck is named by its own name; slow files are not waited for in turn."""
    values = np.arange(8 * 6, dtype=np.int32).reshape(8, 6, 1, 1, 1)
    write_counts(tmp_path / "x", values, (4, 1, 1, 1, 1), {})
    readv, seen, turns = system.readv, list[tuple[str, float]](), small_chunks._Turns()

    def slow(handle: int, buffers: Any) -> int:
        time.sleep(0.02)
        read = reads.longest()
        assert read is not None
        seen.append((read.path.rpartition("/")[2], read.seconds))
        return readv(handle, buffers)

    monkeypatch.setattr(system, "readv", slow)
    monkeypatch.setattr(small_chunks, "_turns", turns)
    before, begin = reads.count(), time.monotonic()
    np.testing.assert_array_equal(ChunkedArray(tmp_path / "x", "x", absent_is_fill=False).values(), values)
    assert sorted(name for name, _ in seen) == sorted(p.name for p in (tmp_path / "x").glob("c.*"))
    elapsed = time.monotonic() - begin
    assert sorted(seconds for _, seconds in seen)[len(seen) // 2] < 0.3 * elapsed  # of one file, not of all before it
    assert reads.count() - before >= len(seen)
    assert turns.slow


def test_rows_go_through_the_fast_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.arange(8 * 6, dtype=np.int32).reshape(8, 6, 1, 1, 1)
    write_counts(tmp_path / "x", values, (4, 1, 1, 1, 1), {})
    monkeypatch.setattr(chunks.ChunkedArray, "_decode_into", lambda *_: pytest.fail("not needed"))
    np.testing.assert_array_equal(ChunkedArray(tmp_path / "x", "x", absent_is_fill=False).values(), values)
