"""What the fuzzers feed: one function of bytes for each parser of input that others wrote.

A target returns where the input is good or is refused as it should be, and raises anything else. Where the parser takes
the input, the target says with plain Python what must then be true.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from calib_gpu.config_files import read_toml
from calib_gpu.errors import ConfigError, Unreadable
from calib_gpu.settings import Settings
from calib_gpu.store import codecs, guard
from calib_gpu.store.documents import decode_strings
from calib_gpu.store.guard import CodecError
from calib_gpu.store.metadata import array_meta, group_attrs

IN_MEMORY = "/dev/shm" if "TMPDIR" not in os.environ and os.access("/dev/shm", os.W_OK) else None
SCRATCH = Path(tempfile.mkdtemp(prefix="fuzz-", dir=IN_MEMORY))
atexit.register(
    shutil.rmtree, SCRATCH, ignore_errors=True
)  # under libFuzzer, which ends at once, whoever gave TMPDIR does it
FRAME_BYTES = 4096


def metadata(data: bytes) -> None:
    """``zarr.json`` of an array or a group, and strict JSON."""
    for name, read in (("zarr.json", array_meta), (".zarray", array_meta), ("zarr.json", group_attrs)):
        try:
            found = read(SCRATCH / "nothing", {name: data})  # type: ignore[operator]
        except Unreadable:
            continue
        json.dumps(json.loads(data), allow_nan=False, ensure_ascii=False).encode()
        if isinstance(found, dict):
            continue
        assert math.prod(found.shape) <= 2**50
        assert all(type(n) is int and n >= 0 for n in found.shape)
        if found.layout is not None:
            assert len(found.layout.chunk) == len(found.layout.inner) == len(found.shape)
            assert min((*found.layout.inner, 1)) >= 1
            if found.layout.stored_dtype.kind != "O":
                size = math.prod(found.layout.inner) * found.layout.stored_dtype.itemsize
                assert size <= guard.DEFAULT_LIMITS.max_chunk_bytes
            key = found.layout.key((0,) * len(found.shape))
            assert ".." not in key
            assert not key.startswith("/")


def shard_index(data: bytes) -> None:
    """Offsets and sizes of the chunks in a shard; the first bytes say how long its data are."""
    if len(data) < 8:
        return
    end, body = int.from_bytes(data[:4], "little"), data[4:]
    index = np.frombuffer(body[: len(body) // 16 * 16], "<u8").reshape(-1, 2)
    try:
        guard.check_index(index, 0, end)
    except CodecError:
        return
    last = 0
    for offset, size in sorted((int(o), int(s)) for o, s in index.tolist() if (o, s) != (guard.ABSENT, guard.ABSENT)):
        assert size > 0
        assert offset >= last, "chunks on top of each other"
        last = offset + size
        assert last <= end, "a chunk outside the file"


def frames(data: bytes) -> None:
    """Chunks as they lie in files: headers of zstd, blosc and deflate, checksums, strings. The first byte picks the codecs."""
    if not data:
        return
    chains = [(), ("crc32c",), *(chain for name in guard.COMPRESSORS for chain in ((name,), (name, "crc32c")))]
    chain, frame = chains[data[0] % len(chains)], data[1:]
    out = np.zeros(FRAME_BYTES + 64, np.uint8)
    with contextlib.suppress(CodecError):
        codecs.decode(chain, frame, out[:FRAME_BYTES])
    assert not out[FRAME_BYTES:].any(), "written behind the buffer"
    try:
        plain = codecs.decode_unsized(chain, frame, FRAME_BYTES)
    except CodecError:
        return
    assert not chain or chain == ("crc32c",) or len(plain) <= FRAME_BYTES
    try:
        texts = decode_strings(plain)
    except ValueError:
        return
    assert sum(4 + len(text.encode()) for text in texts) + 4 == len(plain)


def settings(data: bytes) -> None:
    """A TOML file of settings."""
    path = SCRATCH / "settings.toml"
    path.write_bytes(data)
    try:
        made = Settings.layered(None, read_toml(path), None)
    except ConfigError:
        return
    assert len(made.digest()) == 64
    assert Settings(**made.numeric() | {"atmosphere": made.atmosphere}).numeric() == made.numeric()


TARGETS: dict[str, Callable[[bytes], None]] = {
    "metadata": metadata, "shard_index": shard_index, "frames": frames, "settings": settings,
}  # fmt: skip
