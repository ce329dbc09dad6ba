"""Hostile L0 stores, by name: each is a tiny night of two sound scans, of which one was tampered with to do harm.

>>> make_hostile("chunk: bomb, zstd", Path("night.zarr"))          # doctest: +SKIP

Scan :data:`~calib_gpu.testing.tamper.GOOD` is sound in all of them, so that a run must still calibrate it.
:data:`CATALOGUE` says what a run has to make of each.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from calib_gpu.store import guard
from calib_gpu.testing.tamper import (
    BAD,
    BLOSC,
    BYTES,
    GIB,
    GOOD,
    GZIP,
    SHAPE,
    ZSTD,
    Apply,
    attributes,
    blosc_bomb,
    extra,
    grid,
    gzip_bomb,
    inside,
    keys,
    link,
    make_socket,
    moved_link,
    one_chunk,
    replaced,
    scan_copy,
    shard_index,
    shards,
    sound_store,
    sparse,
    text,
    top,
    zstd_bomb,
)


@dataclass(frozen=True)
class Hostile:
    """One kind of hostile store.

    ``apply`` is told the folder of the store. ``outcome`` is ``failed`` (a scan fails; ``scan`` is its name in
    failures.json) or ``unusable`` (exit code 65); the message must contain ``words``. ``options`` are settings of the run.
    """

    apply: Apply
    words: tuple[str, ...]
    outcome: str = "failed"
    scan: str = f"scan_{BAD:06d}"
    options: Mapping[str, Any] = field(default_factory=dict)


def make_hostile(kind: str, path: Path) -> Hostile:
    """Write the hostile store of a name of :data:`CATALOGUE`; ``path`` must not exist."""
    sound_store(path)
    CATALOGUE[kind].apply(path)
    return CATALOGUE[kind]


COUNTS, MJD, SCAN = inside("source", "data_5d"), inside("source", "mjd"), inside()
SHARD, MJD_CHUNK, MJD_DOCUMENT = (
    inside("source", *parts) for parts in (("data_5d", "c.0.0.0.0.0"), ("mjd", "c.0"), ("mjd", "zarr.json"))
)
TOP_DOCUMENT, SOURCE = top("zarr.json"), inside("source")
LOOK_ALIKE: Final = f"scan_{BAD:06d}".replace("2", "\uff12")
ONE_CHUNK: Final = "c.0.0.0.0.0"


def _many_scans(store: Path) -> None:
    for number in range(1, 1001):
        (store / f"scan_{number:06d}").mkdir()


def _attributes(count: int) -> Apply:
    return lambda store: attributes(SCAN, **{f"a{k}": k for k in range(count)})(store)


def _many_values(value: str, count: int | None = None) -> Apply:
    """An attribute that is a list of one value many times: so often that the document has 15 MiB, if it is not said."""
    n = (15 << 20) // (len(value) + 1) if count is None else count
    return lambda store: text(SCAN, '"attributes": {', f'"attributes": {{"many": [{f"{value}," * n}{value}], ')(store)


def _huge_chunk(store: Path) -> None:
    one_chunk(COUNTS, [BYTES, ZSTD], bytes)(store)
    sparse(1 << 40)(SHARD(store))


def _copy_entry(index: Any) -> None:
    index[1] = index[0]


def _longer_entry(index: Any) -> None:
    index[4, 1] += 40


def _entry(offset: int, size: int) -> Apply:
    def change(index: Any) -> None:
        index[2] = offset, size

    return shard_index(COUNTS, change)


SIZES: Final = {
    "shape 2^62": Hostile(keys(COUNTS, shape=[2**62, 100, 1, 1, 5]), ("data_5d", "impossible shape")),
    "shape beyond 64 bits": Hostile(keys(COUNTS, shape=[2**40, 2**40, 1, 1, 5]), ("data_5d", "impossible shape")),
    "shape negative": Hostile(keys(COUNTS, shape=[-32, 2, 1, 1, 5]), ("data_5d", "impossible shape")),
    "shape zero": Hostile(keys(COUNTS, shape=[0, 2, 1, 1, 5]), ("data_5d", "none empty")),
    "rank 4": Hostile(keys(COUNTS, shape=[32, 2, 1, 1]), ("data_5d", "chunk shape")),
    "counts of 1 TiB": Hostile(keys(COUNTS, shape=[2**20, 2**10, 8, 8, 4]), ("data_5d", "max_scan_bytes")),
    "small array of 1 TiB": Hostile(keys(MJD, shape=[2**37]), ("source/mjd", "too large")),
    "chunk shape 0": Hostile(keys(COUNTS, chunk_grid=grid(0, 2, 1, 1, 5)), ("data_5d", "chunk shape")),
    "chunk beyond memory": Hostile(
        keys(COUNTS, chunk_grid=grid(2**20, 2**20, 1, 1, 1), codecs=[BYTES, ZSTD]), ("data_5d", "max_chunk_bytes")
    ),
    "shard index of 1 TiB": Hostile(
        keys(COUNTS, chunk_grid=grid(2**36, 2, 1, 1, 5), codecs=[shards((1, 2, 1, 1, 5), BYTES)]),
        ("data_5d", "shard index", "max_chunk_bytes"),
    ),
    "too many scans": Hostile(_many_scans, ("too many scans", "max_scans"), "unusable", options={"max_scans": 1000}),
    "10^6 attributes": Hostile(_attributes(1_000_000), ("zarr.json", "too large")),
    "10^5 attributes": Hostile(_attributes(100_000), ("attributes", "max_attribute_bytes")),
    "document of 100 MB": Hostile(replaced(MJD_DOCUMENT, sparse(100_000_000)), ("mjd", "too large")),
    "top document of 100 MB": Hostile(
        replaced(TOP_DOCUMENT, sparse(100_000_000)), ("zarr.json", "too large"), "unusable"
    ),
    "chunk of times of 1 TiB": Hostile(replaced(MJD_CHUNK, sparse(1 << 40)), ("mjd", "too large")),
    "chunk of counts of 1 TiB": Hostile(_huge_chunk, ("data_5d", "more bytes than")),
}

JSON: Final = {
    "10^5 deep": Hostile(
        text(SCAN, '"attributes": {', '"attributes": {"deep": ' + "[" * 100_000 + "]" * 100_000 + ", "),
        ("zarr.json", "nested deeper"),
    ),
    "5 * 10^6 empty lists": Hostile(_many_values("[]"), ("zarr.json", "more than 500000 values")),
    "5 * 10^6 empty objects": Hostile(_many_values("{}"), ("zarr.json", "more than 500000 values")),
    "7 * 10^6 numbers": Hostile(_many_values("0"), ("zarr.json", "more than 500000 values")),
    "3 * 10^6 texts": Hostile(_many_values('"ab"'), ("zarr.json", "more than 500000 values")),
    "490000 texts": Hostile(_many_values('"ab"', 490_000), ("scan_025651", "max_attribute_bytes")),
    "duplicate key": Hostile(text(COUNTS, '"shape":', '"shape": [1], "shape":'), ("data_5d", "shape", "twice")),
    "bare NaN": Hostile(attributes(SCAN, seeing=float("nan")), ("seeing", "nan", "null")),
    "bare Infinity": Hostile(attributes(SCAN, seeing=[float("inf")]), ("seeing", "inf")),
    "number beyond a float": Hostile(text(SCAN, '"scan_number":', '"huge": 1e999, "scan_number":'), ("huge", "inf")),
    "lone surrogate": Hostile(attributes(SCAN, source_name="\ud800"), ("source_name", "surrogate")),
    "not UTF-8": Hostile(
        replaced(inside("zarr.json"), lambda path: path.write_bytes(b'{"a": "\xff"}')), ("not valid JSON",)
    ),
    "zarr_format 4": Hostile(keys(COUNTS, zarr_format=4), ("data_5d", "zarr_format")),
    "top document a list": Hostile(
        replaced(TOP_DOCUMENT, lambda path: path.write_text("[]")), ("JSON object",), "unusable"
    ),
}

WRONG_TYPES: Final[Mapping[str, Any]] = {
    "float16": 0.0, "complex64": [0.0, 0.0], ">i4": 0, "string": "", "object": None, "bool": False,
}  # fmt: skip
TYPES: Final = {
    **{
        f"counts of {kind}": Hostile(keys(COUNTS, data_type=kind, fill_value=fill), ("data_5d", "type"))
        for kind, fill in WRONG_TYPES.items()
    },
    "fill value a text": Hostile(keys(COUNTS, fill_value="abc"), ("data_5d", "fill value")),
    "fill value beyond the type": Hostile(keys(COUNTS, fill_value=2**40), ("data_5d",)),
    "codec unknown": Hostile(keys(COUNTS, codecs=[BYTES, {"name": "exec"}]), ("data_5d", "exec", "is not read")),
    "codec that runs code": Hostile(keys(COUNTS, codecs=[{"name": "numcodecs.pickle"}]), ("data_5d", "is not read")),
    "shards in shards": Hostile(
        keys(COUNTS, codecs=[shards(SHAPE, shards(SHAPE, BYTES))], chunk_grid=grid(*SHAPE)),
        ("data_5d", "shards inside"),
    ),
    "separator out of the store": Hostile(
        keys(COUNTS, chunk_key_encoding={"name": "default", "configuration": {"separator": "/../../"}}), ("separator",)
    ),
}

CHUNKS: Final = {
    "bomb, zstd": Hostile(one_chunk(COUNTS, [BYTES, ZSTD], lambda: zstd_bomb(GIB)), (ONE_CHUNK, str(GIB))),
    "bomb, zstd without size": Hostile(one_chunk(COUNTS, [BYTES, ZSTD], lambda: zstd_bomb(None)), (ONE_CHUNK,)),
    "bomb, zstd that lies": Hostile(one_chunk(COUNTS, [BYTES, ZSTD], lambda: zstd_bomb(1280)), (ONE_CHUNK,)),
    "bomb, blosc": Hostile(one_chunk(COUNTS, [BYTES, BLOSC], blosc_bomb), (ONE_CHUNK, str(GIB))),
    "bomb, gzip": Hostile(one_chunk(COUNTS, [BYTES, GZIP], gzip_bomb), (ONE_CHUNK, "does not end")),
    "bomb, strings": Hostile(
        one_chunk(inside("source", "sobsmode"), [{"name": "vlen-utf8"}, ZSTD], lambda: zstd_bomb(GIB)),
        ("sobsmode", str(GIB)),
    ),
    "index overlaps": Hostile(shard_index(COUNTS, _copy_entry), ("data_5d", "on top of each other")),
    "index out of range": Hostile(_entry(1 << 30, 100), ("data_5d", "outside the file")),
    "index huge": Hostile(_entry(2**64 - 2, 2**64 - 2), ("data_5d", "outside the file")),
    "index wraps around": Hostile(_entry(2**64 - 100, 200), ("data_5d", "outside the file")),
    "index into itself": Hostile(shard_index(COUNTS, _longer_entry), ("data_5d", "outside the file")),
}

NAMES: Final = {
    "-rf": Hostile(extra(inside("source", "-rf")), ("-rf", "name not allowed")),
    "a newline": Hostile(extra(inside("source", "a\nscan_1 ok")), ("a\\nscan_1 ok", "name not allowed")),
    "250 characters": Hostile(extra(inside("source", "n" * 250)), ("nnn...", "name not allowed")),
    "look-alikes": Hostile(extra(inside("source", "d\u0430ta_5d")), ("d\\u0430ta_5d", "name not allowed")),
    "scan of look-alikes": Hostile(scan_copy(LOOK_ALIKE), ("not a scan's name",), scan=guard.shown(LOOK_ALIKE)),
    "two scans of one number": Hostile(
        scan_copy(f"scan_0{BAD:06d}"), ("not a scan's name",), scan=f"scan_0{BAD:06d}"
    ),
    "number of another scan": Hostile(
        attributes(SCAN, scan_number=GOOD), ("scan_number", str(GOOD), "contradicts")
    ),
}  # fmt: skip

FILES: Final = {
    "scan a link": Hostile(moved_link(SCAN), ("symbolic link",)),
    "scan a link to the other": Hostile(link(SCAN, f"scan_{GOOD:06d}"), ("symbolic link",)),
    "group a link": Hostile(moved_link(SOURCE), ("source", "symbolic link")),
    "array a link": Hostile(moved_link(MJD), ("mjd", "symbolic link")),
    "array a link to /etc": Hostile(link(MJD, "/etc"), ("mjd", "symbolic link")),
    "chunk a link to /etc/passwd": Hostile(link(SHARD, "/etc/passwd"), (ONE_CHUNK, "symbolic link")),
    "chunk a link to itself": Hostile(link(SHARD, ONE_CHUNK), (ONE_CHUNK, "symbolic link")),
    "document a link": Hostile(moved_link(MJD_DOCUMENT), ("zarr.json", "symbolic link")),
    "link to the output": Hostile(link(inside("source", "out"), "../../../l1.zarr"), ("source/out", "symbolic link")),
    "chunk a FIFO": Hostile(replaced(SHARD, os.mkfifo), (ONE_CHUNK, "not a regular file")),
    "document a FIFO": Hostile(replaced(MJD_DOCUMENT, os.mkfifo), ("mjd", "not a regular file")),
    "group document a FIFO": Hostile(
        replaced(inside("source", "zarr.json"), os.mkfifo), ("zarr.json", "not a regular file")
    ),
    "top document a FIFO": Hostile(
        replaced(TOP_DOCUMENT, os.mkfifo), ("zarr.json", "not a regular file"), "unusable"
    ),
    "scan a FIFO": Hostile(replaced(SCAN, os.mkfifo), ("is no folder",)),
    "chunk a socket": Hostile(replaced(SHARD, make_socket), (ONE_CHUNK, "not a regular file")),
    "chunk a device": Hostile(  # making one needs the right to
        replaced(SHARD, lambda path: os.mknod(path, 0o644 | stat.S_IFCHR, os.makedev(1, 5))),
        (ONE_CHUNK, "not a regular file"),
    ),
}  # fmt: skip

CATALOGUE: Final[Mapping[str, Hostile]] = {
    f"{chapter}: {name}": kind
    for chapter, kinds in (
        ("size", SIZES), ("JSON", JSON), ("type", TYPES), ("chunk", CHUNKS), ("name", NAMES), ("file", FILES),
    )
    for name, kind in kinds.items()
}  # fmt: skip
"""All kinds, and what a run has to make of each."""
