"""Writing small arrays and groups: one document and one chunk each."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib_gpu.store import disk
from calib_gpu.store.codecs import Compressor
from calib_gpu.store.documents import array_document, chunk_key, dump_json, encode_strings, group_document

Entry = tuple[int, int]
"""Size and crc32c of a file."""


def write_group(folder: Path, attributes: dict[str, Any]) -> None:
    """Create a group."""
    disk.write_file(folder / "zarr.json", dump_json(group_document(attributes)))


def write_array(
    folder: Path | str, values: NDArray[Any], axes: tuple[str, ...], attributes: dict[str, Any], compressor: Compressor
) -> dict[str, Entry]:
    """Write an array (numbers, bool or an object array of strings) as one chunk; the files by name."""
    kind = "string" if values.dtype == object else values.dtype.name
    document = _document(values.shape, kind, axes, json.dumps(attributes, allow_nan=False), compressor)
    raw = encode_strings(values) if kind == "string" else np.ascontiguousarray(values)
    files = {"zarr.json": document, chunk_key(*(0 for _ in axes)): compressor.encode(raw)}
    return {name: disk.write_file(f"{folder}/{name}", data) for name, data in files.items()}


@functools.lru_cache(maxsize=256)
def _document(
    shape: tuple[int, ...], kind: str, axes: tuple[str, ...], attributes: str, compressor: Compressor
) -> bytes:
    """``zarr.json`` of an array of one chunk; a night has the same few in every scan. ``attributes`` are JSON."""
    chunk = tuple(max(n, 1) for n in shape)
    return dump_json(array_document(shape, kind, chunk, axes, json.loads(attributes), compressor=compressor))
