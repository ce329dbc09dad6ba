"""Writing small arrays and groups: one document and one chunk each."""

from __future__ import annotations

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
    chunk = tuple(max(n, 1) for n in values.shape)
    document = array_document(values.shape, kind, chunk, axes, attributes, compressor=compressor)
    raw = encode_strings(values) if kind == "string" else np.ascontiguousarray(values)
    files = {"zarr.json": dump_json(document), chunk_key(*(0 for _ in axes)): compressor.encode(raw)}
    return {name: disk.write_file(f"{folder}/{name}", data) for name, data in files.items()}
