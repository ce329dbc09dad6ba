"""Counts as whole zstd frames: what is looked at before a decoder that does not survive damage gets them."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
import zstandard
from zarr.codecs import BytesCodec, Crc32cCodec, ShardingCodec, TransposeCodec, ZstdCodec

from calib_gpu.records import Tile
from calib_gpu.store.chunks import ChunkedArray
from calib_gpu.store.codecs import Compressor, crc32c, with_crc32c
from calib_gpu.store.frames import FrameSource, check_zstd_frame, check_zstd_header, frame_source
from calib_gpu.store.guard import CodecError

SHAPE = (16, 4, 2, 2, 2)
ZSTD_CRC = (ZstdCodec(level=3), Crc32cCodec())


def content(n: int, seed: int = 0) -> bytes:
    return np.random.default_rng(seed).integers(0, 9, n, np.uint8).tobytes()


def frame(data: bytes, **options: Any) -> bytes:
    return zstandard.ZstdCompressor(level=3, **options).compress(data)


def of_unknown_size(data: bytes) -> bytes:
    compressor = zstandard.ZstdCompressor(level=3).compressobj()
    return compressor.compress(data) + compressor.flush()


@pytest.mark.parametrize("n", [1, 255, 256, 70_000, 131_072, 131_073, 1_000_000])
@pytest.mark.parametrize("checksum", [False, True])
@pytest.mark.parametrize("kind", ["noise", "text", "one byte"])
def test_whole_frames_pass(n: int, checksum: bool, kind: str) -> None:
    """Blocks that are raw, compressed, and one byte repeated."""
    rng = np.random.default_rng(n)
    data = {"noise": rng.bytes(n), "text": content(n), "one byte": b"x" * n}[kind]
    check_zstd_frame(frame(data, write_checksum=checksum), n)
    check_zstd_frame(memoryview(frame(data, write_checksum=checksum)), n)


WHOLE = frame(content(200_000))
BAD = {
    "empty": b"", "cut in the header": WHOLE[:7], "cut in a block": WHOLE[:5_000], "cut by a byte": WHOLE[:-1],
    "cut behind a block header": WHOLE[:12], "a byte behind": WHOLE + b"\0", "two frames": WHOLE + WHOLE,
    "a skippable frame before": b"\x50\x2a\x4d\x18" + (4).to_bytes(4, "little") + b"skip" + WHOLE,
    "no frame": content(5_000), "size not declared": of_unknown_size(content(200_000)),
    "other size": frame(content(199_999)), "without its checksum": frame(content(200_000), write_checksum=True)[:-4],
}  # fmt: skip


@pytest.mark.parametrize("data", BAD.values(), ids=BAD.keys())
def test_what_is_no_whole_frame_of_that_size_is_refused(data: bytes) -> None:
    with pytest.raises(CodecError):
        check_zstd_frame(data, 200_000)


def test_a_dictionary_is_refused() -> None:
    samples = [content(3_000, seed) + b"common words of all samples" * 20 for seed in range(200)]
    dictionary = zstandard.train_dictionary(4_096, samples)
    made = zstandard.ZstdCompressor(dict_data=dictionary).compress(samples[0])
    with pytest.raises(CodecError, match="dictionary"):
        check_zstd_frame(made, len(samples[0]))


def test_every_prefix_is_refused() -> None:
    short = frame(content(300), write_checksum=True)
    check_zstd_frame(short, 300)
    for n in range(len(short)):
        with pytest.raises(CodecError):
            check_zstd_frame(short[:n], 300)


def test_a_reserved_block_is_refused() -> None:
    made = bytearray(WHOLE)
    made[zstandard.frame_header_size(WHOLE)] |= 6
    with pytest.raises(CodecError, match="reserved"):
        check_zstd_frame(bytes(made), 200_000)


def test_the_header_needs_no_more_than_its_longest_form() -> None:
    check_zstd_header(WHOLE[:18], 200_000)


def test_a_compressor_with_crc32c_is_read_by_zarr(tmp_path: Path) -> None:
    data = np.arange(1000, dtype=np.int32)
    compressor = Compressor("zstd_crc32c", 1)
    encoded = compressor.encode(data)
    assert int.from_bytes(encoded[-4:], "little") == crc32c(encoded[:-4])
    check_zstd_frame(encoded[:-4], data.nbytes)
    array = zarr.create_array(tmp_path, shape=(1000,), chunks=(1000,), dtype="int32", compressors=ZSTD_CRC)
    names = [c["name"] for c in compressor.documents(4)]
    assert names == [type(c).__name__.removesuffix("Codec").lower() for c in array.compressors]
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "0").write_bytes(encoded)
    np.testing.assert_array_equal(zarr.open_array(tmp_path)[:], data)


# --- which arrays


def stored(
    folder: Path, chunks: tuple[int, ...] = (8, 4, 1, 1, 1), dtype: str = "int32", compressors: Any = ZSTD_CRC,
    shape: tuple[int, ...] = SHAPE, **more: Any,
) -> tuple[ChunkedArray, np.ndarray]:  # fmt: skip
    values = np.random.default_rng(5).integers(0, 50, shape).astype(dtype)
    array = zarr.create_array(folder / "a", shape=shape, chunks=chunks, dtype=dtype, compressors=compressors, **more)
    array[...] = values
    return ChunkedArray(folder / "a", "source/data_5d", absent_is_fill=False), values


@pytest.mark.parametrize("shards", [None, (16, 4, 1, 1, 2)])
@pytest.mark.parametrize("channels", [16, 8, 4])
@pytest.mark.parametrize("dtype", ["int32", "float32", "uint16", "float64"])
def test_frames_of_a_tile_lie_one_behind_the_other(
    tmp_path: Path, shards: tuple[int, ...] | None, channels: int, dtype: str
) -> None:
    counts, values = stored(tmp_path, (channels, 4, 1, 1, 1), dtype, shards=shards)
    source = frame_source(counts)
    assert isinstance(source, FrameSource)
    tile = Tile(0, 1, slice(0, 2), slice(1, 2))
    got = b"".join(zstandard.decompress(bytes(source.frame(chunk))) for chunk in source.chunks(tile))
    wanted = np.ascontiguousarray(values[:, :, 0:2, 1:2, 1].transpose(2, 3, 0, 1))
    assert got == wanted.tobytes()
    assert len(got) == 2 * source.per_pixel * source.frame_bytes


@pytest.mark.parametrize("shards", [None, (16, 4, 1, 1, 2)])
def test_places_are_those_of_the_frames(tmp_path: Path, shards: tuple[int, ...] | None) -> None:
    counts, _ = stored(tmp_path, shards=shards)
    source = frame_source(counts)
    assert isinstance(source, FrameSource)
    for chunk in source.chunks(Tile(0, 0, slice(0, 2), slice(0, 2))):
        place, data = source.place(chunk), bytes(source.frame(chunk))
        assert place.file.read_bytes()[place.offset : place.offset + place.size] == data
        assert place.crc32c == crc32c(data)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no checksum": ({"compressors": ZstdCodec(level=3)}, "zstd, not with zstd"),
    "no compressor": ({"compressors": None}, "no compressor"),
    "checksum alone": ({"compressors": Crc32cCodec()}, "crc32c"),
    "two checksums": ({"compressors": (ZstdCodec(), Crc32cCodec(), Crc32cCodec())}, "zstd"),
    "several subscans": ({"chunks": (8, 4, 1, 1, 2)}, "chunks"),
    "several pixels": ({"chunks": (8, 4, 1, 2, 1)}, "chunks"),
    "some dumps": ({"chunks": (8, 2, 1, 1, 1)}, "chunks"),
    "more dumps than there are": ({"chunks": (8, 5, 1, 1, 1)}, "chunks"),
    "channels that do not divide": ({"chunks": (5, 4, 1, 1, 1)}, "chunks"),
    "no multiple of 16 bytes": ({"chunks": (2, 4, 1, 1, 1), "dtype": "uint8"}, "multiple of 16"),
    "transposed": ({"filters": TransposeCodec(order=(4, 3, 2, 1, 0))}, "order"),
    "big endian": ({"serializer": BytesCodec(endian="big")}, "bytes"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_layouts_are_refused_with_a_reason(tmp_path: Path, name: str) -> None:
    options, reason = REFUSED[name]
    counts, _ = stored(tmp_path, **options)
    found = frame_source(counts)
    assert isinstance(found, str)
    assert reason in found


@pytest.mark.filterwarnings("ignore:Combining")
def test_outer_codecs_around_shards_are_refused(tmp_path: Path) -> None:
    inner = ShardingCodec(chunk_shape=(8, 4, 1, 1, 1), codecs=[BytesCodec(), ZstdCodec()])
    array = zarr.create(
        store=str(tmp_path / "a"), shape=SHAPE, chunks=(16, 4, 1, 1, 2), dtype="int32", codecs=[inner, Crc32cCodec()]
    )
    array[...] = 1
    assert isinstance(frame_source(ChunkedArray(tmp_path / "a", "x", absent_is_fill=False)), str)


def test_counts_laid_out_anew_are_refused() -> None:
    class Anew:
        shape, dtype, read_chunk = SHAPE, np.dtype("int32"), (16, 3, 1, 1, 1)

    assert frame_source(Anew()) == "the counts were laid out anew"  # type: ignore[arg-type]


# --- what is wrong with one chunk


@pytest.mark.parametrize("how", ["frame", "place"])
def test_every_single_damaged_byte_of_a_frame_is_seen_by_its_crc32c(tmp_path: Path, how: str) -> None:
    """``place`` hands the crc32c on: it is compared with that of the bytes on the device."""
    counts, _ = stored(tmp_path)
    source = frame_source(counts)
    assert isinstance(source, FrameSource)
    chunk = next(source.chunks(Tile(0, 0, slice(0, 1), slice(0, 1))))
    file = source.place(chunk).file
    good = file.read_bytes()
    for k in range(len(good)):
        bad = bytearray(good)
        bad[k] ^= 0x40
        file.write_bytes(bytes(bad))
        if how == "frame":
            with pytest.raises(CodecError):
                source.frame(chunk)
            continue
        try:
            place = source.place(chunk)
        except CodecError:
            continue
        assert crc32c(bytes(bad)[place.offset : place.offset + place.size]) != place.crc32c


def test_an_absent_or_short_chunk_is_refused(tmp_path: Path) -> None:
    counts, _ = stored(tmp_path)
    source = frame_source(counts)
    assert isinstance(source, FrameSource)
    chunk = next(source.chunks(Tile(0, 0, slice(0, 1), slice(0, 1))))
    file = source.place(chunk).file
    for data in (b"", b"abc", with_crc32c(b""), with_crc32c(b"abcd"), None):
        file.write_bytes(data) if data is not None else file.unlink()
        for read in (source.frame, source.place):
            with pytest.raises((CodecError, OSError)):
                read(chunk)


def test_an_inner_chunk_that_a_shard_lacks_is_refused(tmp_path: Path) -> None:
    array = zarr.create_array(
        tmp_path / "a",
        shape=SHAPE,
        chunks=(8, 4, 1, 1, 1),
        shards=(16, 4, 1, 1, 2),
        dtype="int32",
        compressors=ZSTD_CRC,
    )
    array[:8, :, 0, 0, 0] = 7
    source = frame_source(ChunkedArray(tmp_path / "a", "x", absent_is_fill=True))
    assert isinstance(source, FrameSource)
    source.frame((0, 0, 0, 0, 0))
    for chunk, read in itertools.product([(1, 0, 0, 0, 0), (0, 0, 0, 0, 1)], (source.frame, source.place)):
        with pytest.raises(CodecError, match="absent"):
            read(chunk)
