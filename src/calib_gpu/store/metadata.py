"""Zarr metadata documents, v3 and v2, read into one description; and the v3 documents that we write."""

from __future__ import annotations

import base64
import json
import math
import os
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from calib_gpu.errors import Unreadable
from calib_gpu.store import codecs, disk

MAX_DOCUMENT_BYTES: Final = 16 * 1024 * 1024
MAX_RANK: Final = 32
NODES: Final = ("zarr.json", ".zarray")
"""Documents of an array, v3 and v2."""

NUMERIC: Final = {
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64",
}  # fmt: skip


@dataclass(frozen=True)
class Layout:
    """How the chunks of an array lie on disk, as far as this package decodes them itself.

    ``chunk`` is what one file holds, ``inner`` what one decode gives (the same without sharding);
    ``chain`` are the byte codecs in the order of encoding, ``order`` the axis permutation of a transpose codec.
    """

    chunk: tuple[int, ...]
    inner: tuple[int, ...]
    chain: tuple[str, ...]
    stored_dtype: np.dtype[Any]
    order: tuple[int, ...]
    sharded: bool = False
    index_at_end: bool = True
    index_crc: bool = True
    key_prefix: str = "c"
    separator: str = "/"

    def key(self, coords: tuple[int, ...]) -> str:
        """File name of a chunk below the array's folder."""
        parts = [str(c) for c in coords]
        if self.key_prefix:
            parts.insert(0, self.key_prefix)
        return self.separator.join(parts) if parts else "0"

    def key_around(self, coords: tuple[int, ...], axis: int) -> tuple[str, str]:
        """What stands before and behind the number of one axis in the file names of a row of chunks."""
        before, behind = (str(c) for c in coords[:axis]), (str(c) for c in coords[axis + 1 :])
        head = [self.key_prefix] if self.key_prefix else []
        return self.separator.join([*head, *before, ""]), self.separator.join(["", *behind])


@dataclass(frozen=True)
class ArrayMeta:
    """Metadata of one array; ``layout`` is None where only zarr-python can read it."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any] | None
    is_string: bool
    fill_value: Any
    dims: tuple[str | None, ...] | None
    attrs: dict[str, Any]
    layout: Layout | None


def read_json(path: Path, raw: bytes | None = None) -> Any:
    """A JSON document as an object, from its bytes where these are at hand; :class:`Unreadable` names the file."""
    if raw is None:
        try:
            raw = disk.read_file(path, MAX_DOCUMENT_BYTES + 1)
        except OSError as error:
            raise Unreadable(f"cannot be read: {error.strerror}", array=str(path)) from None
    if len(raw) > MAX_DOCUMENT_BYTES:
        raise Unreadable("metadata document too large", array=str(path), rule=f"<= {MAX_DOCUMENT_BYTES} bytes")
    try:
        data = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise Unreadable(
            f"not valid JSON: {error}", array=str(path), fix="the store is damaged; copy it again"
        ) from None
    if not isinstance(data, dict):
        raise Unreadable("not a JSON object", array=str(path))
    return data


def has_array(path: Path) -> bool:
    """True if there is a document that should be an array's, without reading it."""
    return any(os.path.lexists(f"{path}/{name}") for name in NODES)


def node_kind(path: Path) -> str:
    """``array``, ``group`` or an empty string for what is not a Zarr node."""
    try:
        return _node_kind(path)
    except PermissionError as error:
        raise Unreadable(f"cannot be read: {error.strerror}", array=str(path)) from None


def _node_kind(path: Path) -> str:
    if (path / "zarr.json").is_file():
        return str(read_json(path / "zarr.json").get("node_type", ""))
    if (path / ".zarray").is_file():
        return "array"
    return "group" if (path / ".zgroup").is_file() else ""


def group_attrs(path: Path, held: Mapping[str, bytes] = MappingProxyType({})) -> dict[str, Any]:
    """Attributes of a group, v3 or v2; ``held`` are its files that were read before."""
    document = path / "zarr.json"
    if "zarr.json" in held or document.is_file():
        attrs = read_json(document, held.get("zarr.json")).get("attributes") or {}
        if not isinstance(attrs, dict):
            raise Unreadable("attributes are not a JSON object", array=str(document))
        return attrs
    return dict(read_json(path / ".zattrs")) if (path / ".zattrs").is_file() else {}


def array_meta(path: Path, held: Mapping[str, bytes] = MappingProxyType({})) -> ArrayMeta:
    """Metadata of the array in folder ``path``; ``held`` are its files that were read before."""
    version_3 = "zarr.json" in held or (path / "zarr.json").is_file()
    document = path / ("zarr.json" if version_3 else ".zarray")
    try:
        if version_3:
            found = read_json(document, held.get("zarr.json"))
            if found.get("node_type") != "array":
                raise ValueError(f"node_type {found.get('node_type')!r} where an array is expected")
            return _parse_v3(found)
        attrs = read_json(path / ".zattrs") if (path / ".zattrs").is_file() else {}
        return _parse_v2(read_json(document), attrs)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, struct.error) as error:
        raise Unreadable(f"metadata not understood: {error!r}", array=str(document)) from None


def _dims_of(shape: Any) -> tuple[int, ...]:
    dims = tuple(shape)
    if len(dims) > MAX_RANK:
        raise ValueError(f"{len(dims)} dimensions")
    if not all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in dims) or math.prod(dims) > 2**50:
        raise ValueError(f"impossible shape {list(dims)[:8]}")
    return dims


def _chunk_of(chunk: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Chunk shape; 0 is accepted on axes of length 0, where some writers put it."""
    dims = _dims_of(chunk)
    if len(dims) != len(shape) or any(c == 0 and n > 0 for c, n in zip(dims, shape, strict=True)):
        raise ValueError(f"chunk shape {dims} for shape {shape}")
    return tuple(max(c, 1) for c in dims)


def _names(dims: Any, shape: tuple[int, ...]) -> tuple[str | None, ...] | None:
    if not dims:
        return None
    if len(dims) != len(shape) or not all(d is None or isinstance(d, str) for d in dims):
        raise ValueError(f"dimension names {dims} for shape {shape}")
    return tuple(dims)


def _separator(value: Any) -> str:
    if value not in (".", "/"):
        raise ValueError(f"separator {value!r} of chunk names")
    return str(value)


def _parse_v3(doc: dict[str, Any]) -> ArrayMeta:
    shape, name = _dims_of(doc["shape"]), doc["data_type"]
    is_string = name == "string"
    dtype = np.dtype(name) if isinstance(name, str) and name in NUMERIC else None
    return ArrayMeta(
        shape, dtype, is_string, _fill(doc.get("fill_value"), dtype), _names(doc.get("dimension_names"), shape),
        dict(doc.get("attributes") or {}), _layout_v3(doc, shape, dtype, is_string),
    )  # fmt: skip


def _fill(value: Any, dtype: np.dtype[Any] | None) -> Any:
    if dtype is None or value is None:
        return value
    if not isinstance(value, int | float | str):
        raise ValueError(f"fill value {value!r}")
    if isinstance(value, str) and dtype.kind == "f":
        named = {"NaN": np.nan, "Infinity": np.inf, "-Infinity": -np.inf}
        if value in named:
            return named[value]
        return struct.unpack({2: ">e", 4: ">f", 8: ">d"}[dtype.itemsize], bytes.fromhex(value[2:]))[0]
    return dtype.type(value)


def _layout_v3(
    doc: dict[str, Any], shape: tuple[int, ...], dtype: np.dtype[Any] | None, is_string: bool
) -> Layout | None:
    encoding = doc.get("chunk_key_encoding", {"name": "default"})
    options = encoding.get("configuration") or {}
    grid = doc["chunk_grid"]
    if grid["name"] != "regular" or encoding["name"] not in ("default", "v2") or doc.get("storage_transformers"):
        return None
    chunk = _chunk_of(grid["configuration"]["chunk_shape"], shape)
    prefix, separator = ("c", "/") if encoding["name"] == "default" else ("", ".")
    inner, chain_doc, sharded, index_end, index_crc = chunk, doc["codecs"], False, True, True
    if len(chain_doc) == 1 and chain_doc[0]["name"] == "sharding_indexed":
        options_s = chain_doc[0]["configuration"]
        inner, chain_doc, sharded = _dims_of(options_s["chunk_shape"]), options_s["codecs"], True
        index = [c["name"] for c in options_s.get("index_codecs", [])]
        if (
            index not in (["bytes"], ["bytes", "crc32c"])
            or options_s["index_codecs"][0]["configuration"].get("endian") != "little"
        ):
            return None
        index_crc, index_end = index[-1] == "crc32c", options_s.get("index_location", "end") == "end"
        if len(inner) != len(chunk) or 0 in inner or any(c % i for c, i in zip(chunk, inner, strict=True)):
            raise ValueError(f"inner chunks {inner} do not divide the shard {chunk}")
    order, stored = tuple(range(len(shape))), dtype
    chain: list[str] = []
    for step in chain_doc:
        name, config = step["name"], step.get("configuration") or {}
        if name == "transpose" and step is chain_doc[0] and isinstance(config["order"], list):
            order = tuple(config["order"])
        elif name == "bytes" and not chain and dtype is not None:
            stored = dtype.newbyteorder(">" if config.get("endian") == "big" else "<")
        elif name == "vlen-utf8" and not chain and is_string:
            stored = np.dtype(object)
        else:
            chain.append(str(name))
    if stored is None or not codecs.supported(tuple(chain)) or sorted(order) != list(range(len(shape))):
        return None
    return Layout(
        chunk,
        inner,
        tuple(chain),
        stored,
        order,
        sharded,
        index_end,
        index_crc,
        prefix,
        _separator(options.get("separator", separator)),
    )


def _parse_v2(doc: dict[str, Any], attrs: dict[str, Any]) -> ArrayMeta:
    shape = _dims_of(doc["shape"])
    chunk = _chunk_of(doc["chunks"], shape)
    simple = isinstance(doc["dtype"], str) and re.fullmatch(r"[<>|=]?[A-Za-z]\d{0,5}", doc["dtype"])
    stored = np.dtype(doc["dtype"]) if simple else None
    numeric = stored is not None and stored.newbyteorder("=").name in NUMERIC
    dtype = stored.newbyteorder("=") if stored is not None and numeric else None
    compressor, layout = doc.get("compressor"), None
    chain = (str(compressor["id"]),) if compressor else ()
    if numeric and not doc.get("filters") and codecs.supported(chain):
        axes = tuple(range(len(shape)))
        order = axes if doc.get("order", "C") == "C" else axes[::-1]
        assert stored is not None
        separator = _separator(doc.get("dimension_separator", "."))
        layout = Layout(chunk, chunk, chain, stored, order, key_prefix="", separator=separator)
    is_string = stored is not None and stored.kind in "OUS"
    fill = doc.get("fill_value")
    if stored is not None and stored.kind == "S" and isinstance(fill, str):
        fill = base64.b64decode(fill)
    dims = _names(attrs.get("_ARRAY_DIMENSIONS"), shape)
    return ArrayMeta(shape, dtype, is_string, _fill(fill, dtype), dims, attrs, layout)
