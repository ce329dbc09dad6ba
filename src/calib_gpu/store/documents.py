"""The Zarr v3 documents that we write, and the form of strings in chunks."""

from __future__ import annotations

import hashlib
import json
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib_gpu.store.codecs import Compressor


def dump_json(doc: dict[str, Any]) -> bytes:
    """Strict JSON bytes: no NaN, keys in the order given."""
    return json.dumps(doc, allow_nan=False).encode() + b"\n"  # no indent: that is ten times slower


def group_document(attributes: dict[str, Any]) -> dict[str, Any]:
    """``zarr.json`` of a group."""
    return {"zarr_format": 3, "node_type": "group", "attributes": attributes}


def sealed(document: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """A group document with attribute ``digest``: sha256 over its own bytes without that attribute."""
    plain = {**document, "attributes": {k: v for k, v in document["attributes"].items() if k != "digest"}}
    digest = hashlib.sha256(dump_json(plain)).hexdigest()
    return {**plain, "attributes": {**plain["attributes"], "digest": digest}}, digest


def array_document(
    shape: tuple[int, ...],
    dtype: str,
    chunk: tuple[int, ...],
    dims: tuple[str, ...],
    attributes: dict[str, Any],
    *,
    inner: tuple[int, ...] | None = None,
    fill_value: Any = None,
    compressor: Compressor,
) -> dict[str, Any]:
    """``zarr.json`` of an array: bytes (or vlen-utf8) + compressor with checksum, sharded where ``inner`` is given."""
    serializer: dict[str, Any] = {"name": "bytes", "configuration": {"endian": "little"}}
    if dtype == "string":
        serializer = {"name": "vlen-utf8", "configuration": {}}
    elif dtype == "bool" or np.dtype(dtype).itemsize == 1:
        serializer = {"name": "bytes"}
    itemsize = 1 if dtype == "string" else np.dtype(dtype).itemsize
    chain: list[dict[str, Any]] = [serializer, *compressor.documents(itemsize)]
    if inner is not None:
        index = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
        sharding = {"chunk_shape": list(inner), "codecs": chain, "index_codecs": index, "index_location": "end"}
        chain = [{"name": "sharding_indexed", "configuration": sharding}]
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunk)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "fill_value": default_fill(dtype) if fill_value is None else fill_value,
        "codecs": chain,
        "attributes": attributes,
        "dimension_names": list(dims),
        "storage_transformers": [],
    }


def chunk_key(*coords: int) -> str:
    """File name of a chunk of our arrays; with "." all chunks of an array lie in one folder, not in one a dimension."""
    return ".".join(("c", *map(str, coords)))


def default_fill(dtype: str) -> Any:
    """Fill value of our arrays as it stands in JSON: NaN for floats, an empty string, false or 0 else."""
    if dtype == "string":
        return ""
    if dtype == "bool":
        return False
    return "NaN" if np.dtype(dtype).kind == "f" else 0


def encode_strings(values: NDArray[Any]) -> bytes:
    """The vlen-utf8 form of an array of strings (as in numcodecs: count, then length and bytes of each)."""
    parts = [struct.pack("<I", values.size)]
    for text in values.ravel():
        raw = str(text).encode()
        parts += [struct.pack("<I", len(raw)), raw]
    return b"".join(parts)


def decode_strings(raw: bytes | memoryview) -> NDArray[Any]:
    """Inverse of :func:`encode_strings`: a flat object array; ValueError if it is malformed."""
    view = memoryview(raw)
    if len(view) < 4:
        raise ValueError("string chunk cut short")
    (n,) = struct.unpack_from("<I", view, 0)
    position, out = 4, []
    for _ in range(n):
        if position + 4 > len(view):
            raise ValueError("string chunk cut short")
        (length,) = struct.unpack_from("<I", view, position)
        if position + 4 + length > len(view):
            raise ValueError("string chunk cut short")
        out.append(bytes(view[position + 4 : position + 4 + length]).decode())
        position += 4 + length
    if position != len(view):
        raise ValueError("bytes behind the strings")
    return np.array(out, dtype=object)
