"""Write the seeds of the corpora: sound inputs of every kind, from which the fuzzers start. Run it after a change of formats."""

from __future__ import annotations

import gzip
import json
import zlib
from pathlib import Path

import numcodecs.blosc
import numpy as np

from calib_gpu.store import codecs, documents
from calib_gpu.store.codecs import Compressor

CORPUS = Path(__file__).parent / "corpus"


def _gzip(data: bytes) -> bytes:
    """The same bytes from every Python: they differ in the byte that names the system."""
    frame = bytearray(gzip.compress(data, mtime=0))
    frame[9] = 3
    return bytes(frame)


def seeds() -> dict[str, dict[str, bytes]]:
    """Content of each file, by target and name."""
    numbers = np.arange(1024, dtype="<i4")
    raw = numbers.tobytes()
    words = documents.encode_strings(np.array(["OTF-ON", "", "OFF"], dtype=object))
    sharded = documents.array_document(
        (8, 3), "float64", (8, 4), ("C", "S"), {"units": "K"}, inner=(4, 1), compressor=Compressor("zstd", 1)
    )
    plain = documents.array_document((8,), "int32", (4,), ("S",), {}, compressor=Compressor("blosc_lz4", 1))
    strings = documents.array_document((3,), "string", (3,), ("S",), {}, compressor=Compressor())
    v2 = {
        "zarr_format": 2, "shape": [8], "chunks": [4], "dtype": "<f4", "compressor": {"id": "zlib", "level": 1},
        "fill_value": "NaN", "order": "F", "filters": None, "dimension_separator": "/",
    }  # fmt: skip
    index = np.array([[0, 40], [2**64 - 1, 2**64 - 1], [40, 60]], "<u8").tobytes()
    blosc = numcodecs.blosc.compress(raw, b"lz4", 5, 1, 0)
    framed = [raw, raw, codecs.encode_zstd(raw, 1), codecs.encode_zstd(words, 1), blosc, blosc,
              _gzip(raw), _gzip(words), zlib.compress(raw), zlib.compress(words)]  # fmt: skip
    frames = {}
    for k, frame in enumerate(framed):
        tail = codecs.crc32c(frame).to_bytes(4, "little") if k % 2 else b""
        frames[f"chain-{k}"] = bytes([k]) + frame + tail
    return {
        "metadata": {
            "sharded.json": documents.dump_json(sharded), "plain.json": documents.dump_json(plain),
            "strings.json": documents.dump_json(strings), "v2.json": json.dumps(v2).encode(),
            "group.json": documents.dump_json(documents.group_document({"scan_number": 1, "a": [1.5, None, "x"]})),
        },
        "shard_index": {"three": (100).to_bytes(4, "little") + index},
        "frames": frames,
        "settings": {
            "some.toml": b'eta_f = 0.94\nt_atm = "factor"\npwv = 0.5\nmemory = "512M"\nfit_windows = "491.1:492,493:494"\n',
            "gains.toml": b'gain_sig = 0.5\ngain_img = 0.5\nreference = "interp"\npwv_clip = true\n',
        },
    }  # fmt: skip


if __name__ == "__main__":
    for target, files in seeds().items():
        (CORPUS / target).mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (CORPUS / target / name).write_bytes(content)
