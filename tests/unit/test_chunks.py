"""Reading arrays: every layout gives what NumPy slicing gives, every damage is an error that names array and chunk.

The metadata documents are written out here; zarr-python and tensorstore then write the chunks.
"""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import threading
import warnings
import zlib
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from calib_gpu.errors import BadType, Unreadable
from calib_gpu.records import ScanId
from calib_gpu.store import chunks, codecs, documents, guard, small_chunks
from calib_gpu.store.chunks import ChunkedArray
from calib_gpu.store.l0 import L0Store
from calib_gpu.store.metadata import group_attrs, read_json
from small_scan import small_scan

Json = dict[str, Any]
SHAPE = (13, 4, 2, 3, 3)
ODD = (5, 3, 2, 2, 1)


def codec(name: str, **configuration: Any) -> Json:
    return {"name": name, "configuration": configuration}


def blosc(cname: str, shuffle: str) -> Json:
    return codec("blosc", cname=cname, clevel=5, shuffle=shuffle, typesize=4, blocksize=0)


BYTES, BIG, CRC = codec("bytes", endian="little"), codec("bytes", endian="big"), {"name": "crc32c"}
ZSTD, ZSTD_CHECKED, GZIP = (
    codec("zstd", level=1, checksum=False),
    codec("zstd", level=1, checksum=True),
    codec("gzip", level=5),
)
TURNED = codec("transpose", order=[3, 0, 4, 2, 1])


def sharded(
    inner: tuple[int, ...], *chain: Json, at: str = "end", index: tuple[Json, ...] = (BYTES, CRC)
) -> list[Json]:
    options = {"chunk_shape": list(inner), "codecs": list(chain), "index_codecs": list(index), "index_location": at}
    return [codec("sharding_indexed", **options)]


def v3(
    chain: list[Json], dtype: str = "int32", chunk: tuple[int, ...] = ODD, shape: tuple[int, ...] = SHAPE,
    keys: Json | None = None,
) -> Json:  # fmt: skip
    return {
        "zarr_format": 3, "node_type": "array", "shape": list(shape), "data_type": dtype,
        "fill_value": "" if dtype == "string" else 0,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunk)}},
        "chunk_key_encoding": keys or {"name": "default", "configuration": {"separator": "/"}},
        "codecs": chain, "attributes": {},
    }  # fmt: skip


def v2(
    compressor: Json | None,
    dtype: str = "<i4",
    chunk: tuple[int, ...] = ODD,
    shape: tuple[int, ...] = SHAPE,
    **more: Any,
) -> Json:
    return {
        "zarr_format": 2, "shape": list(shape), "dtype": dtype, "chunks": list(chunk), "compressor": compressor,
        "fill_value": 0, "order": "C", "filters": None, "dimension_separator": ".",
    } | more  # fmt: skip


def create(path: Path, document: Json) -> Path:
    """The metadata document of an array; no chunk yet."""
    path.mkdir(parents=True)
    name = "zarr.json" if document["zarr_format"] == 3 else ".zarray"
    (path / name).write_text(json.dumps(document))
    return path


def numbers(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Values that fill the whole range of a type."""
    raw = np.random.default_rng(7).integers(1, 255, (*shape, 8), np.uint8)
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return np.random.default_rng(7).normal(0.0, 1e4, shape).astype(kind)
    return raw.view("u8")[..., 0].astype(kind)


def with_zarr(path: Path, values: np.ndarray) -> None:
    zarr.open_array(str(path), mode="r+", config={"write_empty_chunks": True})[...] = values


def with_tensorstore(path: Path, values: np.ndarray) -> None:
    driver = "zarr3" if (path / "zarr.json").exists() else "zarr"
    store = tensorstore.open({"driver": driver, "kvstore": {"driver": "file", "path": str(path)}}, open=True).result()
    store.write(values).result()


def opened(path: Path, **changes: Any) -> ChunkedArray:
    return ChunkedArray(path, "source/data_5d", **{"absent_is_fill": False, **changes})


def everything(array: ChunkedArray) -> tuple[slice, ...]:
    return tuple(slice(0, n) for n in array.shape)


def chunk_files(path: Path) -> list[Path]:
    return sorted(p for p in path.rglob("*") if p.is_file() and p.name not in ("zarr.json", ".zarray", ".zattrs"))


# --- layouts that are read, and those that are refused ---------------------------------------------------------------

DOT, SLASH = {"separator": "."}, {"separator": "/"}
WHOLE, LARGER, LONG = SHAPE, (32, 8, 2, 4, 4), (8, 1, 1, 1, 1)
DTYPES = ("int16", "int32", "int64", "uint16", "uint32", "float32", "float64")

DIRECT: dict[str, Json] = {
    "plain": v3([BYTES]),
    "zstd": v3([BYTES, ZSTD]),
    "zstd with checksum": v3([BYTES, ZSTD_CHECKED]),
    "crc32c": v3([BYTES, CRC]),
    "zstd, crc32c": v3([BYTES, ZSTD, CRC]),
    "gzip": v3([BYTES, GZIP]),
    "gzip, crc32c twice": v3([BYTES, GZIP, CRC, CRC]),
    **{f"blosc {c} {s}": v3([BYTES, blosc(c, s)]) for c, s in product(("lz4", "zstd"), ("noshuffle", "shuffle", "bitshuffle"))},
    "big endian": v3([BIG, ZSTD]),
    "big endian plain": v3([BIG], "float64"),
    "transpose": v3([TURNED, BYTES, ZSTD]),
    "transpose, big endian": v3([TURNED, BIG, CRC], "int16"),
    **{f"{t} zstd": v3([BYTES, ZSTD_CHECKED], t) for t in DTYPES},
    **{f"{t} plain": v3([BYTES], t) for t in DTYPES},
    "chunk is the array": v3([BYTES, ZSTD], chunk=WHOLE),
    "chunk is larger": v3([BYTES, ZSTD], chunk=LARGER),
    "chunk along C": v3([BYTES, ZSTD], chunk=LONG),
    "one dump": v3([BYTES, ZSTD], chunk=(5, 1, 1, 1, 1)),
    "keys with dots": v3([BYTES, ZSTD], keys={"name": "default", "configuration": DOT}),
    "v2 keys": v3([BYTES, ZSTD], keys={"name": "v2", "configuration": DOT}),
    "v2 keys with slashes": v3([BYTES, ZSTD], keys={"name": "v2", "configuration": SLASH}),
    "keys by default": v3([BYTES, ZSTD], keys={"name": "v2"}),
    "shard": v3(sharded(ODD, BYTES, ZSTD), chunk=(10, 6, 2, 4, 2)),
    "shard, index first": v3(sharded(ODD, BYTES, ZSTD_CHECKED, at="start"), chunk=(10, 6, 2, 4, 2)),
    "shard, index without checksum": v3(sharded(ODD, BYTES, index=(BYTES,)), chunk=(10, 6, 2, 4, 2)),
    "shard, index first without checksum": v3(sharded(ODD, BYTES, at="start", index=(BYTES,)), chunk=(5, 3, 4, 2, 3)),
    "shard is the array": v3(sharded((13, 4, 1, 1, 1), BYTES, GZIP), chunk=WHOLE),
    "shard is one chunk": v3(sharded(ODD, BYTES, ZSTD, CRC)),
    "shard of turned chunks": v3(sharded(ODD, TURNED, BIG, ZSTD), "float32", (10, 6, 2, 4, 2)),
    "vector": v3([BYTES, ZSTD], "float64", (4,), (11,)),
    "matrix, whole rows": v3([BYTES, ZSTD], "float64", (1, 12), (3, 12)),
    "0-d": v3([BYTES, ZSTD], "float64", (), ()),
    "0-d with v2 keys": v3([BYTES], "float64", (), (), {"name": "v2", "configuration": DOT}),
    "v2 plain": v2(None),
    "v2 zlib": v2({"id": "zlib", "level": 1}),
    "v2 gzip": v2({"id": "gzip", "level": 1}),
    "v2 zstd": v2({"id": "zstd", "level": 1}, dimension_separator="/"),
    "v2 blosc": v2({"id": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 1, "blocksize": 0}),
    "v2 blosc bit shuffle": v2({"id": "blosc", "cname": "zstd", "clevel": 5, "shuffle": 2, "blocksize": 0}, "<f8"),
    "v2 order F": v2({"id": "zstd", "level": 1}, order="F"),
    "v2 order F, big endian": v2(None, ">i2", order="F", dimension_separator="/"),
    "v2 big endian": v2({"id": "zlib", "level": 1}, ">f4"),
    "v2 0-d": v2(None, "<f8", (), ()),
    "v2 without separator": {k: v for k, v in v2(None, "<u2").items() if k != "dimension_separator"},
}  # fmt: skip

REFUSED: dict[str, Json] = {
    "two compressors": v3([BYTES, GZIP, ZSTD]),
    "turned twice": v3([TURNED, TURNED, BYTES, ZSTD]),
    "v2 bz2": v2({"id": "bz2", "level": 1}),
    "v2 lz4": v2({"id": "lz4", "acceleration": 1}),
    "v2 filter": v2({"id": "zlib", "level": 1}, filters=[{"id": "delta", "dtype": "<i4"}]),
    "shards in shards": v3(sharded(ODD, *sharded((1, 1, 1, 1, 1), BYTES)), chunk=(10, 6, 2, 4, 2)),
    "transposed shards": v3([TURNED, *sharded(tuple(ODD[k] for k in (3, 0, 4, 2, 1)), BYTES)]),
    "index of another order": v3(sharded(ODD, BYTES, index=(BIG,)), chunk=(10, 6, 2, 4, 2)),
    "rectilinear grid": v3([BYTES])
    | {"chunk_grid": {"name": "rectangular", "configuration": {"chunk_shape": [[1, 2]]}}},
    "storage transformer": v3([BYTES]) | {"storage_transformers": [{"name": "x"}]},
    "unknown codec": v3([BYTES, codec("no-such-codec")]),
    "unknown type": v3([BYTES]) | {"data_type": {"name": "no-such-type", "configuration": {}}},
    "complex": v3([BYTES], "complex64") | {"fill_value": [0.0, 0.0]},
    "v2 unknown codec": v2({"id": "no-such-codec"}),
    "v2 unknown type": v2(None, "no such"),
    "v2 pickle": v2(None, "|O", filters=[{"id": "pickle"}], fill_value=None),
}
NOT_IN_TENSORSTORE = {"0-d with v2 keys"}
WRITERS = {"zarr": with_zarr, "tensorstore": with_tensorstore}
LAYOUTS = [
    pytest.param(document, writer, id=f"{name}-{writer}")
    for name, document in DIRECT.items()
    for writer in WRITERS
    if writer == "zarr" or name not in NOT_IN_TENSORSTORE
]


def turned_outputs(shape: tuple[int, ...], dtype: np.dtype[Any]) -> list[np.ndarray]:
    """Outputs of a shape: contiguous, as ``stream.read_tile`` uses them ([R, A, C, D] in memory), and with gaps."""
    gaps = np.full(tuple(2 * n + 1 for n in shape), 77, dtype)[(..., *(slice(1, None, 2) for _ in shape))]
    outputs = [np.full(shape, 77, dtype), gaps]
    if len(shape) == 5:
        c, d, r, a, s = shape
        outputs.append(np.full((s, r, a, c, d), 77, dtype).transpose(3, 4, 1, 2, 0))
    return outputs


@pytest.mark.parametrize("document", REFUSED.values(), ids=REFUSED)
def test_what_is_not_on_the_list_is_refused_unread(tmp_path: Path, document: Json) -> None:
    path = create(tmp_path / "data_5d", document)
    (path / "c").mkdir()
    array = opened(path, absent_is_fill=True)
    for read in (array.values, lambda: array.read((slice(0, 1),) * 5, np.empty((1,) * 5)), lambda: array.read_chunk):
        with pytest.raises((Unreadable, BadType), match=r"source/data_5d: cannot be read: .*rule"):
            read()


@pytest.mark.parametrize(("document", "writer"), LAYOUTS)
def test_every_layout_gives_what_was_written(tmp_path: Path, document: Json, writer: str) -> None:
    path = create(tmp_path / "data_5d", document)
    stored = document.get("data_type") or document["dtype"]
    values = numbers(tuple(document["shape"]), stored)
    WRITERS[writer](path, values)
    array = opened(path)
    assert array.shape == values.shape
    assert array.dtype == np.dtype(stored).newbyteorder("=")
    whole = array.values()
    assert whole.dtype == array.dtype
    np.testing.assert_array_equal(whole, values)
    rng = np.random.default_rng(3)
    for _ in range(4):
        start = [int(rng.integers(0, n)) for n in values.shape]
        region = tuple(slice(b, int(rng.integers(b + 1, n + 1))) for b, n in zip(start, values.shape, strict=True))
        for out in turned_outputs(values[region].shape, array.dtype):
            assert array.read(region, out) > 0
            np.testing.assert_array_equal(out, values[region])


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[ChunkedArray, np.ndarray]]:
    folder, held = tmp_path_factory.mktemp("layouts"), {}
    for name in (
        "zstd",
        "one dump",
        "shard",
        "chunk along C",
        "chunk is larger",
        "v2 order F",
        "big endian plain",
    ):
        document = DIRECT[name]
        path = create(folder / name, document)
        values = numbers(SHAPE, document.get("data_type") or document["dtype"])
        with_zarr(path, values)
        held[name] = opened(path), values
    return held


@settings(max_examples=120, deadline=None, derandomize=True)
@given(data=st.data())
def test_regions_are_those_of_numpy(stores: dict[str, tuple[ChunkedArray, np.ndarray]], data: st.DataObject) -> None:
    array, values = stores[data.draw(st.sampled_from(sorted(stores)))]
    ends = [sorted(data.draw(st.tuples(st.integers(0, n), st.integers(0, n)))) for n in values.shape]
    region = tuple(slice(a, b) for a, b in ends)
    wanted = values[region]
    order = data.draw(st.permutations(range(5)))
    margin = data.draw(st.integers(0, 2))
    memory = np.full([wanted.shape[axis] + margin for axis in order], 77, array.dtype)
    inside = memory[tuple(slice(0, wanted.shape[axis]) for axis in order)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(small_chunks, "BATCH_BYTES", data.draw(st.sampled_from([1, 100, 250, 1000, 1 << 20])))
        array.read(region, inside.transpose(np.argsort(order)))
    np.testing.assert_array_equal(inside.transpose(np.argsort(order)), wanted)
    inside[...] = 77
    assert np.all(memory == 77), "written outside the region"


def test_only_the_chunks_of_a_region_are_read(tmp_path: Path) -> None:
    path, values = create(tmp_path / "data_5d", DIRECT["zstd"]), numbers(SHAPE, "int32")
    with_zarr(path, values)
    keep = path / "c/1/0/0/1/2"
    for file in chunk_files(path):
        if file != keep:
            file.unlink()
    region = (slice(6, 9), slice(1, 3), slice(0, 2), slice(2, 3), slice(2, 3))
    out = np.empty((3, 2, 2, 1, 1), np.int32)
    assert opened(path).read(region, out) == keep.stat().st_size
    np.testing.assert_array_equal(out, values[region])


def test_whole_chunks_need_no_buffer_between(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, values = create(tmp_path / "data_5d", v3([BYTES, ZSTD], chunk=(13, 4, 1, 1, 1))), numbers(SHAPE, "int32")
    with_zarr(path, values)
    monkeypatch.setattr(ChunkedArray, "_decode_scratch", lambda *_: pytest.fail("decoded into a buffer in between"))
    tile = np.empty((2, 3, 13, 4), np.int32)
    region = (slice(0, 13), slice(0, 4), slice(0, 2), slice(0, 3), slice(1, 2))
    opened(path).read(region, tile.transpose(2, 3, 0, 1)[..., None])
    np.testing.assert_array_equal(tile.transpose(2, 3, 0, 1), values[..., 1])


def test_threads_share_an_array(stores: dict[str, tuple[ChunkedArray, np.ndarray]]) -> None:
    path = Path(stores["shard"][0].path)
    array, values, bad = opened(path), stores["shard"][1], []

    def work(k: int) -> None:
        for s in range(30):
            region = (slice(k, 13), slice(0, 4), slice(0, 2), slice(k % 3, 3), slice(s % 3, s % 3 + 1))
            out = np.empty(values[region].shape, np.int32)
            array.read(region, out)
            if not np.array_equal(out, values[region]):
                bad.append((k, s))

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert bad == []
    assert len(array._indices) == len(chunk_files(path))


# --- strings ---------------------------------------------------------------------------------------------------------

VLEN = codec("vlen-utf8")
WORDS = np.array([["OTF-ON", "", "Ωmega"], ["HFAV_PX00", "x" * 300, "OFF"]], dtype=object)
STRINGS: dict[str, Json] = {
    "zstd": v3([VLEN, ZSTD], "string", (2, 3), (2, 3)),
    "plain": v3([VLEN], "string", (2, 3), (2, 3)),
    "crc32c": v3([VLEN, ZSTD_CHECKED, CRC], "string", (1, 2), (2, 3)),
    "plain, crc32c": v3([VLEN, CRC], "string", (2, 3), (2, 3)),
    "shard": v3(sharded((1, 3), VLEN, ZSTD), "string", (2, 3), (2, 3)),
    "v2 vlen-utf8": v2({"id": "zstd", "level": 1}, "|O", (2, 2), (2, 3), fill_value="", filters=[{"id": "vlen-utf8"}]),
    "v2 unicode": v2({"id": "zlib", "level": 1}, "<U300", (2, 2), (2, 3), fill_value=""),
    "v2 big-endian unicode": v2(None, ">U300", (2, 3), (2, 3), fill_value=""),
    "gzip": v3([VLEN, GZIP], "string", (2, 2), (2, 3)),
    "v2 vlen-utf8 in blosc": v2(
        {"id": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 1, "blocksize": 0}, "|O", (2, 2), (2, 3), fill_value="",
        filters=[{"id": "vlen-utf8"}],
    ),
    "v2 vlen-utf8 in zlib": v2({"id": "zlib", "level": 1}, "|O", (2, 2), (2, 3), fill_value="", filters=[{"id": "vlen-utf8"}]),
}  # fmt: skip


@pytest.mark.parametrize("document", STRINGS.values(), ids=STRINGS)
def test_strings(tmp_path: Path, document: Json) -> None:
    path = create(tmp_path / "sobsmode", document)
    with_zarr(path, WORDS if document.get("dtype", "|O") == "|O" else WORDS.astype(document["dtype"]))
    array = opened(path)
    assert array.meta.is_string
    assert array.values().tolist() == WORDS.tolist()
    out = np.empty((1, 2), dtype=object)
    array.read((slice(1, 2), slice(1, 3)), out)
    assert out.tolist() == [["x" * 300, "OFF"]]
    with pytest.raises(BadType, match="source/data_5d"):
        _ = array.dtype


def test_strings_of_bytes(tmp_path: Path) -> None:
    path = create(tmp_path / "sobsmode", v2(None, "|S6", (2,), (3,), fill_value=""))
    with_zarr(path, np.array([b"ON", b"OFF", b"OTF-ON"]))
    assert opened(path).values().tolist() == [b"ON", b"OFF", b"OTF-ON"]


def test_turned_strings(tmp_path: Path) -> None:
    """Written by hand: zarr-python 3.1 stores them in another order than it reads them."""
    path = create(tmp_path / "name", v3([codec("transpose", order=[1, 0]), VLEN, ZSTD], "string", (2, 3), (2, 3)))
    (path / "c/0").mkdir(parents=True)
    (path / "c/0/0").write_bytes(codecs.encode_zstd(documents.encode_strings(WORDS.T), 1))
    assert opened(path).values().tolist() == WORDS.tolist()


def test_one_string(tmp_path: Path) -> None:
    path = create(tmp_path / "name", v3([VLEN, ZSTD], "string", (), ()))
    with_zarr(path, np.array("M17", dtype=object))
    assert opened(path).values()[()] == "M17"


STRING_DAMAGE: dict[str, bytes] = {
    "empty": b"",
    "count cut": b"\x02\x00\x00",
    "fewer than the count": documents.encode_strings(np.array(["a", "b"]))[:-5],
    "a length beyond the end": b"\x02\0\0\0\xff\xff\xff\x7fab\x01\0\0\0c",
    "not UTF-8": b"\x02\0\0\0\x01\0\0\0\xff\x01\0\0\0c",
    "one too few": documents.encode_strings(np.array(["a"])),
    "one too many": documents.encode_strings(np.array(["a", "b", "c"])),
    "junk behind": documents.encode_strings(np.array(["a", "b"])) + b"\0",
    "a huge count": b"\xff\xff\xff\xff",
}


@pytest.mark.parametrize("raw", STRING_DAMAGE.values(), ids=STRING_DAMAGE)
@pytest.mark.parametrize("compressed", [False, True])
def test_damaged_strings(tmp_path: Path, raw: bytes, compressed: bool) -> None:
    path = create(tmp_path / "sobsmode", v3([VLEN, ZSTD] if compressed else [VLEN], "string", (2,), (2,)))
    (path / "c").mkdir()
    (path / "c/0").write_bytes(codecs.encode_zstd(raw, 1) if compressed else raw)
    with pytest.raises(Unreadable, match=r"source/data_5d.*c/0"):
        opened(path, absent_is_fill=True).values()


@pytest.mark.parametrize("dtype", ["<U300", "S6"])
def test_strings_of_fixed_length_in_v3(tmp_path: Path, dtype: str) -> None:
    words = np.array(["ON", "OFF", "OTF-ON"]).astype(dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zarr-python says that the type has no specification yet
        zarr.create_array(str(tmp_path / "sobsmode"), data=words, chunks=(2,))
    assert opened(tmp_path / "sobsmode").values().tolist() == words.tolist()


# --- damaged chunks --------------------------------------------------------------------------------------------------

SHARD = (10, 6, 2, 4, 2)
TO_DAMAGE: dict[str, Json] = {
    name: DIRECT[name]
    for name in (
        "plain", "zstd", "zstd with checksum", "crc32c", "zstd, crc32c", "gzip", "blosc lz4 shuffle", "blosc zstd bitshuffle",
        "transpose", "shard", "shard, index first", "shard, index without checksum", "shard is the array",
        "v2 plain", "v2 zlib", "v2 gzip", "v2 zstd", "v2 blosc", "v2 order F",
    )
}  # fmt: skip
CHECKED = ("zstd with checksum", "crc32c", "zstd, crc32c", "gzip", "shard, index first", "v2 zlib", "v2 gzip")


def unlink(file: Path) -> None:
    file.unlink()


def folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def fifo(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def resized(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def apply(file: Path) -> None:
        file.write_bytes(change(file.read_bytes()))

    return apply


DAMAGE: dict[str, Callable[[Path], None]] = {
    "missing": unlink,
    "empty": resized(lambda raw: b""),
    "cut after 1 byte": resized(lambda raw: raw[:1]),
    "cut at half": resized(lambda raw: raw[: len(raw) // 2]),
    "last byte gone": resized(lambda raw: raw[:-1]),
    "zeros": resized(lambda raw: bytes(len(raw))[:-1]),
    "junk behind": resized(lambda raw: raw + b"\x01junkjunk"),
    "a folder": folder,
    "a FIFO": fifo,
}
# Nothing that is read lies behind the last chunk of a shard whose index comes first.
UNSEEN = {("shard, index first", "junk behind")}


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    """All files of each layout, to be written anew for each damage."""
    base, held = tmp_path_factory.mktemp("templates"), {}
    for name, document in TO_DAMAGE.items():
        path = create(base / name, document)
        with_zarr(path, numbers(SHAPE, "int32"))
        held[name] = {p.relative_to(path).as_posix(): p.read_bytes() for p in path.rglob("*") if p.is_file()}
    return held


def restore(path: Path, files: dict[str, bytes]) -> Path:
    for name, raw in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(raw)
    return path


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", TO_DAMAGE)
def test_damage_is_named(tmp_path: Path, templates: dict[str, dict[str, bytes]], name: str, damage: str) -> None:
    path = restore(tmp_path / "data_5d", templates[name])
    victim = chunk_files(path)[-1]
    DAMAGE[damage](victim)
    out = np.full(SHAPE, 77, np.int32)
    array = opened(path, absent_is_fill=damage != "missing")  # that absent chunks are allowed hides no damage
    if (name, damage) in UNSEEN:
        np.testing.assert_array_equal(array.values(), numbers(SHAPE, "int32"))
        return
    with pytest.raises(Unreadable) as caught:
        array.read(everything(array), out)
    assert "source/data_5d" in str(caught.value)
    assert victim.relative_to(path).as_posix() in str(caught.value)


def flips(path: Path, file: Path, count: int) -> tuple[int, int]:
    """How many of some single-bit flips in a file are errors, and how many give wrong numbers."""
    good, values, name = file.read_bytes(), numbers(SHAPE, "int32"), file.relative_to(path).as_posix()
    errors = wrong = 0
    for where in np.random.default_rng(5).choice(len(good) * 8, count, replace=False):
        raw = bytearray(good)
        raw[where // 8] ^= 1 << (where % 8)
        file.write_bytes(raw)
        try:
            wrong += not np.array_equal(opened(path).values(), values)
        except Unreadable as error:
            errors += name in str(error)
    return errors, wrong


@pytest.mark.parametrize("name", CHECKED)
def test_no_flipped_bit_passes_a_checksum(tmp_path: Path, templates: dict[str, dict[str, bytes]], name: str) -> None:
    path = restore(tmp_path / "data_5d", templates[name])
    errors, wrong = flips(path, chunk_files(path)[0], 60)
    assert wrong == 0
    assert errors >= 50  # the rest are bits without meaning, such as the time in a gzip header: the numbers are right


@pytest.mark.parametrize("name", ["plain", "zstd", "blosc lz4 shuffle", "blosc zstd bitshuffle", "v2 blosc"])
def test_flipped_bits_without_a_checksum_can_be_silent(
    tmp_path: Path, templates: dict[str, dict[str, bytes]], name: str
) -> None:
    """These codecs cannot see every flip; what they must do is to return or to raise, nothing else."""
    path = restore(tmp_path / "data_5d", templates[name])
    _, wrong = flips(path, chunk_files(path)[0], 60)
    assert wrong > 0


@pytest.mark.parametrize("at", ["start", "end"])
@pytest.mark.parametrize("checked", [True, False])
def test_every_bit_of_a_shard_index(tmp_path: Path, at: str, checked: bool) -> None:
    """With its checksum every flip is seen; without, the inner chunks' own checksums see it, or the file's length."""
    chain = sharded((5,), BYTES, ZSTD_CHECKED, at=at, index=(BYTES, CRC) if checked else (BYTES,))
    path = create(tmp_path / "data_5d", v3(chain, chunk=(10,), shape=(10,)))
    with_zarr(path, np.arange(1, 11, dtype=np.int32))
    file = path / "c/0"
    good = file.read_bytes()
    size = 2 * 16 + (4 if checked else 0)
    first = 0 if at == "start" else len(good) - size
    for bit in range(first * 8, (first + size) * 8):
        raw = bytearray(good)
        raw[bit // 8] ^= 1 << (bit % 8)
        file.write_bytes(raw)
        with pytest.raises(Unreadable, match=r"source/data_5d.*c/0"):
            opened(path, absent_is_fill=True).values()


def absent_inner_chunk(path: Path) -> Path:
    create(path, v3(sharded((5,), BYTES, ZSTD_CHECKED), chunk=(10,), shape=(10,)))
    (path / "c").mkdir()
    piece = codecs.encode_zstd(np.arange(5, dtype=np.int32), 1)
    index = np.array([[0, len(piece)], [2**64 - 1, 2**64 - 1]], "<u8").tobytes()
    (path / "c/0").write_bytes(piece + index + codecs.crc32c(index).to_bytes(4, "little"))
    return path


def test_an_inner_chunk_that_is_absent(tmp_path: Path) -> None:
    path = absent_inner_chunk(tmp_path / "data_5d")
    out = np.empty(5, np.int32)
    opened(path).read((slice(0, 5),), out)
    assert out.tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(Unreadable, match=r"chunk is missing.*c/0 inner chunk \(1,\)"):
        opened(path).values()
    assert opened(path, absent_is_fill=True).values().tolist() == [0, 1, 2, 3, 4, 0, 0, 0, 0, 0]


def test_an_absent_chunk_is_the_fill_value_where_that_is_allowed(tmp_path: Path) -> None:
    for name, document, fill in (
        ("a", v3([BYTES], "float64", (4,), (4,)) | {"fill_value": "NaN"}, np.nan),
        ("b", v3([BYTES], "float64", (4,), (4,)) | {"fill_value": "0x7ff8000000000000"}, np.nan),
        ("c", v3([BYTES], "float64", (4,), (4,)) | {"fill_value": "-Infinity"}, -np.inf),
        ("d", v3([BYTES], "int32", (4,), (4,)) | {"fill_value": -(2**31)}, -(2**31)),
        ("e", v2(None, "<i4", (4,), (4,), fill_value=None), 0),
        ("f", v2(None, "<f8", (4,), (4,), fill_value=None), 0.0),
        ("g", v2(None, "<f8", (4,), (4,), fill_value="NaN"), np.nan),
    ):
        path = create(tmp_path / name, document)
        np.testing.assert_array_equal(opened(path, absent_is_fill=True).values(), np.full(4, fill), err_msg=name)
        np.testing.assert_array_equal(zarr.open_array(str(path), mode="r")[...], np.full(4, fill), err_msg=name)
        with pytest.raises(Unreadable, match="chunk is missing"):
            opened(path).values()


@pytest.mark.parametrize(("dtype", "fill", "missing"), [
    ("int32", None, False), ("int32", -(2**31), True), ("float64", "NaN", True), ("float64", 0.0, False),
], ids=str)  # fmt: skip
def test_a_missing_chunk_of_counts(tmp_path: Path, dtype: str, fill: Any, missing: bool) -> None:
    """Missing samples where the zarr fill value is the missing value, an error else (ruling 11)."""
    store = small_scan(shape=(16, 2, 1, 1)).store(tmp_path / "l0.zarr", dtype)
    folder = store / "scan_025650/source/data_5d"
    if fill is not None:
        document = json.loads((folder / "zarr.json").read_text())
        (folder / "zarr.json").write_text(json.dumps(document | {"fill_value": fill}))
    (folder / "c.0.0.0.0.0").unlink()
    group = L0Store(store).group(ScanId(25650), "source")
    assert group.counts.absent_is_fill is missing
    if missing:
        counts = group.counts.values()
        assert not group.rule.valid(counts[:, :, 0, 0, 0], 2).any()
        assert np.all(counts == -(2**31)) or np.all(np.isnan(counts))
    else:
        with pytest.raises(Unreadable, match=r"source/data_5d.*missing.*c\.0\.0\.0\.0\.0"):
            group.counts.values()


# --- chunks that lie about their size --------------------------------------------------------------------------------

BLOCK = 1 << 17


def rle_frame(blocks: int, size: int | None) -> bytes:
    """A zstd frame of ``blocks`` runs of 128 KiB of zeros, four bytes each, that declares ``size`` (RFC 8878)."""
    head = b"\x28\xb5\x2f\xfd" + (b"\x00\x48" if size is None else b"\xe0" + size.to_bytes(8, "little"))
    runs = [(last | 1 << 1 | BLOCK << 3).to_bytes(3, "little") + b"\0" for last in [0] * (blocks - 1) + [1]]
    return head + b"".join(runs)


def test_frames_without_a_declared_size_are_read(tmp_path: Path) -> None:
    path = create(tmp_path / "data_5d", v3([BYTES, ZSTD], chunk=(BLOCK,), shape=(BLOCK,)))
    (path / "c").mkdir()
    (path / "c/0").write_bytes(rle_frame(4, None))
    assert guard.zstd_content_size(rle_frame(4, None)) is None
    assert not opened(path).values().any()
    for blocks in (3, 5):
        (path / "c/0").write_bytes(rle_frame(blocks, None))
        with pytest.raises(Unreadable, match=r"source/data_5d.*c/0"):
            opened(path).values()


def bombs() -> dict[str, tuple[Json, bytes]]:
    """Chunks of eight numbers (or strings) that would decode to 1 GiB."""
    n = 1 << 30
    huge = zlib.compressobj(9, zlib.DEFLATED, 31)
    piece = huge.compress(bytes(1 << 24))
    deflated = piece + b"".join(huge.compress(bytes(1 << 24)) for _ in range(15)) + huge.flush()  # 256 MiB
    blosc_head = b"\x02\x01\x21\x04" + n.to_bytes(4, "little") + (1 << 18).to_bytes(4, "little")
    blosc_chunk = blosc_head + (20).to_bytes(4, "little") + b"abcd"
    inner = rle_frame(8192, n)
    index = np.array([[0, len(inner)]], "<u8").tobytes()
    shard = inner + index + codecs.crc32c(index).to_bytes(4, "little")
    return {
        "zstd": (v3([BYTES, ZSTD], chunk=(8,), shape=(8,)), rle_frame(8192, n)),
        "zstd, size not declared": (v3([BYTES, ZSTD], chunk=(8,), shape=(8,)), rle_frame(8192, None)),
        "zstd, size lies": (v3([BYTES, ZSTD], chunk=(8,), shape=(8,)), rle_frame(8192, 32)),
        "zstd strings": (v3([VLEN, ZSTD], "string", (8,), (8,)), rle_frame(8192, n)),
        "zstd strings, size not declared": (v3([VLEN, ZSTD], "string", (8,), (8,)), rle_frame(8192, None)),
        "zstd strings, size lies": (v3([VLEN, ZSTD], "string", (8,), (8,)), rle_frame(8192, 32)),
        "gzip": (v3([BYTES, GZIP], chunk=(8,), shape=(8,)), deflated),
        "v2 gzip": (v2({"id": "gzip", "level": 1}, chunk=(8,), shape=(8,)), deflated),
        "blosc": (v3([BYTES, blosc("lz4", "shuffle")], chunk=(8,), shape=(8,)), blosc_chunk),
        "inner chunk": (v3(sharded((8,), BYTES, ZSTD), chunk=(8,), shape=(8,)), shard),
        "chunk shape": (v3([BYTES, ZSTD], chunk=(1 << 45,), shape=(8,)), rle_frame(8192, n)),
        "index too large": (v3(sharded((1,), BYTES, ZSTD), chunk=(1 << 40,), shape=(8,)), b"abcd" * 100),
    }  # fmt: skip


READ_ALL = """
import sys
from pathlib import Path
from calib_gpu.errors import Unreadable
from calib_gpu.store.chunks import ChunkedArray
def peak():  # MiB, of this process alone
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) // 1024
for folder in sorted(Path(sys.argv[1]).iterdir()):
    before = peak()
    try:
        ChunkedArray(folder, "source/mjd", absent_is_fill=True).values()
        print("READ", folder.name)
    except Unreadable as error:
        assert "source/mjd" in str(error) or "zarr.json" in str(error), error
        assert any(word in str(error) for word in ("c/0", "value: 0", "max_chunk_bytes")), error
    print(peak() - before, folder.name)
"""


def test_bombs_are_refused_without_their_memory(tmp_path: Path) -> None:
    cases = bombs()
    for name, (document, raw) in cases.items():
        path = create(tmp_path / name, document)
        key = path / ("0" if document["zarr_format"] == 2 else "c/0")
        key.parent.mkdir(exist_ok=True)
        key.write_bytes(raw)
    done = subprocess.run(
        [sys.executable, "-c", READ_ALL, str(tmp_path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    grown = {
        name: int(mib) for mib, name in (line.split(" ", 1) for line in done.stdout.splitlines() if line[0].isdigit())
    }
    assert "READ" not in done.stdout
    assert sorted(grown) == sorted(cases)
    assert max(grown.values()) <= 32, grown  # MiB


BLOSC_LIES = {
    "decoded size too large": (4, (400).to_bytes(4, "little")),
    "decoded size too small": (4, (4).to_bytes(4, "little")),
    "decoded size negative": (4, b"\xff\xff\xff\xff"),
    "encoded size too large": (12, (1 << 20).to_bytes(4, "little")),
    "encoded size too small": (12, (17).to_bytes(4, "little")),
    "block size 0": (8, bytes(4)),
    "another version": (0, b"\x63"),
}


@pytest.mark.parametrize(("where", "what"), BLOSC_LIES.values(), ids=BLOSC_LIES)
def test_blosc_headers_that_lie(tmp_path: Path, where: int, what: bytes) -> None:
    path = create(tmp_path / "data_5d", v3([BYTES, blosc("lz4", "shuffle")], chunk=(50,), shape=(50,)))
    with_zarr(path, np.arange(1, 51, dtype=np.int32))
    raw = bytearray((path / "c/0").read_bytes())
    raw[where : where + len(what)] = what
    (path / "c/0").write_bytes(raw)
    with pytest.raises(Unreadable, match=r"source/data_5d.*c/0"):
        opened(path).values()


@pytest.mark.parametrize("document", [
    v3([BYTES]), v3([BYTES, CRC]), v3([BYTES, ZSTD]), v3([BYTES, GZIP]), v3([BYTES, blosc("lz4", "shuffle")]),
    v2({"id": "zlib", "level": 1}),
], ids=["plain", "crc32c", "zstd", "gzip", "blosc", "v2 zlib"])  # fmt: skip
@pytest.mark.parametrize("found", [20, 80])
def test_a_sound_chunk_of_another_size(tmp_path: Path, document: Json, found: int) -> None:
    paths = []
    for n in (40, found):
        shape = {"shape": [n]} | ({"chunks": [n]} if document["zarr_format"] == 2 else grid(n))
        paths.append(create(tmp_path / str(n), document | shape))
        with_zarr(paths[-1], np.arange(1, n + 1, dtype=np.int32))
    right, wrong = (chunk_files(path)[0] for path in paths)
    right.write_bytes(wrong.read_bytes())
    with pytest.raises(Unreadable, match=rf"source/data_5d.*{right.name}"):
        opened(paths[0]).values()


def test_bytes_behind_a_gzip_stream_are_seen(tmp_path: Path) -> None:
    """Also a second gzip member, which a plain gzip reader would join on."""
    path = create(tmp_path / "data_5d", v3([BYTES, GZIP], chunk=(4,), shape=(4,)))
    (path / "c").mkdir()
    (path / "c/0").write_bytes(gzip.compress(np.arange(4, dtype="<i4").tobytes()))
    assert opened(path).values().tolist() == [0, 1, 2, 3]
    (path / "c/0").write_bytes(gzip.compress(np.arange(4, dtype="<i4").tobytes()) + gzip.compress(b""))
    with pytest.raises(Unreadable, match=r"source/data_5d.*c/0"):
        opened(path).values()


def test_an_array_too_large_to_be_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = create(tmp_path / "mjd", v3([BYTES], "float64", (8,), (1 << 45,)))
    with pytest.raises(Unreadable, match=r"source/data_5d.*too large"):
        opened(path, absent_is_fill=True).values()
    monkeypatch.setattr(chunks, "MAX_VALUES_BYTES", 8 * 100)
    create(tmp_path / "fits", v3([BYTES], "float64", (100,), (100,)))
    assert opened(tmp_path / "fits", absent_is_fill=True).values().shape == (100,)


# --- bad metadata ----------------------------------------------------------------------------------------------------


def changed(**changes: Any) -> bytes:
    return json.dumps(DIRECT["zstd"] | changes).encode()


def grid(*chunk: Any) -> Json:
    return {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunk)}}}


def changed_v2(**changes: Any) -> bytes:
    return json.dumps(DIRECT["v2 zlib"] | changes).encode()


BAD_V3: dict[str, bytes] = {
    "empty": b"",
    "not JSON": b'{"zarr_format": 3,',
    "not UTF-8": b'{"a": "\xff\xfe\xfd"}',
    "a list": b"[1, 2]",
    "too deep": b'{"a":' * 100_000,
    "too deep and closed": b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "an endless number": b'{"shape": [' + b"9" * 10_000 + b"]}",
    "nothing in it": b"{}",
    "negative shape": changed(shape=[-1, 4, 2, 3, 3]),
    "shape 2^62": changed(shape=[2**62, 100, 2, 3, 3]),
    "shape overflows 64 bits": changed(shape=[2**32, 2**32, 2, 3, 3]),
    "shape not whole": changed(shape=[1.5, 4, 2, 3, 3]),
    "shape of truths": changed(shape=[True, 4, 2, 3, 3]),
    "shape a text": changed(shape="abc"),
    "shape missing": changed(shape=None),
    "5000 dimensions": changed(shape=[1] * 5000, **grid(*[1] * 5000)),
    "chunk 0": changed(**grid(5, 0, 2, 2, 1)),
    "chunk negative": changed(**grid(5, -3, 2, 2, 1)),
    "chunk of another rank": changed(**grid(5, 3)),
    "chunk 2^62": changed(**grid(2**62, 3, 2, 2, 1)),
    "inner chunk does not divide": changed(codecs=sharded((2, 3, 2, 2, 1), BYTES)),
    "inner chunk 0": changed(codecs=sharded((0, 3, 2, 2, 1), BYTES)),
    "inner chunk of another rank": changed(codecs=sharded((5,), BYTES)),
    "codecs a text": changed(codecs="bytes"),
    "codecs without names": changed(codecs=[{"configuration": {}}]),
    "fill value too large": changed(fill_value=2**40),
    "fill value a text": changed(fill_value="abc"),
    "fill value a list": changed(fill_value=[1, 2]),
    "fill value infinite": b'{"fill_value": Infinity, ' + changed(fill_value=None).replace(b'"fill_value": null, ', b"")[1:],
    "float fill value not hexadecimal": changed(data_type="float64", fill_value="0x7fg"),
    "float fill value too short": changed(data_type="float64", fill_value="0x7ff8"),
    "dimension names of another rank": changed(dimension_names=["C", "D"]),
    "dimension names of numbers": changed(dimension_names=[1, 2, 3, 4, 5]),
    "separator out of the store": changed(chunk_key_encoding={"name": "default", "configuration": {"separator": "/../"}}),
    "attributes a list": changed(attributes=[1]),
    "transpose of one axis twice": changed(codecs=[codec("transpose", order=[0, 0, 1, 2, 3]), BYTES]),
    "chunk of 257 MiB": changed(**grid(257 << 20, 1, 1, 1, 1), data_type="int8"),
    "zarr_format 4": changed(zarr_format=4),
    "fill value not whole": changed(fill_value=1.5),
    "NaN": changed(attributes={"seeing": float("nan")}),
    "1e999": changed().replace(b'"attributes": {}', b'"attributes": {"a": [1e999]}'),
    "a key twice": changed().replace(b'"attributes": {}', b'"attributes": {"a": 1, "a": 2}'),
    "half a surrogate pair": changed(attributes={"a": "\ud800"}),
    "half a surrogate pair in a key": changed(attributes={"\udfff": 1}),
    "40 deep": changed().replace(b'"attributes": {}', b'"attributes": {"a": ' + b"[" * 40 + b"]" * 40 + b"}"),
    "2 MiB of attributes": changed(attributes={f"a{k}": "x" * 100 for k in range(20_000)}),
}  # fmt: skip
BAD_V2: dict[str, bytes] = {
    "not JSON": b"\x00\x01",
    "negative shape": changed_v2(shape=[-1, 4, 2, 3, 3]),
    "shape 2^62": changed_v2(shape=[2**62, 4, 2, 3, 3]),
    "chunk 0": changed_v2(chunks=[5, 0, 2, 2, 1]),
    "chunk of another rank": changed_v2(chunks=[5]),
    "separator out of the store": changed_v2(dimension_separator="/../"),
    "compressor without a name": changed_v2(compressor={"level": 1}),
    "fill value too large": changed_v2(fill_value=2**40),
    "fill value not base64": changed_v2(dtype="|S4", fill_value="a"),
}


@pytest.mark.parametrize(
    ("file", "raw"),
    [pytest.param("zarr.json", raw, id=f"v3 {name}") for name, raw in BAD_V3.items()]
    + [pytest.param(".zarray", raw, id=f"v2 {name}") for name, raw in BAD_V2.items()],
)
def test_bad_metadata_names_its_file(tmp_path: Path, file: str, raw: bytes) -> None:
    path = tmp_path / "data_5d"
    path.mkdir()
    (path / file).write_bytes(raw)
    with pytest.raises(Unreadable) as caught:
        opened(path).values()
    assert str(path / file) in str(caught.value)


def test_metadata_documents_have_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "MAX_DOCUMENT_BYTES", 100)
    (tmp_path / "zarr.json").write_bytes(b"{" + b" " * 98 + b"}")
    assert read_json(tmp_path / "zarr.json") == {}
    (tmp_path / "zarr.json").write_bytes(b"{" + b" " * 99 + b"}")
    with pytest.raises(Unreadable, match=r"zarr\.json.*too large"):
        read_json(tmp_path / "zarr.json")


def test_group_attributes_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group", "attributes": [1, 2]}')
    with pytest.raises(Unreadable, match=r"zarr\.json.*attributes"):
        group_attrs(tmp_path)


def test_no_metadata(tmp_path: Path) -> None:
    with pytest.raises(Unreadable, match=r"\.zarray.*cannot be read"):
        opened(tmp_path)


def test_empty_arrays(tmp_path: Path) -> None:
    """No subscans: nothing to read, whatever the chunk; some writers give a chunk of 0."""
    for name, document in (
        ("a", v3([BYTES, ZSTD], "float64", (1,), (0,))),
        ("b", v3([BYTES, ZSTD], "float64", (0, 4), (0, 4))),
        ("c", v2(None, "<f8", (0,), (0,))),
    ):
        array = opened(create(tmp_path / name, document))
        assert array.values().shape == tuple(document["shape"])
        assert 0 not in array.read_chunk
